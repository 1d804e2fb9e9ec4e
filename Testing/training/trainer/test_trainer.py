"""A training: resumed it is bit for bit the same, what stops it costs nothing, and its model opens in `ascon`."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import math
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from training_fixtures import SMALL_MAC, Tiny, make_set, tiny_config

from ASCONDenoiseLib.imaging import hounsfield, metrics
from ASCONDenoiseLib.models import files as models
from ASCONDenoiseLib.models import inference
from ASCONTrainingLib.config.settings import (
    PRESETS,
    ConfigError,
    LossConfig,
    OptimizerConfig,
    TrainConfig,
    learning_rate,
)
from ASCONTrainingLib.data.batches import Batches, Feed, Stage
from ASCONTrainingLib.data.training_set import DataError, TrainingSet, WholeSlices
from ASCONTrainingLib.method.perceptual import VGG19
from ASCONTrainingLib.trainer import run_folder, validation
from ASCONTrainingLib.trainer import trainer as training
from ASCONTrainingLib.trainer.distributed import Processes
from ASCONTrainingLib.trainer.dry_run import dry_run
from ASCONTrainingLib.trainer.run_folder import CheckpointError
from ASCONTrainingLib.trainer.trainer import Progress, TrainingError, fit
from ASCONTrainingLib.trainer.training_state import Learner, MixedPrecision, ProductOutput

PATHS = [str(Path(__file__).resolve().parents[3] / name) for name in ("ASCONDenoise", "ASCONTraining", "Testing")]
CPU = "cpu"


@pytest.fixture(scope="module")
def a_set(tmp_path_factory) -> Path:
    return make_set(tmp_path_factory.mktemp("sets") / "set")


@pytest.fixture(autouse=True)
def the_tiny_network(monkeypatch):
    monkeypatch.setitem(models.ARCHITECTURES, "tiny", Tiny)


def differences(a: Any, b: Any, place: str = "") -> list[str]:
    """Where two checkpoints differ in a single bit; seconds used are no part of the comparison."""
    if isinstance(a, dict) and isinstance(b, dict):
        keys = (a.keys() | b.keys()) - {"used_s"}
        return [d for key in sorted(keys, key=str) for d in differences(a.get(key), b.get(key), f"{place}/{key}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return [d for i, (x, y) in enumerate(zip(a, b, strict=True)) for d in differences(x, y, f"{place}/{i}")]
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return [] if a.dtype == b.dtype and torch.equal(a, b) else [place]
    return [] if type(a) is type(b) and a == b else [place]


def fingerprint(folder: Path, name: str) -> str:
    """That of a volume of `make_set`, as datasets.scan_fingerprints describes it."""
    middle = np.load(folder / f"{name}.ndct.npy")[2]
    return hashlib.sha256(b"64x64:" + middle.tobytes()).hexdigest()[:16]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def a_feed(a_set: Path) -> Feed:
    return Feed(Stage(0.0, TrainingSet(a_set, "train", 32), Batches(100, 2)), 0, 0, 0, torch.device(CPU))


def rows(run: Path, kind: str) -> list[dict]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if kind in line]


def interrupt_at(step: int):
    """Ctrl-C while this step is under way."""

    def progress(now: Progress) -> None:
        if now.step == step - 1:
            os.kill(os.getpid(), signal.SIGINT)

    return progress


# Resume


@pytest.mark.parametrize("stop", [2, 3], ids=["within an epoch", "at the end of an epoch"])
@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_training_is_the_uninterrupted_one(a_set, tmp_path, stop, workers):
    config = tiny_config(ema=0.9, doses=(0.1, 0.5), workers=workers)
    fit(config, a_set, tmp_path / "straight", device=CPU)
    with pytest.raises(KeyboardInterrupt):
        fit(config, a_set, tmp_path / "resumed", device=CPU, progress=interrupt_at(stop))
    assert run_folder.load(tmp_path / "resumed" / "last.pt")["step"] == stop
    fit(config, a_set, tmp_path / "resumed", device=CPU, resume=True)
    for name in ("last.pt", "best.pt"):
        straight, resumed = (run_folder.load(tmp_path / run / name) for run in ("straight", "resumed"))
        assert not differences(straight, resumed)
    assert straight["step"] in (3, 6)
    model = "ascon-pixel.safetensors"
    assert sha256(tmp_path / "straight" / model) == sha256(tmp_path / "resumed" / model)


@pytest.mark.parametrize("stop", [3, 4, 5, 7, 9])
def test_growing_images_and_resume_across_a_change_of_size(a_set, tmp_path, monkeypatch, stop):
    """Two epochs of 2 steps with images of 32, one of 3 with 48, one of 2 with 64: stopped within and between them."""
    monkeypatch.setattr(training, "LOG_EVERY", 1)
    learn, sizes = Learner.learn, []

    def seen(self, ldct, ndct, share):
        sizes.append((tuple(ldct.shape), round(share, 3)))
        return learn(self, ldct, ndct, share)

    monkeypatch.setattr(Learner, "learn", seen)
    config = tiny_config(epochs=4, steps_per_epoch=None, batch=50, growth=((0.5, 48, 12), (0.75, 64, 2)), ema=0.9)
    shapes = [(50, 1, 32, 32)] * 4 + [(12, 1, 48, 48)] * 3 + [(2, 1, 64, 64)] * 2
    shares = [0, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 1 / 2 + 1 / 12, 1 / 2 + 2 / 12, 3 / 4, 7 / 8]
    fit(config, a_set, tmp_path / "straight", device=CPU)
    assert sizes == [(shape, round(share, 3)) for shape, share in zip(shapes, shares, strict=True)]
    assert [row["epoch"] for row in rows(tmp_path / "straight", "learning_rate")] == [1, 1, 2, 2, 3, 3, 3, 4, 4]
    sizes.clear()
    with pytest.raises(KeyboardInterrupt):
        fit(config, a_set, tmp_path / "resumed", device=CPU, progress=interrupt_at(stop))
    fit(config, a_set, tmp_path / "resumed", device=CPU, resume=True)
    assert [shape for shape, _ in sizes] == shapes
    for name in ("last.pt", "best.pt"):
        straight, resumed = (run_folder.load(tmp_path / run / name) for run in ("straight", "resumed"))
        assert not differences(straight, resumed)


def test_stages_follow_the_budget_too(a_set, tmp_path, monkeypatch):
    """Of a budget of 10 s, an epoch of a step of a second each: from its half on the images are larger."""
    clock, learn, sizes = types.SimpleNamespace(now=0.0), Learner.learn, []

    def a_second(self, ldct, ndct, share):
        clock.now += 1
        sizes.append(ldct.shape[-1])
        return learn(self, ldct, ndct, share)

    monkeypatch.setattr(run_folder.time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(Learner, "learn", a_second)
    fit(
        tiny_config(epochs=99, steps_per_epoch=1, growth=((0.5, 64, 1),), minutes=10 / 60, validate_every=99),
        a_set,
        tmp_path / "run",
        device=CPU,
    )
    assert sizes == [32] * 5 + [64] * 5


def test_resumed_training_with_mac_net_is_the_uninterrupted_one(a_set, tmp_path):
    """MAC-Net's online and target networks, its optimiser and the queries' random state go on too."""
    config = tiny_config(mac=SMALL_MAC, precision="bf16", epochs=1, steps_per_epoch=6, batch=1, patch=64, ema=0.9)
    fit(config, a_set, tmp_path / "straight", device=CPU)
    with pytest.raises(KeyboardInterrupt):
        fit(config, a_set, tmp_path / "resumed", device=CPU, progress=interrupt_at(3))
    halfway = run_folder.load(tmp_path / "resumed" / "last.pt")
    fit(config, a_set, tmp_path / "resumed", device=CPU, resume=True)
    straight, resumed = (run_folder.load(tmp_path / run / "last.pt") for run in ("straight", "resumed"))
    assert not differences(straight, resumed)
    moved = differences(halfway, resumed)
    for part in ("/mac/target.trunk.enc1.0.weight", "/mac/online.trunk.enc1.0.weight", "/random/queries"):
        assert part in moved  # or equality would prove nothing
    assert any(place.startswith("/optimizer/state") for place in moved)


def test_a_checkpoint_holds_no_more_and_no_less(a_set):
    """The mirror image: a fresh learner that loads a state has that state."""
    config = tiny_config(mac=SMALL_MAC, ema=0.9, seed=1)
    learner = Learner(config, Processes(CPU))
    feed = a_feed(a_set)
    learner.learn(*feed.next(), 0.0)
    fresh = Learner(config, Processes(CPU))
    state = learner.state()
    assert differences(fresh.state(), state)
    fresh.load(state)
    assert not differences(fresh.state(), state)


@pytest.mark.parametrize(
    "preset", ["edcnn", *(pytest.param(name, marks=pytest.mark.slow) for name in ("cncl", "du_gan", "wgan_vgg"))]
)
def test_every_objective_goes_on_bit_for_bit(a_set, tmp_path, preset):
    """Three steps against one, a checkpoint through the disk, and two more; critics and their optimisers included."""
    loss = LossConfig(vgg_weights=str(tmp_path / "vgg19.pt"))
    if preset == "wgan_vgg":
        torch.save(VGG19().state_dict(), loss.vgg_weights)
    config = replace(PRESETS[preset], precision="fp32", loss=loss)
    images = [TrainingSet(a_set, "train", 64)[i] for i in range(3)]
    batches = [tuple(image[None] for image in pair) for pair in images]
    straight, begun = Learner(config, Processes(CPU)), Learner(config, Processes(CPU))
    losses = [straight.learn(*batch, 0.1 * i)["loss"] for i, batch in enumerate(batches)]
    begun.learn(*batches[0], 0.0)
    run_folder.save(begun.state(), tmp_path / "last.pt")
    resumed = Learner(replace(config, seed=config.seed), Processes(CPU))
    resumed.load(run_folder.load(tmp_path / "last.pt"))
    again = [resumed.learn(*batch, 0.1 * i)["loss"] for i, batch in enumerate(batches[1:], 1)]
    assert again == losses[1:] and len(set(losses)) == 3
    assert not differences(straight.state(), resumed.state())
    assert differences(begun.state(), resumed.state())


def test_log_lines_after_the_checkpoint_are_taken_back(a_set, tmp_path, monkeypatch):
    """A kill between log and checkpoint leaves lines of steps that come again, and perhaps half a line."""
    monkeypatch.setattr(training, "LOG_EVERY", 1)
    config = tiny_config()
    with pytest.raises(KeyboardInterrupt):
        fit(config, a_set, tmp_path / "run", device=CPU, progress=interrupt_at(3))
    with open(tmp_path / "run" / "log.jsonl", "a") as file:
        file.write('{"step": 4, "loss": 9}\n{"step": 5, "lo')
    fit(config, a_set, tmp_path / "run", device=CPU, resume=True)
    assert [row["step"] for row in rows(tmp_path / "run", "learning_rate")] == [1, 2, 3, 4, 5, 6]
    assert rows(tmp_path / "run", "learning_rate")[3]["loss"] != 9


def test_what_is_not_finite_is_null_in_the_log(tmp_path):
    log = run_folder.RunLog(tmp_path, 0, True, lambda text: None)
    log.write({"step": 1, "loss": 0.5, "gradient_norm": math.inf, "best": True})
    log.close()

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    line = json.loads((tmp_path / "log.jsonl").read_text(), parse_constant=refuse)
    assert line == {"step": 1, "loss": 0.5, "gradient_norm": None, "best": True}


CHILD = """
import os, signal, sys
sys.path[:0] = {paths!r}
from pathlib import Path
from training_fixtures import Tiny, tiny_config
from ASCONDenoiseLib.models import files as models
from ASCONTrainingLib.trainer.trainer import fit
models.ARCHITECTURES["tiny"] = Tiny
"""


def child(code: str) -> list[str]:
    return [sys.executable, "-c", CHILD.format(paths=PATHS) + textwrap.dedent(code)]


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX's")
def test_kill_in_the_middle_of_a_save_costs_one_epoch_at_most(a_set, tmp_path):
    """The file is half on the disk when the process dies; the one before it is whole, and resume starts there."""
    config = tiny_config(validate_every=9)
    fit(config, a_set, tmp_path / "straight", device=CPU)
    ended = subprocess.run(
        child(f"""
            sync, saved = os.fsync, []
            def die_in_the_second_epoch(descriptor):
                if "last.pt" in os.readlink(f"/proc/self/fd/{{descriptor}}"):
                    saved.append(1)
                    if len(saved) == 3:  # at the start, after the first epoch, after the second
                        os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
                        os.kill(os.getpid(), signal.SIGKILL)
                sync(descriptor)
            os.fsync = die_in_the_second_epoch
            fit(tiny_config(validate_every=9), {str(a_set)!r}, {str(tmp_path / "killed")!r}, device="cpu")
        """),
        capture_output=True,
        text=True,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    partial = tmp_path / "killed" / ".last.pt.partial"
    with pytest.raises(CheckpointError, match="cannot be read"):
        run_folder.load(partial)  # it was really in the middle
    assert run_folder.load(tmp_path / "killed" / "last.pt")["step"] == 3
    fit(config, a_set, tmp_path / "killed", device=CPU, resume=True)
    assert not differences(*(run_folder.load(tmp_path / run / "last.pt") for run in ("straight", "killed")))
    assert not partial.exists()


def test_sigterm_saves_too(a_set, tmp_path):
    """As a cluster's scheduler sends it."""
    with pytest.raises(KeyboardInterrupt):
        fit(
            tiny_config(),
            a_set,
            tmp_path / "run",
            device=CPU,
            progress=lambda now: os.kill(os.getpid(), signal.SIGTERM) if now.step == 1 else None,
        )
    assert run_folder.load(tmp_path / "run" / "last.pt")["step"] == 2
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL  # as before


