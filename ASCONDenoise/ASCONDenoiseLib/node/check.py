"""Trying a node's whole road before it is needed: each step is tried, whatever the others gave."""

from __future__ import annotations

import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ASCONDenoiseLib.errors import AsconError, Failure
from ASCONDenoiseLib.io.atomic import atomic_file
from ASCONDenoiseLib.io.image_files import write_volume
from ASCONDenoiseLib.io.volume import Geometry, Volume
from ASCONDenoiseLib.models.files import find_model, verify
from ASCONDenoiseLib.node.config import Destination, Listen, NodeConfig, Page, Tls
from ASCONDenoiseLib.node.sender import echo
from ASCONDenoiseLib.node.tls import connecting, listening
from ASCONDenoiseLib.node.worker_process import WorkerProcess


@dataclass(frozen=True)
class Step:
    """A step of the road.

    Attributes:
        name: of it.
        told: what was found, or why it fails.
    """

    name: str
    told: str
    good: bool


def check(config: NodeConfig, worker: WorkerProcess) -> Iterator[Step]:
    """Try: storage, room, ports, certificates, models, one slice, an echo of each destination."""
    folder = config.storage.folder
    steps: list[tuple[str, Callable[[], str]]] = [
        ("storage", partial(_write, folder)),
        ("free space", partial(_space, folder, config.storage.least_free_gb)),
        ("listening", partial(_listen, config.listen)),
        ("status page", partial(_page, config.page)),
    ]
    models = sorted({rule.model or "" for rule in config.rules if not rule.leave_alone})
    steps += [(f"model {name or 'by default'}", partial(_model, name or None)) for name in models]
    steps += [("one slice", partial(_one_slice, config, worker, name or None)) for name in models[:1]]
    for one in config.destinations:
        if one.tls is not None:
            steps.append((f"certificates for {one.name}", partial(_certificates, one.tls)))
        steps.append((f"echo {one.name}", partial(_echo, one, config.listen.ae_title)))
    for name, step in steps:
        try:
            yield Step(name, step(), True)
        except (AsconError, OSError) as error:
            yield Step(name, str(error), False)


def _certificates(tls: Tls) -> str:
    connecting(tls)
    return "can be read"


def _echo(destination: Destination, ae_title: str) -> str:
    echo(destination, ae_title)
    return f"{destination.ae_title} at {destination.host}:{destination.port} answers"


def _write(folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=folder) as inside,
        atomic_file(Path(inside) / "file", fsync=True) as partial_file,
    ):
        partial_file.write_bytes(b"x" * 1_000_000)
    return str(folder)


def _space(folder: Path, least_gb: float) -> str:
    free_gb = shutil.disk_usage(folder).free / 1e9
    if free_gb < least_gb:
        raise Failure(f"{folder} has {free_gb:.1f} GB free, and the configuration wants {least_gb:g} GB: make room.")
    return f"{free_gb:.1f} GB"


def _listen(listen: Listen) -> str:
    if listen.tls is not None:
        listening(listen.tls)
    return f"{listen.ae_title} can listen at {_bind(listen.address, listen.port)}{' with TLS' if listen.tls else ''}"


def _page(page: Page) -> str:
    return f"can be served at {_bind(page.address, page.port)}" if page.port else "none is wanted"


def _bind(address: str, port: int) -> str:
    try:
        with socket.create_server((address, port)):
            return f"{address}:{port}"
    except (OSError, OverflowError) as error:
        raise Failure(f"{address}:{port} cannot be listened at ({error}): is a node running there?") from None


def _model(name: str | None) -> str:
    card = verify(find_model(name))
    return f"{card.name} {card.version}"


def _one_slice(config: NodeConfig, worker: WorkerProcess, model: str | None) -> str:
    """Denoise a slice of noise on the device of the configuration."""
    noise = np.random.default_rng(0).normal(40, 30, (1, 256, 256)).astype(np.int16)
    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder) / "noise.nrrd", Path(folder) / "result.nrrd"
        write_volume(Volume(noise, Geometry()), source)
        request = {"model": model, "device": config.device, "precision": config.precision}
        try:
            answer = worker.do("denoise_series", lambda *_: None, input=str(source), output=str(output), **request)
        finally:
            worker.end()
    record = answer["record"]
    return f"denoised on {record['device']} in {record['seconds']:.1f} s"
