"""Ctrl-C and SIGTERM end a training after the step under way."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

GRACE_S = 2.0
"""Signals that follow the first one within this time count as the same one."""


@contextmanager
def signals_noted() -> Iterator[threading.Event]:
    """Inside, Ctrl-C and SIGTERM set the event, so that no step is cut in half; a later second one interrupts at once.

    torchrun passes on the Ctrl-C that its processes got from the terminal already: within GRACE_S they count as one.
    Only the main thread can catch signals; in another one nothing is caught.
    """
    event, first_s = threading.Event(), 0.0

    def note(number: int, frame: object) -> None:
        nonlocal first_s
        if not event.is_set():
            first_s = time.monotonic()
            event.set()
        elif time.monotonic() - first_s > GRACE_S:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