def test_interrupt_during_validation_is_obeyed_and_the_validation_made_up_for(a_set, tmp_path, monkeypatch):
    config = tiny_config()
    fit(config, a_set, tmp_path / "straight", device=CPU)
    compare = validation.compare

    def interrupted(*args, **options):
        os.kill(os.getpid(), signal.SIGINT)
        return compare(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(validation, "compare", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fit(config, a_set, tmp_path / "run", device=CPU)
    assert not rows(tmp_path / "run", "validation")
    fit(config, a_set, tmp_path / "run", device=CPU, resume=True)
    assert [row["step"] for row in rows(tmp_path / "run", "validation")] == [3, 6]
    assert not differences(*(run_folder.load(tmp_path / run / "best.pt") for run in ("straight", "run")))


def test_signals_in_quick_succession_are_one(monkeypatch):
    """torchrun passes on the Ctrl-C that its processes have got already; a later one is meant."""
    clock = types.SimpleNamespace(now=100.0)
    monkeypatch.setattr(training.time, "monotonic", lambda: clock.now)
    with training._interruptible() as interrupted:
        assert not interrupted.is_set()
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupted.is_set()
        clock.now += 10
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_training_in_a_thread_cannot_catch_signals_and_does_without(a_set, tmp_path):
    done = []
    thread = threading.Thread(target=lambda: done.append(fit(tiny_config(), a_set, tmp_path / "run", device=CPU)))
    thread.start()
    thread.join()
    assert done[0].model.exists()


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"seed": 3}, "seed was 0 and is 3"),
        ({"mac": SMALL_MAC, "patch": 64}, "mac"),
        ({"patch": 40}, "patch was 32 and is 40"),
    ],
)
def test_resume_with_other_settings_is_refused(a_set, tmp_path, change, what):
    fit(tiny_config(epochs=1), a_set, tmp_path / "run", device=CPU)
    before = sha256(tmp_path / "run" / "last.pt")
    with pytest.raises(ConfigError, match=what):
        fit(tiny_config(epochs=1, **change), a_set, tmp_path / "run", device=CPU, resume=True)
    assert sha256(tmp_path / "run" / "last.pt") == before


