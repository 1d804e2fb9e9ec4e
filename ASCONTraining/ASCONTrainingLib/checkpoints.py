"""Files of a training that survive a crash: written beside, flushed to the disk, then renamed.

A checkpoint is a dictionary of tensors, numbers and texts; nothing else is loaded, so none can run code.
"""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from typing import Any

import torch


class CheckpointError(RuntimeError):
    """A file of the training cannot be written or read; the text says which, why, and what to do."""


def write_whole(path: Path, data: bytes) -> None:
    """`data` as the file `path`, which holds its old content or all of the new one at any moment, even in a power cut.

    Raises CheckpointError where it cannot be written; the old file is then as it was.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        try:
            with open(partial, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except OSError:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except OSError as error:
        raise CheckpointError(
            f"{path} could not be written ({error.strerror or error}). Make room on the disk, or its folder writable."
        ) from error


def _sync_folder(folder: Path) -> None:
    """The renaming itself on the disk, where the system can do that."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems refuse
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def save(state: dict[str, Any], *paths: Path) -> None:
    """A checkpoint, written to each of `paths`; errors as in `write_whole`."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    for path in paths:
        write_whole(path, buffer.getvalue())


def load(path: Path) -> dict[str, Any]:
    """A checkpoint, on the CPU. Raises CheckpointError where it is missing or damaged."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"There is no checkpoint {path}.") from None
    except Exception as error:  # torch has no class of its own for damaged files
        reason = (str(error).splitlines() or [""])[0]
        raise CheckpointError(
            f"The checkpoint {path} cannot be read ({type(error).__name__}: {reason}). "
            "Continue from another one: copy best.pt to last.pt, or start again in another folder."
        ) from error
