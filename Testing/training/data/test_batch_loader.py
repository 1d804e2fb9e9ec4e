"""The loader gives the batches in order."""

from __future__ import annotations

import os
import signal
import sys

import pytest
import torch
from training_fixtures import make_set

from ASCONTrainingLib.data import batches
from ASCONTrainingLib.data.batches import Batches, BatchLoader, Stage
from ASCONTrainingLib.data.training_set import TrainingSet

forking = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux only")


@pytest.mark.parametrize(("workers", "forks"), [(0, False), (3, False), pytest.param(3, True, marks=forking)])
def test_the_loader_gives_the_batches_in_order_from_any_step(tmp_path, monkeypatch, workers, forks):
    monkeypatch.setattr(batches, "_forks", lambda device: forks)
    items = TrainingSet(make_set(tmp_path / "set"), "train", 32, seed=4)
    stage = Stage(0.0, items, Batches(len(items), 2, seed=4, steps=3))
    loader = BatchLoader(stage, 1, 1, workers, torch.device("cpu"))
    assert (loader._processes is not None) == forks
    for epoch, start in ((1, 1), (1, 2), (2, 0), (2, 1)):
        keys = next(iter(Batches(len(items), 2, seed=4, steps=3, epoch=epoch, start=start)))
        expected = [torch.stack(images) for images in zip(*(items[key] for key in keys), strict=True)]
        assert all(torch.equal(got, wanted) for got, wanted in zip(loader.next(), expected, strict=True))
    loader.close()


@forking
def test_a_worker_process_that_was_killed_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(batches, "_forks", lambda device: True)
    items = TrainingSet(make_set(tmp_path / "set"), "train", 32)
    loader = BatchLoader(Stage(0.0, items, Batches(len(items), 2)), 0, 0, 1, torch.device("cpu"))
    loader.next()
    os.kill(loader._processes._workers[0].pid, signal.SIGKILL)
    with pytest.raises(OSError, match=r"processes that prepare batches have failed \(\S.*fewer workers"):
        for _ in range(9):
            loader.next()
    loader.close()


@forking
def test_what_a_worker_process_cannot_read_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(batches, "_forks", lambda device: True)
    items = TrainingSet(make_set(tmp_path / "set"), "train", 32)
    monkeypatch.setattr(TrainingSet, "__getitem__", lambda self, key: (_ for _ in ()).throw(OSError(5, "broken disk")))
    loader = BatchLoader(Stage(0.0, items, Batches(len(items), 2)), 0, 0, 2, torch.device("cpu"))
    with pytest.raises(OSError, match=r"^\[Errno 5\] broken disk$"):
        loader.next()
    loader.close()


@pytest.mark.parametrize(
    ("device", "system", "forks"), [("cuda", "linux", True), ("cuda", "win32", False), ("cpu", "linux", False)]
)
def test_processes_are_for_gpus_where_the_system_forks(monkeypatch, device, system, forks):
    monkeypatch.setattr(sys, "platform", system)
    assert batches._forks(torch.device(device)) == forks
