"""The files of a training: checkpoints, log.jsonl, TensorBoard's events, previews."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import sys

import numpy as np
import pytest
from PIL import Image
from trainer_fixtures import (
    CPU,
    interrupt_at,
    rows,
)
from training_fixtures import tiny_config

from ASCONDenoiseLib.errors import WriteError
from ASCONTrainingLib.trainer import run_folder, trainer
from ASCONTrainingLib.trainer.trainer import fit


def test_failed_write_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    run_folder.write(path, b"old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(errno.EROFS, "Read-only file system")))
    with pytest.raises(WriteError, match="Read-only file system"):
        run_folder.write(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_log_lines_after_the_checkpoint_are_taken_back(a_set, tmp_path, monkeypatch):
    """A kill between log and checkpoint leaves lines of steps that come again, and perhaps half a line."""
    monkeypatch.setattr(trainer, "LOG_EVERY", 1)
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
