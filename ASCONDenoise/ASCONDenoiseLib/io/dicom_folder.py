"""The DICOM images at a path. Every file of a folder is used, known to be none, or named; a doubt is an error.

Folders behind links are followed, each once. Left out by rule: hidden files and folders, the indices and thumbnails
that systems leave, and files whose suffix or content says that they are no slices. A file that looks like a slice by
its name and is none (cut, empty, overwritten) may be one that is lost, so it stops the reading.
"""

from __future__ import annotations

import os
from pathlib import Path

from pydicom.dataset import Dataset

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.io.dicom_headers import DICOM_SUFFIXES, DicomImage, n_frames, read_header
from ASCONDenoiseLib.io.file_kinds import first_bytes, is_special, is_text, kind_and_remedy

_SYSTEM_NAMES = ("DICOMDIR", "THUMBS.DB", "EHTHUMBS.DB", "DESKTOP.INI", "__MACOSX")

_OTHER_SUFFIXES = frozenset(
    """.txt .md .log .json .csv .tsv .xml .html .htm .css .js .pdf .rtf .doc .docx .xls .xlsx .ppt .pptx .yaml .yml .ini
    .inf .cfg .conf .jpg .jpeg .png .gif .bmp .ico .tif .tiff .svg .mp4 .avi .mov .nii .nrrd .nhdr .mha .mhd .seg .stl
    .vtk .mrml .mrb .npy .npz .gz .bz2 .xz .zip .7z .rar .tar .tgz .py .ipynb .sh .bat .exe .dll .jar .class .chm .msi
    .cab .db .lnk .url .md5 .sha1 .sha256""".split()
)
"""Of files that lie beside slices and are none."""

_WRAPPINGS = (".gz", ".bz2", ".xz", ".zst", ".zip", ".bak", ".old", ".part", ".partial", ".crdownload", ".tmp")
"""What a slice's name may have got at its end while it was packed or half copied."""


def images_at(path: Path) -> tuple[list[DicomImage], tuple[str, ...]]:
    """Headers of all images at a path, in the order of the file names, and what must be told of other files.

    Raises:
        InputError: a file or folder cannot be opened, a DICOM file is damaged, what looks like a slice is no DICOM.
    """
    single = path.is_file()
    images: list[DicomImage] = []
    others = []
    for file in [path] if single else _files_below(path):
        header = None if is_special(file) else _header_or_none(file)
        if header is not None:
            images += _images_of(file, header)
        elif single and first_bytes(file)[128:132] != b"DICM":
            raise no_dicom(file)
        else:
            others.append(file)
    suffixes = {image.file.suffix.lower() for image in images} | set(DICOM_SUFFIXES)
    unknown = [file for file in others if not _is_known(file, suffixes)]
    if not images:
        raise InputError(
            f"{path} holds no DICOM images: give a folder with one file per slice, or an image file.{_hint(others)}"
        )
    if not unknown:
        return images, ()
    names = ", ".join(str(file.relative_to(path)) for file in unknown[:5]) + (", ..." if len(unknown) > 5 else "")
    return images, (f"{len(unknown)} file(s) in {path.name} are no DICOM and were left out: {names}.",)


def _files_below(folder: Path) -> list[Path]:
    """All that is no folder, in a folder and its subfolders, sorted, without hidden and system files."""
    files = []
    seen = set()

    def refuse(error: OSError) -> None:
        raise InputError(f"The folder {error.filename} cannot be opened: check its permissions.") from error

    for root, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        status = os.stat(root)
        if (status.st_dev, status.st_ino) in seen:  # a link that leads back, or a second one to the same folder
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = [name for name in folders if not _is_left_out(name)]
        files += [Path(root, name) for name in names if not _is_left_out(name)]
    return sorted(files)


def _is_left_out(name: str) -> bool:
    return name.startswith(".") or name.upper() in _SYSTEM_NAMES


def _header_or_none(file: Path) -> Dataset | None:
    try:
        return read_header(file)
    except OSError as error:
        if file.suffix.lower() in _OTHER_SUFFIXES:
            return None
        raise InputError(f"{file} cannot be opened: check its permissions or remove it from the folder.") from error


def _images_of(file: Path, header: Dataset) -> list[DicomImage]:
    return [DicomImage(file, header, frame) for frame in range(n_frames(file, header))] if "Rows" in header else []


def _is_known(file: Path, slice_suffixes: set[str]) -> bool:
    """True for a file without image that is known to be no slice, False for one to name.

    Raises:
        InputError: its name is that of a slice.
    """
    if is_special(file):
        return False
    suffix = file.suffix.lower()
    bare = Path(file.stem) if suffix in _WRAPPINGS else file
    is_named_as_slice = bare.suffix.lower() in slice_suffixes - {""}
    if suffix in _OTHER_SUFFIXES and not is_named_as_slice:
        return True
    start = first_bytes(file)
    if start[128:132] == b"DICM":  # an index of others
        return True
    numbered = suffix[1:].isdigit() or not suffix  # IM0001, 1.2.840.113, slice.001
    if is_named_as_slice or (numbered and not is_text(start)):
        raise no_dicom(file)
    return is_text(start)


def no_dicom(file: Path) -> InputError:
    """The error for a file that was expected to be DICOM and is not; it says what it is where that is known."""
    if found := kind_and_remedy(first_bytes(file)):
        kind, remedy = found
        return InputError(f"{file} is no DICOM file but {kind}: {remedy}.")
    return InputError(f"{file} is no DICOM file, or a damaged one: copy it again, or leave it out.")


def _hint(others: list[Path]) -> str:
    """What a folder without DICOM holds instead, where that can be given by itself or unpacked."""
    for file in others:
        found = None if is_special(file) else kind_and_remedy(first_bytes(file))
        if found and found[0] != "a text" and not found[0].endswith(("picture", "document")):
            return f" It holds {file.name}, {found[0]}: {found[1]}."
    return ""
