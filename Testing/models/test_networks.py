"""The networks that ASCON is compared with: their sizes, their layers typed once more by hand, and their use."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ASCONDenoiseLib.models import inference
from ASCONDenoiseLib.models.networks import ARCHITECTURES

PEERS = ("unet", "red_cnn", "edcnn", "cncl", "du_gan", "wgan_vgg", "resnet", "cnn10")


def a_network(key: str) -> nn.Module:
    torch.manual_seed(0)
    network = ARCHITECTURES[key]()
    for (
        name,
        parameter,
    ) in network.named_parameters():  # what begins at 0 or 1 would hide its misuse
        if parameter.dim() == 1 or name.endswith("factor"):
            nn.init.normal_(parameter, 0.1, 0.2)
    return network


def an_image(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("key", "published", "where"),
    [
        ("unet", 31_030_593, "Fig. 1 of the paper, convolutions with bias, one channel out"),
        ("red_cnn", 1_848_865, "96 channels, the implementation SSinyu/RED-CNN"),
        ("edcnn", 80_961, "the authors' implementation, which counts 288 fixed Sobel weights besides"),
        ("cncl", 43_825_413 - 384, "the authors' implementation, less the normalisations it never calls"),
        ("du_gan", 185_569, "the authors' implementation"),
        ("wgan_vgg", 55_872, "the authors' implementation: 9 * 32 + 6 * 9 * 32 * 32 + 9 * 32"),
        ("resnet", 1_843_329, "ldct-benchmark: 81 * 128 + 10 * (147584 + 18560 + 16512 + 4 * 128) + 9 * 128 + 129"),
        ("cnn10", 24_513, "ldct-benchmark: 81 * 64 + 64 + 9 * 64 * 32 + 32 + 25 * 32 + 1"),
    ],
)
def test_parameters_are_as_many_as_published(key, published, where):
    assert sum(p.numel() for p in ARCHITECTURES[key]().parameters()) == published, where


def test_the_parameters_of_unet_are_those_of_its_figure():
    """3x3 convolutions of Fig. 1 from left to right, then its 2x2 up-convolutions, then the 1x1."""
    convolutions = [(1, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512), (512, 512)]
    convolutions += [(512, 1024), (1024, 1024), (1024, 512), (512, 512), (512, 256), (256, 256), (256, 128)]
    convolutions += [(128, 128), (128, 64), (64, 64)]
    ups = [(1024, 512), (512, 256), (256, 128), (128, 64)]
    total = sum(9 * a * b + b for a, b in convolutions) + sum(4 * a * b + b for a, b in ups) + 64 + 1
    assert sum(p.numel() for p in ARCHITECTURES["unet"]().parameters()) == total


# Each forward pass once more, from its description, with the weights in the order of the description


def unet_by_hand(w: Callable[[], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    def double(x):
        for _ in range(2):
            x = F.conv2d(x, w(), w(), padding=1).relu()
        return x

    skips = []
    for _ in range(4):
        x = double(x)
        skips.append(x)
        x = F.max_pool2d(x, 2)
    x = double(x)
    for skip in reversed(skips):
        x = double(torch.cat((skip, F.conv_transpose2d(x, w(), w(), stride=2)), 1))
    return F.conv2d(x, w(), w())


def red_cnn_by_hand(w, x):
    kept = [x]
    for number in range(1, 6):
        x = F.conv2d(x, w(), w()).relu()
        if number in (2, 4):
            kept.append(x)
    for number in range(1, 6):
        x = F.conv_transpose2d(x, w(), w())
        x = (x + kept.pop() if number in (1, 3, 5) else x).relu()
    return x


def edcnn_by_hand(w, x):
    factor, bias = w(), w()
    down = torch.tensor([[-1, -2, -1], [0, 0, 0], [1, 2, 1]]).to(x)
    slope = torch.tensor([[-2, -1, 0], [-1, 0, 1], [0, 1, 2]]).to(x)
    directions = (down, down.T, slope, slope.flip(0))
    edges = [factor[c, 0, 0, 0] * F.conv2d(x, directions[c % 4][None, None], padding=1) + bias[c] for c in range(32)]
    given = torch.cat((x, *edges), 1)
    seen = given
    for block in range(8):
        y = F.conv2d(F.leaky_relu(F.conv2d(seen, w(), w()), 0.01), w(), w(), padding=1)
        if block < 7:
            seen = torch.cat((given, F.leaky_relu(y, 0.01)), 1)
    return F.leaky_relu(x + y, 0.01)


def cncl_by_hand(w, x):
    """In training mode: batch statistics."""

    def normal(x):
        mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, unbiased=False)
        weight, bias = w(), w()
        return (x - mean) / (variance + 1e-5).sqrt() * weight[:, None, None] + bias[:, None, None]

    def double(x):
        for _ in range(2):
            x = normal(F.conv2d(x, w(), w(), padding=1)).relu()
        return x

    def predictor(x):
        skips = []
        for _ in range(4):
            x = double(x)
            skips.append(x)
            x = F.max_pool2d(x, 2)
        x = double(x)
        for number, skip in enumerate(reversed(skips)):
            up = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
            x = torch.cat((up, skip), 1)
            x = F.conv2d(x, w(), w(), padding=1) if number == 3 else double(x)
        return x

    content, noise = predictor(x), predictor(x)
    content, noise = F.conv2d(content, w(), w(), padding=1), F.conv2d(noise, w(), w(), padding=1)
    a, b = w().flatten()
    return torch.cat((a * content + b * (x - noise) + w(), noise), 1)


def du_gan_by_hand(w, x):
    inputs = []
    for _ in range(11):
        inputs.append(x)
        x = F.conv2d(x, w(), w(), padding=1).relu()
    for _ in range(11):
        x = (F.conv_transpose2d(x, w(), w(), padding=1) + inputs.pop()).relu()
    return x


def wgan_vgg_by_hand(w, x):
    for _ in range(8):
        x = F.conv2d(x, w(), padding=1).relu()
    return x


def resnet_by_hand(w, x):
    """In training mode: batch statistics."""

    def normal(x):
        mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, unbiased=False)
        return (x - mean) / (variance + 1e-5).sqrt() * w()[:, None, None] + w()[:, None, None]

    y = F.conv2d(x, w(), w(), padding=4)
    for _ in range(10):
        z = normal(F.conv2d(y, w(), w(), padding=1)).relu()
        z = normal(F.conv2d(z, w(), w(), padding=1, groups=8)).relu()
        y = y + F.conv2d(z, w(), w())
    return x - F.conv2d(y, w(), w(), padding=1)


def cnn10_by_hand(w, x):
    x = F.conv2d(x, w(), w(), padding=4).relu()
    x = F.conv2d(x, w(), w(), padding=1).relu()
    return F.conv2d(x, w(), w(), padding=2)


@pytest.mark.parametrize("key", PEERS)
def test_a_forward_pass_is_its_description_carried_out_by_hand(key):
    network = a_network(key).double().train()
    x = an_image(2, 1, 48, 32).double()
    weights = iter(network.parameters())
    by_hand = globals()[f"{key}_by_hand"](lambda: next(weights), x)
    assert next(weights, None) is None
    assert torch.allclose(network(x), by_hand, rtol=1e-9, atol=1e-9)
    assert by_hand.std() > 0.01


# In use


@pytest.mark.parametrize("key", PEERS)
def test_inference_takes_any_size_and_gives_it_back(key):
    """Features and last layer, where there are any, are the network; odd sides are padded and cropped."""
    network = a_network(key).eval()
    voxels = np.random.default_rng(0).integers(-1000, 500, (2, 37, 50)).astype(np.int16)
    result = inference.denoise(voxels, network, device="cpu").voxels
    assert result.shape == voxels.shape and result.dtype == np.int16
    multiple = getattr(network, "SIDE_MULTIPLE", 1)
    unit = np.pad((voxels[0] + 1000) / 3000, ((0, -37 % multiple), (0, -50 % multiple)), mode="reflect")
    with torch.no_grad():
        x = torch.from_numpy(unit).float()[None, None]
        y = network.last(network.features(x)) if hasattr(network, "features") else network(x)
    assert np.abs(result[0] - y[0, 0, :37, :50].numpy() * 3000 + 1000).max() < 1


@pytest.mark.parametrize("key", ["unet", "cncl"])
def test_sides_that_do_not_fit_are_refused_in_a_sentence(key):
    with pytest.raises(ValueError, match=r"multiples of 16; got \(40, 32\)"):
        ARCHITECTURES[key]()(torch.zeros(1, 1, 40, 32))


@pytest.mark.parametrize("key", PEERS)
def test_every_weight_learns_from_the_first_step_on(key):
    """No dead start, whatever the seed: each weight tensor gets a gradient, and the image is not a flat zero."""
    for seed in range(3):
        torch.manual_seed(seed)
        network = ARCHITECTURES[key]()
        output = network(an_image(1, 1, 48, 48))
        output.square().mean().backward()
        assert output.abs().max() > 0
        dead = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
        # a bias before batch normalisation has no effect, so its gradient is rounding or 0
        assert [name for name in dead if not (key in ("cncl", "resnet") and name.endswith("bias"))] == []


def test_cncl_gives_the_fused_image_in_use_and_its_noise_besides_in_training():
    network = a_network("cncl")
    x = an_image(1, 1, 32, 32)
    assert network.train()(x).shape == (1, 2, 32, 32)
    with torch.no_grad():
        content = network.eval()(x)
        assert torch.equal(content, network.complements(network.features(x))[:, :1])


def test_the_fusion_of_cncl_begins_as_the_mean_of_both_estimates():
    network = ARCHITECTURES["cncl"]().eval()
    x = an_image(1, 1, 32, 32)
    with torch.no_grad():
        content, noise, image = network.features(x).split((32, 32, 1), 1)
        wanted = (network.content_last(content) + image - network.noise_last(noise)) / 2
        assert torch.allclose(network(x), wanted, atol=1e-6)
