"""The state of a training: what a checkpoint holds, learning rates, averaged weights, first weights."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from trainer_fixtures import (
    CPU,
    a_loader,
    differences,
    fingerprint,
    interrupt_at,
    rows,
)
from training_fixtures import SMALL_MAC, make_set, tiny_config

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.models.card import load_card
from ASCONDenoiseLib.models.files import load_network, save_model
from ASCONTrainingLib.config.presets import PRESETS
from ASCONTrainingLib.config.settings import LossConfig, MACConfig, OptimizerConfig
from ASCONTrainingLib.data.training_set import TrainingSet
from ASCONTrainingLib.method.perceptual import VGG19
from ASCONTrainingLib.trainer import trainer, training_state
from ASCONTrainingLib.trainer.distributed import Processes
from ASCONTrainingLib.trainer.dry_run import dry_run
from ASCONTrainingLib.trainer.run_folder import load_checkpoint, save_checkpoint
from ASCONTrainingLib.trainer.trainer import fit
from ASCONTrainingLib.trainer.training_state import TrainingState, slow_mac_net


def test_a_checkpoint_holds_no_more_and_no_less(a_set):
    """The mirror image: a fresh state that loads a state has that state."""
    config = tiny_config(mac=SMALL_MAC, ema=0.9, seed=1)
    state = TrainingState(config, Processes(CPU))
    loader = a_loader(a_set)
    state.train_step(*loader.next(), 0.0)
    fresh = TrainingState(config, Processes(CPU))
    saved = state.state_dict()
    assert differences(fresh.state_dict(), saved)
    fresh.load_state_dict(saved)
    assert not differences(fresh.state_dict(), saved)
    saved["config"]["fit_gain"] = False  # a setting of earlier versions, that was off
    fresh.load_state_dict(saved)


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
    straight, begun = TrainingState(config, Processes(CPU)), TrainingState(config, Processes(CPU))
    losses = [straight.train_step(*batch, 0.1 * i)["loss"] for i, batch in enumerate(batches)]
    begun.train_step(*batches[0], 0.0)
    save_checkpoint(begun.state_dict(), tmp_path / "last.pt")
    resumed = TrainingState(replace(config, seed=config.seed), Processes(CPU))
    resumed.load_state_dict(load_checkpoint(tmp_path / "last.pt"))
    again = [resumed.train_step(*batch, 0.1 * i)["loss"] for i, batch in enumerate(batches[1:], 1)]
    assert again == losses[1:] and len(set(losses)) == 3
    assert not differences(straight.state_dict(), resumed.state_dict())
    assert differences(begun.state_dict(), resumed.state_dict())


@pytest.mark.parametrize("per_epoch", [True, False])
def test_rate_moves_once_an_epoch_or_with_every_step(a_set, tmp_path, monkeypatch, per_epoch):
    monkeypatch.setattr(trainer, "LOG_EVERY", 1)
    optimizer = OptimizerConfig(learning_rate=1e-2, last_learning_rate=0.0, per_epoch=per_epoch)
    fit(tiny_config(optimizer=optimizer), a_set, tmp_path / "run", device=CPU)
    found = [row["learning_rate"] for row in rows(tmp_path / "run", "learning_rate")]
    fractions = [0, 0, 0, 3, 3, 3] if per_epoch else range(6)
    assert found == pytest.approx([0.005 * (1 + math.cos(math.pi * fraction / 6)) for fraction in fractions])


def test_both_optimisers_follow_the_schedule(a_set):
    """MAC-Net's too, from a rate of its own."""
    optimizer = OptimizerConfig(1e-2, 0.0, (0.9, 0.99), per_epoch=False, mac_learning_rate=0.5)
    state = TrainingState(tiny_config(mac=SMALL_MAC, optimizer=optimizer), Processes(CPU))
    loader = a_loader(a_set)
    state.train_step(*loader.next(), 0.5)
    assert state.learning_rate == pytest.approx(0.5e-2)
    mac_optimizer = state.objective.parts["mac_optimizer"]
    assert mac_optimizer.param_groups[0]["lr"] == pytest.approx(0.25)
    assert isinstance(state.optimizer, torch.optim.AdamW) and isinstance(mac_optimizer, torch.optim.SGD)
    assert mac_optimizer.param_groups[0]["momentum"] == 0


