"""DICOM CT series -> volume in HU: headers first, all doubts settled on them, then each pixel once.

PS3.3 of the standard: C.7.6.2 (image plane), C.7.6.16 (multi-frame functional groups), C.8.2.1 (CT image),
C.7.5.1.1.2 (pixel padding), C.11.1 (rescale to HU).
"""

from __future__ import annotations

import logging
import os
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import pydicom
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels import iter_pixels, pixel_array

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.io.volume import DicomSeries, Geometry, Volume, silenced

SAME_PLACE_MM = 0.01
"""Slices closer than this along the normal lie at the same place."""

GRID_TOLERANCE = 0.1
"""How far a slice may lie from the even grid: this part of the spacing, at most 0.1 mm (headers round positions)."""

TILT_TOLERANCE_DEG = 0.1
"""A stack sheared by more is tilted (headers round orientations to about a thousandth)."""

NOT_PADDING_HU = (-900.0, 3071.0)
"""A PixelPaddingValue in here is a faulty header: it would mark lung, tissue or bone as padding."""

CT_CLASSES = (uid.CTImageStorage, uid.EnhancedCTImageStorage, uid.LegacyConvertedEnhancedCTImageStorage)

_HU_TYPES = ("HU", "US", "HU_MOD", "")  # C.11.1.1.2; US = unspecified, absent = HU for CT
_DICOM_SUFFIXES = (".dcm", ".ima", ".dicom")
_PYDICOM_DECODES = (uid.RLELossless, uid.JPEG2000Lossless, uid.JPEG2000)  # the rest of the compressed: GDCM
_FACTS = {
    "modality": "Modality",
    "kernel": "ConvolutionKernel",
    "kvp": "KVP",
    "slice_thickness_mm": "SliceThickness",
    "body_part": "BodyPartExamined",
    "series_description": "SeriesDescription",
    "manufacturer_model": "ManufacturerModelName",
}
# fmt: off
_PIXEL_MODULE = (
    "SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit",
    "PixelRepresentation",
)
_HEADER = [  # all that is ever read: nothing that names the patient
    *_FACTS.values(), *_PIXEL_MODULE, "SOPClassUID", "SeriesInstanceUID", "ImageType", "NumberOfFrames",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SpacingBetweenSlices", "RescaleSlope",
    "RescaleIntercept", "RescaleType", "PixelPaddingValue", "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
]
# fmt: on


@dataclass(frozen=True)
class SeriesSummary:
    """What a folder's listing shows of a series; n_images counts files, or frames of multi-frame files."""

    series_uid: str
    modality: str
    description: str
    n_images: int

    def __str__(self) -> str:
        images = "1 image" if self.n_images == 1 else f"{self.n_images} images"
        return f"{self.series_uid}  {self.modality}  {self.description or '(no description)'}  {images}"


@dataclass(frozen=True)
class _Image:
    """One image: a file, or one frame (from 0) of a multi-frame file."""

    file: Path
    header: Dataset
    frame: int

    def get(self, keyword: str):
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

    def series_uid(self) -> str:
        return str(self.header.SeriesInstanceUID)

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

    def padding_hu(self) -> float | None:
        """PixelPaddingValue in HU; its VR (US or SS) is often not that of the pixels, so the bits are re-read.

        None where there is none, or one that cannot be meant.
        """
        raw = self.get("PixelPaddingValue")
        if raw is None:
            return None
        raw = int.from_bytes(raw, "little") if isinstance(raw, bytes) else int(raw)
        bits = int(self.get("BitsAllocated") or 16)
        raw %= 2**bits
        if self.get("PixelRepresentation") == 1 and raw >= 2 ** (bits - 1):
            raw -= 2**bits
        hu = float(raw * self.numbers("RescaleSlope", 1)[0] + self.numbers("RescaleIntercept", 1)[0])
        return None if NOT_PADDING_HU[0] <= hu <= NOT_PADDING_HU[1] else hu


def list_series(folder: str | Path) -> list[SeriesSummary]:
    """Every series below a folder that has images, whatever its modality, largest first.

    Raises:
        InputError: a DICOM file cannot be read.
    """
    with quiet():
        return _summaries(_scan(Path(folder)))


