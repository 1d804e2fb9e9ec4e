"""One DICOM image's header: read without pixels, its values looked up and checked in one place.

PS3.3 of the standard: C.7.6.16 (multi-frame functional groups), C.8.2.1 (CT image), C.7.5.1.1.2 (pixel padding),
C.11.1 (rescale to HU).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom import uid
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.imaging.hounsfield import Padding

NOT_PADDING_HU = (-900.0, 3071.0)
"""A PixelPaddingValue in here is a faulty header: it would mark lung, tissue or bone as padding."""

CT_CLASSES = (uid.CTImageStorage, uid.EnhancedCTImageStorage, uid.LegacyConvertedEnhancedCTImageStorage)
DICOM_SUFFIXES = (".dcm", ".ima", ".dicom")

FACTS = {
    "modality": "Modality",
    "kernel": "ConvolutionKernel",
    "kvp": "KVP",
    "slice_thickness_mm": "SliceThickness",
    "body_part": "BodyPartExamined",
    "series_description": "SeriesDescription",
    "manufacturer_model": "ManufacturerModelName",
}
"""Key in `Volume.description` -> attribute."""

# fmt: off
PIXEL_MODULE = (
    "SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit",
    "PixelRepresentation",
)
PHASES = (
    "TemporalPositionIdentifier", "AcquisitionNumber", "NominalPercentageOfCardiacPhase", "TriggerTime",
    "ConvolutionKernel", "ImageType", "AcquisitionTime", "InstanceNumber",
)
"""What tells two images of one place apart, the most telling first."""

_HEADER = [  # all that is ever read: nothing that names the patient
    *FACTS.values(), *PIXEL_MODULE, "SOPClassUID", "SeriesInstanceUID", "ImageType", "NumberOfFrames",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SpacingBetweenSlices", "RescaleSlope",
    "RescaleIntercept", "RescaleType", "PixelPaddingValue", "PixelPaddingRangeLimit",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "ConcatenationUID",
    "InConcatenationNumber", "InConcatenationTotalNumber",
    "StudyInstanceUID", "FrameOfReferenceUID", "TemporalPositionIndex", *PHASES,
]
# fmt: on


_IS_DECIMAL = re.compile(r"[-+0-9.eE \0]*")
"""PS3.5, 6.2, DS and IS. Python takes digits of all scripts and 1_000 for numbers too."""

_STARTS_WITH_AN_ELEMENT = re.compile(rb"[\x02\x08]\x00[\x00-\x20]\x00([A-Z]{2}|.\x00\x00\x00)", re.DOTALL)
"""The first element of a file without preamble, of group 2 or 8, little endian: VR or a short length after the tag."""


@dataclass(frozen=True)
class DicomImage:
    """One image: a file, or one frame of a multi-frame file.

    Attributes:
        file: its path.
        header: of the file, without pixels.
        frame: counted from 0.
    """

    file: Path
    header: Dataset
    frame: int

    @property
    def series_uid(self) -> str:
        """SeriesInstanceUID; empty where the file has none."""
        return as_text(self.get("SeriesInstanceUID"))

    def get(self, keyword: str) -> Any:
        """Value of an attribute, looked up in the frame's groups, the shared groups, then the header.

        None where it is absent, or where its bytes make no value.
        """
        try:
            return self._get(keyword)
        except Exception:  # pydicom raises nearly anything on garbage
            return None

    def _get(self, keyword: str) -> Any:
        places = ("PerFrameFunctionalGroupsSequence", self.frame), ("SharedFunctionalGroupsSequence", 0)
        for sequence, index in places:
            for group in (self.header.get(sequence) or [])[index : index + 1]:
                for macro in group:
                    if macro.VR == "SQ" and macro.value and macro.value[0].get(keyword) is not None:
                        return macro.value[0].get(keyword)
        return self.header.get(keyword)

    def numbers(self, keyword: str, count: int) -> np.ndarray:
        """Values of an attribute as `count` floats; InputError where they are absent or malformed."""
        raw = self.get(keyword)
        items = raw if isinstance(raw, MultiValue) else [raw]
        texts = [item if isinstance(item, str) else getattr(item, "original_string", "") for item in items]
        try:
            values = np.atleast_1d(np.asarray(raw, dtype=float))
        except (TypeError, ValueError, OverflowError):
            values = np.array([])
        if not all(map(_IS_DECIMAL.fullmatch, texts)) or values.shape != (count,) or not np.isfinite(values).all():
            raise InputError(
                f"{self.file} has no valid {keyword}, which places or scales a CT image: export the series again "
                "from the scanner or archive."
            )
        return values

    def whole(self, keyword: str, default: int | None = None) -> int:
        """Value of an attribute as a whole number; InputError where it is malformed, or absent without default."""
        if default is not None and self.get(keyword) in (None, ""):
            return default
        (value,) = self.numbers(keyword, 1)
        if value != int(value):
            raise InputError(
                f"{self.file} has a {keyword} of {value:g}, which must be a whole number: export it again."
            )
        return int(value)

    def is_ct_slice(self) -> bool:
        """True for a slice of a CT; False for localizers, other modalities and screenshots."""
        is_ct_class = self.get("SOPClassUID") in CT_CLASSES
        return (
            (self.get("Modality") == "CT" or (is_ct_class and not self.get("Modality")))
            and self.get("Rows") is not None
            and self.get("SamplesPerPixel") in (1, None)
            and "PALETTE" not in as_text(self.get("PhotometricInterpretation"))
            and not self.is_localizer()
            and (is_ct_class or self.get("ImagePositionPatient") is not None)
        )

    def is_localizer(self) -> bool:
        """True for the overview image that a scan is planned on."""
        return "LOCALIZER" in as_text(self.get("FrameType") or self.get("ImageType"))

    def to_hu(self, stored: np.ndarray | int) -> np.ndarray:
        """Stored values -> HU in float64."""
        slope, intercept = self.numbers("RescaleSlope", 1), self.numbers("RescaleIntercept", 1)
        if slope == 0:
            raise InputError(f"{self.file} has a RescaleSlope of 0, which makes all HU alike: export the series again.")
        hu: np.ndarray = np.asarray(stored, np.float64) * slope + intercept
        return hu

    def padding_hu(self) -> Padding:
        """PixelPaddingValue in HU; lowest and highest where PixelPaddingRangeLimit makes it a range (C.7.5.1.1.2).

        None where there is none, or one that cannot be meant; the value alone where the limit cannot be.
        """
        value, limit = (self._padding_hu(key) for key in ("PixelPaddingValue", "PixelPaddingRangeLimit"))
        if value is None or limit is None or limit == value:
            return value
        low, high = sorted((value, limit))
        return value if low < NOT_PADDING_HU[0] and high > NOT_PADDING_HU[1] else (low, high)

    def _padding_hu(self, keyword: str) -> float | None:
        raw, bits, signed = (self.get(key) for key in (keyword, "BitsAllocated", "PixelRepresentation"))
        if not isinstance(raw, (int, bytes)) or not isinstance(bits, (int, type(None))):
            return None
        stored = padding_as_stored(raw, bits or 16, signed == 1)
        hu = float(self.to_hu(stored)[0])
        return None if NOT_PADDING_HU[0] <= hu <= NOT_PADDING_HU[1] else hu


def padding_as_stored(raw: int | bytes, bits: int, signed: bool) -> int:
    """A padding value read as pixels of `bits` bits: its VR is often not theirs (63536 as US for -2000)."""
    value = (int.from_bytes(raw, "little") if isinstance(raw, bytes) else int(raw)) % (1 << bits)
    return value - (1 << bits) if signed and value >= 1 << (bits - 1) else value


def read_header(file: Path) -> Dataset | None:
    """Header without pixels; None for a file that is not DICOM, or an index of others.

    A file that starts with its first element, without preamble and meta information as files had it before 1993, is
    DICOM too.

    Raises:
        InputError: the file is damaged.
        OSError: it cannot be opened.
    """
    with file.open("rb") as opened:
        start = opened.read(132)
    bare = start[128:] != b"DICM"
    if bare and not _STARTS_WITH_AN_ELEMENT.match(start):
        return None
    try:
        header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=_HEADER, force=bare)
        _correct_syntax(header)
        sop_class = _sop_class(header)
        if sop_class == uid.MediaStorageDirectoryStorage:
            return None
        is_complete = "Rows" in header or sop_class not in (None, *CT_CLASSES)
    except OSError:
        raise
    except Exception as error:  # pydicom raises nearly anything on garbage
        if bare:
            return None
        raise damaged(file) from error
    if not is_complete and not bare:
        raise damaged(file)
    return header if is_complete else None


def _sop_class(header: Dataset) -> str | None:
    """What kind of DICOM a file is; None where it is damaged: unknown where stated once, or twice and not alike."""
    stated = [as_text(header.get("SOPClassUID")), as_text(header.file_meta.get("MediaStorageSOPClassUID"))]
    if stated[0] == stated[1]:
        return stated[0] or None
    return next((text for text in stated if text and uid.UID(text).name != text), None)


def _correct_syntax(header: Dataset) -> None:
    """Forget a transfer syntax that says of the VRs what is not so: pydicom would find the pixels some bytes beside."""
    element = header.get_item("Rows") if "Rows" in header else None
    if isinstance(element, RawDataElement) and not transfer_syntax(header).is_encapsulated:
        implicit, little = element.VR is None, element.is_little_endian
        if implicit != transfer_syntax(header).is_implicit_VR:
            header.file_meta.pop("TransferSyntaxUID", None)
            header.set_original_encoding(implicit, little)


def transfer_syntax(header: Dataset) -> uid.UID:
    """That of the file; where it does not say, the one by which its elements could be read."""
    if stated := header.file_meta.get("TransferSyntaxUID"):
        return uid.UID(stated)
    implicit, little = header.original_encoding
    return uid.ImplicitVRLittleEndian if implicit else uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian


def n_frames(file: Path, header: Dataset) -> int:
    """NumberOfFrames, 1 where there is none; InputError where it is malformed."""
    image = DicomImage(file, header, 0)
    frames = image.whole("NumberOfFrames", 1) if "NumberOfFrames" in header else 1
    if frames > 1 and frames * _least_bytes(image) > file.stat().st_size:
        raise damaged(file)
    if frames < 0:
        raise InputError(f"{file} has a NumberOfFrames of {frames}: export the series again.")
    return frames or 1


def _least_bytes(image: DicomImage) -> int:
    """What a frame takes up in the file at least; of one that is cut, the decoder says more."""
    syntax = transfer_syntax(image.header)
    if syntax.is_encapsulated:
        return 48  # the item's tag and length, and the head of any compressed stream
    if syntax == uid.DeflatedExplicitVRLittleEndian:
        return 1
    columns = image.get("Columns")
    return max(1, columns) if isinstance(columns, int) else 1


def as_text(value: Any) -> str:
    """Header value as text, several values joined by a comma."""
    if value is None:
        return ""
    items = value if isinstance(value, (list, tuple, np.ndarray, MultiValue)) else [value]
    try:
        return ", ".join(f"{item:g}" if isinstance(item, float) else str(item) for item in items)
    except Exception:  # a sequence where a text should be, whose items cannot be read
        return ""


def damaged(file: Path) -> InputError:
    return InputError(f"{file} is truncated or damaged: copy it again from its source, or remove it from the folder.")
