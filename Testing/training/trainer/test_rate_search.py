"""The equal search of learning rates: what is tried, which rate wins, and what is kept of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from trainer_fixtures import CPU, rows
from training_fixtures import make_set, tiny_config

from ASCONDenoiseLib.errors import Failure, InputError, WriteError
from ASCONTrainingLib.config.settings import OptimizerConfig
from ASCONTrainingLib.method.objective import NotFiniteError
from ASCONTrainingLib.trainer.rate_search import APART, at_rate, best, factors, search
from ASCONTrainingLib.trainer.trainer import Trained, fit

CONFIG = tiny_config(minutes=0.9, optimizer=OptimizerConfig(learning_rate=1e-3, mac_learning_rate=1e-4))


class Trainer:
    """Writes what a training writes, and finds the PSNR that a rate is given here; None: it fails."""

    def __init__(self, psnr_db: dict[float, float | None]):
        self.psnr_db, self.tried = psnr_db, []

    def __call__(self, config, folder: Path) -> Trained:
        self.tried.append((config, folder.name))
        folder.mkdir()
        for name in ("last.pt", "best.pt", "log.jsonl"):
            (folder / name).touch()
        found = self.psnr_db[round(config.optimizer.learning_rate / 1e-3, 3)]
        if found is None:
            raise NotFiniteError("The loss is nan.")
        return Trained(folder / "model", None, "test", (), (), found)


def silent(text: str) -> None:
    pass


def test_rates_lie_round_the_published_one():
    assert factors(3) == (1 / 3, 1, 3) and factors(1) == (1,)
    assert factors(5) == pytest.approx((1 / 9, 1 / 3, 1, 3, 9)) and APART == 3
    for count in (0, 2, -1):
        with pytest.raises(InputError, match="odd number"):
            factors(count)
    faster = at_rate(CONFIG, 3).optimizer
    assert (faster.learning_rate, faster.mac_learning_rate) == pytest.approx((3e-3, 3e-4))
    assert at_rate(tiny_config(), 3).optimizer.mac_learning_rate is None  # it is the denoiser's
    assert replace(at_rate(CONFIG, 3), optimizer=CONFIG.optimizer) == CONFIG


def test_each_rate_has_a_sixth_of_the_minutes_and_the_best_on_validation_slices_wins(tmp_path):
    train, said = Trainer({0.333: 41.0, 1.0: 40.0, 3.0: None}), []
    trials = search(CONFIG, 3, tmp_path / "row", train, said.append)
    assert [config.minutes for config, _ in train.tried] == pytest.approx([0.15, 0.15, 0.15])
    assert [name for _, name in train.tried] == ["row-rate-0.333", "row-rate-1", "row-rate-3"]
    assert [trial.psnr_db for trial in trials] == [41.0, 40.0, None] and trials[2].reason == "failed: The loss is nan."
    assert best(trials).factor == pytest.approx(1 / 3)
    assert said[1] == "learning rate 0.001: validation PSNR 40.00 dB" and said[2].endswith("failed: The loss is nan.")
    assert not [*tmp_path.rglob("*.pt")] and len([*tmp_path.rglob("log.jsonl")]) == 3

    again = Trainer({})  # would fail
    assert search(CONFIG, 3, tmp_path / "row", again, silent) == trials and not again.tried
    with pytest.raises(InputError, match="a trial with other settings"):
        search(replace(CONFIG, minutes=1.5), 3, tmp_path / "row", again, silent)
    (tmp_path / "row-rate-1" / "trial.json").write_text("{")
    with pytest.raises(InputError, match=r"trial\.json cannot be read"):
        search(CONFIG, 3, tmp_path / "row", again, silent)


def test_of_equals_the_lowest_rate_wins(tmp_path):
    trials = search(CONFIG, 3, tmp_path / "row", Trainer({0.333: None, 1.0: 40.0, 3.0: 40.0}), silent)
    assert best(trials).factor == 1


def test_what_no_rate_would_help_is_an_error(tmp_path):
    with pytest.raises(Failure, match="No learning rate of 3 .* The loss is nan"):
        search(CONFIG, 3, tmp_path / "all", Trainer({0.333: None, 1.0: None, 3.0: None}), silent)
    with pytest.raises(InputError, match="equal minutes"):
        search(replace(CONFIG, minutes=None), 3, tmp_path / "row", Trainer({}), silent)
    with pytest.raises(InputError, match="set train_with_all to false"):
        search(replace(CONFIG, train_with_all=True), 3, tmp_path / "row", Trainer({}), silent)

    for error in (WriteError("The disk is full."), Failure("There is not enough memory.")):

        def fails(config, folder, error=error):
            raise error

        with pytest.raises(type(error)):
            search(CONFIG, 3, tmp_path / "row", fails, silent)
    search(CONFIG, 3, tmp_path / "row", Trainer({0.333: 41.0, 1.0: 40.0, 3.0: 40.0}), silent)  # the cause is mended


def test_trials_on_other_scans_are_no_trials_of_this_set(tmp_path):
    train = Trainer({0.333: 41.0, 1.0: 40.0, 3.0: 40.0})
    search(CONFIG, 3, tmp_path / "row", train, silent, ["a", "b"])
    search(CONFIG, 3, tmp_path / "row", train, silent, ["a", "b"])
    assert len(train.tried) == 3
    with pytest.raises(InputError, match="a trial on other scans"):
        search(CONFIG, 3, tmp_path / "row", train, silent, ["a", "c"])


def test_trials_of_a_real_training_are_judged_by_validation_alone(a_set, tmp_path):
    """A rate that hardly moves the network stays at the random network's PSNR; test slices are not looked at."""

    def train(config, folder):
        return fit(config, a_set, folder, device=CPU, measure=False)

    config = replace(CONFIG, minutes=0.02, epochs=10_000, optimizer=OptimizerConfig(learning_rate=1e-2))
    trials = search(config, 3, tmp_path / "row", train, silent)
    for trial in trials:
        folder = tmp_path / f"row-rate-{trial.factor:.3g}"
        found = [row["validation"]["psnr_db"] for row in rows(folder, "validation")]
        assert trial.psnr_db == max(found)
        assert json.loads((folder / "results.json").read_text())["comparisons"] == []
    with_nobody = make_set(tmp_path / "set", ("train", "test"))
    with pytest.raises(InputError, match="the set has none"):
        search(config, 1, tmp_path / "other", lambda c, f: fit(c, with_nobody, f, device=CPU, measure=False), silent)