def read_series(path: str | Path, series_uid: str | None = None) -> Volume:
    """Read one CT series from a folder (subfolders too), or one file as a volume of its own.

    Slices ascend along the normal (rows x columns); k is the direction in which they are really stacked. Voxels are
    int16 if all rescaled values are integers that fit, else float32. Localizers are set aside, exact duplicates
    dropped. padding_hu is that of most slices where they differ. Memory: the result and one slice.

    Raises:
        InputError: no or several CT series, a damaged file, slices that are missing, uneven, sheared or ambiguous.
    """
    path = Path(path)
    with quiet():
        images = _choose(path, _scan(path), series_uid)
        name = f"Series {images[0].series_uid()} ({images[0].get('SeriesDescription') or 'no description'})"
        images = _without_scouts(images, name)
        _check_alike(images)
        slots, geometry = _stack(images, name)
        voxels = _read_voxels(images, slots, name)
    first_of_slot = {slot: image for image, slot in reversed(list(zip(images, slots, strict=True)))}
    slices = [first_of_slot[slot] for slot in range(len(voxels))]
    multi_frame = len({image.file for image in slices}) < len(slices) or _n_frames(slices[0].header) > 1
    paddings = Counter(hu for image in slices if (hu := image.padding_hu()) is not None)
    source = DicomSeries(
        series_uid=images[0].series_uid(),
        description=str(images[0].get("SeriesDescription") or ""),
        files=(slices[0].file,) if multi_frame else tuple(image.file for image in slices),
        n_slices=len(slices),
        frames=tuple(image.frame + 1 for image in slices) if multi_frame else (),
    )
    facts = {fact: _text(value) for fact, key in _FACTS.items() if (value := slices[0].get(key)) not in (None, "")}
    return Volume(voxels, geometry, paddings.most_common(1)[0][0] if paddings else None, source, facts)


def padding_of(file: str | Path) -> float | None:
    """Value of the pixels outside the scan circle, in HU, as one file states it; None where it does not.

    Raises:
        InputError: the file is damaged or cannot be opened.
    """
    with quiet():
        header = _read_header(Path(file), must_be_dicom=False)
        return None if header is None else _Image(Path(file), header, 0).padding_hu()


def _scan(path: Path) -> list[_Image]:
    """Headers of all images at a path, in the order of the file names; what is not DICOM is skipped in a folder."""
    images = []
    for file in [path] if path.is_file() else _files_below(path):
        header = _read_header(file, must_be_dicom=path.is_file() or file.suffix.lower() in _DICOM_SUFFIXES)
        if header is not None and "Rows" in header:
            images += [_Image(file, header, frame) for frame in range(_n_frames(header))]
    return images


def _files_below(folder: Path) -> list[Path]:
    """Files of a folder and its subfolders, sorted; hidden ones and DICOMDIR left out."""
    files = []
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [Path(root, name) for name in names if not name.startswith(".") and name.upper() != "DICOMDIR"]
    return sorted(files)


def _read_header(file: Path, must_be_dicom: bool) -> Dataset | None:
    """Header without pixels; None for a file that is not DICOM or holds no image."""
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
        complete = complete and _n_frames(header) > 0
    except OSError as error:
        raise InputError(f"{file} cannot be opened: check its permissions or remove it from the folder.") from error
    except InputError:
        raise
    except Exception as error:  # pydicom raises nearly anything on garbage
        raise _damaged(file) from error
    if not complete:
        raise _damaged(file)
    return header


def _choose(path: Path, images: list[_Image], series_uid: str | None) -> list[_Image]:
    """CT slices of the series asked for, or of the only CT series there is."""
    listing = "".join(f"\n  {summary}" for summary in _summaries(images))
    if not images:
        raise InputError(f"{path} holds no DICOM images: give a folder with one file per slice, or an image file.")
    slices = [image for image in images if image.is_ct_slice()]
    series = sorted({image.series_uid() for image in slices})
    if not series:
        raise InputError(f"{path} holds no CT slices: give a CT series with HU values. It holds:{listing}")
    if series_uid is None and len(series) > 1:
        raise InputError(f"{path} holds {len(series)} CT series: choose one by its UID. It holds:{listing}")
    wanted = series_uid or series[0]
    if wanted not in series:
        raise InputError(f"{path} holds no CT slices of series {wanted}: choose another UID. It holds:{listing}")
    return [image for image in slices if image.series_uid() == wanted]


