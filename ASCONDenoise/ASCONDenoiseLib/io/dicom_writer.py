"""Writing a denoised volume as a derived CT series that a PACS files beside its source.

Each slice becomes one CT Image Storage instance made from its source instance: patient, study, frame of reference,
geometry, equipment and acquisition stay, while everything that says "these pixels were changed, how, from what and
by whom" is added (DICOM PS3.3 C.7.5.1 General Equipment, C.7.6.1 General Image, C.8.2.1 CT Image, C.12.1 SOP Common).
The frames of an enhanced multi-frame source become single-frame instances, which every viewer reads.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.io.atomic import atomic_folder, check_parent
from ASCONDenoiseLib.io.dicom_headers import padding_as_stored
from ASCONDenoiseLib.io.silence import silence_pydicom
from ASCONDenoiseLib.io.volume import DicomSeries, Volume

# True of the source's pixels or of that very instance, not of ours. Overlays (60xx) and curves (50xx) go as well.
_REMOVED = """
    SmallestImagePixelValue LargestImagePixelValue SmallestPixelValueInSeries LargestPixelValueInSeries
    SmallestImagePixelValueInPlane LargestImagePixelValueInPlane ModalityLUTSequence IconImageSequence
    PlanarConfiguration NumberOfFrames PixelDataProviderURL InstanceCreatorUID ConversionSourceAttributesSequence
    SOPInstanceStatus SOPAuthorizationDateTime MACParametersSequence EncryptedAttributesSequence
    DigitalSignaturesSequence
""".split()

# What an enhanced image says about its frames as a set; a single-frame image has no place for it.
_REMOVED_ENHANCED = """
    SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence DimensionOrganizationSequence
    DimensionIndexSequence DimensionOrganizationType ConcatenationUID InConcatenationNumber
    InConcatenationTotalNumber ConcatenationFrameOffsetNumber SOPInstanceUIDOfConcatenationSource
    RepresentativeFrameNumber AcquisitionContextSequence VolumetricProperties VolumeBasedCalculationTechnique
    PixelPresentation ContentQualification
""".split()

# Functional groups whose attributes mean the same at the top of a single-frame CT image.
_FLATTENED = """
    PixelMeasuresSequence PlanePositionSequence PlaneOrientationSequence PixelValueTransformationSequence
    FrameVOILUTSequence FrameAnatomySequence IrradiationEventIdentificationSequence CTAcquisitionTypeSequence
    CTAcquisitionDetailsSequence CTTableDynamicsSequence CTPositionSequence CTGeometrySequence
    CTReconstructionSequence CTExposureSequence CTXRayDetailsSequence
    UnassignedSharedConvertedAttributesSequence UnassignedPerFrameConvertedAttributesSequence
""".split()

# What a CT image must have, if only empty (type 2); an enhanced source has some of it in other places.
_MAY_BE_EMPTY = """
    StudyDate StudyTime AccessionNumber Manufacturer ReferringPhysicianName PatientName PatientID PatientBirthDate
    PatientSex KVP SliceThickness StudyID AcquisitionNumber PositionReferenceIndicator
