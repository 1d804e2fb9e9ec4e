"""What the user of the command sees: answers on standard output; progress, remarks and errors on standard error.

With --json, standard output holds one JSON object per line: {"event": "progress", "done", "total"} and at the end
{"event": "result", "warnings", ...} or {"event": "error", "message", "exit_code"}, which has "warnings" only where
there are some. They are on standard error too, as they come up.
"""

from __future__ import annotations

import json
import sys
import traceback
from typing import Any

from ASCONDenoiseLib.commands.progress_bar import ProgressBar


class Console:
    """Text for people, or JSON lines for programs."""

    def __init__(self, *, as_json: bool = False, quiet: bool = False, debug: bool = False):
        self.as_json = as_json
        self.quiet = quiet
        self.debug = debug
        self.bar = ProgressBar()
        self._warnings: list[str] = []

    def progress(self, done: int, total: int, what: str = "slice") -> None:
        """Show slices done, of all, or of `what` else: a bar on a terminal, a line of JSON, or nothing."""
        if self.as_json:
            self._emit("progress", done=done, total=total)
        elif not self.quiet:
            self.bar.show(done / total, f"{what} {done}/{total}")

    def note(self, text: str) -> None:
        """Make a remark on standard error."""
        if not self.quiet:
            self.close()
            print(f"ascon: {text}", file=sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        """Make a remark that belongs to the result: with --json it is there, too, even with --quiet."""
        self._warnings.append(text)
        self.note(text)

    def answer(self, text: str, **fields: Any) -> None:
        """Give what was asked for: `text` to people, `fields` to programs."""
        self.close()
        if self.as_json:
            self._emit("result", **{"warnings": self._warnings} | fields)
        else:
            print(text, flush=True)

    def done(self, text: str, **fields: Any) -> None:
        """Close a command whose result is a file; not with --quiet."""
        if self.as_json or not self.quiet:
            self.answer(text, **fields)

    def error(self, message: str, exit_code: int, error: BaseException | None = None) -> int:
        """Show what went wrong and return the exit code.

        Args:
            message: for people.
            exit_code: of the process.
            error: shown with its place in the program where --debug asks for it.
        """
        self.close()
        if self.as_json:
            said = {"warnings": self._warnings} if self._warnings else {}
            self._emit("error", message=message, exit_code=exit_code, **said)
        else:
            print(f"ascon: {message}", file=sys.stderr, flush=True)
        if self.debug and error is not None:
            traceback.print_exception(error)
        return exit_code

    def close(self) -> None:
        """Take the progress bar away."""
        self.bar.clear()

    def _emit(self, event: str, **fields: Any) -> None:
        print(json.dumps({"event": event, **fields}, default=str), flush=True)