def _summaries(images: list[_Image]) -> list[SeriesSummary]:
    counts = Counter(image.series_uid() for image in images)
    first = {image.series_uid(): image for image in reversed(images)}
    return [
        SeriesSummary(series, _text(first[series].get("Modality")), _text(first[series].get("SeriesDescription")), n)
        for series, n in counts.most_common()
    ]


def _without_scouts(images: list[_Image], name: str) -> list[_Image]:
    """The images of the main orientation; up to three others are scouts that lack the LOCALIZER mark."""
    groups: list[tuple[np.ndarray, list[_Image]]] = []
    for image in images:
        orientation = image.numbers("ImageOrientationPatient", 6)
        same = next((group for known, group in groups if np.allclose(known, orientation, atol=2e-3)), None)
        if same is None:
            groups.append((orientation, [image]))
        else:
            same.append(image)
    main = max((group for _, group in groups), key=len)
    others = len(images) - len(main)
    if others > 3 or others >= len(main):
        sizes = " and ".join(str(len(group)) for _, group in groups)
        raise InputError(f"{name} holds stacks of different orientation ({sizes} images): put each in its own folder.")
    return main


def _check_alike(images: list[_Image]) -> None:
    """All slices must have one size, one pixel spacing, and values that are HU."""
    first = images[0]
    for image in images:
        if len(images) > 1 and image.file != first.file and max(map(_n_frames, (first.header, image.header))) > 1:
            raise InputError(
                f"{image.file} and {first.file} belong to one series and hold several frames each: give one of them."
            )
        for keyword, count in (("Rows", 1), ("Columns", 1), ("PixelSpacing", 2)):
            here, there = image.numbers(keyword, count), first.numbers(keyword, count)
            if not np.allclose(here, there, atol=1e-4, rtol=0):
                raise InputError(
                    f"{image.file} has {keyword} {_text(here)} and {first.file} has {_text(there)}: "
                    "the slices of a volume must agree, so put each group in its own folder."
                )
        if (kind := _text(image.get("RescaleType")).upper()) not in _HU_TYPES:
            raise InputError(f"{image.file} holds values of type {kind}, not HU: choose the series with HU values.")


def _stack(images: list[_Image], name: str) -> tuple[list[int], Geometry]:
    """Slice number of each image, and the geometry of the stack."""
    first = images[0]
    cosines = first.numbers("ImageOrientationPatient", 6).reshape(2, 3)
    lengths = np.linalg.norm(cosines, axis=1)
    if np.abs(lengths - 1).max() > 1e-2 or abs(cosines[0] @ cosines[1]) > 1e-2:
        raise InputError(f"{first.file} has an ImageOrientationPatient that is not two unit vectors at right angles.")
    i, j = cosines / lengths[:, None]
    normal = np.cross(i, j)
    normal /= np.linalg.norm(normal)
    positions = np.array([image.numbers("ImagePositionPatient", 3) for image in images])
    heights = positions @ normal
    order = np.argsort(heights, kind="stable")
    new_place = np.diff(heights[order], prepend=-np.inf) > SAME_PLACE_MM
    slots = np.empty(len(images), int)
    slots[order] = np.cumsum(new_place) - 1
    places = order[new_place]  # one image for each place, ascending
    if len(places) > 1:
        axis = _stack_axis(positions, heights, places, normal, name)
        k, spacing_k = axis / np.linalg.norm(axis), np.linalg.norm(axis) / (len(places) - 1)
    else:
        k, spacing_k = normal, _thickness_mm(first)
    spacing_j, spacing_i = first.numbers("PixelSpacing", 2)
    if min(spacing_i, spacing_j) <= 0:
        raise InputError(f"{first.file} has a PixelSpacing of zero or less: export the series again.")
    direction = np.column_stack([i, j, k])
    geometry = Geometry(
        spacing_mm=(float(spacing_i), float(spacing_j), float(spacing_k)),
        origin_mm=tuple(positions[places[0]].tolist()),
        direction=tuple(direction.ravel().tolist()),
    )
    return slots.tolist(), geometry


