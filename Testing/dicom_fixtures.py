"""Synthetic CT series for tests: every mandatory module filled, exact values, the oddities of real files on demand."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    RLELossless,
    generate_uid,
)

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
SAGITTAL = (0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
COMPRESSED = [RLELossless, JPEG2000Lossless, JPEGLosslessSV1]


def some_voxels(shape: tuple[int, int, int] = (4, 12, 10), seed: int = 0) -> np.ndarray:
    """(S, H, W) int16, uniform in -1024..1500 HU: no two slices are alike."""
    return np.random.default_rng(seed).integers(-1024, 1501, shape).astype(np.int16)


def oblique_direction() -> tuple[float, ...]:
    """3x3 direction, row-major, rotated about all three axes."""
    x, y, z = np.deg2rad((12.0, -25.0, 40.0))
    rotate_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    rotate_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    rotate_z = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    return tuple((rotate_z @ rotate_y @ rotate_x).ravel().tolist())


def make_ct_series(
    folder: Path,
    *,
    voxels_hu: np.ndarray | None = None,
    shape: tuple[int, int, int] = (4, 12, 10),
    spacing_mm: tuple[float, float, float] = (0.7, 0.8, 2.5),
    origin_mm: tuple[float, float, float] = (-100.0, -90.5, 30.25),
    direction: Sequence[float] = IDENTITY,
    positions_mm: Sequence[Sequence[float]] | None = None,
    slope: float | Sequence[float] = 1.0,
    intercept: float | Sequence[float] = -1024.0,
    signed: bool = True,
    bits_stored: int = 16,
    padding: int | Sequence[int] | None = None,
    padding_vr: str | None = None,
    transfer_syntax: str = ExplicitVRLittleEndian,
    series_uid: str | None = None,
    study_uid: str | None = None,
    frame_of_reference_uid: str | None = None,
    series_number: int = 3,
    series_description: str = "Abdomen 2.5 mm",
    modality: str = "CT",
    image_type: Sequence[str] = ("ORIGINAL", "PRIMARY", "AXIAL"),
    file_name: str = "{:04d}.dcm",
    file_order: Sequence[int] | None = None,
    edit: Callable[[Dataset, int], None] | None = None,
) -> list[Path]:
    """Write a CT Image Storage series, one file per slice, and return its files in the order of the slices.

    Args:
        folder: made if missing.
        voxels_hu: (S, H, W); `some_voxels(shape)` if None. ValueError where rescale and bits cannot hold a value.
        spacing_mm: columns (x), rows (y), slices (z).
        direction: 3x3 row-major, columns i, j, k in LPS; slices are stacked along k.
        positions_mm: ImagePositionPatient of each slice, in place of origin + k * spacing.
        slope, intercept: one for all slices or one per slice.
        signed: PixelRepresentation.
        padding: raw PixelPaddingValue, one for all slices or one per slice.
        padding_vr: "US" or "SS"; by default the one that fits `signed`.
        transfer_syntax: native (little or big endian, implicit or explicit), RLE, JPEG 2000 or JPEG lossless.
        file_name: format string for the file number.
        file_order: file number of each slice (default 0, 1, 2, ...): shuffles or reverses the names.
        edit: called with each complete dataset and its slice number just before writing.
    """
    voxels = some_voxels(shape) if voxels_hu is None else np.asarray(voxels_hu)
    folder.mkdir(parents=True, exist_ok=True)
    axes = np.asarray(direction, float).reshape(3, 3)
    slopes, intercepts = _per_slice(slope, len(voxels)), _per_slice(intercept, len(voxels))
    paddings = _per_slice(padding, len(voxels))
    series_uid, study_uid = series_uid or generate_uid(), study_uid or generate_uid()
    frame_of_reference_uid = frame_of_reference_uid or generate_uid()
    files = []
    for k, slice_hu in enumerate(voxels):
        dataset = _common_modules(CTImageStorage, study_uid, series_uid, frame_of_reference_uid)
        dataset.Modality = modality
        dataset.SeriesNumber, dataset.SeriesDescription = series_number, series_description
        dataset.ImageType = list(image_type)
        dataset.InstanceNumber, dataset.AcquisitionNumber = k + 1, 1
        position = np.asarray(origin_mm) + k * spacing_mm[2] * axes[:, 2]
        dataset.ImagePositionPatient = _decimals(position if positions_mm is None else positions_mm[k])
        dataset.ImageOrientationPatient = _decimals([*axes[:, 0], *axes[:, 1]])
        dataset.PixelSpacing = _decimals([spacing_mm[1], spacing_mm[0]])
        dataset.SliceThickness = _decimals([spacing_mm[2]])[0]
        dataset.KVP, dataset.XRayTubeCurrent, dataset.ExposureTime = "120", 200, 500
        dataset.ConvolutionKernel = "STANDARD"
        dataset.RescaleIntercept, dataset.RescaleSlope = _decimals([intercepts[k], slopes[k]])
        dataset.RescaleType = "HU"
        stored = _stored(slice_hu, slopes[k], intercepts[k], signed, bits_stored)
        _pixel_module(dataset, stored.shape, signed, bits_stored)
        if paddings[k] is not None:
            dataset.add_new("PixelPaddingValue", padding_vr or ("SS" if signed else "US"), paddings[k])
        if edit:
            edit(dataset, k)
        number = k if file_order is None else file_order[k]
        files.append(folder / file_name.format(number + 1))
        _write(dataset, stored[None], transfer_syntax, files[-1])
    return files


def make_enhanced_ct(
    path: Path,
    *,
    voxels_hu: np.ndarray | None = None,
    shape: tuple[int, int, int] = (4, 12, 10),
    spacing_mm: tuple[float, float, float] = (0.7, 0.8, 2.5),
    origin_mm: tuple[float, float, float] = (-100.0, -90.5, 30.25),
    direction: Sequence[float] = IDENTITY,
    slope: float | Sequence[float] = 1.0,
    intercept: float | Sequence[float] = -1024.0,
    padding: int | None = None,
    frame_order: Sequence[int] | None = None,
    transfer_syntax: str = ExplicitVRLittleEndian,
    series_uid: str | None = None,
    edit: Callable[[Dataset], None] | None = None,
) -> Path:
    """Write one Enhanced CT Image Storage file; position and rescale per frame, orientation and spacing shared.

    It has the functional groups that geometry and HU need, not the other mandatory ones (dciodvfy names them).

    Args: as `make_ct_series`; frame_order: slice number of each frame (default 0, 1, 2, ...).
    """
    voxels = some_voxels(shape) if voxels_hu is None else np.asarray(voxels_hu)
    axes = np.asarray(direction, float).reshape(3, 3)
    slopes, intercepts = _per_slice(slope, len(voxels)), _per_slice(intercept, len(voxels))
    order = list(range(len(voxels)) if frame_order is None else frame_order)
    dataset = _common_modules(EnhancedCTImageStorage, generate_uid(), series_uid or generate_uid(), generate_uid())
    dataset.SeriesNumber, dataset.SeriesDescription, dataset.InstanceNumber = 3, "Enhanced", 1
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    dataset.PixelPresentation, dataset.VolumetricProperties = "MONOCHROME", "VOLUME"
    dataset.VolumeBasedCalculationTechnique, dataset.LossyImageCompression = "NONE", "00"
    dataset.BurnedInAnnotation, dataset.PresentationLUTShape = "NO", "IDENTITY"
    dataset.ContentQualification, dataset.AcquisitionNumber = "RESEARCH", 1
    dataset.AcquisitionDateTime = "20240102101112"
    dataset.NumberOfFrames = len(order)
    if padding is not None:
        dataset.add_new("PixelPaddingValue", "SS", padding)

    shared = Dataset()
    shared.PlaneOrientationSequence = [_item(ImageOrientationPatient=_decimals([*axes[:, 0], *axes[:, 1]]))]
    measures = _item(PixelSpacing=_decimals([spacing_mm[1], spacing_mm[0]]))
    measures.SliceThickness = _decimals([spacing_mm[2]])[0]
    shared.PixelMeasuresSequence = [measures]
    shared.CTReconstructionSequence = [_item(ConvolutionKernel="STANDARD")]
    shared.CTXRayDetailsSequence = [_item(KVP="120")]
    frame_type = _item(FrameType=list(dataset.ImageType), PixelPresentation="MONOCHROME", VolumetricProperties="VOLUME")
    frame_type.VolumeBasedCalculationTechnique = "NONE"
    shared.CTImageFrameTypeSequence = [frame_type]
    dataset.SharedFunctionalGroupsSequence = [shared]

    stored, groups = [], []
    for k in order:
        group = Dataset()
        group.PlanePositionSequence = [
            _item(ImagePositionPatient=_decimals(np.asarray(origin_mm) + k * spacing_mm[2] * axes[:, 2]))
        ]
        rescale = _decimals([intercepts[k], slopes[k]])
        transform = _item(RescaleIntercept=rescale[0], RescaleSlope=rescale[1], RescaleType="HU")
        group.PixelValueTransformationSequence = [transform]
        groups.append(group)
        stored.append(_stored(voxels[k], slopes[k], intercepts[k], True, 16))
    dataset.PerFrameFunctionalGroupsSequence = groups
    _pixel_module(dataset, stored[0].shape, True, 16)
    if edit:
        edit(dataset)
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(dataset, np.stack(stored), transfer_syntax, path)
    return path


def bundled(name: str) -> str:
    """Path of a sample file that comes with pydicom; skips where it does not."""
    path = get_testdata_file(name, download=False)
    if path is None:
        pytest.skip(f"this pydicom does not carry {name}")
    return path


def edit_file(path: Path, **values) -> None:
    """Set attributes of a file, or delete those given as None."""
    dataset = pydicom.dcmread(path)
    for keyword, value in values.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    dataset.save_as(path)


def _common_modules(sop_class: str, study_uid: str, series_uid: str, frame_of_reference_uid: str) -> Dataset:
    """Patient, study, series, frame of reference, equipment and SOP common modules."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, generate_uid()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.PatientName, dataset.PatientID = "Phantom^Test", "PHANTOM-1"
    dataset.PatientBirthDate, dataset.PatientSex = "19700101", "O"
    dataset.StudyInstanceUID, dataset.StudyID, dataset.AccessionNumber = study_uid, "1", "A1"
    dataset.StudyDate = dataset.SeriesDate = dataset.AcquisitionDate = dataset.ContentDate = "20240102"
    dataset.StudyTime = dataset.SeriesTime = dataset.AcquisitionTime = dataset.ContentTime = "101112"
    dataset.ReferringPhysicianName, dataset.StudyDescription = "", "Test"
    dataset.Modality, dataset.SeriesInstanceUID, dataset.BodyPartExamined = "CT", series_uid, "ABDOMEN"
    dataset.PatientPosition = "HFS"
    dataset.FrameOfReferenceUID, dataset.PositionReferenceIndicator = frame_of_reference_uid, ""
    dataset.Manufacturer, dataset.ManufacturerModelName = "ACME", "Scanner 1"
    dataset.DeviceSerialNumber, dataset.SoftwareVersions = "0001", "1.0"
    return dataset