def test_resume_may_go_on_for_more_epochs(a_set, tmp_path):
    fit(tiny_config(epochs=1), a_set, tmp_path / "run", device=CPU)
    fit(tiny_config(epochs=2), a_set, tmp_path / "run", device=CPU, resume=True)
    assert run_folder.load(tmp_path / "run" / "last.pt")["step"] == 6


def test_a_folder_with_a_training_is_not_overwritten(a_set, tmp_path):
    fit(tiny_config(epochs=1), a_set, tmp_path / "run", device=CPU)
    with pytest.raises(ConfigError, match="--resume"):
        fit(tiny_config(epochs=1), a_set, tmp_path / "run", device=CPU)


def test_resume_on_another_set_is_refused(a_set, tmp_path):
    fit(tiny_config(epochs=1), a_set, tmp_path / "run", device=CPU)
    other = make_set(tmp_path / "other", slices=5)
    with pytest.raises(DataError, match="same set"):
        fit(tiny_config(epochs=1), other, tmp_path / "run", device=CPU, resume=True)
    others = make_set(tmp_path / "others")  # as many images, of another scan
    np.save(others / "P0.ndct.npy", np.load(others / "P0.ndct.npy") + np.int16(1))
    with pytest.raises(DataError, match="100 training images.*with 100, or with others: continue with the same set"):
        fit(tiny_config(epochs=1), others, tmp_path / "run", device=CPU, resume=True)