def _stack_axis(
    positions: np.ndarray, heights: np.ndarray, places: np.ndarray, normal: np.ndarray, name: str
) -> np.ndarray:
    """Vector from the first to the last slice, mm; InputError unless they form a straight, even, complete stack."""
    at = heights[places]
    axis, span = positions[places[-1]] - positions[places[0]], at[-1] - at[0]
    shear_mm = np.linalg.norm(axis - span * normal)
    tilt_deg = np.degrees(np.arctan2(shear_mm, span))
    if tilt_deg > TILT_TOLERANCE_DEG and shear_mm > 0.1:
        raise InputError(
            f"{name} is sheared by {tilt_deg:.1f} degrees (gantry tilt): its slices form no straight stack. Choose a "
            "series without tilt, or regrid it (3D Slicer, DICOM module: acquisition geometry regularization)."
        )
    on_axis = positions[places[0]] + ((heights - at[0]) / span)[:, None] * axis
    astray = np.linalg.norm(positions - on_axis, axis=1)
    if astray.max() > 0.1:
        raise InputError(
            f"{name} has slices beside the line through the others, by up to {astray.max():.1f} mm at "
            f"{_mm(heights[astray > 0.1])}: several stacks share the series, so put each in its own folder."
        )
    gaps = np.diff(at)
    base = np.sort(gaps)[(len(gaps) - 1) // 2]
    tolerance_mm = min(0.1, GRID_TOLERANCE * base)
    if np.abs(at - np.linspace(at[0], at[-1], len(at))).max() <= tolerance_mm:
        return axis
    steps = np.rint(gaps / base)
    if steps.min() >= 1 and steps.max() >= 2 and np.abs(gaps / base - steps).max() <= 0.2:
        missing = [at[k] + base * m for k, n in enumerate(steps) for m in range(1, int(n))]
        raise InputError(
            f"{name} lacks {len(missing)} slice(s), at {_mm(missing)} along the slice normal ({base:.6g} mm spacing): "
            "copy the series again, complete, or split it at the gap."
        )
    odd = np.abs(gaps - base) > tolerance_mm
    raise InputError(
        f"{name} is unevenly spaced: {base:.6g} mm in general, but {gaps[odd][0]:.6g} mm after {_mm(at[:-1][odd])}. "
        "Choose an evenly spaced reconstruction, or resample it."
    )


def _thickness_mm(image: _Image) -> float:
    """What stands for the slice spacing of a single slice: its thickness, else SpacingBetweenSlices, else 1 mm."""
    for keyword in ("SliceThickness", "SpacingBetweenSlices"):
        if image.get(keyword) and (thickness_mm := abs(image.numbers(keyword, 1)[0])) > 0:
            return thickness_mm
    return 1.0


def _read_voxels(images: list[_Image], slots: list[int], name: str) -> np.ndarray:
    """Voxels (S, H, W) in HU, each file decoded once; duplicates must agree with what is there."""
    first = images[0]
    voxels = np.empty((max(slots) + 1, int(first.get("Rows")), int(first.get("Columns"))), np.int16)
    filled: dict[int, _Image] = {}
    for file, group in groupby(zip(images, slots, strict=True), key=lambda pair: pair[0].file):
        wanted = {image.frame: (image, slot) for image, slot in group}
        for frame, stored in enumerate(_decoded_frames(file, next(iter(wanted.values()))[0].header)):
            if frame not in wanted:
                continue
            image, slot = wanted.pop(frame)
            hu = _to_hu(stored, image)
            if slot in filled:
                if not np.array_equal(voxels[slot], hu):
                    raise InputError(
                        f"{name} has two different images at one place, {filled[slot].file} and {file}: two "
                        "reconstructions or phases share the series, so put each in its own folder."
                    )
                continue
            if hu.dtype == np.float32:
                voxels = voxels.astype(np.float32, copy=False)
            voxels[slot] = hu
            filled[slot] = image
        if wanted:
            raise _damaged(file)
    return voxels


def _to_hu(stored: np.ndarray, image: _Image) -> np.ndarray:
    """Stored values -> HU, int16 where they are integers that fit, else float32."""
    hu = stored.astype(np.float64) * image.numbers("RescaleSlope", 1)[0] + image.numbers("RescaleIntercept", 1)[0]
    whole = np.rint(hu)
    limits = np.iinfo(np.int16)
    if np.abs(hu - whole).max() < 1e-6 and limits.min <= whole.min() and whole.max() <= limits.max:
        return whole.astype(np.int16)
    return hu.astype(np.float32)


def _decoded_frames(file: Path, header: Dataset) -> Iterator[np.ndarray]:
    """Stored values of each frame (H, W): pydicom where it can decode, else SimpleITK's GDCM (JPEG, JPEG-LS)."""
    syntax = header.file_meta.get("TransferSyntaxUID", uid.ImplicitVRLittleEndian)
    try:
        if syntax.is_encapsulated and syntax not in _PYDICOM_DECODES:
            frames = _gdcm_frames(file)
        elif _n_frames(header) > 1:
            frames = iter_pixels(file, raw=True)
        else:  # iter_pixels of pydicom 3.0 fails on JPEG 2000 whose stream and header differ in sign
            frames = iter([pixel_array(file, raw=True, index=0)])
        for stored in frames:
            if stored.shape != (header.Rows, header.Columns):
                raise _damaged(file)
            yield stored
    except InputError:
        raise
    except Exception as error:  # each decoder has its own exceptions
        raise InputError(
            f"The pixels of {file} ({syntax.name}) cannot be decoded: the file is truncated or damaged, or its "
            "compression is unknown here. Copy it again, or export it uncompressed."
        ) from error


def _gdcm_frames(file: Path) -> Iterator[np.ndarray]:
    """Each frame goes through a temporary file that holds its pixels and nothing of the patient."""
    import SimpleITK as sitk

    dataset = pydicom.dcmread(file)
    single = Dataset()
    single.file_meta = FileMetaDataset()
    single.file_meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    single.file_meta.MediaStorageSOPClassUID = single.SOPClassUID = uid.SecondaryCaptureImageStorage
    single.file_meta.MediaStorageSOPInstanceUID = single.SOPInstanceUID = uid.generate_uid()
    for keyword in _PIXEL_MODULE:
        setattr(single, keyword, dataset.get(keyword))
    with tempfile.TemporaryDirectory() as folder:
        for frame in generate_frames(dataset.PixelData, number_of_frames=_n_frames(dataset)):
            single.PixelData = encapsulate([frame])
            single["PixelData"].VR = "OB"
            pydicom.dcmwrite(f"{folder}/frame.dcm", single, enforce_file_format=True)
            with silenced():
                image = sitk.ReadImage(f"{folder}/frame.dcm", imageIO="GDCMImageIO")
            yield sitk.GetArrayFromImage(image)[0]


def _n_frames(header: Dataset) -> int:
    return int(header.get("NumberOfFrames") or 1)


def _text(value) -> str:
    """Header value as text, several values joined by a comma."""
    if value is None:
        return ""
    several = isinstance(value, (list, tuple, np.ndarray, pydicom.multival.MultiValue))
    return ", ".join(f"{item:g}" if isinstance(item, float) else str(item) for item in (value if several else [value]))


def _mm(values) -> str:
    """Positions in mm, the first ten of them."""
    shown = ", ".join(f"{value:.6g}" for value in list(values)[:10])
    return f"{shown}{', ...' if len(values) > 10 else ''} mm"


def _damaged(file: Path) -> InputError:
    return InputError(f"{file} is truncated or damaged: copy it again from its source, or remove it from the folder.")


@contextmanager
def quiet() -> Iterator[None]:
    """Neither warnings nor log lines of pydicom: they can quote patient data, and what matters is raised."""
    logger = logging.getLogger("pydicom")
    before = logger.disabled
    logger.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = before
