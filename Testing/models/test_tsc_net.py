"""TSC-Net's network, and its deformable convolution against the plain one and against loops over pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ASCONDenoiseLib.models import inference
from ASCONDenoiseLib.models.card import ModelCard, Scope
from ASCONDenoiseLib.models.files import load_network, save_model
from ASCONDenoiseLib.models.networks import ARCHITECTURES
from ASCONDenoiseLib.models.networks.deformable_convolution import DeformableConv2d, deformed
from ASCONDenoiseLib.models.networks.tsc_net import TSCNet


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def test_a_deformable_convolution_begins_as_the_plain_one():
    torch.manual_seed(0)
    layer = DeformableConv2d(4).double()
    x = random(2, 4, 7, 9)
    assert torch.allclose(layer(x), F.conv2d(x, layer.conv.weight, layer.conv.bias, padding=1), atol=1e-12)


def test_whole_offsets_move_the_taps_and_the_mask_weighs_them():
    x, weight = random(1, 2, 6, 8), random(3, 2, 3, 3, seed=1)
    offsets = torch.zeros(1, 18, 6, 8).double()
    offsets[:, 0::2], offsets[:, 1::2] = -1, 2  # all taps one up and two to the right
    mask = torch.full((1, 9, 6, 8), 0.5).double()
    wide = F.conv2d(F.pad(x, (5,) * 4), weight)  # [i, j] looks at the pixels round (i - 4, j - 4)
    assert torch.allclose(deformed(x, offsets, mask, weight, None), 0.5 * wide[:, :, 3:9, 6:14])


def by_loops(x, offsets, mask, weight, bias):
    """Equation 1 of Deformable ConvNets v2, pixel by pixel."""
    count, channels, height, width = x.shape
    y = torch.zeros(count, len(weight), height, width).double() + bias[:, None, None]

    def at(b, c, row, column):
        total = 0.0
        for r in (math.floor(row), math.floor(row) + 1):
            for q in (math.floor(column), math.floor(column) + 1):
                if 0 <= r < height and 0 <= q < width:
                    total += float(x[b, c, r, q]) * (1 - abs(row - r)) * (1 - abs(column - q))
        return total

    for b, i, j in np.ndindex(count, height, width):
        for tap in range(9):
            row = i + tap // 3 - 1 + float(offsets[b, 2 * tap, i, j])
            column = j + tap % 3 - 1 + float(offsets[b, 2 * tap + 1, i, j])
            for c in range(channels):
                y[b, :, i, j] += weight[:, c, tap // 3, tap % 3] * float(mask[b, tap, i, j]) * at(b, c, row, column)
    return y


def test_a_deformable_convolution_is_that_of_loops_over_pixels():
    """Offsets of some pixels, fractions, places outside; and through the layer, where the input decides."""
    x, offsets, mask = random(2, 2, 5, 6), 1.5 * random(2, 18, 5, 6, seed=1), random(2, 9, 5, 6, seed=2).sigmoid()
    weight, bias = random(3, 2, 3, 3, seed=3), random(3, seed=4)
    assert torch.allclose(deformed(x, offsets, mask, weight, bias), by_loops(x, offsets, mask, weight, bias))

    torch.manual_seed(0)
    layer = DeformableConv2d(2).double()
    nn.init.normal_(layer.decide.weight, 0, 0.5)
    layer.requires_grad_(False)
    decided = F.conv2d(x, layer.decide.weight, layer.decide.bias, padding=1)
    wanted = by_loops(x, decided[:, :18], 2 * decided[:, 18:].sigmoid(), layer.conv.weight, layer.conv.bias)
    assert torch.allclose(layer(x), wanted)


def test_a_deformable_convolution_has_the_right_gradients():
    inputs = [random(1, 2, 4, 4), 0.4 * random(1, 18, 4, 4, seed=1), random(1, 9, 4, 4, seed=2).sigmoid()]
    inputs += [random(2, 2, 3, 3, seed=3), random(2, seed=4)]
    assert torch.autograd.gradcheck(deformed, [i.requires_grad_() for i in inputs])


def test_under_autocast_a_deformable_convolution_keeps_fp32():
    layer, x = DeformableConv2d(4), torch.rand(1, 4, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), layer.float()(x)) and layer(x).dtype == torch.float32
    assert torch.allclose(layer(x), layer.conv(x), atol=1e-5)


def test_parameters_are_those_of_its_description():
    def conv(a, b, side):
        return a * b * side**2 + b

    attention = conv(128, 16, 1) + conv(16, 128, 1) + conv(128, 16, 1) + conv(16, 1, 1)
    total = conv(1, 32, 7) + conv(32, 64, 3) + conv(64, 128, 3)
    total += 6 * (2 * conv(128, 128, 3) + attention)
    total += attention + 2 * (conv(128, 128, 3) + conv(128, 27, 3)) + 2
    total += conv(128, 64, 3) + conv(64, 32, 3) + conv(32, 1, 7)
    assert sum(p.numel() for p in ARCHITECTURES["tsc_net"]().parameters()) == total == 2_360_464


def by_hand(w, x):
    """The weights in the order of the description; deformable convolutions begin as plain ones."""

    def attended(x):
        y = x * F.conv2d(F.conv2d(x.mean((2, 3), keepdim=True), w(), w()).relu(), w(), w()).sigmoid()
        return y * F.conv2d(F.conv2d(y, w(), w()).relu(), w(), w()).sigmoid()

    def mixed(logit, a, b):
        return a / (1 + (-logit).exp()) + b * (1 - 1 / (1 + (-logit).exp()))

    def plain(x):
        y = F.conv2d(x, w(), w(), padding=1)
        return y, w(), w()

    y = F.conv2d(F.pad(x, (3,) * 4, mode="reflect"), w(), w()).relu()
    half = F.conv2d(y, w(), w(), stride=2, padding=1).relu()
    quarter = y = F.conv2d(half, w(), w(), stride=2, padding=1).relu()
    for _ in range(6):
        z = F.conv2d(y, w(), w(), padding=1).relu() + y
        y = attended(F.conv2d(z, w(), w(), padding=1)) + y
    z, *_ = plain(attended(y))
    z, *_ = plain(z.relu())
    y = mixed(w(), quarter, z + y)
    second = w()
    y = F.conv_transpose2d(y, w(), w(), stride=2, padding=1, output_padding=1).relu()
    y = mixed(second, half, y)
    y = F.conv_transpose2d(y, w(), w(), stride=2, padding=1, output_padding=1).relu()
    return F.conv2d(F.pad(y, (3,) * 4, mode="reflect"), w(), w())


def test_a_forward_pass_is_its_description_carried_out_by_hand():
    torch.manual_seed(0)
    network = TSCNet().double()
    x = random(2, 1, 24, 32, seed=1)
    weights = iter(network.parameters())
    wanted = by_hand(lambda: next(weights), x)
    assert next(weights, None) is None
    assert torch.allclose(network(x), wanted, rtol=1e-9, atol=1e-9)
    assert wanted.std() > 1e-3
    assert [network.mix1.logit.item(), network.mix2.logit.item()] == pytest.approx([-1, -0.6])


def test_every_weight_learns_from_the_first_step_on():
    for seed in range(3):
        torch.manual_seed(seed)
        network = TSCNet()
        network(torch.rand(1, 1, 48, 48)).square().mean().backward()
        dead = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
        assert dead == []


def test_sides_that_do_not_fit_are_refused_in_a_sentence():
    with pytest.raises(ValueError, match=r"multiples of 4; got \(42, 32\)"):
        TSCNet()(torch.zeros(1, 1, 42, 32))


def test_a_model_file_gives_back_the_network_and_denoises_any_size(tmp_path):
    torch.manual_seed(0)
    network = TSCNet().eval()
    card = ModelCard(
        "tsc", "1", "tsc_net", {}, (-1000, 2000), "tsc_net", [], "0.25", "2026-01-01", "-", "-", [], Scope(), {}
    )
    save_model(network, card, tmp_path / "tsc.safetensors")
    loaded, _ = load_network(tmp_path / "tsc.safetensors")
    voxels = np.random.default_rng(0).integers(-1000, 500, (2, 37, 50)).astype(np.int16)
    results = [inference.denoise(voxels, n, device="cpu").voxels for n in (network, loaded)]
    assert np.array_equal(*results) and results[0].shape == voxels.shape
