"""What the user of the command sees: answers on standard output; progress, remarks and errors on standard error.

With --json, standard output holds one JSON object per line: {"event": "progress", "done", "total"} and at the end
{"event": "result", ...} or {"event": "error", "message", "exit_code"}.
"""

from __future__ import annotations

import json
import sys
import traceback
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm


class Console:
    """Text for people, or JSON lines for programs."""

    def __init__(self, *, as_json: bool = False, quiet: bool = False, debug: bool = False):
        self.as_json = as_json
        self.quiet = quiet
        self.debug = debug
        self._bar: tqdm | None = None

    def progress(self, done: int, total: int) -> None:
        """Show slices done, of all: a bar on a terminal, a line of JSON, or nothing."""
        if self.as_json:
            self._emit("progress", done=done, total=total)
        elif not self.quiet and sys.stderr.isatty():
            from tqdm import tqdm

            if self._bar is None or self._bar.total != total:
                self.close()
                self._bar = tqdm(total=total, unit="slice", file=sys.stderr, leave=False)
            self._bar.update(done - self._bar.n)

    def note(self, text: str) -> None:
        """Make a remark on standard error."""
        if not self.quiet:
            self.close()
            print(f"ascon: {text}", file=sys.stderr, flush=True)

    def answer(self, text: str, **fields: Any) -> None:
        """Give what was asked for: `text` to people, `fields` to programs."""
        self.close()
        if self.as_json:
            self._emit("result", **fields)
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
            self._emit("error", message=message, exit_code=exit_code)
        else:
            print(f"ascon: {message}", file=sys.stderr, flush=True)
        if self.debug and error is not None:
            traceback.print_exception(error)
        return exit_code

    def close(self) -> None:
        """Take the progress bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _emit(self, event: str, **fields: Any) -> None:
        print(json.dumps({"event": event, **fields}, default=str), flush=True)