def _pixel_module(dataset: Dataset, shape: tuple[int, ...], signed: bool, bits_stored: int) -> None:
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, bits_stored, bits_stored - 1
    dataset.PixelRepresentation = int(signed)


def _stored(voxels_hu: np.ndarray, slope: float, intercept: float, signed: bool, bits: int) -> np.ndarray:
    """HU -> stored values, refused where they are no integers or do not fit: tests need exact numbers."""
    values = (voxels_hu.astype(np.float64) - intercept) / slope
    stored = np.round(values)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    if np.abs(stored - values).max() > 1e-6 or stored.min() < low or stored.max() > high:
        raise ValueError(f"slope {slope}, intercept {intercept} and {bits} bits cannot hold these HU exactly")
    return stored.astype(np.int16 if signed else np.uint16)


def _write(dataset: Dataset, frames: np.ndarray, transfer_syntax: str, path: Path) -> None:
    """Write frames (N, H, W) of stored values in any transfer syntax that pydicom or SimpleITK can encode."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = dataset.SOPClassUID, dataset.SOPInstanceUID
    meta.TransferSyntaxUID = pydicom.uid.UID(transfer_syntax)
    dataset.file_meta = meta
    if transfer_syntax in (JPEG2000Lossless, JPEGLosslessSV1):
        compressor = "JPEG2000" if transfer_syntax == JPEG2000Lossless else "JPEG"
        dataset.PixelData = pydicom.encaps.encapsulate([encode_frame(frame, compressor) for frame in frames])
    elif transfer_syntax == RLELossless:
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.PixelData = frames.tobytes()
        dataset.compress(RLELossless, generate_instance_uid=False)
    else:
        endian = "<" if meta.TransferSyntaxUID.is_little_endian else ">"
        dataset.PixelData = frames.astype(frames.dtype.newbyteorder(endian)).tobytes()
    dataset["PixelData"].VR = "OW"
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)


def encode_frame(frame: np.ndarray, compressor: str) -> bytes:
    """One frame as a JPEG 2000 or JPEG lossless stream, made by SimpleITK's GDCM."""
    with tempfile.TemporaryDirectory() as folder:
        writer = sitk.ImageFileWriter()
        writer.SetFileName(f"{folder}/frame.dcm")
        writer.UseCompressionOn()
        writer.SetCompressor(compressor)
        writer.Execute(sitk.GetImageFromArray(frame[None]))
        dataset = pydicom.dcmread(f"{folder}/frame.dcm")
        return next(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=1))


