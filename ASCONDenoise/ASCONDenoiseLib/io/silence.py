"""Keep libraries quiet: what they print repeats, worse, what our exceptions say, and may quote patient data."""

from __future__ import annotations

import logging
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_STDERR_LOCK = threading.RLock()


@contextmanager
def silence_stderr() -> Iterator[None]:
    """Discard what C libraries write to stderr."""
    with _STDERR_LOCK:
        try:
            saved = os.dup(2)
        except OSError:  # a window application may have no stderr at all
            yield
            return
        try:
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), 2)
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)


@contextmanager
def silence_pydicom() -> Iterator[None]:
    """Discard warnings and log lines of pydicom; what matters is raised."""
    logger = logging.getLogger("pydicom")
    before = logger.disabled
    logger.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = before
