"""One DICOM image's header: read without pixels, its values looked up and checked in one place.

PS3.3 of the standard: C.7.6.16 (multi-frame functional groups), C.8.2.1 (CT image), C.7.5.1.1.2 (pixel padding),
C.11.1 (rescale to HU).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from ASCONDenoiseLib.errors import InputError

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
_HEADER = [  # all that is ever read: nothing that names the patient
    *FACTS.values(), *PIXEL_MODULE, "SOPClassUID", "SeriesInstanceUID", "ImageType", "NumberOfFrames",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SpacingBetweenSlices", "RescaleSlope",
    "RescaleIntercept", "RescaleType", "PixelPaddingValue", "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
]
# fmt: on


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
        return str(self.header.SeriesInstanceUID)

    def get(self, keyword: str) -> Any:
        """Value of an attribute, looked up in the frame's groups, the shared groups, then the header; or None."""
        places = ("PerFrameFunctionalGroupsSequence", self.frame), ("SharedFunctionalGroupsSequence", 0)
        for sequence, index in places:
            for group in (self.header.get(sequence) or [])[index : index + 1]:
                for macro in group:
                    if macro.VR == "SQ" and macro.value and macro.value[0].get(keyword) is not None:
                        return macro.value[0].get(keyword)
        return self.header.get(keyword)

    def numbers(self, keyword: str, count: int) -> np.ndarray:
        """Values of an attribute as `count` floats; InputError where they are absent or malformed."""
        try:
            values = np.atleast_1d(np.asarray(self.get(keyword), dtype=float))
        except (TypeError, ValueError):
            values = np.array([])
        if values.shape != (count,) or not np.isfinite(values).all():
            raise InputError(
                f"{self.file} has no valid {keyword}, which places or scales a CT image: export the series again "
                "from the scanner or archive."
            )
        return values

    def is_ct_slice(self) -> bool:
        """True for a slice of a CT; False for localizers, other modalities and screenshots."""
        image_type = self.get("FrameType") or self.get("ImageType") or []
        return (
            self.get("Modality") == "CT"
            and self.get("Rows") is not None
            and self.get("SamplesPerPixel") in (1, None)
            and "LOCALIZER" not in image_type
            and (self.get("SOPClassUID") in CT_CLASSES or self.get("ImagePositionPatient") is not None)
        )

    def to_hu(self, stored: np.ndarray | int) -> np.ndarray:
        """Stored values -> HU in float64."""
        slope, intercept = self.numbers("RescaleSlope", 1), self.numbers("RescaleIntercept", 1)
        hu: np.ndarray = np.asarray(stored, np.float64) * slope + intercept
        return hu

    def padding_hu(self) -> float | None:
        """PixelPaddingValue in HU; None where there is none, or one that cannot be meant."""
        if (raw := self.get("PixelPaddingValue")) is None:
            return None
        stored = padding_as_stored(raw, int(self.get("BitsAllocated") or 16), self.get("PixelRepresentation") == 1)
        hu = float(self.to_hu(stored)[0])
        return None if NOT_PADDING_HU[0] <= hu <= NOT_PADDING_HU[1] else hu


def padding_as_stored(raw: int | bytes, bits: int, signed: bool) -> int:
    """A padding value read as pixels of `bits` bits: its VR is often not theirs (63536 as US for -2000)."""
    value = (int.from_bytes(raw, "little") if isinstance(raw, bytes) else int(raw)) % (1 << bits)
    return value - (1 << bits) if signed and value >= 1 << (bits - 1) else value


def read_header(file: Path, *, must_be_dicom: bool) -> Dataset | None:
    """Header without pixels; None for a file that is not DICOM, or an index of others.

    Raises:
        InputError: the file is damaged or cannot be opened, or it is not DICOM and must be.
    """
    try:
        with file.open("rb") as opened:
            is_dicom = opened.read(132)[128:] == b"DICM"
        if not is_dicom:
            if must_be_dicom:
                raise InputError(f"{file} is no DICOM file, or a damaged one: copy it again, or leave it out.")
            return None
        header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=_HEADER)
        sop_class = header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID")
        if sop_class == uid.MediaStorageDirectoryStorage:
            return None
        complete = "SeriesInstanceUID" in header and ("Rows" in header or sop_class not in CT_CLASSES)
        complete = complete and n_frames(header) > 0
    except OSError as error:
        raise InputError(f"{file} cannot be opened: check its permissions or remove it from the folder.") from error
    except InputError:
        raise
    except Exception as error:  # pydicom raises nearly anything on garbage
        raise damaged(file) from error
    if not complete:
        raise damaged(file)
    return header


def n_frames(header: Dataset) -> int:
    return int(header.get("NumberOfFrames") or 1)


def as_text(value: Any) -> str:
    """Header value as text, several values joined by a comma."""
    if value is None:
        return ""
    several = isinstance(value, (list, tuple, np.ndarray, MultiValue))
    return ", ".join(f"{item:g}" if isinstance(item, float) else str(item) for item in (value if several else [value]))


def damaged(file: Path) -> InputError:
    return InputError(f"{file} is truncated or damaged: copy it again from its source, or remove it from the folder.")
