"""Read a DICOM CT series as a volume: the headers first, which settle every question, then each pixel once."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.io.dicom_geometry import stack
from ASCONDenoiseLib.io.dicom_headers import DICOM_SUFFIXES, FACTS, DicomImage, as_text, n_frames, read_header
from ASCONDenoiseLib.io.dicom_pixels import read_voxels
from ASCONDenoiseLib.io.silence import silence_pydicom
from ASCONDenoiseLib.io.volume import DicomSeries, Volume

_HU_TYPES = ("HU", "US", "HU_MOD", "")  # C.11.1.1.2; US = unspecified, absent = HU for CT


def read_series(path: str | Path, series_uid: str | None = None) -> Volume:
    """Read one CT series from a folder (subfolders too), or one file as a volume of its own.

    Slices ascend along the normal (rows x columns); k is the direction in which they are really stacked. Voxels are
    int16 if all rescaled values are integers that fit, else float32. Localizers are set aside, exact duplicates
    dropped. padding_hu is that of most slices where they differ. Memory: the result and one slice.

    Raises:
        InputError: no or several CT series, a damaged file, slices that are missing, uneven, sheared or ambiguous.
    """
    path = Path(path)
    with silence_pydicom():
        images = _choose(path, _scan(path), series_uid)
        name = f"Series {images[0].series_uid} ({images[0].get('SeriesDescription') or 'no description'})"
        images = _without_scouts(images, name)
        _check_alike(images)
        slots, geometry = stack(images, name)
        voxels = read_voxels(images, slots, name)
    first_of_slot = {slot: image for image, slot in reversed(list(zip(images, slots, strict=True)))}
    slices = [first_of_slot[slot] for slot in range(len(voxels))]
    multi_frame = len({image.file for image in slices}) < len(slices) or n_frames(slices[0].header) > 1
    paddings = Counter(hu for image in slices if (hu := image.padding_hu()) is not None)
    source = DicomSeries(
        series_uid=images[0].series_uid,
        description=str(images[0].get("SeriesDescription") or ""),
        files=(slices[0].file,) if multi_frame else tuple(image.file for image in slices),
        n_slices=len(slices),
        frames=tuple(image.frame + 1 for image in slices) if multi_frame else (),
    )
    facts = {fact: as_text(value) for fact, key in FACTS.items() if (value := slices[0].get(key)) not in (None, "")}
    return Volume(voxels, geometry, paddings.most_common(1)[0][0] if paddings else None, source, facts)


def padding_of(file: str | Path) -> float | None:
    """Value of the pixels outside the scan circle, in HU, as one file states it; None where it does not.

    Raises:
        InputError: the file is damaged or cannot be opened.
    """
    with silence_pydicom():
        header = read_header(Path(file), must_be_dicom=False)
        return None if header is None else DicomImage(Path(file), header, 0).padding_hu()


def _scan(path: Path) -> list[DicomImage]:
    """Headers of all images at a path, in the order of the file names; what is not DICOM is skipped in a folder."""
    images = []
    for file in [path] if path.is_file() else _files_below(path):
        header = read_header(file, must_be_dicom=path.is_file() or file.suffix.lower() in DICOM_SUFFIXES)
        if header is not None and "Rows" in header:
            images += [DicomImage(file, header, frame) for frame in range(n_frames(header))]
    return images


def _files_below(folder: Path) -> list[Path]:
    """Files of a folder and its subfolders, sorted; hidden ones and DICOMDIR left out."""
    files = []
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [Path(root, name) for name in names if not name.startswith(".") and name.upper() != "DICOMDIR"]
    return sorted(files)


def _choose(path: Path, images: list[DicomImage], series_uid: str | None) -> list[DicomImage]:
    """CT slices of the series asked for, or of the only CT series there is."""
    listing = _listing(images)
    if not images:
        raise InputError(f"{path} holds no DICOM images: give a folder with one file per slice, or an image file.")
    slices = [image for image in images if image.is_ct_slice()]
    series = sorted({image.series_uid for image in slices})
    if not series:
        raise InputError(f"{path} holds no CT slices: give a CT series with HU values. It holds:{listing}")
    if series_uid is None and len(series) > 1:
        raise InputError(f"{path} holds {len(series)} CT series: choose one by its UID. It holds:{listing}")
    wanted = series_uid or series[0]
    if wanted not in series:
        raise InputError(f"{path} holds no CT slices of series {wanted}: choose another UID. It holds:{listing}")
    return [image for image in slices if image.series_uid == wanted]


def _listing(images: list[DicomImage]) -> str:
    """A line for each series, largest first: UID, modality, description, number of files or frames."""
    counts = Counter(image.series_uid for image in images)
    first = {image.series_uid: image for image in reversed(images)}
    lines = []
    for series, n in counts.most_common():
        modality, description = (as_text(first[series].get(key)) for key in ("Modality", "SeriesDescription"))
        number = "1 image" if n == 1 else f"{n} images"
        lines.append(f"\n  {series}  {modality}  {description or '(no description)'}  {number}")
    return "".join(lines)


def _without_scouts(images: list[DicomImage], name: str) -> list[DicomImage]:
    """The images of the main orientation; up to three others are scouts that lack the LOCALIZER mark."""
    groups: list[tuple[np.ndarray, list[DicomImage]]] = []
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


def _check_alike(images: list[DicomImage]) -> None:
    """All slices must have one size, one pixel spacing, and values that are HU."""
    first = images[0]
    for image in images:
        if len(images) > 1 and image.file != first.file and max(map(n_frames, (first.header, image.header))) > 1:
            raise InputError(
                f"{image.file} and {first.file} belong to one series and hold several frames each: give one of them."
            )
        for keyword, count in (("Rows", 1), ("Columns", 1), ("PixelSpacing", 2)):
            here, there = image.numbers(keyword, count), first.numbers(keyword, count)
            if not np.allclose(here, there, atol=1e-4, rtol=0):
                raise InputError(
                    f"{image.file} has {keyword} {as_text(here)} and {first.file} has {as_text(there)}: "
                    "the slices of a volume must agree, so put each group in its own folder."
                )
        if (kind := as_text(image.get("RescaleType")).upper()) not in _HU_TYPES:
            raise InputError(f"{image.file} holds values of type {kind}, not HU: choose the series with HU values.")
