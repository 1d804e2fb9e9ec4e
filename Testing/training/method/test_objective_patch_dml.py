"""Patch-DML's losses: the metric as loops, layers by hand, one step of all networks, patches and their low band."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from objective_fixtures import RATE, a_batch, a_context, a_denoiser, assert_moved_along, seeded
from torch.nn import functional as F

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.models.networks.patch_dml import PatchDML
from ASCONDenoiseLib.models.networks.wavelet import low_band
from ASCONTrainingLib.method.objectives import patch_dml


def unit_vectors(*shape: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=seeded(seed)).double(), dim=-1)


def metric_by_loops(query: torch.Tensor, key: torch.Tensor, t: float) -> float:
    count, places, width = query.shape
    together, apart_k, apart_q, pairs = 0.0, 0.0, 0.0, 0
    for b in range(count):
        for i in range(places):
            together += math.exp(float(query[b, i] @ key[b, i]) / t)
            for j in range(places):
                if i != j:
                    apart_k += math.exp(float(key[b, i] @ key[b, j]) / t)
                    apart_q += math.exp(float(query[b, i] @ query[b, j]) / t)
                    pairs += 1
    return (-together / (count * places) + apart_k / pairs + apart_q / pairs) / width


def test_the_metric_is_that_of_loops_over_places():
    query, key = unit_vectors(2, 7, 5), unit_vectors(2, 7, 5, seed=1)
    for t in (0.15, 1.0):
        assert patch_dml.metric_loss(query, key, t).item() == pytest.approx(metric_by_loops(query, key, t), rel=1e-9)
    default = patch_dml.metric_loss(query, key).item()
    assert default == pytest.approx(metric_by_loops(query, key, 0.15), rel=1e-9)


def test_the_metric_is_less_where_places_match_and_differ_from_each_other():
    apart = torch.eye(5).double()[None]
    alike = torch.ones(1, 5, 5).double() / math.sqrt(5)
    assert patch_dml.metric_loss(apart, apart) < patch_dml.metric_loss(apart, apart.flip(1))
    assert patch_dml.metric_loss(apart, apart) < patch_dml.metric_loss(alike, alike)


def test_the_discriminator_is_its_description_carried_out_by_hand():
    torch.manual_seed(0)
    judge = patch_dml.Discriminator().eval()
    assert sum(p.numel() for p in judge.parameters()) == 401_373
    for parameter in judge.parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, 0.0, 0.1)
    x = torch.rand(2, 1, 32, 24, generator=seeded())
    convs = [layer for layer in judge.layers if isinstance(layer, torch.nn.Conv2d)]
    attentions = iter(layer.decide for layer in judge.layers if hasattr(layer, "decide"))
    y = x
    for number, conv in enumerate(convs):
        norm = torch.linalg.matrix_norm(conv.weight.flatten(1), 2).item()
        assert norm == pytest.approx(1, abs=0.3)  # after the 15 rounds of the iteration that it begins with
        y = F.conv2d(y, conv.weight, conv.bias, stride=(2, 2, 2, 1, 1)[number], padding=1)
        if number == 4:
            break
        y = F.leaky_relu(y, 0.2)
        if number:
            first, _, last = next(attentions)
            squeezed = y.mean((2, 3))
            excited = (squeezed @ first.weight.T + first.bias).relu() @ last.weight.T + last.bias
            y = y * excited.sigmoid()[:, :, None, None]
    assert torch.allclose(judge(x), y, atol=1e-6)
    assert y.shape == (2, 1, 4, 3)


def test_the_heads_see_the_places_that_were_drawn():
    torch.manual_seed(0)
    heads = patch_dml.MetricHeads(32)
    taps = [torch.rand(2, 32, 6, 5, generator=seeded(k)) for k in range(2)]
    places = [torch.tensor([0, 7, 29]), torch.tensor([4])]
    embedded = heads(taps, places)
    for head, tap, place, got in zip(heads.heads, taps, places, embedded, strict=True):
        assert got.shape == (2, len(place), 128)
        for n, p in enumerate(place.tolist()):
            wanted = head(tap[:, :, p // 5, p % 5])
            assert torch.allclose(got[:, n], wanted / wanted.norm(dim=1, keepdim=True), atol=1e-6)


def test_patches_come_with_the_low_band_of_the_whole_from_anywhere_off_the_border():
    slices = torch.arange(2 * 200 * 260, dtype=torch.float32).reshape(2, 1, 200, 260)
    low, corners, random = low_band(slices), set(), seeded()
    for _ in range(200):
        for k, (image, beside) in enumerate(patch_dml.with_low_band(slices, random)):
            top, left = divmod(int(image[0, 0]) - k * 200 * 260, 260)
            assert image.shape == (128, 128) and torch.equal(beside, low[k, 0, top : top + 128, left : left + 128])
            corners.add((k, top, left))
    rows, columns = ({corner[axis] for corner in corners} for axis in (1, 2))
    assert (min(rows), max(rows)) == (30, 42) and (min(columns), max(columns)) == (30, 102)
    small = torch.rand(1, 1, 48, 40)
    assert patch_dml.with_low_band(small, random).shape == (1, 2, 40, 40)


def test_one_step_of_all_networks_is_the_gradient_of_the_losses_typed_from_the_paper():
    """Everything in evaluation mode, so that the iteration of the spectral norm stands still."""
    torch.manual_seed(0)
    network = PatchDML().eval()
    context = a_context(network)
    objective = patch_dml.make(context)
    for name in ("heads", "discriminator"):
        objective.parts[name].eval()
    for name in ("heads_optimizer", "discriminator_optimizer"):
        parameters = objective.parts[name.removesuffix("_optimizer")].parameters()
        setattr(objective, name, torch.optim.SGD(parameters, RATE))
    before = copy.deepcopy(network)
    heads, judge = copy.deepcopy(objective.heads), copy.deepcopy(objective.discriminator)
    ldct, ndct = a_batch(32)
    values = objective.step(ldct, ndct, seeded(5))

    random = seeded(5)
    x, y = (patch_dml.with_low_band(images, random) for images in (ldct, ndct))
    assert torch.equal(x[:, :1], ldct) and torch.equal(y[:, :1], ndct)  # of this size the patch is the image
    places = [torch.randperm(32 * 32, generator=random)[:128] for _ in range(2)]

    def details(both):  # units of 2000 HU
        return 1.5 * (both[:, :1] - both[:, 1:])

    def encoded(high):
        first = before.dense(before.first(high))
        return [first, before.middle(first)]

    high, real = details(x), details(y)
    false = before.generated(high)
    keys, queries = (heads(encoded(h), places) for h in (high, false))
    metric = sum(patch_dml.metric_loss(q, k) for q, k in zip(queries, keys, strict=True)) / 2
    adversarial = ((judge(false) - 1) ** 2).mean()
    identity = (before.generated(real) - real).abs().mean()
    loss = adversarial + 5 * identity + 0.1 * metric
    for name, wanted in (("adversarial", adversarial), ("identity", identity), ("metric", metric), ("loss", loss)):
        assert values[name] == pytest.approx(wanted.item(), rel=1e-4), name
    critic = 0.5 * ((judge(real) - 1) ** 2).mean() + 0.5 * (judge(false.detach()) ** 2).mean()
    assert values["discriminator"] == pytest.approx(critic.item(), rel=1e-4)
    assert_moved_along(network, before, loss)
    assert_moved_along(objective.parts["heads"], heads, loss)
    assert_moved_along(objective.parts["discriminator"], judge, critic)


def test_another_network_is_refused_in_a_sentence():
    with pytest.raises(InputError, match="set network to patch_dml"):
        patch_dml.make(a_context(a_denoiser()))
