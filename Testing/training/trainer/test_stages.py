"""Stages: images that grow, with the steps or with the budget."""

from __future__ import annotations

import math
import types
from dataclasses import replace

import pytest
from trainer_fixtures import (
    CPU,
    differences,
    fingerprint,
    interrupt_at,
    rows,
)
from training_fixtures import tiny_config

from ASCONDenoiseLib.models.files import load_network
from ASCONTrainingLib.config.settings import OptimizerConfig
from ASCONTrainingLib.data.set_index import read_index
from ASCONTrainingLib.trainer import progress, trainer
from ASCONTrainingLib.trainer.distributed import Processes
from ASCONTrainingLib.trainer.model_card import scope
from ASCONTrainingLib.trainer.run_folder import load_checkpoint
from ASCONTrainingLib.trainer.stages import open_stages
from ASCONTrainingLib.trainer.trainer import fit
from ASCONTrainingLib.trainer.training_state import TrainingState


@pytest.mark.parametrize("stop", [3, 4, 5, 7, 9])
def test_growing_images_and_resume_across_a_change_of_size(a_set, tmp_path, monkeypatch, stop):
    """Two epochs of 2 steps with images of 32, one of 3 with 48, one of 2 with 64: stopped within and between them."""
    monkeypatch.setattr(trainer, "LOG_EVERY", 1)
    train_step, sizes = TrainingState.train_step, []

    def seen(self, ldct, ndct, fraction):
        sizes.append((tuple(ldct.shape), round(fraction, 3)))
        return train_step(self, ldct, ndct, fraction)

    monkeypatch.setattr(TrainingState, "train_step", seen)
    config = tiny_config(epochs=4, steps_per_epoch=None, batch=50, growth=((0.5, 48, 12), (0.75, 64, 2)), ema=0.9)
    shapes = [(50, 1, 32, 32)] * 4 + [(12, 1, 48, 48)] * 3 + [(2, 1, 64, 64)] * 2
    fractions = [0, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 1 / 2 + 1 / 12, 1 / 2 + 2 / 12, 3 / 4, 7 / 8]
    fit(config, a_set, tmp_path / "straight", device=CPU)
    assert sizes == [(shape, round(fraction, 3)) for shape, fraction in zip(shapes, fractions, strict=True)]
    assert [row["epoch"] for row in rows(tmp_path / "straight", "learning_rate")] == [1, 1, 2, 2, 3, 3, 3, 4, 4]
    sizes.clear()
    with pytest.raises(KeyboardInterrupt):
        fit(config, a_set, tmp_path / "resumed", device=CPU, progress=interrupt_at(stop))
    fit(config, a_set, tmp_path / "resumed", device=CPU, resume=True)
    assert [shape for shape, _ in sizes] == shapes
    for name in ("last.pt", "best.pt"):
        straight, resumed = (load_checkpoint(tmp_path / run / name) for run in ("straight", "resumed"))
        assert not differences(straight, resumed)


def test_stages_follow_the_budget_too(a_set, tmp_path, monkeypatch):
    """Of a budget of 10 s, an epoch of a step of a second each: from its half on the images are larger."""
    clock, train_step, sizes = types.SimpleNamespace(now=0.0), TrainingState.train_step, []

    def a_second(self, ldct, ndct, fraction):
        clock.now += 1
        sizes.append(ldct.shape[-1])
        return train_step(self, ldct, ndct, fraction)

    monkeypatch.setattr(progress.time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(TrainingState, "train_step", a_second)
    fit(
        tiny_config(epochs=99, steps_per_epoch=1, growth=((0.5, 64, 1),), minutes=10 / 60, validate_every=99),
        a_set,
        tmp_path / "run",
        device=CPU,
    )
    assert sizes == [32] * 5 + [64] * 5


def test_budget_ends_the_training_and_the_schedule_follows_its_share(a_set, tmp_path, monkeypatch):
    """A clock of one second a step: a budget of 5 s ends a training of 300 steps after the fifth."""
    clock = types.SimpleNamespace(now=0.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(trainer, "LOG_EVERY", 1)
    train_step = TrainingState.train_step

    def a_second(*args):
        clock.now += 1
        return train_step(*args)

    monkeypatch.setattr(TrainingState, "train_step", a_second)
    optimizer = OptimizerConfig(learning_rate=1e-2, last_learning_rate=0.0, per_epoch=False)
    config = tiny_config(steps_per_epoch=150, minutes=5 / 60, optimizer=optimizer)
    said: list[str] = []
    trained = fit(config, a_set, tmp_path / "run", device=CPU, say=said.append)
    found = [row["learning_rate"] for row in rows(tmp_path / "run", "learning_rate")]
    assert found == pytest.approx([0.005 * (1 + math.cos(math.pi * fraction / 5)) for fraction in range(5)])
    assert [row["step"] for row in rows(tmp_path / "run", "validation")] == [5]
    assert trained.model.exists() and "ended after step 5 of 300" in said[-2]


def test_an_epoch_of_so_many_crops_has_steps_of_each_stages_batch(a_set):
    config = tiny_config(epochs=4, steps_per_epoch=None, crops_per_epoch=60, batch=6, growth=((0.5, 48, 4),))
    _, stages = open_stages(config, a_set, Processes(CPU))
    assert [stage.batches.steps for stage in stages] == [10, 15]
    orders = [[index for batch in stages[0].batches for _, _, index in batch]]
    stages[0].batches.epoch = 1
    orders.append([index for batch in stages[0].batches for _, _, index in batch])
    assert len(set(orders[0])) == len(set(orders[1])) == 60 < len(stages[0].items)
    assert set(orders[0]) != set(orders[1])  # drawn anew


def test_with_all_patients_the_last_network_is_the_result_and_the_card_says_what_it_has_seen(a_set, tmp_path):
    trained = fit(tiny_config(train_with_all=True), a_set, tmp_path / "run", device=CPU)
    assert not rows(tmp_path / "run", "validation") and not (tmp_path / "run" / "best.pt").exists()
    assert trained.split == "test"
    scans = trained.card.scans
    assert scans["train"] == sorted(fingerprint(a_set, name) for name in ("P0", "P1")) and not scans["validation"]
    index = read_index(a_set)
    thick = replace(index.of("validation")[0], spacing_mm=(0.7, 0.7, 5.0))
    index = replace(index, volumes=(*index.of("train"), thick))
    slices = [scope(index, tiny_config(train_with_all=all_of_them)).slice_mm for all_of_them in (False, True)]
    assert slices == [(3.0, 3.0), (3.0, 5.0)]
    network = load_network(trained.model)[0]
    assert not differences(dict(network.state_dict()), dict(load_checkpoint(tmp_path / "run" / "last.pt")["network"]))