def test_a_loss_that_comes_later_comes_at_its_share(a_set, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "LOG_EVERY", 1)
    loss = LossConfig(mse_weight=1.0, ssim_weight=0.0, local_mean_weight=1.0, local_mean_from=0.5)
    fit(tiny_config(loss=loss), a_set, tmp_path / "run", device=CPU)
    assert ["local_mean" in row for row in rows(tmp_path / "run", "learning_rate")] == [False] * 3 + [True] * 3


def test_the_log_has_the_mean_of_a_loss_over_the_steps_that_had_it(a_set, tmp_path, monkeypatch):
    loss = LossConfig(mse_weight=1.0, ssim_weight=0.0, local_mean_weight=1.0, local_mean_from=0.5)
    config = tiny_config(loss=loss, epochs=1, steps_per_epoch=6)
    fit(config, a_set, tmp_path / "together", device=CPU)
    monkeypatch.setattr(trainer, "LOG_EVERY", 1)
    fit(config, a_set, tmp_path / "apart", device=CPU)
    (together,) = rows(tmp_path / "together", "local_mean")
    apart = rows(tmp_path / "apart", "mse")
    assert together["mse"] == pytest.approx(np.mean([row["mse"] for row in apart]))
    assert together["local_mean"] == pytest.approx(np.mean([row["local_mean"] for row in apart[3:]]))


def test_average_is_that_of_the_formula(a_set, tmp_path):
    """mean = keep * mean + (1 - keep) * weights, keep rising to `ema` over the first steps."""
    config = tiny_config(ema=0.3)
    state = TrainingState(config, Processes(CPU))
    loader = a_loader(a_set)
    mean = state.average.last.weight.clone()
    for step in range(8):
        state.train_step(*loader.next(), 0.0)
        keep = min(0.3, step / (step + 10))
        mean = keep * mean + (1 - keep) * state.network.last.weight.detach()
    assert torch.allclose(state.average.last.weight, mean, rtol=1e-5)
    assert not torch.allclose(state.average.last.weight, state.network.last.weight, rtol=1e-3)


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
    networks = [load_network(path)[0].state_dict() for path in (begun, trained.model)]
    assert not differences(dict(networks[0]), dict(networks[1]))
    assert trained.card.training_data[-1] == "begun with the model first"
    assert trained.card.scans == {
        "train": sorted(fingerprint(folder, "P0") for folder in (a_set, other)),
        "validation": sorted(fingerprint(folder, "P1") for folder in (a_set, other)),
    }
    with pytest.raises(InputError, match="is of the network tiny"):
        fit(replace(config, network="esau_net"), a_set, tmp_path / "third", device=CPU)
    with pytest.raises(InputError, match="is of the network tiny"):
        dry_run(replace(config, network="esau_net"), a_set, tmp_path / "third", device=CPU)
    assert not (tmp_path / "third").exists()


def test_a_model_begun_with_one_that_lists_no_scans_says_so(a_set, tmp_path):
    begun = fit(tiny_config(epochs=1), a_set, tmp_path / "first", device=CPU, name="first").model
    card = load_card(begun)
    save_model(load_network(begun)[0], replace(card, metrics={}), begun)
    trained = fit(tiny_config(epochs=1, initial=str(begun)), a_set, tmp_path / "second", device=CPU)
    seen = {"train": [fingerprint(a_set, "P0")], "validation": [fingerprint(a_set, "P1")]}
    assert trained.card.scans == seen | {"unlisted": ["first"]}


