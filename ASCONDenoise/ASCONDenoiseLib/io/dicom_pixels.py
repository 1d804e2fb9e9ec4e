"""The pixels of DICOM images: decoded from every transfer syntax, rescaled to HU, put into one volume.

A decoder gives words of BitsAllocated bits; which of their bits are the value and whether there is a sign is settled
here, in one place for all transfer syntaxes (PS3.5, 8.1.1).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import pydicom
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels import iter_pixels, pixel_array
from pydicom.pixels.utils import get_j2k_parameters

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.io.dicom_headers import (
    PHASES,
    PIXEL_MODULE,
    DicomImage,
    as_text,
    damaged,
    n_frames,
    transfer_syntax,
)
from ASCONDenoiseLib.io.silence import silence_stderr
from ASCONDenoiseLib.io.volume import whole_or_float32

_PYDICOM_DECODES = (uid.RLELossless, uid.JPEG2000Lossless, uid.JPEG2000)  # the rest of the compressed: GDCM
_JPEG_2000 = (uid.JPEG2000Lossless, uid.JPEG2000)
_LOSSY = (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEG2000, uid.JPEGLSNearLossless)


@dataclass(frozen=True)
class StoredBits:
    """Where the value of a pixel lies in its word (PS3.5, 8.1.1).

    Attributes:
        allocated: bits of the word.
        stored: bits of the value.
        high: the value's highest bit, counted from 0.
        signed: whether that is its sign (two's complement).
    """

    allocated: int
    stored: int
    high: int
    signed: bool

    @classmethod
    def of(cls, image: DicomImage) -> StoredBits:
        """As the header says; InputError where that is impossible."""
        allocated = image.whole("BitsAllocated")
        stored = image.whole("BitsStored", allocated)
        high = image.whole("HighBit", stored - 1)
        sign = image.whole("PixelRepresentation", 0)
        if allocated not in (8, 16, 32) or not 1 <= stored <= high + 1 <= allocated or sign not in (0, 1):
            raise InputError(
                f"{image.file} says of its pixels what cannot be (BitsAllocated {allocated}, BitsStored {stored}, "
                f"HighBit {high}, PixelRepresentation {sign}): export the series again."
            )
        return cls(allocated, stored, high, sign == 1)

    def values(self, words: np.ndarray, image: DicomImage, *, lossy: bool) -> np.ndarray:
        """Decoded words -> values; what else is in the words (overlays of old files, a sign not extended) is ignored.

        Raises:
            InputError: the bits below the value are used, so that HighBit cannot be true; or lossy compression, which
                keeps no overlays, gave values beyond BitsStored.
        """
        bits = words.astype(np.int64)
        below = self.high + 1 - self.stored
        if below and (bits & ((1 << below) - 1)).any():
            raise InputError(
                f"{image.file} says that its pixels lie in the upper bits (HighBit {self.high}, BitsStored "
                f"{self.stored}), but the lower ones are used too: export the series again."
            )
        values: np.ndarray = (bits >> below) & ((1 << self.stored) - 1)
        if self.signed:
            values -= (values >> (self.stored - 1)) << self.stored
        if lossy and not np.array_equal(values, bits >> below):
            raise InputError(
                f"{image.file} holds pixel values beyond the {self.stored} bits that its header announces: export the "
                "series again, without lossy compression."
            )
        return values


def read_voxels(images: list[DicomImage], slots: list[int], name: str) -> np.ndarray:
    """Decode each file once into voxels (S, H, W) in HU.

    Args:
        images: those of one file follow each other.
        slots: slice number of each image; several images of one slice are duplicates and must agree.
        name: of the series, for messages.

    Raises:
        InputError: a file cannot be decoded, lacks a frame, or two images of a slice differ.
    """
    first = images[0]
    voxels = np.empty((max(slots) + 1, int(first.get("Rows")), int(first.get("Columns"))), np.int16)
    filled: dict[int, DicomImage] = {}
    for file, group in groupby(zip(images, slots, strict=True), key=lambda pair: pair[0].file):
        wanted = {image.frame: (image, slot) for image, slot in group}
        any_image = next(iter(wanted.values()))[0]
        bits, lossy = StoredBits.of(any_image), transfer_syntax(any_image.header) in _LOSSY
        for frame, words in enumerate(_decoded_frames(file, any_image.header)):
            if frame not in wanted:
                continue
            image, slot = wanted.pop(frame)
            with np.errstate(over="ignore"):
                hu = whole_or_float32(image.to_hu(bits.values(words, image, lossy=lossy)))
            if not np.isfinite(hu).all():
                raise InputError(f"{file} has a rescale that makes no HU of its values: export the series again.")
            if slot in filled:
                if not np.array_equal(voxels[slot], hu):
                    raise _two_at_one_place(filled[slot], image, len(images) if max(slots) == 0 else 0, name)
                continue
            if hu.dtype == np.float32:
                voxels = voxels.astype(np.float32, copy=False)
            voxels[slot] = hu
            filled[slot] = image
        if wanted:
            raise damaged(file)
    return voxels


def _two_at_one_place(one: DicomImage, other: DicomImage, alike: int, name: str) -> InputError:
    """The error for two images of one place with different pixels; `alike`: how many images have no other place."""
    if alike:
        position = as_text(other.numbers("ImagePositionPatient", 3))
        return InputError(
            f"All {alike} images of {name} lie in one plane (ImagePositionPatient of {other.file}: {position}): their "
            "positions were lost, perhaps when the series was anonymised, or it shows one slice over time. Get the "
            "series as the scanner made it, or give one file."
        )
    for keyword in PHASES:
        here, there = as_text(one.get(keyword)), as_text(other.get(keyword))
        if here != there:
            differ = f" ({keyword} {here or 'absent'} and {there or 'absent'})"
            break
    else:
        differ = ""
    return InputError(
        f"{name} has two different images at one place, {one.file} and {other.file}{differ}: two reconstructions or "
        "phases share the series, so put each in its own folder."
    )


def _decoded_frames(file: Path, header: Dataset) -> Iterator[np.ndarray]:
    """Stored values of each frame (H, W): pydicom where it can decode, else SimpleITK's GDCM (JPEG, JPEG-LS)."""
    syntax = transfer_syntax(header)
    try:
        if syntax.is_encapsulated and syntax not in _PYDICOM_DECODES:
            frames = _gdcm_frames(file, n_frames(file, header))
        else:
            # where nothing is compressed, the whole word: pydicom takes the value for its lowest bits
            options = {} if syntax.is_encapsulated else {"bits_stored": header.BitsAllocated}
            source = file if _is_indexed(header) else _read_whole(file, syntax)
            if syntax in _JPEG_2000 and header.get("PixelRepresentation") != 1:
                _check_unsigned(file, header)
            if n_frames(file, header) > 1:
                frames = iter_pixels(source, raw=True, **options)
            else:  # iter_pixels of pydicom 3.0 fails on JPEG 2000 whose stream and header differ in sign
                frames = iter([pixel_array(source, raw=True, index=0, **options)])
        for stored in frames:
            if stored.shape != (header.Rows, header.Columns):
                raise damaged(file)
            yield stored
    except InputError:
        raise
    except Exception as error:  # each decoder has its own exceptions
        raise InputError(
            f"The pixels of {file} ({syntax.name}) cannot be decoded: the file is truncated or damaged, or its "
            "compression is unknown here. Copy it again, or export it uncompressed."
        ) from error


def _check_unsigned(file: Path, header: Dataset) -> None:
    """Raise InputError where a JPEG 2000 stream has a sign that the header denies: pydicom gives 2^15 too much then."""
    frames = generate_frames(pydicom.dcmread(file).PixelData, number_of_frames=n_frames(file, header))
    if get_j2k_parameters(next(frames)).get("is_signed"):
        raise InputError(
            f"{file} says that its pixels have no sign (PixelRepresentation 0), its JPEG 2000 stream that they have "
            "one: export the series again, uncompressed."
        )


def _is_indexed(header: Dataset) -> bool:
    """Whether pydicom finds the pixels in the file itself: not where all of it is deflated or its start is missing."""
    return header.file_meta.get("TransferSyntaxUID") not in (None, uid.DeflatedExplicitVRLittleEndian)


def _read_whole(file: Path, syntax: uid.UID) -> Dataset:
    dataset = pydicom.dcmread(file, force=True)
    dataset.file_meta.TransferSyntaxUID = syntax
    return dataset


def _gdcm_frames(file: Path, number: int) -> Iterator[np.ndarray]:
    """Each frame goes through a temporary file that holds its pixels and nothing of the patient."""
    import SimpleITK as sitk

    dataset = pydicom.dcmread(file)
    single = Dataset()
    single.file_meta = FileMetaDataset()
    single.file_meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    single.file_meta.MediaStorageSOPClassUID = single.SOPClassUID = uid.SecondaryCaptureImageStorage
    single.file_meta.MediaStorageSOPInstanceUID = single.SOPInstanceUID = uid.generate_uid()
    for keyword in PIXEL_MODULE:
        setattr(single, keyword, dataset.get(keyword))
    if single.HighBit != single.BitsStored - 1:  # the whole word, since GDCM takes the value for its lowest bits
        single.BitsStored, single.HighBit = single.BitsAllocated, single.BitsAllocated - 1
    with tempfile.TemporaryDirectory() as folder:
        for frame in generate_frames(dataset.PixelData, number_of_frames=number):
            single.PixelData = encapsulate([frame])
            single["PixelData"].VR = "OB"
            pydicom.dcmwrite(f"{folder}/frame.dcm", single, enforce_file_format=True)
            with silence_stderr():
                image = sitk.ReadImage(f"{folder}/frame.dcm", imageIO="GDCMImageIO")
            yield sitk.GetArrayFromImage(image)[0]
