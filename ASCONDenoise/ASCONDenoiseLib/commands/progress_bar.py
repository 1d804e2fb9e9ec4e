"""A progress bar in the last line of a terminal."""

from __future__ import annotations

import shutil
import sys
import time

CHARACTERS = 30
REFRESH_S = 0.2
"""Seconds between two updates."""


class ProgressBar:
    """Shown on standard error where that is a terminal."""

    def __init__(self) -> None:
        self._began_s, self._first = 0.0, -1.0
        self._shown_s = 0.0  # 0: nothing is shown

    def show(self, fraction: float, text: str, *, with_time_left: bool = True) -> None:
        """Draw the bar, a text behind it, and how long it will take where `with_time_left`."""
        now = time.monotonic()
        if not 0 <= self._first <= fraction:
            self._began_s, self._first = now, fraction
        if not sys.stderr.isatty() or (fraction < 1 and now < self._shown_s + REFRESH_S):
            return
        if with_time_left and fraction > self._first:
            left_s = round((now - self._began_s) * (1 - fraction) / (fraction - self._first))
            text += f", {left_s // 60}:{left_s % 60:02} left"
        self._write(f"{fraction:4.0%} |{'#' * round(CHARACTERS * fraction):{CHARACTERS}}| {text}")
        self._shown_s = now

    def clear(self) -> None:
        """Take the bar away."""
        if self._shown_s:
            self._write("")
            self._shown_s = 0.0

    def _write(self, line: str) -> None:
        width = shutil.get_terminal_size().columns - 1  # a full line would begin a new one
        print(f"\r{line[:width]:{width}}", end="" if line else "\r", file=sys.stderr, flush=True)
