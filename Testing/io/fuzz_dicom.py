"""DICOM series for the fuzzer: small real and synthetic ones, and ways to spoil them.

A mutation changes one slice, or all, and says in words what it did. Values are put in as bytes, so that a header can
hold what no careful writer would put there.
"""

from __future__ import annotations

import copy
import os
import random
import shutil
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import pydicom
import pydicom.config
from dicom_fixtures import SAGITTAL, make_ct_series, make_enhanced_ct, oblique_direction
from pydicom import uid
from pydicom.data import get_testdata_files
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element

SIDE = 24
"""Rows and columns of most slices."""

# fmt: off
KEYWORDS = (  # what places, scales, orders or describes a slice; those that matter most come more than once
    "RescaleSlope", "RescaleIntercept", "RescaleType", "PixelPaddingValue", "PixelPaddingRangeLimit", "Rows", "Columns",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel", "PhotometricInterpretation",
    "NumberOfFrames", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness",
    "SpacingBetweenSlices", "RescaleSlope", "RescaleIntercept", "ImagePositionPatient", "BitsStored", "HighBit",
    "Modality", "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "ImageType", "PatientID",
    "PatientName", "SpecificCharacterSet", "SeriesNumber", "SeriesDescription", "InstanceNumber", "AcquisitionNumber",
    "ConvolutionKernel", "KVP", "BodyPartExamined", "ManufacturerModelName", "PatientBirthDate", "StudyDate",
    "TimezoneOffsetFromUTC", "DerivationDescription", "LossyImageCompression", "FrameOfReferenceUID", "WindowCenter",
    "PlanarConfiguration", "SmallestImagePixelValue", "DerivationCodeSequence", "ContributingEquipmentSequence",
    "SourceImageSequence", "GantryDetectorTilt", "ModalityLUTSequence", "PixelAspectRatio",
)
TEXTS = (
    b"", b" ", b"0", b"-0", b"1", b"2.5", b"-1", b"1e3", b"1e400", b"nan", b"inf", b"abc", b"1,5", b"0x10", b"1_000",
    b"1\\2", b"\\", b"1\\2\\3\\4\\5\\6\\7", b"99999999999999999999", b"0.000000000000001", b"\x00", b"\xff\xfe",
    b"\xe4\xb8\xad", b"5 HU", b"\x1b$B", b"1.2.3", b"A" * 70, b"7" * 70_000, b"CT", b"MR", b"LOCALIZER",
    b"ISO_IR 100", b"ISO 2022 IR 87", b"no such", b"MONOCHROME1", b"RGB", b"OD", b"\xd9\xa3",
)
NUMBERS = (0, 1, 2, 3, 8, 11, 12, 13, 15, 16, 17, 31, 32, 64, 255, 1000, 32767, 32768, 63536, 65535)
# fmt: on
VRS = ("LO", "DS", "IS", "US", "SS", "UN", "OB", "FD", "SQ", "UI", "AT", "UL", "CS", "ZZ", "\x00\x00")


@dataclass
class Slice:
    """One file to be: its dataset, elements that come a second time, and changes of the finished bytes."""

    name: str
    dataset: Dataset
    again: list[RawDataElement] = field(default_factory=list)
    edits: list[Callable[[bytes], bytes]] = field(default_factory=list)

    def put(self, keyword: str, value: bytes, vr: str | None = None) -> None:
        self.dataset[tag_for_keyword(keyword)] = self.element(keyword, value, vr)

    def element(self, keyword: str, value: bytes, vr: str | None = None) -> RawDataElement:
        tag = pydicom.tag.Tag(tag_for_keyword(keyword))
        vr = vr or dictionary_VR(tag).split(" or ")[0]
        value += (b"\0" if vr in ("UI", "UN", "OB") else b" ") * (len(value) % 2)
        implicit, little = self.encoding()
        return RawDataElement(tag, vr, len(value), value, 0, implicit, little, True)

    def content(self) -> bytes:
        """The bytes of the file."""
        file = DicomBytesIO()
        pydicom.dcmwrite(file, self.dataset, enforce_file_format=False)
        data = file.getvalue()
        if self.again:
            data = self._with_second_elements(data)
        for edit in self.edits:
            data = edit(data)
        return data

    def encoding(self) -> tuple[bool, bool]:
        syntax = self.dataset.file_meta.TransferSyntaxUID
        return syntax == uid.ImplicitVRLittleEndian, syntax != uid.ExplicitVRBigEndian

    def _with_second_elements(self, data: bytes) -> bytes:
        """Before the pixels, where a reader still takes them for the header's."""
        out = DicomBytesIO()
        out.is_implicit_VR, out.is_little_endian = self.encoding()
        for element in self.again:
            write_data_element(out, element, ["latin-1"])
        mark = b"\xe0\x7f\x10\x00" if out.is_little_endian else b"\x7f\xe0\x00\x10"
        at = data.find(mark)
        return data if at < 0 else data[:at] + out.getvalue() + data[at:]


