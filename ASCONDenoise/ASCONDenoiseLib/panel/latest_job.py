"""Jobs of which only the latest counts, done in a worker of their own: what follows a slider at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ASCONDenoiseLib.panel.worker_client import WorkerClient


class LatestJob:
    """Sends one job after another; what was asked for while one is under way waits, the last of it alone.

    Attributes:
        worker: a process of its own, which ends when it has had nothing to do for a minute.
    """

    def __init__(self, onResult: Callable[[dict], None], onError: Callable[[str], None]):
        self.worker = WorkerClient(idleMinutes=1)
        self._onResult = onResult
        self._onError = onError
        self._busy = False
        self._next: dict[str, Any] | None = None

    @property
    def busy(self) -> bool:
        """Whether an answer is still to come."""
        return self._busy

    def ask(self, **message: Any) -> None:
        """Wants a job done, in place of any that was asked for before and waits."""
        if self._busy:
            self._next = message
        else:
            self._busy = True
            self.worker.request(self._onEvent, **message)

    def forget(self) -> None:
        """Wants nothing any more; what is under way ends without being heard."""
        self._next = None
        self._busy = False
        self.worker.stop("")

    def _onEvent(self, event: dict) -> None:
        if not self._busy or event["event"] not in ("result", "error", "cancelled"):
            return
        self._busy = False
        following, self._next = self._next, None
        if following is not None:
            self.ask(**following)
        if event["event"] == "result":
            self._onResult(event)
        else:
            self._onError(event.get("message", ""))
