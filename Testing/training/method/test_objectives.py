"""What all objectives of peers keep: no step after a number that is none, resume bit for bit, presets that train."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from objective_fixtures import TwoHeaded, a_batch, a_context, a_denoiser, seeded

from ASCONTrainingLib.config.presets import PRESETS
from ASCONTrainingLib.method.objective import NotFiniteError
from ASCONTrainingLib.method.objectives import cncl, du_gan, edcnn, wgan_vgg
from ASCONTrainingLib.trainer.distributed import Processes
from ASCONTrainingLib.trainer.training_state import TrainingState


@pytest.mark.usefixtures("thin_discriminators")
@pytest.mark.parametrize("peer", ["edcnn", "cncl", "du_gan", "wgan_vgg"])
def test_a_batch_that_is_not_finite_stops_the_step_before_the_denoiser_moves(peer, a_vgg_file):
    network = TwoHeaded() if peer == "cncl" else a_denoiser()
    setup = a_context(network, patch=64, vgg_weights=a_vgg_file)
    torch.manual_seed(0)
    objective = {"edcnn": edcnn, "cncl": cncl, "du_gan": du_gan, "wgan_vgg": wgan_vgg}[peer].make(setup)
    before = copy.deepcopy(network.state_dict())
    ldct, ndct = a_batch(64, 1)
    with pytest.raises(NotFiniteError):
        objective.step(ldct, torch.full_like(ndct, torch.inf), seeded())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.usefixtures("thin_discriminators")
@pytest.mark.parametrize("peer", ["cncl", "du_gan", "wgan_vgg"])
def test_a_step_after_a_restored_checkpoint_is_the_same_bit_for_bit(peer, a_vgg_file):
    """Everything that the next step depends on is in the denoiser, its optimiser, the generator and `parts`."""

    side = 32 if peer == "wgan_vgg" else 64

    def fresh():
        torch.manual_seed(6)
        network = TwoHeaded() if peer == "cncl" else a_denoiser()
        setup = a_context(network, patch=side, vgg_weights=a_vgg_file)
        setup = replace(setup, optimizer=torch.optim.AdamW(network.parameters()))
        return network, setup, {"cncl": cncl, "du_gan": du_gan, "wgan_vgg": wgan_vgg}[peer].make(setup)

    batch = a_batch(side, 1)
    network, setup, objective = fresh()
    random = seeded(8)
    objective.step(*batch, random)
    saved = copy.deepcopy((network.state_dict(), setup.optimizer.state_dict(), random.get_state()))
    parts = copy.deepcopy({name: part.state_dict() for name, part in objective.parts.items()})
    wanted = objective.step(*batch, random)

    network, setup, objective = fresh()
    network.load_state_dict(saved[0])
    setup.optimizer.load_state_dict(saved[1])
    random = seeded()
    random.set_state(saved[2])
    for name, part in objective.parts.items():
        part.load_state_dict(parts[name])
    assert objective.step(*batch, random) == wanted


@pytest.mark.usefixtures("thin_discriminators")
@pytest.mark.parametrize("peer", ["unet", "red_cnn", "edcnn", "cncl", "du_gan", "wgan_vgg"])
def test_each_preset_trains_its_network_with_its_objective(peer, a_vgg_file):
    """In the precision of the preset; what is saved gives an image, and is another network than at the start."""
    config = PRESETS[peer].changed(
        {"batch": 1, "patch": 64 if peer == "du_gan" else 32, "loss.vgg_weights": a_vgg_file}
    )
    state = TrainingState(config, Processes("cpu"))
    before = copy.deepcopy(state.network.state_dict())
    ldct, ndct = a_batch(config.patch, 1)
    values = [state.train_step(ldct, ndct, share) for share in (0.1, 0.2)]
    assert all(math.isfinite(number) for step in values for number in step.values())
    assert config.network == peer and config.mac is None
    assert any(not torch.equal(tensor, before[name]) for name, tensor in state.network.state_dict().items())
    with torch.no_grad():
        assert state.denoiser.eval()(ldct).shape == ldct.shape