@dataclass
class Series:
    """A folder to be.

    Attributes:
        base: name of the series that it began as.
        slices: its images.
        others: further files, by name.
        special: calls that make what is no file, given the folder.
    """

    base: str
    slices: list[Slice]
    others: dict[str, bytes] = field(default_factory=dict)
    special: list[Callable[[Path], None]] = field(default_factory=list)

    def write(self, folder: Path) -> Path:
        """Write all; returns what is to be read: the folder, or the only file of a multi-frame image."""
        folder.mkdir(parents=True)
        for one in self.slices:
            (folder / one.name).write_bytes(one.content())
        for name, content in self.others.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
        for make in self.special:
            make(folder)
        alone = len(self.slices) == 1 and not self.others and not self.special
        return folder / self.slices[0].name if alone else folder


# ------------------------------------------------------------------------------------------------------------- series


def _synthetic() -> dict[str, dict]:
    layouts: dict[str, dict] = {
        "signed": {},
        "12 bits": {"signed": False, "bits_stored": 12},
        "oblique": {"direction": oblique_direction()},
        "sagittal": {"direction": SAGITTAL},
        "steps of 2 HU": {"slope": 2.0, "intercept": -1024.0},
        "own rescale each": {"slope": [1.0, 2.0, 1.0], "intercept": [-1024.0, -1024.0, 0.0]},
        "padding": {"padding": 63536, "padding_vr": "US"},
        "reversed": {"file_order": [2, 1, 0]},
    }
    syntaxes = ("ImplicitVRLittleEndian", "ExplicitVRBigEndian", "RLELossless", "JPEG2000Lossless", "JPEGLosslessSV1")
    return layouts | {name: {"transfer_syntax": getattr(uid, name)} for name in syntaxes}


def _real_series() -> dict[str, list[str]]:
    """Name -> a few neighbouring files of real series, of pydicom's wheel and of ASCON_TEST_DATA where that is set."""
    wheel = [str(file) for file in get_testdata_files("77654033/CT2/*")]
    found = {
        "pydicom CT2": sorted(wheel),
        "pydicom CT_small": [str(file) for file in get_testdata_files("CT_small.dcm")],
    }
    if data := os.environ.get("ASCON_TEST_DATA"):
        for folder in sorted([*Path(data).glob("dicom/*"), *Path(data).glob("more/dicom/*")]):
            found[folder.name] = [str(file) for file in sorted(folder.glob("*.dcm"))[2:5]]
    return {name: files for name, files in found.items() if files}


@cache
def _base_files() -> dict[str, list[bytes]]:
    """Name of each base series -> its files. Made once in a process."""
    bases = {}
    with tempfile.TemporaryDirectory() as temporary:
        for name, layout in _synthetic().items():
            voxels = np.random.default_rng(len(name)).integers(-500, 700, (3, SIDE - 4, SIDE)).astype(np.int16) * 2
            files = make_ct_series(Path(temporary, name), voxels_hu=voxels, series_uid="1.2.826.0.1.3", **layout)
            bases[name] = [file.read_bytes() for file in files]
        enhanced = make_enhanced_ct(Path(temporary, "enhanced.dcm"), shape=(3, SIDE, SIDE - 4), padding=-2000)
        bases["enhanced"] = [enhanced.read_bytes()]
    for name, files in _real_series().items():
        bases[name] = [_cropped(Path(file)) for file in files]
    return bases


def _cropped(file: Path) -> bytes:
    """A real slice, cut down to SIDE where its pixels are not compressed."""
    dataset = pydicom.dcmread(file)
    if not dataset.file_meta.TransferSyntaxUID.is_encapsulated and dataset.Rows > SIDE:
        middle = (dataset.Rows - SIDE) // 2
        pixels = np.frombuffer(dataset.PixelData, "<u2")[: dataset.Rows * dataset.Columns]
        pixels = pixels.reshape(dataset.Rows, dataset.Columns)[middle : middle + SIDE, middle : middle + SIDE]
        dataset.PixelData, dataset.Rows, dataset.Columns = pixels.tobytes(), SIDE, SIDE
    file = DicomBytesIO()
    pydicom.dcmwrite(file, dataset)
    return file.getvalue()


