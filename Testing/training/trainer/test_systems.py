"""Patch-DML, TSC-Net and ALDEN from the preset to the denoised file: trained, resumed, tried out, compared, used."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from test_distributed import torchrun
from trainer_fixtures import CPU, child, differences, interrupt_at, rows, sha256
from training_fixtures import ascon, make_set

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.models.files import load_network
from ASCONTrainingLib.config.presets import PRESETS, peer
from ASCONTrainingLib.config.settings import TrainConfig
from ASCONTrainingLib.data.training_set import TrainingSet
from ASCONTrainingLib.method.perceptual import VGG19
from ASCONTrainingLib.method.vision_transformer import VisionTransformer
from ASCONTrainingLib.trainer.dry_run import dry_run
from ASCONTrainingLib.trainer.run_folder import load_checkpoint
from ASCONTrainingLib.trainer.trainer import fit

SYSTEMS = {
    "patch_dml": ("heads", "heads_optimizer", "discriminator", "discriminator_optimizer"),
    "tsc_net": ("teacher", "teacher_optimizer"),
    "tsc_net_latent": ("teacher", "teacher_optimizer"),
    "alden": ("discriminator", "discriminator_optimizer", "balance"),
    "alden_own_features": ("discriminator", "discriminator_optimizer", "balance"),
}
"""Preset -> what it has in its checkpoints besides the denoiser and the denoiser's optimiser."""
QUICK = ("patch_dml", "tsc_net_latent", "alden")
LONG = ("tsc_net", "alden", "alden_own_features")
WITH_SLOW = [pytest.param(name, marks=[pytest.mark.slow] if name in LONG else []) for name in SYSTEMS]


