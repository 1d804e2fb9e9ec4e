"""A PACS, a worker and nodes for these tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("pynetdicom", reason="the extra node is not there")

from node_fixtures import Orthanc, a_tiny_model, configuration, free_port

from ASCONDenoiseLib.node.config import read_config
from ASCONDenoiseLib.node.service import Node
from ASCONDenoiseLib.node.worker_process import WorkerProcess


class SharedWorker(WorkerProcess):
    """Outlives the nodes, so that torch is imported once."""

    def end(self) -> None:
        """Later."""


@pytest.fixture(scope="session")
def a_model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    a_tiny_model(path)
    return path


@pytest.fixture(scope="session")
def a_worker() -> Iterator[WorkerProcess]:
    worker = SharedWorker()
    yield worker
    WorkerProcess.end(worker)


@pytest.fixture(scope="session")
def an_orthanc(tmp_path_factory) -> Iterator[Orthanc]:
    orthanc = Orthanc(tmp_path_factory.mktemp("orthanc"))
    orthanc.start()
    yield orthanc
    orthanc.stop()


@pytest.fixture
def a_node(tmp_path, a_model, a_worker) -> Iterator[Callable[..., Node]]:
    """Makes and starts nodes in this process; `destinations` and the rest as in `configuration`."""
    yield from _nodes(tmp_path, a_model, a_worker)


@pytest.fixture(scope="module")
def a_node_for_all(tmp_path_factory, a_model, a_worker) -> Iterator[Callable[..., Node]]:
    """The same, for all tests of a file."""
    yield from _nodes(tmp_path_factory.mktemp("node"), a_model, a_worker)


def _nodes(folder: Path, model: Path, worker: WorkerProcess) -> Iterator[Callable[..., Node]]:
    started: list[Node] = []

    def make(destinations: str = "destinations = []", start: bool = True, **more) -> Node:
        node_options = {key: more.pop(key) for key in ("monotonic", "first_delay_s", "worker") if key in more}
        if destinations == "destinations = []":
            more["top"], destinations = f"{destinations}\n{more.get('top', '')}", ""
        config = configuration(folder, free_port(), model, destinations, **more)
        node = Node(read_config(config), **({"worker": worker, "first_delay_s": 0.2} | node_options))
        if start:
            node.start()
        started.append(node)
        return node

    yield make
    for node in started:
        node.stop()
