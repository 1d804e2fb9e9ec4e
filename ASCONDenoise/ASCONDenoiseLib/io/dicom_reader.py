"""Read a DICOM CT series as a volume: the headers first, which settle every question, then each pixel once."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.imaging.hounsfield import Padding
from ASCONDenoiseLib.io.dicom_folder import images_at
from ASCONDenoiseLib.io.dicom_geometry import stack
from ASCONDenoiseLib.io.dicom_headers import FACTS, DicomImage, as_text, n_frames, read_header
from ASCONDenoiseLib.io.dicom_phases import phases
from ASCONDenoiseLib.io.dicom_pixels import read_voxels
from ASCONDenoiseLib.io.silence import silence_pydicom
from ASCONDenoiseLib.io.volume import DicomSeries, Volume

_ONE_VALUE = ("ConvolutionKernel", "KVP")
"""What all slices of a series share where they have it; those of a volume, the temporal position too."""

_HU_TYPES = ("HU", "US", "HU_MOD", "")  # C.11.1.1.2; US = unspecified, absent = HU for CT


def read_series(path: str | Path, series_uid: str | None = None, *, sequence: bool = False) -> Volume:
    """Read one CT series from a folder (subfolders too), or one file as a volume of its own.

    Slices ascend along the normal (rows x columns); k is the direction in which they are really stacked. Voxels are
    int16 if all rescaled values are integers that fit, else float32. Localizers are set aside, exact duplicates
    dropped, pages without a place left out and named; the files of a concatenation are joined. padding_hu is that of
    most slices where they differ. Memory: the result and one slice.

    Args:
        path: of the folder or file.
        series_uid: which series of a folder; needed only where there are several.
        sequence: several phases, volumes of the same places, are welcome.

    Raises:
        InputError: no or several CT series, a damaged file, slices that are missing, uneven, sheared or ambiguous.
    """
    path = Path(path)
    with silence_pydicom():
        found, notes = images_at(path)
        images = _choose(path, found, series_uid)
        description = as_text(images[0].get("SeriesDescription")) or "no description"
        name = f"Series {images[0].series_uid or 'without UID'} ({description})"
        odd = _odd_ones(images, found)
        images, left_out = _without_pages(images)
        images, scouts = _without_scouts(images, name)
        _check_frames(images, name)
        _check_alike(images, name, _ONE_VALUE)
        parts, told_by = phases(images) if sequence else ([images], "")
        slices: list[DicomImage] = []
        stacks, geometries = [], []
        for part in parts:
            _check_alike(part, name, (*_ONE_VALUE, "TemporalPositionIdentifier"))
            slots, geometry = stack(part, name)
            stacks.append(read_voxels(part, slots, name))
            geometries.append(geometry)
            first_of_slot = {slot: image for image, slot in reversed(list(zip(part, slots, strict=True)))}
            slices += [first_of_slot[slot] for slot in range(len(stacks[-1]))]
        voxels = stacks[0] if len(stacks) == 1 else np.concatenate(stacks)
    paddings = Counter(hu for image in slices if (hu := image.padding_hu()) is not None)
    facts = {fact: as_text(value) for fact, key in FACTS.items() if (value := slices[0].get(key)) not in (None, "")}
    if told_by:
        notes += (f"The series holds {len(parts)} volumes of the same place, told apart by {told_by}.",)
    duplicates = len(images) - len(slices)
    notes += (*_notes_on(odd + left_out + scouts), *_notes_on_slices(slices[: len(stacks[0])], duplicates))
    padding_hu = paddings.most_common(1)[0][0] if paddings else None
    return Volume(voxels, geometries[0], padding_hu, _source(slices), facts, notes, phases=len(parts))


def _source(slices: list[DicomImage]) -> DicomSeries:
    multi_frame = any(n_frames(image.file, image.header) > 1 for image in slices)
    files = tuple(image.file for image in slices)
    return DicomSeries(
        series_uid=slices[0].series_uid,
        description=as_text(slices[0].get("SeriesDescription")),
        files=files[:1] if multi_frame and len(set(files)) == 1 else files,
        n_slices=len(slices),
        frames=tuple(image.frame + 1 for image in slices) if multi_frame else (),
    )


def padding_of(file: str | Path) -> Padding:
    """Value, or lowest and highest value, of the pixels outside the scan circle in HU, as one file states it, or None.

    Raises:
        InputError: the file is damaged or cannot be opened.
    """
    with silence_pydicom():
        try:
            header = read_header(Path(file))
        except OSError as error:
            raise InputError(f"{file} cannot be opened: check its permissions.") from error
        return None if header is None else DicomImage(Path(file), header, 0).padding_hu()


def _choose(path: Path, images: list[DicomImage], series_uid: str | None) -> list[DicomImage]:
    """CT slices of the series asked for, or of the only CT series there is."""
    listing = _listing(images)
    slices = [image for image in images if image.is_ct_slice()]
    series = sorted({image.series_uid for image in slices})
    if not series:
        raise InputError(f"{path} holds no CT slices: give a CT series with HU values. It holds:{listing}")
    if series_uid is None and len(series) > 1:
        raise InputError(f"{path} holds {len(series)} CT series: choose one by its UID. It holds:{listing}")
    wanted = series[0] if series_uid is None else series_uid
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
        lines.append(f"\n  {series or '(no UID)'}  {modality}  {description or '(no description)'}  {number}")
    return "".join(lines)


def _odd_ones(images: list[DicomImage], found: list[DicomImage]) -> list[DicomImage]:
    """Images of the same series that are no slices of a CT: colour pages, screens. Localizers are known to be none.

    Raises:
        InputError: one has a place and the size of the slices, so that it may be one of them with a damaged header.
    """
    first = images[0]
    same = {id(image) for image in images}
    odd = [
        image
        for image in found
        if id(image) not in same and image.series_uid == first.series_uid and not image.is_localizer()
    ]
    for image in odd:
        is_alike = all(image.get(key) == first.get(key) for key in ("Rows", "Columns", "SOPClassUID"))
        if is_alike and image.get("ImagePositionPatient") is not None:
            facts = (f"{key} {as_text(image.get(key)) or 'absent'}" for key in ("Modality", "SamplesPerPixel"))
            raise InputError(
                f"{image.file} looks like a slice of its series, but its header says otherwise ({', '.join(facts)}): "
                "copy it again, or take it out of the folder."
            )
    return odd


def _without_pages(images: list[DicomImage]) -> tuple[list[DicomImage], list[DicomImage]]:
    """The images that have a place, and those that are pages: of a report or a screen, put into the series.

    A page has neither position nor orientation where others have, and says that it is derived, is no axial image, or
    has another size. Without such a sign it may be a slice that lost its place, which `stack` refuses.
    """
    places = ("ImagePositionPatient", "ImageOrientationPatient")
    placed = [image for image in images if any(image.get(place) not in (None, "") for place in places)]
    if not placed:
        return images, []

    def is_page(image: DicomImage) -> bool:
        image_type = as_text(image.get("ImageType")).upper()
        is_original = "ORIGINAL" in image_type and "AXIAL" in image_type
        is_alike = all(image.get(key) == placed[0].get(key) for key in ("Rows", "Columns"))
        return image not in placed and not (is_original and is_alike)

    pages = [image for image in images if is_page(image)]
    return [image for image in images if image not in pages], pages


def _without_scouts(images: list[DicomImage], name: str) -> tuple[list[DicomImage], list[DicomImage]]:
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
    return main, [image for _, group in groups if group is not main for image in group]


def _check_alike(images: list[DicomImage], name: str, one_value: Sequence[str]) -> None:
    """All slices must have one size, one pixel spacing, values that are HU, and be of one reconstruction."""
    first = images[0]
    for keyword in ("Rows", "Columns"):
        if first.whole(keyword) < 1:
            raise InputError(f"{first.file} has no pixels ({keyword} is 0): export the series again.")
    for image in images:
        for keyword, count in (("Rows", 1), ("Columns", 1), ("PixelSpacing", 2)):
            here, there = image.numbers(keyword, count), first.numbers(keyword, count)
            if not np.allclose(here, there, atol=1e-4, rtol=0):
                raise InputError(
                    f"{image.file} has {keyword} {as_text(here)} and {first.file} has {as_text(there)}: "
                    "the slices of a volume must agree, so put each group in its own folder."
                )
        if (kind := as_text(image.get("RescaleType")).upper()) not in _HU_TYPES:
            raise InputError(f"{image.file} holds values of type {kind}, not HU: choose the series with HU values.")
        for keyword in one_value:
            values = as_text(image.get(keyword)), as_text(first.get(keyword))
            if all(values) and values[0] != values[1]:
                raise InputError(
                    f"{name} has slices of different {keyword} ({first.file}: {values[1]}, {image.file}: {values[0]}): "
                    "two reconstructions or phases share the series, so put each in its own folder."
                )


def _check_frames(images: list[DicomImage], name: str) -> None:
    """Several files of several frames must be the parts of one concatenation (PS3.3, C.7.6.16.2.2.4), all of them."""
    first_of_file = {image.file: image for image in reversed(images)}
    files = list(first_of_file.values())[::-1]
    if len(files) == 1 or all(n_frames(image.file, image.header) == 1 for image in files):
        if "ConcatenationUID" not in files[0].header:
            return
    elif len({as_text(image.get("ConcatenationUID")) for image in files}) > 1 or not files[0].get("ConcatenationUID"):
        raise InputError(
            f"{files[1].file} and {files[0].file} belong to one series and hold several frames each: give one of them. "
            "If they are parts of one volume, have it exported as one file or one file per slice."
        )
    total = files[0].whole("InConcatenationTotalNumber", 0)
    parts = {image.whole("InConcatenationNumber", 0) for image in files}
    if len(parts) < total:
        raise InputError(
            f"{name} is a concatenation, one volume in {total} files, of which {len(parts)} are here: copy the others "
            "beside them, and give the folder."
        )


def _notes_on(left_out: list[DicomImage]) -> tuple[str, ...]:
    if not left_out:
        return ()
    names = ", ".join(image.file.name for image in left_out[:5]) + (", ..." if len(left_out) > 5 else "")
    return (f"{len(left_out)} image(s) of the series have no place in the stack and were left out: {names}.",)


def _notes_on_slices(slices: list[DicomImage], duplicates: int) -> list[str]:
    """What is odd about the slices of a volume, ascending, and must be told though it is no reason to refuse it."""
    notes = [f"{duplicates} exact duplicate(s) of slices were left out."] if duplicates else []
    thicknesses = sorted({as_text(image.get("SliceThickness")) for image in slices} - {""})
    if len(thicknesses) > 1:
        notes.append(f"The slices have different thicknesses: {', '.join(thicknesses[:5])} mm.")
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID"):
        if len({as_text(image.get(keyword)) for image in slices} - {""}) > 1:
            notes.append(f"The slices have different {keyword}: they may be of two examinations.")
    acquisitions = [as_text(image.get("AcquisitionNumber")) for image in slices]
    runs = sum(here != there for here, there in itertools.pairwise(acquisitions)) + 1
    if runs > 2 * len(set(acquisitions)):
        notes.append(
            f"Slices of acquisitions {', '.join(sorted(set(acquisitions))[:5])} alternate along the stack: it may be "
            "made of two phases."
        )
    return notes