@pytest.fixture(scope="module")
def two_patients(tmp_path_factory) -> Path:
    """Two patients train, as unpaired images need."""
    return make_set(tmp_path_factory.mktemp("systems") / "set", ("train", "train", "validation"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> dict[str, str]:
    """Random weights in files: a VGG-19, and a small vision transformer of DINOv2's layout."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    vit = VisionTransformer(width=64, depth=4, hidden=128, patch=14, grid=4)
    for parameter in vit.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.1)
    torch.save(VGG19().state_dict(), folder / "vgg.pt")
    torch.save(vit.state_dict(), folder / "vit.pt")
    return {"loss.vgg_weights": str(folder / "vgg.pt"), "loss.vit_weights": str(folder / "vit.pt")}


def a_config(name: str, weights: dict[str, str], **changes: object) -> TrainConfig:
    """The system on the images and the schedule of the preset smoke, four steps of it; ALDEN's is a small ESAU-Net."""
    config = peer(name, PRESETS["smoke"].changed(weights))
    if config.network == "esau_net":
        config = replace(config, network_settings={"fold": 2, "channels": 8})
    short = {"epochs": 2, "steps_per_epoch": 2, "batch": 1, "validation_slices": 1, "minutes": None, "ema": 0.5}
    patch = config.patch and 64
    return replace(config, patch=patch, **short | changes)


@pytest.mark.parametrize("name", WITH_SLOW)
def test_a_resumed_training_is_the_uninterrupted_one(two_patients, tmp_path, weights, name):
    """Teachers, critics and their optimisers go on too; TSC-Net is interrupted after its teacher's time."""
    config = a_config(name, weights)
    fit(config, two_patients, tmp_path / "straight", device=CPU)
    with pytest.raises(KeyboardInterrupt):
        fit(config, two_patients, tmp_path / "resumed", device=CPU, progress=interrupt_at(2))
    halfway = load_checkpoint(tmp_path / "resumed" / "last.pt")
    fit(config, two_patients, tmp_path / "resumed", device=CPU, resume=True)
    straight, resumed = (load_checkpoint(tmp_path / run / "last.pt") for run in ("straight", "resumed"))
    assert not differences(straight, resumed)
    changed = {place.split("/")[1] for place in differences(halfway, resumed)}
    assert set(SYSTEMS[name]) <= set(straight)
    assert {part for part in SYSTEMS[name] if not part.startswith("teacher")} | {"network"} <= changed
    assert "teacher" not in changed  # it has learnt its part by then
    model = f"ascon-{name}-smoke.safetensors"
    assert sha256(tmp_path / "straight" / model) == sha256(tmp_path / "resumed" / model)


@pytest.mark.parametrize("name", QUICK)
def test_its_model_denoises_files_and_has_its_row_in_the_comparison(two_patients, tmp_path, weights, name):
    trained = fit(a_config(name, weights), two_patients, tmp_path / "run", device=CPU)
    network, card = load_network(trained.model)
    assert (card.architecture, card.preset) == (PRESETS[name].network, f"{name}-smoke")
    assert any("ASCON" in limit or "its authors'" in limit for limit in card.limits)
    assert all(math.isfinite(value) for row in rows(tmp_path / "run", "loss") for value in row.values())

    voxels = np.load(two_patients / "P2.ldct.npy")
    nibabel.save(nibabel.Nifti1Image(voxels.T, np.diag([-0.7, -0.7, 3, 1])), tmp_path / "in.nii.gz")
    command = ("denoise", tmp_path / "in.nii.gz", tmp_path / "out.nii.gz", "--model", trained.model)
    assert ascon(*command, "--device", CPU, "--quiet") == 0
    denoised = np.asarray(nibabel.load(tmp_path / "out.nii.gz").dataobj)
    assert denoised.shape == voxels.T.shape and not np.array_equal(denoised, voxels.T)

    label = f"{name}={trained.model}"
    arguments = ("--data", two_patients, "--split", "validation", "--out", tmp_path / "table", "--device", CPU)
    assert ascon("compare", "--models", label, *arguments, "--no-filters", "--phantoms", 0, "--quiet") == 0
    table = list(csv.DictReader((tmp_path / "table" / "comparison.csv").open()))
    assert [row["name"] for row in table] == ["LDCT", name]


@pytest.mark.parametrize("name", QUICK)
def test_a_dry_run_tries_the_steps_of_the_whole_method(two_patients, tmp_path, weights, name):
    found = dry_run(a_config(name, weights), two_patients, tmp_path / "run", device=CPU)
    (stage,) = found.stages
    assert (stage.sides, stage.batch, stage.steps) == ((64, 64), 1, 4)
    assert stage.step_s > 0 and found.checkpoint_bytes > 0 and not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["patch_dml", "tsc_net_latent", "alden_own_features"])
def test_its_networks_stay_the_same_in_two_processes(two_patients, tmp_path, name):
    """Each process has images of its own, and gradients are means over both."""
    torchrun(2, child("child_train_system.py", name, two_patients, tmp_path))
    hashes = [[(tmp_path / f"{rank}-{step}").read_text() for step in (1, 2, 3)] for rank in (0, 1)]
    assert hashes[0] == hashes[1] and len(set(hashes[0])) == 3


def test_patch_dml_never_sees_an_ndct_of_the_same_patient(two_patients):
    """The same order each time from the same seed, another from another; a set of one patient is refused."""
    config = PRESETS["patch_dml"]
    assert config.unpaired and config.patch is None and config.objective == "patch_dml"
    sets = [TrainingSet(two_patients, "train", None, unpaired=True, seed=seed) for seed in (0, 0, 1)]
    partners = [[(index, one.partner(index, epoch)) for epoch in range(3) for index in range(len(one))] for one in sets]
    assert partners[0] == partners[1] != partners[2]
    for index, partner in partners[0]:
        assert sets[0].table[index][0] != sets[0].table[partner][0]  # a patient has one volume here


def test_without_a_file_of_weights_the_training_says_which_it_needs(two_patients, tmp_path):
    for name, setting in (("alden", "vit_weights"), ("tsc_net", "vgg_weights")):
        with pytest.raises(InputError, match=f"loss.{setting}, or set objective to {name}_"):
            fit(a_config(name, {}), two_patients, tmp_path / name, device=CPU)
        assert not (tmp_path / name).exists()