def base_names() -> list[str]:
    return [*_base_files(), "deflated"]


def base_series(name: str) -> Series:
    """A fresh copy of a base series."""
    files = _base_files()["signed" if name == "deflated" else name]
    slices = [Slice(f"{k:04d}.dcm", pydicom.dcmread(DicomBytesIO(data))) for k, data in enumerate(files, 1)]
    for one in slices if name == "deflated" else []:
        one.edits.append(deflated)
    return Series(name, slices)


def deflated(data: bytes) -> bytes:
    """The dataset after the file meta information as a raw deflate stream (PS3.5 A.5)."""
    syntax, group_length = b"1.2.840.10008.1.2.1\0", int.from_bytes(data[140:144], "little")
    start = 144 + group_length
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = squeeze.compress(data[start:]) + squeeze.flush()
    longer = b"1.2.840.10008.1.2.1.99"
    head = data[:start].replace(b"UI\x14\0" + syntax, b"UI\x16\0" + longer)
    length = group_length + len(head) - start
    return head[:140] + length.to_bytes(4, "little") + head[144:] + body + b"\0" * (len(body) % 2)


# ---------------------------------------------------------------------------------------------------------- mutations


def _some(series: Series, rng: random.Random) -> tuple[list[Slice], str]:
    """One slice or, as often, all."""
    if rng.random() < 0.5 and len(series.slices) > 1:
        chosen = rng.choice(series.slices)
        return [chosen], f"in {chosen.name}"
    return series.slices, "in all slices"


def _keyword(rng: random.Random) -> str:
    return rng.choice(KEYWORDS)


def _bytes(slice_: Slice, keyword: str, rng: random.Random) -> bytes:
    """A value that may or may not fit the attribute."""
    vr = dictionary_VR(tag_for_keyword(keyword))
    if vr.startswith(("US", "SS")) and rng.random() < 0.9:
        order = "little" if slice_.dataset.file_meta.TransferSyntaxUID != uid.ExplicitVRBigEndian else "big"
        return rng.choice(NUMBERS).to_bytes(2, order)
    return rng.choice(TEXTS)


def missing(series: Series, rng: random.Random) -> str:
    keyword = _keyword(rng)
    slices, where = _some(series, rng)
    for one in slices:
        one.dataset.pop(keyword, None)
    return f"no {keyword} {where}"


def empty(series: Series, rng: random.Random) -> str:
    keyword = _keyword(rng)
    slices, where = _some(series, rng)
    for one in slices:
        one.put(keyword, b"")
    return f"empty {keyword} {where}"


def odd_value(series: Series, rng: random.Random) -> str:
    keyword = _keyword(rng)
    slices, where = _some(series, rng)
    value = _bytes(slices[0], keyword, rng)
    for one in slices:
        one.put(keyword, value)
    return f"{keyword} {value[:40]!r} {where}"


def wrong_vr(series: Series, rng: random.Random) -> str:
    keyword, vr = _keyword(rng), rng.choice(VRS)
    slices, where = _some(series, rng)
    value = rng.choice((rng.choice(TEXTS), rng.randbytes(rng.choice((2, 4, 8)))))
    for one in slices:
        one.put(keyword, value, vr)
    return f"{keyword} with VR {vr!r} and {value[:40]!r} {where}"


def doubled(series: Series, rng: random.Random) -> str:
    keyword = _keyword(rng)
    slices, where = _some(series, rng)
    value = _bytes(slices[0], keyword, rng)
    for one in slices:
        one.again.append(one.element(keyword, value))
    return f"{keyword} a second time, as {value[:40]!r}, {where}"


def nested(series: Series, rng: random.Random) -> str:
    """Sequences in sequences, of undefined length or not."""
    depth, undefined = rng.choice((1, 3, 30, 600)), rng.random() < 0.5
    keyword = rng.choice(("ProcedureCodeSequence", "SourceImageSequence", "ReferencedStudySequence"))
    slices, where = _some(series, rng)
    for one in slices:
        one.put(keyword, levels(one, keyword, depth, undefined=undefined), "SQ")
    return f"{depth} levels of {keyword}{', of undefined length,' if undefined else ''} {where}"


