"""A page in headless Chromium, driven through its DevTools pipe: what it says on its console, its pixels, the mouse."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

ARGUMENTS = ("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--window-size=1200,1000")


def require_chromium() -> str:
    """Path of the browser; without one the test is skipped."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("chromium is not installed")
    return path


class Page:
    """A file opened in a browser of its own. `with Page(path) as page: ...`

    Attributes:
        said: what went to the console as a warning or worse, exceptions, and loads that failed or were forbidden.
        requests: addresses that the page asked for.
    """

    def __init__(self, path: Path):
        self.said: list[str] = []
        self.requests: list[str] = []
        browser = require_chromium()
        read_commands, self._out = os.pipe()
        self._in, write_answers = os.pipe()

        def take_pipes() -> None:  # DevTools reads descriptor 3 and writes to 4; copies first: they may be 3 or 4
            ends = os.dup(read_commands), os.dup(write_answers)
            os.dup2(ends[0], 3)
            os.dup2(ends[1], 4)

        self._profile = path.parent / "chromium-profile"
        self._process = subprocess.Popen(
            [browser, *ARGUMENTS, f"--user-data-dir={self._profile}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=take_pipes,
            close_fds=False,
        )
        os.close(read_commands)
        os.close(write_answers)
        self._buffer = b""
        self._last = 0
        self._session: str | None = None
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Runtime", "Log", "Page", "Network"):
            self.send(f"{domain}.enable")
        self.send("Page.navigate", url=path.resolve().as_uri())
        self.wait_for("document.readyState === 'complete'")

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(30)
        os.close(self._in)
        os.close(self._out)
        shutil.rmtree(self._profile, ignore_errors=True)

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a DevTools command and return its answer."""
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._last:
                assert "error" not in answer, answer
                return answer["result"]
            self._note(answer.get("method", ""), answer.get("params", {}))

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            part = os.read(self._in, 1 << 20)
            assert part, "the browser has ended"
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def _note(self, event: str, facts: dict[str, Any]) -> None:
        if event == "Runtime.consoleAPICalled" and facts["type"] in ("error", "warning", "assert"):
            self.said.append(str([argument.get("value", argument.get("description")) for argument in facts["args"]]))
        elif event == "Runtime.exceptionThrown":
            self.said.append(facts["exceptionDetails"].get("exception", {}).get("description", "exception"))
        elif event == "Log.entryAdded" and facts["entry"]["level"] in ("error", "warning"):
            self.said.append(facts["entry"]["text"])
        elif event == "Network.requestWillBeSent":
            self.requests.append(facts["request"]["url"])

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, awaited."""
        found = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait_for(self, condition: str) -> None:
        """Until a JavaScript expression is true, 60 s at most."""
        waiting = (
            "new Promise((found) => { const begin = Date.now(); const look = () => "
            f"({condition}) ? found(true) : Date.now() - begin > 60000 ? found(false) : setTimeout(look, 20); "
            "look(); })"
        )
        assert self.evaluate(waiting), f"in vain: {condition}"

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """Send a mouse event at a place of the window: mousePressed, mouseMoved, mouseReleased, mouseWheel."""
        button = {} if kind in ("mouseWheel", "mouseMoved") else {"button": "left", "clickCount": 1}
        self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, **button | more)

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Press the left button at one place and let it go at another."""
        self.mouse("mousePressed", *start)
        self.mouse("mouseMoved", *end, button="left", buttons=1)
        self.mouse("mouseReleased", *end)

    def screenshot(self, path: Path) -> Path:
        """Write what the window shows as PNG."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))
        return path