""".split()
_LOSSY_METHOD = {
    pydicom.uid.JPEGBaseline8Bit: "ISO_10918_1",
    pydicom.uid.JPEGExtended12Bit: "ISO_10918_1",
    pydicom.uid.JPEGLSNearLossless: "ISO_14495_1",
}


@dataclass(frozen=True)
class Derivation:
    """What was done to the images, for the record inside every instance.

    Attributes:
        description: one sentence: software, model, version, SHA-256 of the weights, strength, device, precision.
        software_version: version of ASCON, for the list of contributing equipment.
        series_suffix: appended to the source's series description.
        series_number_offset: added to the source's series number.
    """

    description: str
    software_version: str = "unknown"
    series_suffix: str = "ASCON denoised"
    series_number_offset: int = 1000


@dataclass(frozen=True)
class _Encoding:
    """How HU are stored: HU = slope * stored + intercept, in `bits` bits of a 16-bit word."""

    slope: float
    intercept: float
    signed: bool
    bits: int

    def stored(self, hu: np.ndarray) -> np.ndarray | None:
        """HU -> stored values (`<i2` or `<u2`), None where one doesn't fit: whole HU must come back exactly,
        fractions within half a HU."""
        if self.slope == 0 or not 0 < self.bits <= 16:
            return None
        stored = np.rint((hu.astype(np.float64) - self.intercept) / self.slope)
        lowest = -(2 ** (self.bits - 1)) if self.signed else 0
        tolerance_hu = 1e-6 if np.issubdtype(hu.dtype, np.integer) else 0.5 + 1e-6
        exact = np.abs(stored * self.slope + self.intercept - hu).max() <= tolerance_hu
        if not (exact and stored.min() >= lowest and stored.max() < lowest + 2**self.bits):
            return None
        return stored.astype("<i2" if self.signed else "<u2")


_PLAIN_HU = _Encoding(slope=1.0, intercept=0.0, signed=True, bits=16)


def write_derived_series(volume: Volume, source: DicomSeries, folder: str | Path, derivation: Derivation) -> list[Path]:
    """Write `volume` (S, H, W) in HU as a new series derived from `source`; one uncompressed file per slice.

    The source's rescale slope and intercept are kept where they hold every value; else HU are stored as they are, in
    signed 16 bits. No value is clipped. Fractional HU are rounded, to the source's step where that is finer
    than 1 HU and to whole HU otherwise.

    Args:
        volume: as read from `source`, with other voxels.
        source: the instances whose headers are taken over.
        folder: new or empty; it appears complete or not at all.
        derivation: the record for every instance.

    Returns:
        The files, in the order of the slices.

    Raises:
        InputError: the folder holds something or has no parent; a source file is gone or changed; the volume's size,
            spacing, orientation or position is not the source's; a value doesn't fit into 16 bits.
        WriteError: the disk is full or the folder is protected.
    """
    folder = check_new_folder(folder)
    with silence_pydicom():
        headers = list(_single_frame_headers(source))
        _check_same_geometry(volume, headers, source)
        encoding = _choose_encoding(volume.voxels, headers, source)
        return _write(volume.voxels, headers, encoding, folder, derivation)


def check_new_folder(folder: str | Path) -> Path:
    """The folder as an absolute path; InputError if no derived series may be written there. Ask before the work."""
    folder = Path(folder).resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists and is not an empty folder: name a new folder for the derived series.")
    check_parent(folder)
    return folder


def _write(
    voxels_hu: np.ndarray, headers: list[Dataset], encoding: _Encoding, folder: Path, derivation: Derivation
) -> list[Path]:
    names = [f"{number:04d}.dcm" for number in range(1, len(headers) + 1)]
    series_uid, now = generate_uid(prefix=None), datetime.now().astimezone()
    with atomic_folder(folder) as partial:
        for name, header, slice_hu in zip(names, headers, voxels_hu, strict=True):
            _set_pixels(header, slice_hu, encoding)
            _describe(header, derivation, series_uid, now)
            pydicom.dcmwrite(partial / name, header, enforce_file_format=True)
            del header.PixelData  # the headers stay in their list, 600 slices of pixels must not
        if folder.exists():
            folder.rmdir()  # still empty, or refused: no folder that holds something is replaced
    return [folder / name for name in names]


def _single_frame_headers(source: DicomSeries) -> Iterator[Dataset]:
    """The source's headers, one per slice and without pixels, each with its `SourceImageSequence` set."""
    for path in source.files:
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        except OSError as error:
            raise InputError(f"{path} can no longer be read: restore it, its tags are needed.") from error
        if header.get("SeriesInstanceUID") != source.series_uid:
            raise InputError(f"{path} no longer belongs to series {source.series_uid}: read the series again.")
        missing = [tag for tag in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID") if not header.get(tag)]
        if missing:
            raise InputError(f"{path} has no {missing[0]}, so no derived series can refer to it.")
        _drop_unreadable(header)
        if "PerFrameFunctionalGroupsSequence" in header:
            yield from _frames(header, source.frames or (1,))
        else:
            header.SourceImageSequence = [_reference(header)]
            yield header


def _drop_unreadable(dataset: Dataset) -> None:
    """Delete elements whose bytes don't make a value: they can't be written again, and must not cost the series.

    Looking at each has pydicom settle, by the source's signedness, what "US or SS" of an implicit VR source means.
    """
    for tag in list(dataset.keys()):
        try:
            element = dataset[tag]
        except Exception:  # pydicom raises nearly anything on garbage
            del dataset[tag]
            continue
        for item in element.value if element.VR == "SQ" else ():
            _drop_unreadable(item)


def _reference(header: Dataset, frame_number: int | None = None) -> Dataset:
    """An item of SourceImageSequence (PS3.3 C.7.6.1.1.4) pointing at `header`'s instance."""
    item = Dataset()
    item.ReferencedSOPClassUID = header.SOPClassUID
    item.ReferencedSOPInstanceUID = header.SOPInstanceUID
    if frame_number is not None:
        item.ReferencedFrameNumber = frame_number
    item.SpatialLocationsPreserved = "YES"
    item.PurposeOfReferenceCodeSequence = [_code("121322", "Source image for image processing operation")]
    return item


def _code(value: str, meaning: str) -> Dataset:
    """A code of the DICOM Controlled Terminology (PS3.16 annex D)."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
    return item


def _frames(enhanced: Dataset, numbers: tuple[int, ...]) -> Iterator[Dataset]:
    """Headers of single-frame CT images from the frames (from 1) of an enhanced multi-frame image."""
    shared = enhanced.get("SharedFunctionalGroupsSequence") or [Dataset()]
    per_frame = enhanced.PerFrameFunctionalGroupsSequence
    for keyword in _REMOVED_ENHANCED:
        enhanced.pop(keyword, None)
    for number in numbers:
        header, own = copy.deepcopy(enhanced), per_frame[number - 1]
        for groups in (shared[0], own):
            # A group of several items (two X-ray sources) has no single-frame equivalent.
            for group in (groups[keyword].value for keyword in _FLATTENED if keyword in groups):
                if len(group) == 1:
                    header.update(copy.deepcopy(group[0]))
        header.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]  # the enhanced fourth value has other terms
        header.InstanceNumber = number
        _translate_units(header, own)
        header.SourceImageSequence = [_reference(enhanced, number)]
        yield header


def _translate_units(header: Dataset, groups: Dataset) -> None:
    """Enhanced CT keeps exposure as decimals and times per frame; single-frame CT has older attributes for them."""
    for enhanced, single in {
        "ExposureTimeInms": "ExposureTime",
        "XRayTubeCurrentInmA": "XRayTubeCurrent",
        "ExposureInmAs": "Exposure",
    }.items():
        if header.get(enhanced) is not None:
            setattr(header, single, round(float(header[enhanced].value)))
            del header[enhanced]
    content = (groups.get("FrameContentSequence") or [Dataset()])[0]
    if content.get("FrameAcquisitionNumber") is not None:
        header.AcquisitionNumber = content.FrameAcquisitionNumber
    acquired = str(content.get("FrameAcquisitionDateTime") or header.get("AcquisitionDateTime") or "")
    if len(acquired) >= 14:
        header.AcquisitionDate, header.AcquisitionTime = acquired[:8], acquired[8:].partition("+")[0].partition("-")[0]


def _check_same_geometry(volume: Volume, headers: list[Dataset], source: DicomSeries) -> None:
    """Raise InputError unless every slice of the volume lies where its source image lies."""
    problem = f"The volume doesn't match its source series {source.series_uid}: "
    remedy = "Pass the series that the volume was read from, and a volume that was neither cropped nor resampled."
    if len(volume.voxels) != len(headers):
        raise InputError(f"{problem}it has {len(volume.voxels)} slices, the source {len(headers)}. {remedy}")
    direction = np.reshape(volume.geometry.direction, (3, 3))
    column_mm, row_mm, step_mm = volume.geometry.spacing_mm
    for number, header in enumerate(headers):
        position_mm = np.asarray(volume.geometry.origin_mm) + number * step_mm * direction[:, 2]
        for keyword, expected, tolerance in (
            ("Rows", volume.voxels.shape[1], 0),
            ("Columns", volume.voxels.shape[2], 0),
            ("PixelSpacing", (row_mm, column_mm), 1e-3 * row_mm),
            ("ImageOrientationPatient", direction[:, :2].T.ravel(), 2e-2),  # reading normalises imprecise axes
            ("ImagePositionPatient", position_mm, min(0.25, step_mm / 2)),  # and evens out 0.1 mm either way
        ):
            actual = header.get(keyword)
            if actual is not None and np.abs(np.asarray(actual, float) - expected).max() > tolerance:
                raise InputError(
                    f"{problem}{keyword} of slice {number + 1} is {actual} in the source and {expected} in the volume. "
                    + remedy
                )


def _encoding_of(header: Dataset) -> _Encoding | None:
    """How the source stores HU; None where that is no encoding for a CT image."""
    if header.get("BitsAllocated") != 16 or "RescaleSlope" not in header or "RescaleIntercept" not in header:
        return None
    signed = header.get("PixelRepresentation") == 1
    return _Encoding(float(header.RescaleSlope), float(header.RescaleIntercept), signed, int(header.BitsStored))


def _choose_encoding(voxels_hu: np.ndarray, headers: list[Dataset], source: DicomSeries) -> _Encoding:
    """The source's encoding where all slices share it and it holds every voxel, else plain HU in int16."""
    own = {_encoding_of(header) for header in headers}
    for encoding in (own.pop() if len(own) == 1 else None, _PLAIN_HU):
        if encoding and all(encoding.stored(slice_hu) is not None for slice_hu in voxels_hu):
            return encoding
    raise InputError(
        f"The result for series {source.series_uid} holds {voxels_hu.min()} to {voxels_hu.max()} HU, more than a "
        "16-bit CT image can hold. Save it as .nrrd instead."
    )


def _describe(header: Dataset, derivation: Derivation, series_uid: str, now: datetime) -> None:
    """Turn a source header into that of the derived image, apart from the attributes of its pixels."""
    # Private attributes may describe the source's pixels (thumbnails, checksums, even vendor-compressed pixel data):
    # only their vendor knows. None is copied; who needs one finds it through SourceImageSequence.
    header.remove_private_tags()
    for tag in [tag for tag in header if tag.tag.group & 0xFF00 in (0x5000, 0x6000)]:
        del header[tag.tag]
    for keyword in _REMOVED:
        header.pop(keyword, None)
    for keyword in _MAY_BE_EMPTY:
        header.setdefault(keyword, None)

    # Values 4 and beyond tell monoenergetic from other multi-energy images (PS3.3 C.8.2.1.1.1): still true.
    special = header.ImageType[3:] if "ImageType" in header and header["ImageType"].VM > 3 else []
    header.ImageType = ["DERIVED", "SECONDARY", "AXIAL", *special]
    header.Modality = "CT"
    header.SOPClassUID = CTImageStorage
    header.SOPInstanceUID = generate_uid(prefix=None)
    header.SeriesInstanceUID = series_uid
    header.SeriesNumber = int(header.get("SeriesNumber") or 0) + derivation.series_number_offset
    suffix = _plain(derivation.series_suffix, 64)
    name = str(header.get("SeriesDescription") or "")[: 63 - len(suffix)].strip()
    header.SeriesDescription = f"{name} {suffix}".strip()
    with suppress(ValueError, TypeError):  # absent or malformed; else it holds for all times here, ours too
        now = now.astimezone(datetime.strptime(header.get("TimezoneOffsetFromUTC"), "%z").tzinfo)
    for event in ("InstanceCreation", "Content", "Series"):
        setattr(header, f"{event}Date", now.strftime("%Y%m%d"))
        setattr(header, f"{event}Time", now.strftime("%H%M%S.%f"))
    if header.get("BurnedInAnnotation") != "YES":  # text burned into the source is in our pixels too
        header.BurnedInAnnotation = "NO"
    lossy = _LOSSY_METHOD.get(header.file_meta.get("TransferSyntaxUID"))
    if lossy and header.get("LossyImageCompression") != "01":  # once lost, always lost (PS3.3 C.7.6.1.1.5)
        header.LossyImageCompression, header.LossyImageCompressionMethod = "01", lossy
    _add_history(header, derivation, now)

    header.preamble = b"\0" * 128
    header.file_meta = FileMetaDataset()
    header.file_meta.MediaStorageSOPClassUID = header.SOPClassUID
    header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian


def _add_history(header: Dataset, derivation: Derivation, now: datetime) -> None:
    """Say what was done and by what, after what the source says about earlier steps."""
    text = _plain(derivation.description, 1024)
    earlier = str(header.get("DerivationDescription") or "")
    header.DerivationDescription = f"{earlier}; {text}" if earlier and len(earlier) + len(text) <= 1022 else text
    # CID 7203 has no code for noise reduction; of what it has, smoothing is the one that is true. One item per step.
    codes = header.get("DerivationCodeSequence") or []
    header.DerivationCodeSequence = [*codes, _code("113087", "Smoothing")]
    equipment = Dataset()
    equipment.PurposeOfReferenceCodeSequence = [_code("109103", "Modifying Equipment")]
    equipment.Manufacturer = equipment.ManufacturerModelName = "ASCON"
    equipment.SoftwareVersions = _plain(derivation.software_version, 64)
    equipment.ContributionDateTime = now.strftime("%Y%m%d%H%M%S.%f%z")
    equipment.ContributionDescription = text
    header.ContributingEquipmentSequence = [*(header.get("ContributingEquipmentSequence") or []), equipment]


def _plain(text: str, length: int) -> str:
    """Our own words in ASCII, which every specific character set holds; the backslash separates values."""
    return text.replace("\\", "/").encode("ascii", "replace").decode()[:length]


def _set_pixels(header: Dataset, slice_hu: np.ndarray, encoding: _Encoding) -> None:
    """Set pixel data and everything that says how to read it."""
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        padding = encoding.stored(np.array([_padding_hu(header, keyword)]))
        header.pop(keyword, None)
        if padding is not None:  # else there was none, or no voxel has it: all of them fit
            header.add_new(keyword, "SS" if encoding.signed else "US", int(padding[0]))
    if _encoding_of(header) != encoding:  # else the source's own text stays
        header.RescaleSlope, header.RescaleIntercept = "1", "0"
    header.setdefault("RescaleType", "HU")
    if header.get("PhotometricInterpretation") != "MONOCHROME1":
        header.PhotometricInterpretation = "MONOCHROME2"
    header.SamplesPerPixel = 1
    header.BitsAllocated, header.BitsStored, header.HighBit = 16, encoding.bits, encoding.bits - 1
    header.PixelRepresentation = int(encoding.signed)
    stored = encoding.stored(slice_hu)
    assert stored is not None  # the encoding was chosen so
    header.add_new("PixelData", "OW", stored.tobytes())


def _padding_hu(header: Dataset, keyword: str) -> float:
    """A padding value in HU, NaN without one."""
    if (raw := header.get(keyword)) is None:
        return np.nan
    stored = padding_as_stored(raw, int(header.BitsAllocated), header.get("PixelRepresentation") == 1)
    return stored * float(header.get("RescaleSlope", 1)) + float(header.get("RescaleIntercept", 0))