def _item(**values) -> Dataset:
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item


def _per_slice(value, n_slices: int) -> list:
    return list(value) if isinstance(value, (list, tuple, np.ndarray)) else [value] * n_slices


def _decimals(values: Sequence[float]) -> list[str]:
    """Numbers as DICOM decimal strings: at most 16 characters, as many digits as fit."""
    return [pydicom.valuerep.format_number_as_ds(float(value)) for value in values]


def make_concatenation(folder: Path) -> list[Path]:
    """Six slices in a file of four frames and one of two."""
    voxels, parts, frame_uid = some_voxels((6, 12, 10)), [], pydicom.uid.generate_uid()
    for number, start, stop in ((1, 0, 4), (2, 4, 6)):

        def edit(dataset: Dataset, number=number, start=start) -> None:
            dataset.ConcatenationUID, dataset.InConcatenationNumber = "1.2.3.4", number
            dataset.InConcatenationTotalNumber, dataset.ConcatenationFrameOffsetNumber = 2, start
            dataset.FrameOfReferenceUID, dataset.StudyInstanceUID = frame_uid, "1.2.3.5"

        origin_mm = (-100.0, -90.5, 30.25 + 2.5 * start)
        part = folder / f"{number}.dcm"
        parts.append(
            make_enhanced_ct(part, voxels_hu=voxels[start:stop], origin_mm=origin_mm, series_uid="1.2.3", edit=edit)
        )
    return parts
