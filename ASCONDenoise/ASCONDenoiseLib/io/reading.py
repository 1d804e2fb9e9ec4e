"""Read a CT volume from whatever holds it: a DICOM folder or file, NRRD, NIfTI, MetaImage."""

from __future__ import annotations

import os
from pathlib import Path

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.io.atomic import file_suffix
from ASCONDenoiseLib.io.file_kinds import is_special
from ASCONDenoiseLib.io.image_files import IMAGE_SUFFIXES, read_image
from ASCONDenoiseLib.io.volume import Volume


def read_volume(path: str | Path, series_uid: str | None = None, *, sequence: bool = False) -> Volume:
    """Read a DICOM folder or file, NRRD, NIfTI or MetaImage; the dtype of image files is kept.

    Args:
        path: of the file or folder.
        series_uid: which series of a DICOM folder; needed only where there are several.
        sequence: several volumes of one place (4-D NIfTI, phases of a DICOM series) are welcome.

    Raises:
        InputError: missing, empty, truncated, unreadable, not a 3-D scalar image, or not finite.
    """
    path = Path(path)
    if not os.path.exists(path):  # unlike Path.exists, no exception for a protected folder
        raise InputError(f"{path} does not exist or is not accessible: check the path and its permissions.")
    if is_special(path):
        raise InputError(f"{path} is neither a file nor a folder (a pipe, a socket or a device): give a file.")
    if path.is_file() and path.stat().st_size == 0:
        raise InputError(f"{path} is empty (0 bytes): copy it again from its source.")
    if path.is_file() and file_suffix(path) in IMAGE_SUFFIXES:
        return read_image(path, sequence=sequence)
    from ASCONDenoiseLib.io.dicom_reader import read_series

    return read_series(path, series_uid, sequence=sequence)
