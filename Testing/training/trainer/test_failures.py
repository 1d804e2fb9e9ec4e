"""What stops a training: a sentence says why, and the checkpoint before is kept."""

from __future__ import annotations

import errno
import math
import os
import threading
from pathlib import Path

import pytest
import torch
from trainer_fixtures import (
    CPU,
    differences,
)
from training_fixtures import SMALL_MAC, make_set, tiny_config

from ASCONDenoiseLib.errors import Failure, InputError, WriteError
from ASCONTrainingLib.data.batches import Batches
from ASCONTrainingLib.data.training_set import TrainingSet
from ASCONTrainingLib.method.objectives.ascon import ASCONObjective
from ASCONTrainingLib.trainer import run_folder
from ASCONTrainingLib.trainer.dry_run import dry_run
from ASCONTrainingLib.trainer.run_folder import load_checkpoint
from ASCONTrainingLib.trainer.trainer import fit


def test_full_disk_stops_with_a_sentence_and_the_checkpoint_before(a_set, tmp_path, monkeypatch):
    config = tiny_config(epochs=3, validate_every=9)
    fit(config, a_set, tmp_path / "straight", device=CPU)
    sync, synced = os.fsync, []

    def full(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) > 6:  # settings, first checkpoint, that of the first epoch: each with its folder
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(WriteError, match="No space left on device.*holds step 3, from where --resume goes on"):
            fit(config, a_set, tmp_path / "full", device=CPU)
    assert not list((tmp_path / "full").glob(".*.partial*"))
    assert load_checkpoint(tmp_path / "full" / "last.pt")["step"] == 3
    fit(config, a_set, tmp_path / "full", device=CPU, resume=True)
    assert not differences(*(load_checkpoint(tmp_path / run / "last.pt") for run in ("straight", "full")))


def test_log_on_a_full_disk_is_the_same_sentence(a_set, tmp_path, monkeypatch):
    class Full:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def write(self, text: str) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    def to_open(path, *options, **more):
        return Full() if Path(path).name == "log.jsonl" else open(path, *options, **more)

    monkeypatch.setattr(run_folder, "open", to_open, raising=False)
    with pytest.raises(WriteError, match=r"log\.jsonl could not be written \(No space left.*holds step 0"):
        fit(tiny_config(), a_set, tmp_path / "run", device=CPU)
    assert load_checkpoint(tmp_path / "run" / "last.pt")["step"] == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_lost_data_file_stops_with_a_sentence_and_nothing_is_lost(a_set, tmp_path, monkeypatch, workers):
    config = tiny_config(workers=workers)
    fit(config, a_set, tmp_path / "straight", device=CPU)
    item, calls, lock = TrainingSet.item, [], threading.Lock()

    def lost(self, *key):
        with lock:
            calls.append(key)
            if len(calls) > 9:
                raise FileNotFoundError(errno.ENOENT, "No such file or directory", "P0.ndct.npy")
        return item(self, *key)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingSet, "item", lost)
        with pytest.raises(Failure, match=r"P0\.ndct\.npy: No such file.*last\.pt holds step 4"):
            fit(config, a_set, tmp_path / "lost", device=CPU)
    fit(config, a_set, tmp_path / "lost", device=CPU, resume=True)
    assert not differences(*(load_checkpoint(tmp_path / run / "last.pt") for run in ("straight", "lost")))


def test_loss_that_is_not_finite_stops_with_its_batch(a_set, tmp_path, monkeypatch):
    item, config = TrainingSet.item, tiny_config(epochs=3, steps_per_epoch=2)
    keys = [key for epoch in range(2) for batch in Batches(100, 2, 0, 2, epoch=epoch) for key in batch]
    bad = keys[6]  # in the fourth step

    def poisoned(self, index, epoch=0, turn=0):
        ldct, ndct = item(self, index, epoch, turn)
        return (ldct * math.nan, ndct) if (epoch, turn, index) == bad else (ldct, ndct)

    monkeypatch.setattr(TrainingSet, "item", poisoned)
    assert len(TrainingSet(a_set, "train", 32)) == 100
    with pytest.raises(Failure, match=r"nan.*step 4.*failed-batch-0\.pt.*last\.pt holds step 2.*begin anew"):
        fit(config, a_set, tmp_path / "run", device=CPU)
    saved = load_checkpoint(tmp_path / "run" / "failed-batch-0.pt")
    assert saved["step"] == 3 and torch.isnan(saved["ldct"]).any() and not torch.isnan(saved["ndct"]).any()
    state = load_checkpoint(tmp_path / "run" / "last.pt")
    assert state["step"] == 2 and all(torch.isfinite(w).all() for w in state["network"].values())


def test_too_little_memory_is_told(a_set, tmp_path, monkeypatch):
    def too_much(*_):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: ...")

    monkeypatch.setattr(ASCONObjective, "step", too_much)
    with pytest.raises(Failure, match="not enough memory for a batch of 2 images of 32x32 on cpu.*smaller batch"):
        fit(tiny_config(), a_set, tmp_path / "run", device=CPU)
    with pytest.raises(Failure, match="smaller batch"):
        dry_run(tiny_config(), a_set, tmp_path / "run", device=CPU)


def test_other_errors_are_not_taken_for_too_little_memory(a_set, tmp_path, monkeypatch):
    def wrong(*_):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(ASCONObjective, "step", wrong)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        fit(tiny_config(), a_set, tmp_path / "run", device=CPU)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (tiny_config(precision="fp16"), "fp16 is for CUDA"),
        (tiny_config(network="red_net"), "no network red_net"),
        (tiny_config(network="unet", patch=40), "unet takes images whose sides are multiples of 16; got patches of 40"),
        (tiny_config(patch=32, mac=SMALL_MAC), "32x32 pixels; with MAC-Net they need sides of 64 or more"),
        (tiny_config(growth=((0.5, 40, 2),), patch=64, mac=SMALL_MAC), "40x40 pixels; with MAC-Net"),
    ],
)
def test_settings_that_cannot_be_cost_nothing(a_set, tmp_path, config, message):
    with pytest.raises(InputError, match=message):
        fit(config, a_set, tmp_path / "run", device=CPU)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("file", ["P0.ldct.npy", "P1.ndct.npy", "P2.ldct.npy"])
def test_a_missing_file_of_any_split_shows_at_once(tmp_path, file):
    """That of a test patient too, and not after days of training."""
    folder = make_set(tmp_path / "set")
    (folder / file).unlink()
    for begin in (fit, dry_run):
        with pytest.raises(InputError, match=f"{file} is missing"):
            begin(tiny_config(), folder, tmp_path / "run", device=CPU)
    assert not (tmp_path / "run").exists()
