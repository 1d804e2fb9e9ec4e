"""CNCL's losses: content and noise, and the PatchGAN carried out by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from objective_fixtures import RATE, TwoHeaded, a_batch, a_context, a_denoiser, assert_moved_along, seeded
from torch import nn
from torch.nn import functional as F

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.models.networks import ARCHITECTURES
from ASCONTrainingLib.method.objectives import cncl


def patch_scores(discriminator: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Four halvings by 4x4 convolutions, the last three normalised per image and channel; then zeros on the left and
    above, and one channel."""
    weights = iter(discriminator.parameters())
    for number in range(4):
        x = F.conv2d(x, next(weights), next(weights), stride=2, padding=1)
        if number:
            mean = x.mean((2, 3), keepdim=True)
            x = (x - mean) / (((x - mean) ** 2).mean((2, 3), keepdim=True) + 1e-5).sqrt()
        x = torch.where(x > 0, x, 0.2 * x)
    return F.conv2d(F.pad(x, (1, 0, 1, 0)), next(weights), padding=1)


def test_cncl_descends_l1_of_content_and_noise_and_the_adversarial_loss():
    torch.manual_seed(0)
    network, discriminator = TwoHeaded(), cncl.PatchDiscriminator()
    assert sum(p.numel() for p in discriminator.parameters()) == 2_764_736  # the authors' implementation
    by_hand, judge = copy.deepcopy(network), copy.deepcopy(discriminator)
    optimizer = torch.optim.SGD(discriminator.parameters(), RATE)
    ldct, ndct = a_batch(32)
    values = cncl.CNCLObjective(a_context(network), discriminator, optimizer).step(ldct, ndct, seeded())

    content, noise = by_hand(ldct).unbind(1)
    l1_content = sum(abs(a - b) for a, b in zip(content.flatten(), ndct.flatten(), strict=True)) / ndct.numel()
    l1_noise = (noise - (ldct - ndct)[:, 0]).abs().mean()
    judged = patch_scores(judge, torch.stack((content, noise, ldct[:, 0]), 1))
    assert judged.shape == (2, 1, 2, 2)
    adversarial = ((judged - 1) ** 2).mean()
    loss = adversarial + 100 * (l1_content + l1_noise) / 2
    assert values["loss"] == pytest.approx(loss.item(), rel=1e-4)
    assert (values["l1"], values["adversarial"]) == pytest.approx(
        (((l1_content + l1_noise) / 2).item(), adversarial.item()), rel=1e-4
    )
    assert_moved_along(network, by_hand, loss)

    real = patch_scores(judge, torch.cat((ndct, ldct - ndct, ldct), 1))
    false = patch_scores(judge, torch.stack((content, noise, ldct[:, 0]), 1).detach())
    wanted = 0.5 * (((real - 1) ** 2).mean() + (false**2).mean())
    assert values["discriminator"] == pytest.approx(wanted.item(), rel=1e-4)
    assert_moved_along(discriminator, judge, wanted)


def test_cncl_needs_a_network_with_two_predictions_and_trains_its_own():
    with pytest.raises(InputError, match="set network to cncl"):
        cncl.make(a_context(a_denoiser()))
    torch.manual_seed(0)
    network = ARCHITECTURES["cncl"]().train()
    objective = cncl.make(a_context(network, rate=1e-4))
    first, *_, last = [objective.step(*a_batch(32), seeded())["l1"] for _ in range(4)]
    assert last < first
    assert set(objective.parts) == {"discriminator", "discriminator_optimizer"}
