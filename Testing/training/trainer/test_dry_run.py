"""The dry run: what it counts, and that it writes nothing."""

from __future__ import annotations

import shutil
import types
from dataclasses import replace

import pytest
from trainer_fixtures import (
    CPU,
)
from training_fixtures import SMALL_MAC, tiny_config

from ASCONDenoiseLib.errors import Failure
from ASCONTrainingLib.trainer import progress
from ASCONTrainingLib.trainer.dry_run import dry_run
from ASCONTrainingLib.trainer.training_state import TrainingState


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
    clock, train_step = types.SimpleNamespace(now=0.0), TrainingState.train_step

    def slow(self, ldct, ndct, fraction):
        clock.now += ldct.shape[-1] / 32
        return train_step(self, ldct, ndct, fraction)

    monkeypatch.setattr(TrainingState, "train_step", slow)
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock.now)
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

    monkeypatch.setattr(shutil, "disk_usage", lambda path: types.SimpleNamespace(free=1000))
    with pytest.raises(Failure, match="make room"):
        dry_run(tiny_config(), a_set, tmp_path / "run", device=CPU)
