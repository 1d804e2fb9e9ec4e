"""What goes wrong, in sentences for the user: cause, place and remedy. One base, whose exit code `ascon` ends with.

Every error that a user may cause or meet derives from `AsconError`; anything else that comes up is a defect of ours.
"""

from __future__ import annotations


class AsconError(Exception):
    """Base of all errors of ASCON. Its text is a sentence for the user and is shown as it is, once."""

    exit_code = 1


class InputError(AsconError, ValueError):
    """Bad input: a file, series, model, argument or setting cannot be used. The text says why and what to do."""

    exit_code = 2


class Failure(AsconError, RuntimeError):
    """The input is fine and the work failed all the same: no memory, no space, a fault of the device."""


class WriteError(Failure):
    """A file or folder could not be written; nothing is left of it, and what was there before is unchanged."""


class Cancelled(AsconError):  # noqa: N818 - what the user asked for, not an error
    """The user ended the work, or what was worked on is gone; the text says which, where there is more to say."""

    exit_code = 130


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, that of a GPU too: torch says so in the text of a RuntimeError."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(words in text for words in _OUT_OF_MEMORY)


_OUT_OF_MEMORY = ("out of memory", "not enough memory", "allocate memory", "bad_alloc", "bad alloc", "alloc_failed")
"""Words in the errors of CUDA and MPS, of torch's CPU allocator, of C++, and of cuBLAS and cuDNN."""