def levels(slice_: Slice, keyword: str, depth: int, *, undefined: bool) -> bytes:
    """The bytes of a sequence: an item that holds such a sequence, and so on."""
    implicit, little = slice_.encoding()
    order = "little" if little else "big"

    def number(value: int, size: int) -> bytes:
        return value.to_bytes(size, order)

    tag = number(tag_for_keyword(keyword) >> 16, 2) + number(tag_for_keyword(keyword) & 0xFFFF, 2)
    item, item_end, sequence_end = (number(0xFFFE, 2) + number(element, 2) for element in (0xE000, 0xE00D, 0xE0DD))
    value = b""
    for level in range(depth):
        length = number(0xFFFFFFFF if undefined else len(value), 4)
        value = item + length + value + ((item_end + bytes(4)) if undefined else b"")
        if level < depth - 1:
            length = number(0xFFFFFFFF if undefined else len(value), 4)
            value = tag + (b"" if implicit else b"SQ\0\0") + length + value
            value += (sequence_end + bytes(4)) if undefined else b""
    return value


def private(series: Series, rng: random.Random) -> str:
    slices, where = _some(series, rng)
    vr = rng.choice(("OB", "UN", "SQ", "LO", "OW"))
    value = [copy.deepcopy(series.slices[0].dataset)] if vr == "SQ" else rng.randbytes(rng.choice((0, 6, 40_000)))
    if vr == "LO":
        value = "private"
    for one in slices:
        one.dataset.private_block(0x0029, "FUZZ", create=True).add_new(0x10, vr, value)
    return f"private {vr} {where}"


def overlay(series: Series, rng: random.Random) -> str:
    """An overlay in the pixels' upper bits, as PS3.5 8.1.2 once allowed."""
    slices, where = _some(series, rng)
    for one in slices:
        stored = int(one.dataset.get("BitsStored", 16))
        if stored < 16 and not one.dataset.file_meta.TransferSyntaxUID.is_encapsulated:
            pixels = np.frombuffer(one.dataset.PixelData, "<u2").copy()
            pixels[::3] |= np.uint16(1 << stored)
            one.dataset.PixelData = pixels.tobytes()
        one.dataset.add_new(0x60000102, "US", min(stored, 15))
    return f"overlay bit above BitsStored {where}"


def pixels_resized(series: Series, rng: random.Random) -> str:
    slices, where = _some(series, rng)
    by = rng.choice((-1, -2, -100, -10_000_000, 1, 2, 7, 1000))
    for one in slices:
        data = one.dataset.get("PixelData") or b""
        one.dataset.PixelData = data[:by] if by < 0 else data + bytes(by)
    return f"pixel data {by:+d} bytes {where}"


def pixels_undefined(series: Series, rng: random.Random) -> str:
    """Uncompressed pixels whose length is undefined."""
    slices, where = _some(series, rng)
    for one in slices:
        if "PixelData" in one.dataset:
            one.edits.append(lambda data: _with_pixel_length(data, b"\xff\xff\xff\xff"))
    return f"pixel data of undefined length {where}"


def pixels_of_length(series: Series, rng: random.Random) -> str:
    slices, where = _some(series, rng)
    length = rng.choice((b"\0\0\0\0", b"\xfe\xff\xff\x7f", b"\x01\0\0\0", b"\x10\0\0\0"))
    for one in slices:
        one.edits.append(lambda data: _with_pixel_length(data, length))
    return f"pixel data says length {length.hex()} {where}"


def _with_pixel_length(data: bytes, length: bytes) -> bytes:
    at = data.find(b"\xe0\x7f\x10\x00O")
    return data if at < 0 else data[: at + 8] + length + data[at + 12 :]


def transfer_syntax(series: Series, rng: random.Random) -> str:
    """Another transfer syntax than that of the bytes."""
    slices, where = _some(series, rng)
    known = [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian, uid.RLELossless]
    known += [uid.JPEG2000, uid.JPEGLSLossless, uid.JPEGBaseline8Bit, uid.DeflatedExplicitVRLittleEndian]
    syntax = rng.choice([str(one) for one in known] + ["1.2.840.10008.1.2.4.999", "1.2.3", "", "abc"])
    for one in slices:
        one.edits.append(said_to_be(one, syntax))
    return f"transfer syntax said to be {syntax!r} {where}"


def said_to_be(slice_: Slice, syntax: str) -> Callable[[bytes], bytes]:
    """An edit that puts a transfer syntax over that of the file, cut or filled up to its length."""
    old = str(slice_.dataset.file_meta.TransferSyntaxUID).encode()
    return lambda data: data.replace(old, syntax.encode()[: len(old)].ljust(len(old), b"\0"), 1)


