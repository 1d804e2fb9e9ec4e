"""A node for tests, a scanner (dcmtk) and a PACS (Orthanc) on loopback, and a model that takes milliseconds."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from command_fixtures import child_environment
from model_fixtures import a_card

from ASCONDenoiseLib.models.card import ModelCard
from ASCONDenoiseLib.models.files import save_model
from ASCONDenoiseLib.models.networks.red_cnn import REDCNN

SHIFT_HU = -30
ORTHANC = shutil.which("Orthanc", path=os.environ.get("PATH", "") + ":/usr/sbin") or ""


def a_tiny_model(path: Path, hu: int = SHIFT_HU) -> ModelCard:
    """A RED-CNN whose weights are 0 but for a last bias: it adds some HU."""
    network = REDCNN(channels=1)
    for parameter in network.parameters():
        parameter.data.zero_()
    list(network.children())[-1].bias.data.fill_(hu / 3000)  # type: ignore[union-attr, operator]
    assert torch.allclose(network(torch.full((1, 1, 32, 32), 0.5)), torch.tensor(0.5 + hu / 3000))
    return save_model(network, a_card(architecture="red_cnn", settings={"channels": 1}, name="tiny"), path)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def need(tool: str, package: str) -> str:
    """Path of a program of a Debian package; skips where it is missing."""
    found = ORTHANC if tool == "Orthanc" else shutil.which(tool)
    if not found:
        pytest.skip(f"{package}: {tool} is not installed")
    return found


def wait_for(what: Callable[[], Any], seconds: float = 120, every_s: float = 0.05) -> Any:
    """What it returns, once that is true."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if found := what():
            return found
        time.sleep(every_s)
    raise AssertionError(f"nothing after {seconds} s: {what}")


def configuration(folder: Path, port: int, model: Path, destinations: str, **more: str) -> Path:
    """A node's configuration file; `more` are lines for its sections, "top" for those before them."""
    file = folder / "node.toml"
    file.write_text(f"""
quiet_s = {more.get("quiet_s", "2.0")}
device = "{more.get("device", "cpu")}"
{more.get("top", "")}
[listen]
callers = ["SCANNER", "ORTHANC"]
networks = ["127.0.0.0/8"]
address = "{more.get("address", "127.0.0.1")}"
port = {port}
{more.get("listen", "")}
[storage]
folder = "data"
least_free_gb = {more.get("least_free_gb", "0.1")}
{more.get("storage", "")}
[page]
port = {more.get("page_port", "0")}
{more.get("page", "")}
{destinations}
{more.get("rules", "")}
[[rules]]
name = "all"
modality = "CT"
model = "{model}"
strength = 0.5
""")
    return file


def to(port: int, *, name: str = "pacs", ae_title: str = "ORTHANC", more: str = "") -> str:
    """A destination on this computer."""
    return f'[[destinations]]\nname = "{name}"\nae_title = "{ae_title}"\nhost = "127.0.0.1"\nport = {port}\n{more}\n'


def storescu(
    port: int, *files: Path, caller: str = "SCANNER", called: str = "ASCON", options: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Send files, or all below folders, as a scanner does: dcmtk's storescu."""
    tool = need("storescu", "dcmtk")
    address = ["127.0.0.1", str(port)]
    command = [tool, "-v", "-aet", caller, "-aec", called, "-to", "5", *options, *address, "+sd", "+r"]
    at_once = os.environ | {"TCP_NODELAY": "1"}  # else each object waits 40 ms for the acknowledgement of its head
    whole = [*command, *map(str, files)]
    return subprocess.run(whole, capture_output=True, text=True, timeout=300, check=False, env=at_once)


class Orthanc:
    """Debian's PACS, with its REST interface."""

    def __init__(self, folder: Path, tls: dict[str, Any] | None = None):
        self.dicom_port, self.http_port = free_port(), free_port()
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None
        settings = {
            "Name": "tests",
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "HttpPort": self.http_port,
            "DicomPort": self.dicom_port,
            "DicomAet": "ORTHANC",
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomAlwaysAllowStore": True,
            "DicomAlwaysAllowEcho": True,
            "Plugins": [],
            "OverwriteInstances": True,
            "DicomModalities": {},
        }
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "orthanc.json").write_text(json.dumps(settings | (tls or {})))

    def start(self) -> None:
        log = (self.folder / "log").open("ab")
        command = [need("Orthanc", "orthanc"), str(self.folder / "orthanc.json")]
        self.process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_for(self._answers)

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(20)
            self.process = None

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=10) as answer:
            content = answer.read()
        return json.loads(content) if "json" in answer.headers["Content-Type"] else content

    def post(self, path: str, **values: Any) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.http_port}{path}", data=json.dumps(values).encode(), method="POST"
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read() or b"null")

    def put(self, path: str, value: Any) -> None:
        data = json.dumps(value).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.http_port}{path}", data=data, method="PUT")
        urllib.request.urlopen(request, timeout=10).close()

    def instances(self, study_uid: str) -> list[dict[str, Any]]:
        """Tags of the images of a study."""
        found = self.post("/tools/find", Level="Instance", Query={"StudyInstanceUID": study_uid}, Expand=True)
        return [self.get(f"/instances/{one['ID']}/simplified-tags") | {"ID": one["ID"]} for one in found]

    def file(self, instance: str) -> bytes:
        return bytes(self.get(f"/instances/{instance}/file"))

    def _answers(self) -> bool:
        try:
            return bool(self.get("/system"))
        except (urllib.error.URLError, ConnectionError):
            return False


class NodeProcess:
    """`ascon node` as a process of its own, to be killed."""

    def __init__(self, config: Path):
        self.config = config
        self.log = config.parent / "node.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, port: int) -> None:
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "ASCONDenoiseLib", "node", "--config", str(self.config)]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=child_environment())

        def listens() -> bool:
            assert self.process is not None and self.process.poll() is None, self.log.read_text()
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        wait_for(listens)

    def kill(self) -> None:
        """As kill -9 does."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(90)
