"""A training from the first step to the model file, which opens in `ascon`."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from trainer_fixtures import (
    CPU,
    differences,
    rows,
)
from training_fixtures import make_set, tiny_config

from ASCONDenoiseLib.imaging import metrics
from ASCONDenoiseLib.models import inference
from ASCONDenoiseLib.models.files import load_network
from ASCONTrainingLib.config.settings import LossConfig, TrainConfig
from ASCONTrainingLib.data.training_set import EvaluationSet
from ASCONTrainingLib.trainer import validation
from ASCONTrainingLib.trainer.model_card import worse_than_input
from ASCONTrainingLib.trainer.run_folder import load_checkpoint
from ASCONTrainingLib.trainer.trainer import fit
from ASCONTrainingLib.trainer.training_state import TrainingState


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

    network, card = load_network(run / "mine.safetensors")
    assert card == trained.card and card.dose == "0.25, simulated" and card.preset == "pixel"
    best = load_checkpoint(run / "best.pt")
    assert not differences(dict(network.state_dict()), dict(best["average"]))
    pair = EvaluationSet(a_set, "test")[0]
    denoised = inference.denoise(pair.ldct_hu[None], network, device=CPU).voxels
    row = trained.comparisons[1].rows[0]
    assert metrics.compare(pair.ndct_hu[None], denoised).rows[0].psnr_db == pytest.approx(row.psnr_db, abs=0.05)
    assert trained.split == "test" and len(trained.comparisons[1].rows) == 4
    assert "LDCT" in trained.table() and "mine" in trained.table() and "PSNR" in trained.table()
    assert card.metrics["test slices, mine"]["psnr_db"][0] == pytest.approx(
        trained.comparisons[1].mean_sd("psnr_db")[0]
    )


@pytest.mark.parametrize("split", ["test", "validation"])
def test_a_model_worse_than_its_input_is_told_everywhere(tmp_path, monkeypatch, caplog, split):
    compare = validation.compare

    def told(slices, network=None, **options):
        found = compare(slices, network, **options)
        psnr_db = 41.0 if network is None else 22.0
        return replace(found, rows=tuple(replace(row, psnr_db=psnr_db) for row in found.rows))

    monkeypatch.setattr(validation, "compare", told)
    splits = ("train", "validation", "test") if split == "test" else ("train", "validation")
    folder = make_set(tmp_path / "set", splits)
    trained = fit(tiny_config(), folder, tmp_path / "run", device=CPU)
    (warning,) = trained.warnings
    assert f"{split} slices the model's PSNR of 22.00 dB is below the 41.00 dB of the LDCT" in warning
    assert trained.card.limits[0] == load_network(trained.model)[1].limits[0] == warning
    assert json.loads((tmp_path / "run" / "results.json").read_text())["warnings"] == [warning]
    assert rows(tmp_path / "run", "finished")[0]["warnings"] == [warning] and warning in caplog.messages


def test_a_model_as_good_as_its_input_is_not_warned_of():
    row = metrics.SliceMetrics(0, 40.0, 0.9, 0.01, 30.0)
    ldct = metrics.Comparison("LDCT", metrics.PAPER, False, (row,))
    assert worse_than_input((ldct, ldct), "test") == worse_than_input((), "test") == ()
    broken = replace(ldct, rows=(replace(row, psnr_db=float("nan")),))
    assert worse_than_input((ldct, broken), "test")


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
    best, last = (load_checkpoint(tmp_path / "run" / name) for name in ("best.pt", "last.pt"))
    assert (best["step"], last["step"], last["best_psnr_db"]) == (3, 9, 30.0)
    network, _ = load_network(trained.model)
    assert not differences(dict(network.state_dict()), dict(best["network"]))


def test_set_without_validation_and_test_gives_the_last_network(tmp_path):
    alone = make_set(tmp_path / "set", ("train",))
    trained = fit(tiny_config(), alone, tmp_path / "run", device=CPU)
    network, _ = load_network(trained.model)
    last = load_checkpoint(tmp_path / "run" / "last.pt")
    assert not differences(dict(network.state_dict()), dict(last["network"]))
    assert trained.comparisons == () and "nothing to measure" in trained.table()


def test_doses_are_those_of_the_card(a_set, tmp_path):
    trained = fit(tiny_config(doses=(0.1, 0.5)), a_set, tmp_path / "run", device=CPU)
    assert trained.card.dose == "0.1 to 0.5, simulated"


def test_product_output_is_trained_on_unclipped_pairs(tmp_path, monkeypatch):
    """Air of -1000 HU and its noise: the objective sees y = x + G(c) - c and the NDCT as they are."""
    folder = make_set(tmp_path / "set")
    for what in ("ldct", "ndct"):
        np.save(folder / f"P0.{what}.npy", np.load(folder / f"P0.{what}.npy") - 1100)
    config = tiny_config(loss=LossConfig(mse_weight=1.0, ssim_weight=0.0, product_output=True), epochs=1)
    train_step, seen = TrainingState.train_step, []

    def told(self, ldct, ndct, fraction):
        with torch.no_grad():
            clipped = ldct.clamp(0, 1)
            y = torch.where(ldct < 1, ldct + self.network(clipped) - clipped, ldct)
        seen.append((train_step(self, ldct, ndct, fraction)["mse"], (y - ndct).square().mean().item()))
        assert ldct.min() < 0 and ndct.min() < 0
        return {"loss": seen[-1][0]}

    monkeypatch.setattr(TrainingState, "train_step", told)
    fit(config, folder, tmp_path / "run", device=CPU)
    assert len(seen) == 3 and all(mse == pytest.approx(wanted, rel=1e-4) for mse, wanted in seen)