def test_a_taught_model_has_seen_what_its_teachers_have(a_set, tmp_path):
    other = make_set(tmp_path / "other")
    np.save(other / "P0.ndct.npy", np.load(other / "P0.ndct.npy") + np.int16(1))
    teacher = fit(tiny_config(epochs=1), other, tmp_path / "first", device=CPU, name="first").model
    loss = LossConfig(mse_weight=100.0, ssim_weight=1.0, teachers=(str(teacher), str(teacher)))
    taught = fit(tiny_config(epochs=1, loss=loss), a_set, tmp_path / "second", device=CPU)
    assert taught.card.training_data[-1] == "taught by the models first and first"
    assert taught.card.scans["train"] == sorted(fingerprint(folder, "P0") for folder in (a_set, other))
    nobody = replace(loss, teachers=("nobody",))
    with pytest.raises(InputError, match="nobody"):
        dry_run(tiny_config(loss=nobody), a_set, tmp_path / "third", device=CPU)
    with pytest.raises(InputError, match="two models at most"):
        LossConfig(teachers=("a", "b", "c"))


def test_a_slow_mac_net_is_remarked_where_the_plan_is_told(a_set, tmp_path):
    said: list[str] = []
    config = tiny_config(mac=SMALL_MAC, patch=64, batch=1, epochs=1, steps_per_epoch=1)
    slow = replace(config, optimizer=replace(config.optimizer, learning_rate=2e-4))
    fit(slow, a_set, tmp_path / "run", device=CPU, say=said.append)
    assert said[0].startswith("training tiny with MAC-Net") and said[1].startswith(
        "MAC-Net learns by plain SGD at 0.0002"
    )
    assert slow_mac_net(config) == ""  # at 1e-2
    assert slow_mac_net(replace(slow, mac=replace(SMALL_MAC, optimizer="adamw"))) == ""
    assert slow_mac_net(replace(slow, mac=None)) == ""


def test_plain_sgd_hardly_moves_mac_net_and_adamw_does(a_set):
    """At the published rate, as a share of the size of its weights: what the remark says."""

    def size(tensors):
        return math.sqrt(sum(tensor.square().sum().item() for tensor in tensors))

    moved = {}
    for name in ("sgd", "adamw"):
        mac = MACConfig(optimizer=name)
        state = TrainingState(tiny_config(mac=mac, optimizer=OptimizerConfig()), Processes(CPU))
        online = [p for p in state.objective.parts["mac"].parameters() if p.requires_grad]
        before = [p.detach().clone() for p in online]
        ldct, ndct = TrainingSet(a_set, "train", 64)[0]
        state.train_step(ldct[None], ndct[None], 0.0)
        moved[name] = size([p - b for p, b in zip(online, before, strict=True)]) / size(before)
    assert 1e-5 < moved["sgd"] < 3e-4 and moved["adamw"] > 20 * moved["sgd"]


def test_bf16_is_for_devices_that_have_it(monkeypatch):
    """Without instructions for it a CPU takes many times as long; what is exact is fp32 anyway."""
    cpu = torch.device(CPU)
    for fast, wanted in ((torch.bfloat16, "bf16"), (None, "fp32")):
        monkeypatch.setattr(training_state, "mixed_dtype", lambda device, fast=fast: fast)
        assert training_state.working_precision("bf16", cpu) == wanted
        assert training_state.working_precision("fp32", cpu) == "fp32"
        state = TrainingState(tiny_config(precision="bf16"), Processes(CPU))
        with state.objective.context.autocast():
            assert (torch.ones(1, 1) @ torch.ones(1, 1)).dtype == (fast or torch.float32)


def test_the_benchmark_compares_the_step_with_one_of_the_same_losses():
    """Of `bench_training.py`: written as the equations are, the step computes the same, or its time means nothing."""
    script = Path(__file__).parents[2] / "benchmarks" / "bench_training.py"
    spec = importlib.util.spec_from_file_location("bench_training", script)
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    naive, ours = (bench.measure("full", way, "cpu", 1, 64, 1)["losses"] for way in ("naive", "fp32"))
    assert set(bench.SAME) <= set(naive)
    for name, tolerance in bench.SAME.items():
        assert ours[name] == pytest.approx(naive[name], rel=tolerance), name