def test_resume_keeps_the_name(a_set, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fit(tiny_config(), a_set, tmp_path / "run", device=CPU, name="mine", progress=interrupt_at(4))
    assert fit(tiny_config(), a_set, tmp_path / "run", device=CPU, resume=True).card.name == "mine"
    assert [path.stem for path in (tmp_path / "run").glob("*.safetensors")] == ["mine"]


def test_damaged_checkpoint_is_told(a_set, tmp_path):
    fit(tiny_config(epochs=1), a_set, tmp_path / "run", device=CPU)
    last = tmp_path / "run" / "last.pt"
    last.write_bytes(last.read_bytes()[:-300])
    with pytest.raises(CheckpointError, match=r"last\.pt cannot be read.*best\.pt"):
        fit(tiny_config(epochs=1), a_set, tmp_path / "run", device=CPU, resume=True)


# What stops a training


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
        with pytest.raises(CheckpointError, match="No space left on device.*holds step 3, from where --resume goes on"):
            fit(config, a_set, tmp_path / "full", device=CPU)
    assert not list((tmp_path / "full").glob(".*.partial"))
    assert run_folder.load(tmp_path / "full" / "last.pt")["step"] == 3
    fit(config, a_set, tmp_path / "full", device=CPU, resume=True)
    assert not differences(*(run_folder.load(tmp_path / run / "last.pt") for run in ("straight", "full")))


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
    with pytest.raises(CheckpointError, match=r"log\.jsonl could not be written \(No space left.*holds step 0"):
        fit(tiny_config(), a_set, tmp_path / "run", device=CPU)
    assert run_folder.load(tmp_path / "run" / "last.pt")["step"] == 0


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
        with pytest.raises(TrainingError, match=r"P0\.ndct\.npy: No such file.*last\.pt holds step 4"):
            fit(config, a_set, tmp_path / "lost", device=CPU)
    fit(config, a_set, tmp_path / "lost", device=CPU, resume=True)
    assert not differences(*(run_folder.load(tmp_path / run / "last.pt") for run in ("straight", "lost")))


def test_loss_that_is_not_finite_stops_with_its_batch(a_set, tmp_path, monkeypatch):
    item, config = TrainingSet.item, tiny_config(epochs=3, steps_per_epoch=2)
    keys = [key for epoch in range(2) for batch in Batches(100, 2, 0, 2, epoch=epoch) for key in batch]
    bad = keys[6]  # in the fourth step

    def poisoned(self, index, epoch=0, turn=0):
        ldct, ndct = item(self, index, epoch, turn)
        return (ldct * math.nan, ndct) if (epoch, turn, index) == bad else (ldct, ndct)

    monkeypatch.setattr(TrainingSet, "item", poisoned)
    assert len(TrainingSet(a_set, "train", 32)) == 100
    with pytest.raises(TrainingError, match=r"nan.*step 4.*failed-batch-0\.pt.*last\.pt holds step 2.*begin anew"):
        fit(config, a_set, tmp_path / "run", device=CPU)
    saved = run_folder.load(tmp_path / "run" / "failed-batch-0.pt")
    assert saved["step"] == 3 and torch.isnan(saved["ldct"]).any() and not torch.isnan(saved["ndct"]).any()
    state = run_folder.load(tmp_path / "run" / "last.pt")
    assert state["step"] == 2 and all(torch.isfinite(w).all() for w in state["network"].values())


def test_too_little_memory_is_told(a_set, tmp_path, monkeypatch):
    def too_much(*_):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: ...")

    monkeypatch.setattr(Learner, "learn", too_much)
    with pytest.raises(TrainingError, match="not enough memory for a batch of 2 images of 32x32 on cpu.*smaller batch"):
        fit(tiny_config(), a_set, tmp_path / "run", device=CPU)
    with pytest.raises(TrainingError, match="smaller batch"):
        dry_run(tiny_config(), a_set, tmp_path / "run", device=CPU)


def test_other_errors_are_not_taken_for_too_little_memory(a_set, tmp_path, monkeypatch):
    def wrong(*_):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(Learner, "learn", wrong)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        fit(tiny_config(), a_set, tmp_path / "run", device=CPU)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (tiny_config(precision="fp16"), "fp16 is for CUDA"),
        (tiny_config(network="red_net"), "no network red_net"),
        (
            tiny_config(network="cncl", objective="cncl", loss=LossConfig(), fit_gain=True),
            "cncl has none of that name",
        ),
        (tiny_config(network="unet", patch=40), "unet takes images whose sides are multiples of 16; got patches of 40"),
        (tiny_config(objective="gan", loss=LossConfig()), "no objective gan; there are ascon"),
        (tiny_config(patch=32, mac=SMALL_MAC), "32x32 pixels; with MAC-Net they need sides of 64 or more"),
        (tiny_config(growth=((0.5, 40, 2),), patch=64, mac=SMALL_MAC), "40x40 pixels; with MAC-Net"),
    ],
)
def test_settings_that_cannot_be_cost_nothing(a_set, tmp_path, config, message):
    with pytest.raises(ConfigError, match=message):
        fit(config, a_set, tmp_path / "run", device=CPU)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("file", ["P0.ldct.npy", "P1.ndct.npy", "P2.ldct.npy"])
def test_a_missing_file_of_any_split_shows_at_once(tmp_path, file):
    """That of a test patient too, and not after days of training."""
    folder = make_set(tmp_path / "set")
    (folder / file).unlink()
    for begin in (fit, dry_run):
        with pytest.raises(DataError, match=f"{file} is missing"):
            begin(tiny_config(), folder, tmp_path / "run", device=CPU)
    assert not (tmp_path / "run").exists()


def test_failed_write_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    run_folder.write_whole(path, b"old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(errno.EROFS, "Read-only file system")))
    with pytest.raises(CheckpointError, match="Read-only file system"):
        run_folder.write_whole(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


# Schedule, average, precision, order


@pytest.mark.parametrize("steps", [7, 100])
def test_schedule_is_cosine_annealing(steps):
    """PyTorch's own, step by step, from the first rate to the last."""
    config = OptimizerConfig(learning_rate=1e-3, last_learning_rate=1e-5)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1e-3)
    oracle = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=1e-5)
    for step in range(steps + 1):
        assert learning_rate(config, step / steps) == pytest.approx(oracle.get_last_lr()[0], rel=1e-6)
        optimizer.step()
        oracle.step()


def test_warm_up_is_linear_and_meets_the_cosine():
    config = OptimizerConfig(learning_rate=1e-3, last_learning_rate=0.0, warm_up=0.1)
    assert learning_rate(config, 0.05) == pytest.approx(5e-4)
    assert 0 < learning_rate(config, 0.0) < 1e-5
    assert learning_rate(config, 0.0999999) == pytest.approx(learning_rate(config, 0.1), rel=1e-5)
    assert learning_rate(config, 0.55) == pytest.approx(5e-4)  # the middle of the cosine
    assert learning_rate(config, 0.55, start=2e-3) == pytest.approx(1e-3)


@pytest.mark.parametrize("per_epoch", [True, False])
def test_rate_moves_once_an_epoch_or_with_every_step(a_set, tmp_path, monkeypatch, per_epoch):
    monkeypatch.setattr(training, "LOG_EVERY", 1)
    optimizer = OptimizerConfig(learning_rate=1e-2, last_learning_rate=0.0, per_epoch=per_epoch)
    fit(tiny_config(optimizer=optimizer), a_set, tmp_path / "run", device=CPU)
    found = [row["learning_rate"] for row in rows(tmp_path / "run", "learning_rate")]
    shares = [0, 0, 0, 3, 3, 3] if per_epoch else range(6)
    assert found == pytest.approx([0.005 * (1 + math.cos(math.pi * share / 6)) for share in shares])


