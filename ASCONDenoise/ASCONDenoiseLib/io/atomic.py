"""Files and folders that appear complete or not at all: written beside their place, then renamed into it."""

from __future__ import annotations

import errno
import glob
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ASCONDenoiseLib.errors import InputError, WriteError

LONGEST_NAME = 255
"""Bytes of a file name, on every usual file system."""

_IN_THE_WAY = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)


@contextmanager
def atomic_file(path: str | Path, *, fsync: bool = False, replace: bool = True) -> Iterator[Path]:
    """A hidden path beside `path`, with its suffix, to write to; it takes the place of `path` when the block ends well.

    For two files that belong together, nest two: the inner one appears first.

    Args:
        path: the file.
        replace: an existing file is replaced; else one that is there when the block ends, or comes at that very
            moment from another process, stays and is an InputError.
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
        if replace:
            os.replace(partial, path)
        else:
            _rename_to_new(partial, path)
        if fsync:
            with suppress(OSError):  # some network file systems refuse to flush a folder; the file is there
                _flush(path.parent)
    except OSError as error:
        if not replace and error.errno in _IN_THE_WAY:
            raise _exists(path) from error
        raise _not_written(path, error) from error
    finally:
        with suppress(OSError):  # Windows keeps a file that something still has open
            partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: str | Path, *, replace: bool = True) -> Iterator[Path]:
    """A new hidden folder beside `folder` to fill; it takes the place of `folder` when the block ends well.

    What `folder` held is set aside first and removed last, so there is never less than one of the two; without
    `replace`, a folder that holds something by then stays and is an InputError.

    Raises:
        WriteError: as `atomic_file`.
    """
    folder = Path(folder)
    partial = _beside(folder)
    old = partial.with_suffix(".old")
    try:
        partial.mkdir()
        yield partial
        if not replace and folder.exists():
            _remove_empty(folder)
        elif folder.exists():
            os.replace(folder, old)
        try:
            os.replace(partial, folder)  # of two processes that do this at once, one finds a folder that is not empty
        except BaseException:
            if old.exists():
                os.replace(old, folder)
            raise
    except OSError as error:
        if not replace and error.errno in _IN_THE_WAY:
            raise _exists(folder) from error
        raise _not_written(folder, error) from error
    finally:
        for left in (partial, old):
            shutil.rmtree(left, ignore_errors=True)


def check_parent(path: Path) -> None:
    """Raise InputError where there is no folder for `path` to lie in, or its name is too long for one."""
    if len(os.fsencode(path.name)) > LONGEST_NAME:
        raise InputError(
            f"The name {path.name[:40]}... is too long: it has {len(os.fsencode(path.name))} bytes of the "
            f"{LONGEST_NAME} that file systems take. Choose a shorter one."
        )
    if not path.parent.is_dir():
        raise InputError(f"The folder {path.parent} does not exist: make it or choose another.")


def check_new(path: Path) -> None:
    """Raise InputError where something has taken a name since the work began."""
    if os.path.lexists(path):
        raise _exists(path)


def check_space(path: Path, n_bytes: int) -> None:
    """Raise WriteError where the disk of `path` has less than `n_bytes` left."""
    with suppress(OSError):  # a file system that does not say
        free = shutil.disk_usage(path.parent).free
        if free < n_bytes:
            raise WriteError(
                f"{path} does not fit on its disk: it needs {n_bytes / 1e6:.0f} MB and {free / 1e6:.0f} MB are free. "
                "Make room or choose another folder."
            )


def remove_partial(path: Path) -> None:
    """Remove what an unfinished `atomic_file` or `atomic_folder` for `path` holds, where its process ends before it."""
    stem, suffix = (glob.escape(part) for part in _short_parts(path))
    for left in path.parent.glob(f".{stem}.*.partial{suffix}"):
        shutil.rmtree(left, ignore_errors=True)
        with suppress(OSError):
            left.unlink(missing_ok=True)


def file_suffix(path: str | Path) -> str:
    """Suffix in lower case, ".nii.gz" in one piece."""
    name = Path(path).name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix


def _beside(path: Path) -> Path:
    stem, suffix = _short_parts(path)
    return path.with_name(f".{stem}.{uuid.uuid4().hex[:8]}.partial{suffix}")


def _short_parts(path: Path) -> tuple[str, str]:
    """Stem and suffix of the hidden name beside a path: as much of the stem as leaves room for the rest."""
    suffix = file_suffix(path) if len(file_suffix(path)) <= len(".nii.gz") else ""
    stem = os.fsencode(path.name[: len(path.name) - len(suffix)])
    room = LONGEST_NAME - len(suffix) - len("..12345678.partial.old")
    return os.fsdecode(stem[:room]), suffix


def _rename_to_new(partial: Path, path: Path) -> None:
    """Give `partial` the name `path`; FileExistsError where that is taken, by whom and when ever."""
    if os.name == "nt":
        os.rename(partial, path)
        return
    try:
        os.link(partial, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        os.replace(partial, path)


def _remove_empty(folder: Path) -> None:
    """Remove a folder that holds nothing; FileExistsError where it holds something or is a file."""
    try:
        folder.rmdir()
    except OSError as error:
        raise FileExistsError(errno.EEXIST, "exists") from error


def _exists(path: Path) -> InputError:
    return InputError(
        f"{path} exists by now, although it did not when the work began: another process wrote it, and it stays. "
        "Choose another name."
    )


def flush_folder(folder: Path) -> None:
    """All files of a folder, and the folder, to the disk: not even a power cut takes them away then.

    Raises:
        WriteError: the disk is full or has a fault.
    """
    try:
        for path in (*folder.iterdir(), folder, folder.parent):
            _flush(path)
    except OSError as error:
        raise _not_written(folder, error) from error


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
