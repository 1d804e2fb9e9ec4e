"""TSC-Net's losses: the regularisation as loops, the teacher's time, and a step of the student by hand."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from objective_fixtures import RATE, a_batch, a_context, a_denoiser, assert_moved_along, seeded

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.models.networks.tsc_net import TSCNet
from ASCONTrainingLib.method.objectives import tsc_net, tsc_net_latent
from ASCONTrainingLib.method.perceptual import load_vgg19


def a_small_student() -> TSCNet:
    torch.manual_seed(1)
    return TSCNet(width=8, blocks=2)


def at(fraction: float, network: TSCNet, **files: str):
    return replace(a_context(network, **files), fraction_done=lambda: fraction)


def regularization_by_loops(own, ndct, ldct, weights):
    total = 0.0
    for a, p, n, weight in zip(own, ndct, ldct, weights, strict=True):
        pulled = [abs(x - y) for x, y in zip(a.flatten().tolist(), p.flatten().tolist(), strict=True)]
        pushed = [abs(x - y) for x, y in zip(a.flatten().tolist(), n.flatten().tolist(), strict=True)]
        total += weight * (sum(pulled) / len(pulled)) / (sum(pushed) / len(pushed) + 1e-7)
    return total


def test_the_regularization_is_that_of_loops():
    maps = [[torch.rand(2, 3, 4 + k, 5, generator=seeded(10 * k + n)) for k in range(3)] for n in range(3)]
    got = tsc_net.contrastive_regularization(*maps, (0.25, 0.5, 1.0))
    assert got.item() == pytest.approx(regularization_by_loops(*maps, (0.25, 0.5, 1.0)), rel=1e-5)
    near, far = tsc_net.contrastive_regularization(maps[1], *maps[1:], (1, 1, 1)), got
    assert near.item() == 0 < far.item()


def test_the_teacher_learns_first_and_the_student_is_its_copy():
    student = a_small_student()
    objective = tsc_net_latent.make(at(0.19, student))
    objective.optimizer = torch.optim.SGD(objective.teacher.parameters(), RATE)
    before = copy.deepcopy(objective.teacher)
    ldct, ndct = a_batch(32)
    values = objective.step(ldct, ndct, seeded())
    loss = (before(ndct) - ndct).abs().mean()
    assert values["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert_moved_along(objective.teacher, before, loss)
    for own, taught in zip(student.state_dict().values(), objective.teacher.state_dict().values(), strict=True):
        assert torch.equal(own, taught)


@pytest.mark.parametrize("latent", [True, False])
def test_a_step_of_the_student_is_the_gradient_of_the_losses_typed_from_their_description(latent, a_vgg_file):
    student = a_small_student()
    make = tsc_net_latent.make if latent else tsc_net.make
    objective = make(at(0.2, student, vgg_weights=a_vgg_file))
    teacher = objective.teacher
    with torch.no_grad():
        for number, parameter in enumerate(teacher.parameters()):
            parameter.add_(0.03 * torch.randn(parameter.shape, generator=seeded(number)))
    before, taught = copy.deepcopy(student), copy.deepcopy(teacher.state_dict())
    ldct, ndct = a_batch(32)
    values = objective.step(ldct, ndct, seeded())

    def phi(network, x):
        half = network.down1(network.stem(x))
        down = network.down2(half)
        first = network.blocks[0](down)
        return [down, first, network.enhance(network.blocks[1](first))]

    if latent:

        def maps(x):
            full = teacher.stem(x)
            half = teacher.down1(full)
            return [full, half, teacher.down2(half)]

        weights = (1 / 8, 1 / 4, 1)
    else:
        vgg = load_vgg19(a_vgg_file)

        def maps(x):
            y, seen = (x - vgg.mean) / vgg.sd, []
            for number, layer in enumerate(vgg.features):
                y = layer(y).clone()
                if number in (1, 6, 11, 20, 29):
                    seen.append(y)
            return seen

        weights = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1)
    denoised = before(ldct)
    l1 = (denoised - ndct).abs().mean()
    imitation = sum(((a - b.detach()) ** 2).mean() for a, b in zip(phi(before, ldct), phi(teacher, ndct), strict=True))
    contrast = sum(
        w * (a - p.detach()).abs().mean() / ((a - n.detach()).abs().mean() + 1e-7)
        for w, a, p, n in zip(weights, maps(denoised), maps(ndct), maps(ldct), strict=True)
    )
    loss = l1 + 0.1 * imitation + 0.1 * contrast
    for name, wanted in (("l1", l1), ("imitation", imitation), ("contrast", contrast), ("loss", loss)):
        assert values[name] == pytest.approx(wanted.item(), rel=1e-4), name
    assert_moved_along(student, before, loss)
    assert all(torch.equal(now, taught[name]) for name, now in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_the_guides_are_three_maps_at_a_quarter_of_the_size():
    network = TSCNet()
    shapes = []
    for layer in network.guides:
        layer.register_forward_hook(lambda _layer, _given, output: shapes.append(tuple(output.shape)))
    network(torch.rand(1, 1, 32, 64))
    assert shapes == [(1, 128, 8, 16)] * 3
    assert network.guides == (network.down2, network.blocks[2], network.enhance)


def test_what_is_missing_is_said_in_a_sentence():
    with pytest.raises(InputError, match="name a file with them in loss.vgg_weights, or set objective to tsc_net_lat"):
        tsc_net.make(a_context(a_small_student()))
    with pytest.raises(InputError, match="set network to tsc_net"):
        tsc_net_latent.make(a_context(a_denoiser()))