def no_meta(series: Series, rng: random.Random) -> str:
    slices, where = _some(series, rng)
    how = rng.choice(("preamble", "meta", "both"))
    for one in slices:
        one.edits.append(lambda data: _without_meta(data, how))
    return f"without {how} {where}"


def _without_meta(data: bytes, how: str) -> bytes:
    length = int.from_bytes(data[140:144], "little")
    meta, body = data[132 : 144 + length], data[144 + length :]
    return {"preamble": meta + body, "meta": data[:132] + body, "both": body}[how]


def truncated(series: Series, rng: random.Random) -> str:
    slices, where = _some(series, rng)
    fraction = rng.random()
    for one in slices:
        one.edits.append(lambda data: data[: int(len(data) * fraction)])
    return f"cut after {100 * fraction:.0f} % {where}"


def flipped(series: Series, rng: random.Random) -> str:
    """A few bytes changed before the pixels, most of them in the header."""
    slices, where = _some(series, rng)
    changes = [(rng.random(), rng.randrange(256)) for _ in range(rng.choice((1, 2, 8)))]

    def edit(data: bytes) -> bytes:
        out, end = bytearray(data), data.find(b"\xe0\x7f\x10\x00")
        for place, value in changes:
            out[int(place * (end if end > 0 else len(data)))] = value
        return bytes(out)

    for one in slices:
        one.edits.append(edit)
    return f"{len(changes)} bytes changed {where}"


def moved(series: Series, rng: random.Random) -> str:
    """A slice elsewhere: in another's place, a little off, or far away."""
    one = rng.choice(series.slices)
    position = [float(x) for x in one.dataset.get("ImagePositionPatient") or (0, 0, 0)]
    how = rng.choice(("in another's place", "off by 0.3 mm", "off by 0.03 mm", "off by 1000 mm"))
    if how == "in another's place":
        one.dataset.ImagePositionPatient = rng.choice(series.slices).dataset.get("ImagePositionPatient")
    else:
        position[rng.randrange(3)] += float(how.split()[2])
        one.dataset.ImagePositionPatient = [f"{x:.6g}" for x in position]
    return f"{one.name} {how}"


def further_file(series: Series, rng: random.Random) -> str:
    """Something else in the folder."""
    first = series.slices[0].content()
    name, content = rng.choice(
        (
            ("notes.txt", b"notes\n"),
            ("empty", b""),
            ("empty.dcm", b""),
            ("DICOMDIR", rng.randbytes(300)),
            ("0009.dcm", first),
            ("copy/0001.dcm", first),
            ("cut", first[: len(first) // 2]),
            ("cut.dcm", first[: len(first) // 2]),
            ("scan.nii", rng.randbytes(400)),
            ("preamble", bytes(128) + b"DICM"),
            ("big", bytes(200_000)),
        )
    )
    series.others[name] = content
    return f"besides {name} of {len(content)} bytes"


def no_file(series: Series, rng: random.Random) -> str:
    """What is in a folder and no file."""
    kind = rng.choice(("pipe", "dead link", "link to itself", "link to the folder", "empty folder", "pipe.dcm"))
    makers: dict[str, Callable[[Path], None]] = {
        "pipe": lambda folder: os.mkfifo(folder / "pipe"),
        "pipe.dcm": lambda folder: os.mkfifo(folder / "pipe.dcm"),
        "dead link": lambda folder: (folder / "dead.dcm").symlink_to("nowhere"),
        "link to itself": lambda folder: (folder / "self.dcm").symlink_to("self.dcm"),
        "link to the folder": lambda folder: (folder / "loop").symlink_to("."),
        "empty folder": lambda folder: (folder / "folder.dcm").mkdir(),
    }
    series.special.append(makers[kind])
    return f"besides a {kind}"


MUTATIONS = (
    *(missing, empty, odd_value, odd_value, odd_value, wrong_vr, wrong_vr, doubled, doubled, nested, private, overlay),
    *(pixels_resized, pixels_undefined, pixels_of_length, transfer_syntax, no_meta, truncated, flipped, flipped),
    *(moved, further_file, no_file),
)
"""Those that have many values come more than once."""


def remove(folder: Path) -> None:
    """A folder with all that is in it, pipes and links too."""
    shutil.rmtree(folder, ignore_errors=True)