def test_both_optimisers_follow_the_schedule(a_set):
    """MAC-Net's too, from a rate of its own."""
    optimizer = OptimizerConfig(1e-2, 0.0, (0.9, 0.99), per_epoch=False, mac_learning_rate=0.5)
    learner = Learner(tiny_config(mac=SMALL_MAC, optimizer=optimizer), Processes(CPU))
    feed = a_feed(a_set)
    learner.learn(*feed.next(), 0.5)
    assert learner.learning_rate == pytest.approx(0.5e-2)
    mac_optimizer = learner.objective.parts["mac_optimizer"]
    assert mac_optimizer.param_groups[0]["lr"] == pytest.approx(0.25)
    assert isinstance(learner.optimizer, torch.optim.AdamW) and isinstance(mac_optimizer, torch.optim.SGD)
    assert mac_optimizer.param_groups[0]["momentum"] == 0


def test_budget_ends_the_training_and_the_schedule_follows_its_share(a_set, tmp_path, monkeypatch):
    """A clock of one second a step: a budget of 5 s ends a training of 300 steps after the fifth."""
    clock = types.SimpleNamespace(now=0.0)
    monkeypatch.setattr(run_folder.time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(training, "LOG_EVERY", 1)
    learn = Learner.learn

    def a_second(*args):
        clock.now += 1
        return learn(*args)

    monkeypatch.setattr(Learner, "learn", a_second)
    optimizer = OptimizerConfig(learning_rate=1e-2, last_learning_rate=0.0, per_epoch=False)
    config = tiny_config(steps_per_epoch=150, minutes=5 / 60, optimizer=optimizer)
    said: list[str] = []
    trained = fit(config, a_set, tmp_path / "run", device=CPU, say=said.append)
    found = [row["learning_rate"] for row in rows(tmp_path / "run", "learning_rate")]
    assert found == pytest.approx([0.005 * (1 + math.cos(math.pi * share / 5)) for share in range(5)])
    assert [row["step"] for row in rows(tmp_path / "run", "validation")] == [5]
    assert trained.model.exists() and "ended after step 5 of 300" in said[-2]


def test_a_loss_that_comes_later_comes_at_its_share(a_set, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "LOG_EVERY", 1)
    loss = LossConfig(mse_weight=1.0, ssim_weight=0.0, local_mean_weight=1.0, local_mean_from=0.5)
    fit(tiny_config(loss=loss), a_set, tmp_path / "run", device=CPU)
    assert ["local_mean" in row for row in rows(tmp_path / "run", "learning_rate")] == [False] * 3 + [True] * 3


def test_average_is_that_of_the_formula(a_set, tmp_path):
    """mean = keep * mean + (1 - keep) * weights, keep rising to `ema` over the first steps."""
    config = tiny_config(ema=0.3)
    learner = Learner(config, Processes(CPU))
    feed = a_feed(a_set)
    mean = learner.average.last.weight.clone()
    for step in range(8):
        learner.learn(*feed.next(), 0.0)
        keep = min(0.3, step / (step + 10))
        mean = keep * mean + (1 - keep) * learner.network.last.weight.detach()
    assert torch.allclose(learner.average.last.weight, mean, rtol=1e-5)
    assert not torch.allclose(learner.average.last.weight, learner.network.last.weight, rtol=1e-3)


def test_last_layer_keeps_fp32_under_autocast():
    """With bfloat16 up to the end an image near 1 is known to 1 / 256, 12 HU; here only the features are."""
    torch.manual_seed(0)
    network, x = Tiny(), torch.rand(2, 1, 16, 16)
    nn.init.ones_(network.last.bias)
    exact = network(x)
    with torch.autocast("cpu", torch.bfloat16):
        coarse, kept = network(x), MixedPrecision(network)(x)
        features = network.features(x)
    assert coarse.dtype == torch.bfloat16 and features.dtype == torch.bfloat16 and kept.dtype == torch.float32
    assert torch.equal(kept, network.last(features.float()))
    assert not torch.equal(kept, kept.bfloat16().float())
    assert 2 * (kept - exact).abs().max() < (coarse - exact).abs().max()


def test_product_output_is_what_inference_makes_of_the_network():
    """Air whose noise is cut off, metal, and what lies in the window, against the product's own inference."""
    torch.manual_seed(0)
    network = Tiny().eval()
    x_hu = np.random.default_rng(0).integers(-1000, 3000, (1, 32, 32)).astype(np.float32)
    x_hu[:, :8] = -1010  # below the window, above padding
    wanted = inference.denoise(x_hu, network, device=CPU).voxels
    with torch.no_grad():
        found = ProductOutput(network)(torch.from_numpy(hounsfield.to_unit(x_hu))[:, None])
    assert np.allclose(hounsfield.to_hu(found[:, 0].numpy()), wanted, atol=1e-2)
    assert (x_hu >= 2000).any() and np.abs(wanted - x_hu)[x_hu < 2000].max() > 100


def test_product_output_is_trained_on_unclipped_pairs(tmp_path, monkeypatch):
    """Air of -1000 HU and its noise: the objective sees y = x + G(c) - c and the NDCT as they are."""
    folder = make_set(tmp_path / "set")
    for what in ("ldct", "ndct"):
        np.save(folder / f"P0.{what}.npy", np.load(folder / f"P0.{what}.npy") - 1100)
    config = tiny_config(loss=LossConfig(mse_weight=1.0, ssim_weight=0.0, product_output=True), epochs=1)
    learn, seen = Learner.learn, []

    def told(self, ldct, ndct, share):
        with torch.no_grad():
            clipped = ldct.clamp(0, 1)
            y = torch.where(ldct < 1, ldct + self.network(clipped) - clipped, ldct)
        seen.append((learn(self, ldct, ndct, share)["mse"], (y - ndct).square().mean().item()))
        assert ldct.min() < 0 and ndct.min() < 0
        return {"loss": seen[-1][0]}

    monkeypatch.setattr(Learner, "learn", told)
    fit(config, folder, tmp_path / "run", device=CPU)
    assert len(seen) == 3 and all(mse == pytest.approx(wanted, rel=1e-4) for mse, wanted in seen)


def test_fitted_gain_is_the_least_squares_one(a_set):
    pairs = WholeSlices(a_set, "train")
    ldct, ndct = (np.stack([getattr(p, name).astype(float) for p in pairs]) for name in ("ldct_hu", "ndct_hu"))

    class TooBright(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 1.02 * x

    output, wanted = 1.02 * (ldct.ravel() + 1000) / 3000, (ndct.ravel() + 1000) / 3000
    (oracle,), *_ = np.linalg.lstsq(output[:, None], wanted, rcond=None)
    assert validation.fitted_gain(pairs, TooBright()) == pytest.approx(oracle, rel=1e-6)
    assert oracle == pytest.approx(1 / 1.02, rel=2e-3)


def test_gain_is_fitted_at_the_end_and_told(a_set, tmp_path):
    said: list[str] = []
    trained = fit(tiny_config(fit_gain=True), a_set, tmp_path / "run", device=CPU, say=said.append)
    best = run_folder.load(tmp_path / "run" / "best.pt")["network"]
    network = Tiny()
    network.load_state_dict(best)
    gain = validation.fitted_gain(WholeSlices(a_set, "train"), network)
    shipped = models.load_network(trained.model)[0].state_dict()
    assert torch.allclose(shipped["last.weight"], gain * best["last.weight"])
    assert torch.allclose(shipped["last.bias"], gain * best["last.bias"])
    assert torch.equal(shipped["first.weight"], best["first.weight"]) and abs(gain - 1) > 1e-4
    written = trained.card.metrics["training"]["gain of the last layer, fitted on training slices"]
    assert written == pytest.approx(gain, abs=1e-5) and any(f"{100 * (gain - 1):+.2f} %" in text for text in said)
    assert json.loads((tmp_path / "run" / "results.json").read_text())["gain"] == pytest.approx(gain)


def test_doses_are_those_of_the_card(a_set, tmp_path):
    trained = fit(tiny_config(doses=(0.1, 0.5)), a_set, tmp_path / "run", device=CPU)
    assert trained.card.dose == "0.1 to 0.5, simulated"


@pytest.mark.parametrize("workers", [0, 3])
def test_feed_gives_the_batches_in_order_from_any_step(a_set, workers):
    items = TrainingSet(a_set, "train", 32, seed=4)
    stage = Stage(0.0, items, Batches(len(items), 2, seed=4, steps=3))
    feed = Feed(stage, 1, 1, workers, torch.device(CPU))
    for epoch, start in ((1, 1), (1, 2), (2, 0), (2, 1)):
        keys = next(iter(Batches(len(items), 2, seed=4, steps=3, epoch=epoch, start=start)))
        expected = [torch.stack(images) for images in zip(*(items[key] for key in keys), strict=True)]
        assert all(torch.equal(got, wanted) for got, wanted in zip(feed.next(), expected, strict=True))
    feed.close()


def test_training_may_begin_with_a_model(a_set, tmp_path):
    """With a rate of next to nothing the weights stay; resumed, the model is not needed any more."""
    other = make_set(tmp_path / "other")
    for patient in ("P0", "P1"):
        np.save(other / f"{patient}.ndct.npy", np.load(other / f"{patient}.ndct.npy") + np.int16(1))
    begun = fit(tiny_config(epochs=1), other, tmp_path / "first", device=CPU, name="first").model
    optimizer = OptimizerConfig(learning_rate=1e-30, last_learning_rate=0.0, weight_decay=0.0)
    config = tiny_config(seed=5, initial=str(begun), optimizer=optimizer, ema=0.9)
    with pytest.raises(KeyboardInterrupt):
        fit(config, a_set, tmp_path / "second", device=CPU, progress=interrupt_at(4))
    first = begun.read_bytes()
    begun.unlink()
    trained = fit(config, a_set, tmp_path / "second", device=CPU, resume=True)
    begun.write_bytes(first)
    networks = [models.load_network(path)[0].state_dict() for path in (begun, trained.model)]
    assert not differences(dict(networks[0]), dict(networks[1]))
    assert trained.card.training_data[-1] == "begun with the model first"
    assert trained.card.scans == {
        "train": sorted(fingerprint(folder, "P0") for folder in (a_set, other)),
        "validation": sorted(fingerprint(folder, "P1") for folder in (a_set, other)),
    }
    with pytest.raises(ConfigError, match="is of the network tiny"):
        fit(replace(config, network="esau_net"), a_set, tmp_path / "third", device=CPU)
    assert not (tmp_path / "third").exists()


def test_a_model_begun_with_one_that_lists_no_scans_says_so(a_set, tmp_path):
    begun = fit(tiny_config(epochs=1), a_set, tmp_path / "first", device=CPU, name="first").model
    card = models.load_card(begun)
    models.save_model(models.load_network(begun)[0], replace(card, metrics={}), begun)
    trained = fit(tiny_config(epochs=1, initial=str(begun)), a_set, tmp_path / "second", device=CPU)
    seen = {"train": [fingerprint(a_set, "P0")], "validation": [fingerprint(a_set, "P1")]}
    assert trained.card.scans == seen | {"unlisted": ["first"]}


# Validation


def test_validation_is_in_fp32_whatever_the_device_is_fast_at(a_set, monkeypatch):
    class Fast(Tiny):
        def mixed(self, dtype: torch.dtype) -> nn.Module:
            raise AssertionError("asked for a bf16 copy")

    monkeypatch.setattr(inference, "mixed_dtype", lambda device: torch.bfloat16)
    pairs, network = WholeSlices(a_set, "validation"), Fast()
    with pytest.raises(AssertionError, match="bf16"):
        inference.denoise(pairs[0].ldct_hu[None], network, device=CPU)
    assert len(validation.compare(pairs, network).rows) == 4
    assert (
        math.isfinite(validation.fitted_gain(pairs, network))
        and validation.preview(network, pairs[0], device=CPU).any()
    )


def test_comparison_of_the_ldct_is_the_naive_one(a_set):
    pairs = WholeSlices(a_set, "test")
    found = validation.compare(pairs, name="LDCT")
    for pair, row in zip(pairs, found.rows, strict=True):
        ldct, ndct = ((np.clip(i.astype(float), -1000, 2000) + 1000) / 3000 for i in (pair.ldct_hu, pair.ndct_hu))
        assert row.psnr_db == pytest.approx(-10 * math.log10(np.mean((ldct - ndct) ** 2)))
        assert row.rmse == pytest.approx(math.sqrt(np.mean((ldct - ndct) ** 2)))
    assert [row.index for row in found.rows] == [pair.index for pair in pairs] and len(found.rows) == 4


def test_comparison_of_a_network_is_that_of_its_clipped_input(a_set):
    """Nothing but clip, network, metrics: the prediction itself is not clipped."""

    class Brighter(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 30 / 3000

    pairs = WholeSlices(a_set, "test")
    found = validation.compare(pairs, Brighter(), limit=2)
    assert len(found.rows) == 2
    for row in found.rows:
        pair = next(pair for pair in pairs if pair.index == row.index)
        difference = np.clip(pair.ldct_hu, -1000, 2000).astype(float) + 30 - np.clip(pair.ndct_hu, -1000, 2000)
        assert row.rmse_hu == pytest.approx(math.sqrt(np.mean(difference**2)), rel=1e-5)
    assert found.scale == metrics.PAPER and not found.clip_test


@pytest.mark.parametrize(
    ("count", "limit", "expected"), [(4, None, [0, 1, 2, 3]), (4, 9, [0, 1, 2, 3]), (9, 3, [1, 4, 7])]
)
def test_evenly_spaced(count, limit, expected):
    assert validation.evenly_spaced(count, limit).tolist() == expected


def test_preview_is_four_pictures_in_a_row(a_set):
    pair = WholeSlices(a_set, "test")[0]
    row = validation.preview(nn.Identity(), pair, device=CPU)
    ldct, denoised, ndct, difference = np.split(row, 4, axis=1)
    assert np.array_equal(ldct, hounsfield.to_gray(pair.ldct_hu, (-160, 240))) and np.array_equal(ldct, denoised)
    assert np.array_equal(ndct, hounsfield.to_gray(pair.ndct_hu, (-160, 240)))
    assert np.array_equal(difference, hounsfield.to_gray(pair.ldct_hu.astype(float) - pair.ndct_hu, (-100, 100)))


# What a run leaves


def test_run_folder_and_model(a_set, tmp_path):
    said: list[str] = []
    config = tiny_config(ema=0.5)
    trained = fit(config, a_set, tmp_path / "run", device=CPU, name="mine", say=said.append)
    run = tmp_path / "run"
    assert TrainConfig.from_dict(json.loads((run / "config.json").read_text())["config"]) == config
    losses = rows(run, "learning_rate")
    assert [row["epoch"] for row in losses] == [1, 2] and losses[1]["loss"] < losses[0]["loss"]
    assert [row["step"] for row in rows(run, "validation")] == [3, 6]
    assert [path.name for path in sorted((run / "previews").iterdir())] == ["0000003.png", "0000006.png"]
    assert any("PSNR" in text for text in said)

    network, card = models.load_network(run / "mine.safetensors")
    assert card == trained.card and card.dose == "0.25, simulated" and card.preset == "pixel"
    best = run_folder.load(run / "best.pt")
    assert not differences(dict(network.state_dict()), dict(best["average"]))
    pair = WholeSlices(a_set, "test")[0]
    denoised = inference.denoise(pair.ldct_hu[None], network, device=CPU).voxels
    row = trained.comparisons[1].rows[0]
    assert metrics.compare(pair.ndct_hu[None], denoised).rows[0].psnr_db == pytest.approx(row.psnr_db, abs=0.05)
    assert trained.split == "test" and len(trained.comparisons[1].rows) == 4
    assert "LDCT" in trained.table() and "mine" in trained.table() and "PSNR" in trained.table()
    assert card.metrics["test slices, mine"]["psnr_db"][0] == pytest.approx(
        trained.comparisons[1].mean_sd("psnr_db")[0]
    )


def test_best_is_the_best_and_not_the_last(a_set, tmp_path, monkeypatch):
    """PSNR of 30, 20 and 25 dB: the model is that of the first validation."""
    compare, psnrs = validation.compare, iter([30.0, 20.0, 25.0])

    def told(slices, network=None, **options):
        found = compare(slices, network, **options)
        if network is None or options.get("limit") is None:
            return found
        return replace(found, rows=tuple(replace(row, psnr_db=psnr) for psnr in [next(psnrs)] for row in found.rows))

    monkeypatch.setattr(validation, "compare", told)
    trained = fit(tiny_config(epochs=3), a_set, tmp_path / "run", device=CPU)
    best, last = (run_folder.load(tmp_path / "run" / name) for name in ("best.pt", "last.pt"))
    assert (best["step"], last["step"], last["best_psnr_db"]) == (3, 9, 30.0)
    network, _ = models.load_network(trained.model)
    assert not differences(dict(network.state_dict()), dict(best["network"]))


def test_set_without_validation_and_test_gives_the_last_network(tmp_path):
    alone = make_set(tmp_path / "set", ("train",))
    trained = fit(tiny_config(), alone, tmp_path / "run", device=CPU)
    network, _ = models.load_network(trained.model)
    last = run_folder.load(tmp_path / "run" / "last.pt")
    assert not differences(dict(network.state_dict()), dict(last["network"]))
    assert trained.comparisons == () and "nothing to measure" in trained.table()


def test_without_tensorboard_it_says_so_once_and_goes_on(a_set, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    said: list[str] = []
    fit(tiny_config(), a_set, tmp_path / "run", device=CPU, say=said.append)
    assert sum(text.startswith("tensorboard is not installed") for text in said) == 1


def test_tensorboard_gets_losses_metrics_and_previews(a_set, tmp_path):
    """Read back with TensorBoard itself, from a training that was interrupted: events of steps that came again once."""
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed"
    )
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        fit(tiny_config(), a_set, run, device=CPU, progress=interrupt_at(5))
    fit(tiny_config(), a_set, run, device=CPU, resume=True)
    events = accumulator.EventAccumulator(str(run), size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    for name, column in (("loss/loss", "loss"), ("loss/mse", "mse"), ("learning_rate", "learning_rate")):
        logged = {row["step"]: row[column] for row in rows(run, "learning_rate")}
        found = {event.step: event.value for event in events.Scalars(name)}
        assert {3, 6} <= found.keys() and found == pytest.approx(logged, rel=1e-5)
    measured = {row["step"]: row["validation"] for row in rows(run, "validation")}
    for name in ("psnr_db", "ssim", "rmse", "ldct_psnr_db"):
        found = [(event.step, event.value) for event in events.Scalars(f"validation/{name}")]
        assert [step for step, _ in found] == [3, 6]
        assert [value for _, value in found] == pytest.approx([measured[step][name] for step in (3, 6)], rel=1e-5)
    previews = events.Images("LDCT, denoised, NDCT, difference")
    assert [event.step for event in previews] == [3, 6]
    for event in previews:
        shown = np.asarray(Image.open(io.BytesIO(event.encoded_image_string)).convert("L"))
        assert np.array_equal(shown, np.asarray(Image.open(run / "previews" / f"{event.step:07}.png")))
        assert shown.shape == (64, 256)


def test_dry_run_counts_and_writes_nothing(a_set, tmp_path):
    config = tiny_config(epochs=5, steps_per_epoch=None, batch=1, patch=64, mac=SMALL_MAC)
    found = dry_run(config, a_set, tmp_path / "run", device=CPU)
    (stage,) = found.stages
    assert (stage.images, stage.steps, stage.sides, stage.batch, found.validations) == (4, 5 * 4, (64, 64), 1, 5)
    assert found.total_s == pytest.approx(stage.steps * stage.step_s + 5 * found.validation_s)
    assert found.checkpoint_bytes > 4 * 2 * 7_822_016 and found.peak_bytes > found.checkpoint_bytes
    assert "20 steps" in found.text() and "training images: 4 of 64x64, 1 a step" in found.text()
    assert not (tmp_path / "run").exists()


def test_dry_run_knows_stages_and_budget(a_set, tmp_path, monkeypatch):
    """A clock on which a step takes 1 s with patches of 32, 2 s with those of 64."""
    clock, learn = types.SimpleNamespace(now=0.0), Learner.learn

    def slow(self, ldct, ndct, share):
        clock.now += ldct.shape[-1] / 32
        return learn(self, ldct, ndct, share)

    monkeypatch.setattr(Learner, "learn", slow)
    monkeypatch.setattr(run_folder.time, "monotonic", lambda: clock.now)
    config = tiny_config(epochs=10, steps_per_epoch=30, growth=((0.6, 64, 1),))
    free, short = (dry_run(c, a_set, tmp_path, device=CPU) for c in (config, replace(config, minutes=2.0)))
    assert [(s.steps, s.step_s, s.sides, s.batch) for s in free.stages] == [
        (180, 1, (32, 32), 2),
        (120, 2, (64, 64), 1),
    ]
    assert (free.total_s, free.validations) == (180 + 240, 10)
    assert [stage.steps for stage in short.stages] == [72, 24]  # 0.6 of 120 s by 1 s, 0.4 of them by 2 s
    assert (short.total_s, short.validations) == (120, 4)
    assert "180 steps of 1.000 s, 120 steps of 2.000 s" in free.text() and "about 7 min" in free.text()


def test_dry_run_refuses_a_full_disk(a_set, tmp_path, monkeypatch):
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda path: types.SimpleNamespace(free=1000))
    with pytest.raises(TrainingError, match="make room"):
        dry_run(tiny_config(), a_set, tmp_path / "run", device=CPU)


# Several processes


def torchrun(code: str, count: int) -> subprocess.CompletedProcess:
    """`count` processes with gloo, as torchrun starts them; the first one's output."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(count):
        settings = {"WORLD_SIZE": count, "RANK": rank, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1"}
        environment = os.environ | {name: str(value) for name, value in settings.items()}
        environment |= {"MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
        started.append(subprocess.Popen(child(code), env=environment, stderr=subprocess.PIPE, text=True))
    errors = [process.communicate(timeout=120)[1] for process in started]
    assert not any(process.returncode for process in started), errors
    return started[0]


def test_two_processes_are_one_with_the_same_global_batch(a_set, tmp_path):
    """The denoiser alone: its losses are means over images, and gradients means over processes."""
    code = """
        from dataclasses import replace
        from ASCONTrainingLib.trainer import trainer as training
        training.LOG_EVERY = 1
        trained = fit(tiny_config(batch=4, ema=0.9), {data!r}, {run!r}, device="cpu")
        assert (trained is None) == (os.environ.get("RANK", "0") != "0")
    """
    one, two = tmp_path / "one", tmp_path / "two"
    torchrun(code.format(data=str(a_set), run=str(two)), 2)
    subprocess.run(child(code.format(data=str(a_set), run=str(one))), check=True)
    losses = [[row["loss"] for row in rows(run, "learning_rate")] for run in (one, two)]
    assert len(losses[0]) == 6 and losses[1] == pytest.approx(losses[0], rel=1e-5)
    states = [run_folder.load(run / "last.pt") for run in (one, two)]
    for part in ("network", "average"):
        for name, weight in states[0][part].items():
            assert torch.allclose(states[1][part][name], weight, rtol=1e-4, atol=1e-6), f"{part} {name}"
    validated = [[row["validation"]["psnr_db"] for row in rows(run, "validation")] for run in (one, two)]
    assert validated[1] == pytest.approx(validated[0], abs=1e-3)


@pytest.mark.slow
def test_mac_net_stays_the_same_in_two_processes(a_set, tmp_path):
    """Not that of one process (each BatchNorm sees its half on the CPU), but one and the same in both."""
    code = f"""
        import hashlib
        from training_fixtures import SMALL_MAC
        from ASCONTrainingLib.trainer.training_state import Learner
        learn = Learner.learn
        def told(self, *args):
            found = learn(self, *args)
            weights = b"".join(w.detach().numpy().tobytes() for w in self.objective.parts["mac"].parameters())
            folder = Path({str(tmp_path)!r})
            (folder / f"{{os.environ['RANK']}}-{{self.step}}").write_text(hashlib.sha256(weights).hexdigest())
            return found
        Learner.learn = told
        config = tiny_config(batch=2, patch=64, epochs=1, mac=SMALL_MAC)
        fit(config, {str(a_set)!r}, {str(tmp_path / "run")!r}, device="cpu")
    """
    torchrun(code, 2)
    hashes = [[(tmp_path / f"{rank}-{step}").read_text() for step in (1, 2, 3)] for rank in (0, 1)]
    assert hashes[0] == hashes[1] and len(set(hashes[0])) == 3
