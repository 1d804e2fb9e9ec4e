"""What the fuzzer found, as small as it gets: each was another exception, a hang, a crash or a wrong volume once."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import fuzz
import pytest
from fuzz_dicom import Series, base_series, levels, said_to_be
from fuzz_images import ImageFile

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.io.reading import read_volume


def first(keyword: str, value: bytes, vr: str | None = None) -> Callable[[Series], None]:
    """Another value, in another VR, in the first slice."""
    return lambda series: series.slices[0].put(keyword, value, vr)


def every(keyword: str, value: bytes, vr: str | None = None) -> Callable[[Series], None]:
    def change(series: Series) -> None:
        for one in series.slices:
            one.put(keyword, value, vr)

    return change


def without(keyword: str) -> Callable[[Series], None]:
    return lambda series: series.slices[0].dataset.pop(keyword)


def again(keyword: str, value: bytes) -> Callable[[Series], None]:
    return lambda series: series.slices[0].again.append(series.slices[0].element(keyword, value))


def nested(series: Series) -> None:
    one = series.slices[0]
    one.put("SourceImageSequence", levels(one, "SourceImageSequence", 600, undefined=True), "SQ")


def implicit(series: Series) -> None:
    for one in series.slices:
        one.edits.append(said_to_be(one, "1.2.840.10008.1.2"))


def cut_in_the_header(series: Series) -> None:
    series.slices[0].edits.append(lambda data: data[:420])


def field(name: str, value: bytes | str) -> Callable[[ImageFile], None]:
    def change(image: ImageFile) -> None:
        image.fields[name] = value

    return change


DICOM = {
    "a pipe among the slices": lambda series: series.special.append(lambda folder: os.mkfifo(folder / "pipe")),
    "explicit, said to be implicit": implicit,
    "cut in the header": cut_in_the_header,
    "600 nested sequences": nested,
    "no Modality": without("Modality"),
    "Modality damaged": first("Modality", b"0x10", "OB"),
    "another Modality in a second element": again("Modality", b"\xe4\xb8\xad"),
    "32 samples": first("SamplesPerPixel", b" \0"),
    "position of 2 bytes": first("ImagePositionPatient", b"1", "FD"),
    "Rows of no VR": every("Rows", b"\xd9\xa3", "ZZ"),
    "padding limit of junk": first("PixelPaddingRangeLimit", b"\xfbw\x8cZ", "IS"),
    "an Arabic digit": every("AcquisitionNumber", b"\xd9\xa3"),
    "InstanceNumber without VR": every("InstanceNumber", b"\x07\x8a\x84Q", "\0\0"),
    "name as a decimal": every("PatientName", b"}5\xdd0", "DS"),
    "series UID as a decimal": every("SeriesInstanceUID", b"12", "DS"),
    "study UID as a float": first("StudyInstanceUID", b"tV\x88\xdb", "FD"),
    "text as a number": every("DerivationDescription", b"1e3 ", "UL"),
    "text as a decimal": every("DerivationDescription", b"-0", "DS"),
    "sequence as a number": every("SourceImageSequence", b"\xd9M\x13\x8a", "US"),
    "sequence as a decimal": first("DerivationCodeSequence", b"\xbd\x01\x00\x19", "DS"),
    "HighBit as a text": first("HighBit", b"\x91\xd2\xf7\xfd", "LO"),
    "no BitsStored": without("BitsStored"),
    "empty BitsStored": every("BitsStored", b""),
    "PixelAspectRatio of junk": every("PixelAspectRatio", b"#`\x98\x98", "DS"),
    "kernel as a float": first("ConvolutionKernel", b"_,", "FD"),
    "name as a sequence": every("PatientName", b"\xe1\x8ca\xee+\xc0\xf4\x87", "SQ"),
    "description as a sequence": every("SeriesDescription", b"A" * 40, "SQ"),
    "birth date as a sequence": every("PatientBirthDate", b"\xff\xfe", "SQ"),
    "28668 frames": first("NumberOfFrames", b"\xfco", "US"),
    "frames beyond counting": every("NumberOfFrames", b"99999999999999999999"),
}

IMAGES = {
    ".mha int16": [field("CenterOfRotation", "090 0"), field("CenterOfRotation", "-1"), field("NDims", "100000 3")],
    ".nrrd int16": [field("space", "7" * 5000), field("thicknesses", "7" * 5000), field("old min", "7" * 5000)],
    ".nii float32": [field("vox_offset", bytes(4)), field("srow", b"\xca\xf2Iq" + bytes(44))],
}


@pytest.mark.parametrize("name", DICOM)
def test_dicom(tmp_path: Path, name: str) -> None:
    check("signed", DICOM[name], tmp_path)


@pytest.mark.parametrize("name", ["an Arabic digit", "text as a number", "600 nested sequences", "no BitsStored"])
def test_big_endian_dicom(tmp_path: Path, name: str) -> None:
    check("ExplicitVRBigEndian", DICOM[name], tmp_path)


def test_a_sign_that_header_and_stream_do_not_share(tmp_path: Path) -> None:
    check("JPEG2000Lossless", first("PixelRepresentation", b"\0\0"), tmp_path)


@pytest.mark.parametrize("value", [b"\xd9\xa3", b"-1_024"])
def test_what_python_takes_for_a_number(tmp_path: Path, value: bytes) -> None:
    series = base_series("signed")
    every("RescaleIntercept", value)(series)
    with pytest.raises(InputError, match="no valid RescaleIntercept"):
        read_volume(series.write(tmp_path / "in"))


@pytest.mark.parametrize(
    ("base", "number"), [(base, n) for base, changes in IMAGES.items() for n in range(len(changes))]
)
def test_images(tmp_path: Path, base: str, number: int) -> None:
    check(base, IMAGES[base][number], tmp_path)


def check(base: str, change: Callable[..., None], work: Path) -> None:
    def mutate(spoiled: Series | ImageFile, _: random.Random) -> str:
        change(spoiled)
        return ""

    end, detail, _ = fuzz.outcome(fuzz.Case(base, ((mutate, 0),)), work, command=True)
    assert end in ("EXACT", "REFUSED", "UNCONFIRMED"), detail
