"""Files and folders that appear complete or not at all: written beside their place, then renamed into it."""

from __future__ import annotations

import glob
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ASCONDenoiseLib.errors import InputError, WriteError


@contextmanager
def atomic_file(path: str | Path, *, fsync: bool = False) -> Iterator[Path]:
    """A hidden path beside `path`, with its suffix, to write to; it takes the place of `path` when the block ends well.

    For two files that belong together, nest two: the inner one appears first.

    Args:
        path: the file; an existing one is replaced.
        fsync: the content is on the disk before the name is, so that not even a power cut leaves half a file.

    Raises:
        WriteError: the block, the renaming or the flushing raised OSError. As after any other exception, nothing is
            left behind and an earlier file is unchanged.
    """
    path = Path(path)
    partial = _beside(path)
    try:
        yield partial
        if fsync:
            _flush(partial)
        os.replace(partial, path)
        if fsync:
            with suppress(OSError):  # some network file systems refuse to flush a folder; the file is there
                _flush(path.parent)
    except OSError as error:
        raise _not_written(path, error) from error
    finally:
        with suppress(OSError):  # Windows keeps a file that something still has open
            partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: str | Path) -> Iterator[Path]:
    """A new hidden folder beside `folder` to fill; it takes the place of `folder` when the block ends well.

    What `folder` held is set aside first and removed last, so there is never less than one of the two.

    Raises:
        WriteError: as `atomic_file`.
    """
    folder = Path(folder)
    partial = _beside(folder)
    old = partial.with_suffix(".old")
    try:
        partial.mkdir()
        yield partial
        if folder.exists():
            os.replace(folder, old)
        try:
            os.replace(partial, folder)
        except BaseException:
            if old.exists():
                os.replace(old, folder)
            raise
    except OSError as error:
        raise _not_written(folder, error) from error
    finally:
        for left in (partial, old):
            shutil.rmtree(left, ignore_errors=True)


def check_parent(path: Path) -> None:
    """Raise InputError where there is no folder for `path` to lie in."""
    if not path.parent.is_dir():
        raise InputError(f"The folder {path.parent} does not exist: make it or choose another.")


def remove_partial(path: Path) -> None:
    """Remove what an unfinished `atomic_file` or `atomic_folder` for `path` holds, where its process ends before it."""
    suffix = file_suffix(path)
    stem = path.name[: len(path.name) - len(suffix)]
    for left in path.parent.glob(f".{glob.escape(stem)}.*.partial{suffix}"):
        shutil.rmtree(left, ignore_errors=True)
        with suppress(OSError):
            left.unlink(missing_ok=True)


def file_suffix(path: str | Path) -> str:
    """Suffix in lower case, ".nii.gz" in one piece."""
    name = Path(path).name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix


def _beside(path: Path) -> Path:
    suffix = file_suffix(path)
    stem = path.name[: len(path.name) - len(suffix)]
    return path.with_name(f".{stem}.{uuid.uuid4().hex[:8]}.partial{suffix}")


def _flush(path: Path) -> None:
    """A file's content, or a folder's list of names, to the disk. Windows can only flush files."""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _not_written(path: Path, error: OSError) -> WriteError:
    reason = f" ({error.strerror})" if error.strerror else ""
    return WriteError(f"{path} could not be written{reason}: check free space and permissions.")
