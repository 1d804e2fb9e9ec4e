"""A worker in a process of its own, driven as Slicer drives it."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch
from model_fixtures import a_card

from ASCONDenoiseLib.models.files import save_model
from ASCONDenoiseLib.models.networks import ARCHITECTURES

ROOT = Path(__file__).resolve().parents[2]
CHILD = Path(__file__).with_name("child_worker.py")
LAST = ("result", "error", "cancelled")


class Child:
    """A worker process (child_worker.py) and what it has said."""

    def __init__(self, folder: Path, *arguments: str):
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "ASCONDenoise"), "ASCON_MODELS": str(folder / "user")}
        self.errors = folder / "stderr.txt"
        self.log = self.errors.open("wb")
        self.process = subprocess.Popen(
            [sys.executable, str(CHILD), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            env=environment,
            cwd=folder,
        )
        self.lines: queue.Queue[dict | None] = queue.Queue()
        self.jobs = 0
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.put(json.loads(line))
        self.lines.put(None)

    def write(self, line: bytes) -> None:
        self.process.stdin.write(line + b"\n")
        self.process.stdin.flush()

    def send(self, command: str, **values: Any) -> int:
        self.jobs += 1
        self.write(json.dumps({"id": self.jobs, "command": command, **values}).encode())
        return self.jobs

    def next(self, seconds: float = 30) -> dict | None:
        """The next line; None at the end of the process."""
        return self.lines.get(timeout=seconds)

    def until(self, *events: str, seconds: float = 30) -> list[dict]:
        """Everything up to the first of these events."""
        said = []
        while not said or said[-1]["event"] not in events:
            line = self.next(seconds)
            assert line is not None, f"the process ended after {said}: {self.errors.read_text()}"
            said.append(line)
        return said

    def do(self, command: str, **values: Any) -> dict:
        """The last answer to a job."""
        job = self.send(command, **values)
        answer = self.until(*LAST)[-1]
        assert answer["id"] == job
        return answer

    def result(self, command: str, **values: Any) -> dict:
        answer = self.do(command, **values)
        assert answer["event"] == "result", answer
        return answer

    def error(self, command: str, **values: Any) -> str:
        answer = self.do(command, **values)
        assert answer["event"] == "error", answer
        assert set(answer) - {"refused"} == {"id", "event", "message"}
        assert answer.get("refused", True) is True  # what will never work, as against what may work later
        return answer["message"]

    def ended(self, seconds: float = 5) -> int:
        return self.process.wait(seconds)

    def close(self) -> None:
        self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.log.close()


class OneParameter(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones(1))


def a_slow_model(folder: Path, monkeypatch, seconds: float = 0.15, name: str = "slow") -> str:
    """Adds 10 HU, and takes its time."""
    monkeypatch.setitem(ARCHITECTURES, "slow", lambda **_: OneParameter())
    path = folder / f"{name}.safetensors"
    save_model(OneParameter(), a_card(architecture="slow", settings={"seconds": seconds}), path)
    return str(path)


def saved(folder: Path, voxels: np.ndarray, name: str = "in") -> str:
    path = folder / f"{name}.npy"
    np.save(path, voxels)
    return str(path)
