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
from ASCONDenoiseLib.io.results import VolumeFile
from ASCONDenoiseLib.io.volume import Geometry, Volume
from ASCONDenoiseLib.models.files import find_model, verify
from ASCONDenoiseLib.node.config import Destination, Listen, NodeConfig, Page, Rule, Storage, Tls
from ASCONDenoiseLib.node.ports import cannot_listen
from ASCONDenoiseLib.node.sender import echo
from ASCONDenoiseLib.node.service import made
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
    """Try: storage, room, ports, certificates, each model on a slice, an echo of each destination.

    What needs a step that fails is not tried.
    """
    yield (storage := _tried("storage", partial(_write, config.storage.folder)))
    if storage.good:
        yield _tried("free space", partial(_space, config.storage))
    yield _tried("listening", partial(_listen, config.listen))
    yield _tried("status page", partial(_page, config.page))
    yield _tried("rules", partial(_rules, config.rules))
    for name in sorted({rule.model or "" for rule in config.rules if not rule.leave_alone}):
        yield (model := _tried("model", partial(_model, name or None)))
        if model.good:
            yield _tried("a slice with it", partial(_one_slice, config, worker, name or None))
    worker.end()
    for one in config.destinations:
        readable = one.tls is None or _tried(f"certificates, {one.name}", partial(_certificates, one.tls))
        if isinstance(readable, Step):
            yield readable
        if readable is True or readable.good:
            yield _tried(f"echo {one.name}", partial(_echo, one, config.listen.ae_title))


def _tried(name: str, step: Callable[[], str]) -> Step:
    try:
        return Step(name, step(), True)
    except AsconError as error:
        return Step(name, str(error), False)


def _write(folder: Path) -> str:
    made(folder)
    try:
        with (
            tempfile.TemporaryDirectory(dir=folder) as inside,
            atomic_file(Path(inside) / "file", fsync=True) as partial_file,
        ):
            partial_file.write_bytes(b"x" * 1_000_000)
    except OSError as error:
        why = error.strerror or error
        raise Failure(
            f"{folder} cannot be written ({why}): let this user write there, or choose another one."
        ) from None
    return str(folder)


def _space(storage: Storage) -> str:
    free_gb = shutil.disk_usage(storage.folder).free / 1e9
    if free_gb < storage.least_free_gb:
        wanted = f"the configuration wants {storage.least_free_gb:g} GB"
        raise Failure(f"{storage.folder} has {free_gb:.1f} GB free, and {wanted}: make room.")
    return f"{free_gb:.1f} GB"


def _listen(listen: Listen) -> str:
    if listen.tls is not None:
        listening(listen.tls)
    place = _bound("The node", listen.address, listen.port)
    return f"{listen.ae_title} can listen at {place}{' with TLS' if listen.tls else ''}"


def _page(page: Page) -> str:
    return f"can be served at {_bound('The status page', page.address, page.port)}" if page.port else "none is wanted"


def _bound(what: str, address: str, port: int) -> str:
    try:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.create_server((address, port), family=family):
            return f"{address}:{port}"
    except OSError as error:
        raise cannot_listen(what, address, port, error) from None


def _rules(rules: tuple[Rule, ...]) -> str:
    denoising = sum(not rule.leave_alone for rule in rules)
    if not denoising:
        raise Failure("None denoises anything: write a [[rules]] without leave_alone.")
    return f"{denoising} of {len(rules)} denoise{'s' if denoising == 1 else ''}; what none fits is left alone"


def _model(name: str | None) -> str:
    card = verify(find_model(name))
    return f"{card.name} {card.version}"


def _one_slice(config: NodeConfig, worker: WorkerProcess, model: str | None) -> str:
    """Denoise a slice of noise on the device of the configuration."""
    noise = np.random.default_rng(0).normal(40, 30, (1, 256, 256)).astype(np.int16)
    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder) / "noise.nrrd", Path(folder) / "result.nrrd"
        VolumeFile(source).write(Volume(noise, Geometry()), {})
        request = {"model": model, "device": config.device, "precision": config.precision}
        answer = worker.do("denoise_series", lambda *_: None, input=str(source), output=str(output), **request)
    record = answer["record"]
    return f"denoised on {record['device']} in {record['seconds']:.1f} s"


def _certificates(tls: Tls) -> str:
    connecting(tls)
    return "can be read"


def _echo(destination: Destination, ae_title: str) -> str:
    echo(destination, ae_title)
    return f"{destination.ae_title} at {destination.host}:{destination.port} answers, and takes CT images"
