"""WGAN-VGG's losses: the gradient penalty by formula, four steps of the critic, the critic by hand."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from objective_fixtures import RATE, a_batch, a_context, a_denoiser, assert_moved_along, seeded
from torch import nn
from torch.nn import functional as F

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.models.networks import ARCHITECTURES
from ASCONTrainingLib.method.objectives import wgan_vgg


def a_quadratic_critic() -> nn.Module:
    """D(x) = sum(w x^2) per image, whose gradient 2 w x is known."""

    class Critic(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.rand(32, 32, generator=seeded(9)) / 30)

        def forward(self, x):
            return (self.w * x * x).sum((1, 2, 3))[:, None]

    return Critic()


def test_the_gradient_penalty_is_that_of_a_gradient_known_by_formula():
    critic = a_quadratic_critic()
    x = torch.rand(3, 1, 32, 32, generator=seeded())
    sizes = [
        math.sqrt(sum((2 * critic.w[0, 0].new_tensor(w) * v) ** 2 for w, v in pairs))
        for pairs in (zip(critic.w.flatten().tolist(), image.flatten().tolist(), strict=True) for image in x)
    ]
    found = wgan_vgg.gradient_penalty(critic, x)
    assert found.item() == pytest.approx(sum((size - 1) ** 2 for size in sizes) / 3, rel=1e-4)
    by_formula = (((2 * critic.w * x).flatten(1).norm(dim=1) - 1) ** 2).mean()
    wanted = torch.autograd.grad(by_formula, critic.w)[0]
    assert torch.allclose(torch.autograd.grad(found, critic.w)[0], wanted, rtol=1e-4, atol=1e-6)


def test_the_critic_takes_four_steps_and_then_the_denoiser_one(a_vgg_file):
    network, critic = a_denoiser(), a_quadratic_critic()
    by_hand, judge = copy.deepcopy(network), copy.deepcopy(critic)
    vgg = wgan_vgg.load_vgg19(a_vgg_file)
    optimizer = torch.optim.SGD(critic.parameters(), RATE)
    ldct, ndct = a_batch(32)
    values = wgan_vgg.WGANVGGObjective(a_context(network), critic, optimizer, vgg).step(ldct, ndct, seeded(4))

    random, denoised = seeded(4), by_hand(ldct)
    for _ in range(4):
        share = torch.rand(2, 1, 1, 1, generator=random)
        between = share * ndct + (1 - share) * denoised.detach()
        penalty = (((2 * judge.w * between).flatten(1).norm(dim=1) - 1) ** 2).mean()
        distance = judge(ndct).mean() - judge(denoised.detach()).mean()
        (slope,) = torch.autograd.grad(-distance + 10 * penalty, judge.w)
        judge.w.data -= RATE * slope
    assert (values["distance"], values["penalty"]) == pytest.approx((distance.item(), penalty.item()), rel=1e-3)
    assert torch.allclose(critic.w, judge.w, rtol=1e-4, atol=1e-6)
    features = ((vgg(denoised)[-1] - vgg(ndct)[-1]) ** 2).sum() / 2 / 2  # half of it, for a batch of two
    loss = -judge(denoised).mean() + 0.1 * features
    assert values["loss"] == pytest.approx(loss.item(), rel=1e-4)
    assert_moved_along(network, by_hand, loss)


def test_the_vgg_loss_of_a_patch_is_4096_means(a_vgg_file):
    """512 maps of 4x4 for a patch of 64x64: half of their sum."""
    vgg, (denoised, ndct) = wgan_vgg.load_vgg19(a_vgg_file), a_batch(64)
    mean = ((vgg(denoised)[-1] - vgg(ndct)[-1]) ** 2).mean().item()
    assert mean > 0
    assert wgan_vgg.deepest_distance(vgg, denoised, ndct).item() == pytest.approx(4096 * mean, rel=1e-5)


def test_the_critic_is_its_description_by_hand():
    torch.manual_seed(0)
    critic = wgan_vgg.Critic(32)
    assert (
        sum(p.numel() for p in wgan_vgg.Critic(64).parameters())
        == 17_923_521
        == sum((9 * a + 1) * b for a, b in ((1, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256)))
        + (8 * 8 * 256 + 1) * 1024
        + 1025
    )
    x = torch.rand(2, 1, 32, 32, generator=seeded())
    weights, y = iter(critic.parameters()), x
    for stride in (1, 2, 1, 2, 1, 2):
        y = F.leaky_relu(F.conv2d(y, next(weights), next(weights), stride=stride, padding=1), 0.2)
    y = F.leaky_relu(F.linear(y.flatten(1), next(weights), next(weights)), 0.2)
    assert torch.allclose(critic(x), F.linear(y, next(weights), next(weights)), rtol=1e-4, atol=1e-6)


@pytest.mark.skipif(not hasattr(torch.amp, "GradScaler"), reason="PyTorch before 2.3 scales gradients on CUDA only")
def test_a_scaler_does_not_stop_the_critic_after_its_first_step(a_vgg_file):
    """In fp16 the critic's optimiser takes four steps before the denoiser's takes one."""
    networks, found = [copy.deepcopy(a_denoiser()) for _ in range(2)], []
    for network, scaler in zip(networks, (None, torch.amp.GradScaler("cpu", init_scale=1024.0)), strict=True):
        setup = replace(a_context(network, patch=32), scaler=scaler)
        critic = a_quadratic_critic()
        optimizer = torch.optim.SGD(critic.parameters(), RATE)
        objective = wgan_vgg.WGANVGGObjective(setup, critic, optimizer, wgan_vgg.load_vgg19(a_vgg_file))
        found.append([objective.step(*a_batch(32), seeded()) for _ in range(2)])
    assert found[1][1] == pytest.approx(found[0][1], rel=1e-3)
    assert torch.allclose(networks[0][0].weight, networks[1][0].weight, rtol=1e-4, atol=1e-6)


def test_wgan_vgg_needs_its_weights_file_and_one_size_of_patch(a_vgg_file):
    with pytest.raises(InputError, match="name a file with them in loss.vgg_weights"):
        wgan_vgg.make(a_context(a_denoiser()))
    for patch in (None, 60, 256):
        with pytest.raises(InputError, match=f"the setting patch is {patch}"):
            wgan_vgg.make(a_context(a_denoiser(), patch=patch, vgg_weights=a_vgg_file))
    torch.manual_seed(0)
    objective = wgan_vgg.make(a_context(ARCHITECTURES["wgan_vgg"](), patch=32, vgg_weights=a_vgg_file, rate=1e-4))
    values = objective.step(*a_batch(32), seeded())
    assert all(math.isfinite(number) for number in values.values())
