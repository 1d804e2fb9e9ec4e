"""ESAU-Net's settings that are not in the paper: the global residual, the fold of pixels into channels, the width."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.models import inference
from ASCONDenoiseLib.models.networks import anatomy_of, build, has_features, image_of
from ASCONDenoiseLib.models.networks.esau_net import ESAUNet


def an_image(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1))


def test_a_residual_network_starts_as_the_identity_bit_for_bit():
    x = an_image(2, 1, 32, 48)
    assert torch.equal(ESAUNet(residual=True)(x), x)
    assert torch.equal(ESAUNet(residual=True, fold=2, channels=8)(x), x)


def test_a_residual_network_is_the_papers_plus_its_input():
    torch.manual_seed(0)
    papers, residual = ESAUNet().eval(), ESAUNet(residual=True).eval()
    residual.load_state_dict(papers.state_dict())  # the same parameters
    x = an_image(1, 1, 24, 32)
    with torch.inference_mode():
        torch.testing.assert_close(residual(x), x + papers(x))


def test_the_sum_is_in_fp32_whatever_the_layers_are():
    network = ESAUNet(residual=True, channels=8).eval()
    torch.nn.init.normal_(network.last.weight, 0, 1e-6)
    x = an_image(1, 1, 16, 16)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        y = network(x)
    assert y.dtype == torch.float32
    assert abs(y - x).max() < 1e-4  # bf16 would round x itself by up to 2e-3


@pytest.mark.parametrize("residual", [False, True])
def test_fold_is_the_same_network_on_squares_of_pixels_as_channels(residual):
    torch.manual_seed(0)
    folded, inner = ESAUNet(residual, fold=2, channels=8).eval(), ESAUNet(channels=8).eval()
    torch.nn.init.normal_(folded.last.weight, 0, 0.1)
    inner.stem = torch.nn.Conv2d(4, 8, 3, padding=1, bias=False)
    inner.last = torch.nn.Conv2d(8, 4, 3, padding=1, bias=False)
    inner.load_state_dict(folded.state_dict())
    x = an_image(2, 1, 32, 48)
    squares = torch.stack([x[:, 0, row::2, column::2] for row in (0, 1) for column in (0, 1)], 1)
    with torch.inference_mode():
        y, expected = folded(x), inner(squares)
    expected = x * residual + _unfolded(expected)
    torch.testing.assert_close(y, expected)


def _unfolded(squares: torch.Tensor) -> torch.Tensor:
    b, _, h, w = squares.shape
    y = torch.zeros(b, 1, 2 * h, 2 * w)
    for channel, (row, column) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        y[:, 0, row::2, column::2] = squares[:, channel]
    return y


def test_anatomy_is_found_in_the_image_of_a_residual_network_and_in_the_features_of_others():
    x = an_image(1, 1, 32, 32)
    plain, residual = ESAUNet(channels=8).eval(), ESAUNet(residual=True, fold=2, channels=8).eval()
    torch.nn.init.normal_(residual.last.weight, 0, 0.1)
    with torch.inference_mode():
        assert torch.equal(anatomy_of(plain, plain.features(x), plain(x)), plain.features(x))
        features, image = residual.features(x), residual(x)
        found = anatomy_of(residual, features, image)
        assert found.shape == (1, 9, 32, 32) and torch.equal(found[:, :1], image)
        for channel in range(8):
            norm = residual.last.weight[:, channel].square().sum().sqrt()
            expected = F.interpolate(features[:, [channel]], scale_factor=2, mode="nearest")[:, 0] * norm
            torch.testing.assert_close(found[:, 1 + channel], expected)


def test_layouts_in_memory_give_the_same():
    network = ESAUNet(residual=True, fold=2, channels=8).eval()
    torch.nn.init.normal_(network.last.weight, 0, 0.1)
    x = an_image(2, 1, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(network(x), network(x.contiguous(memory_format=torch.channels_last)))


@pytest.mark.parametrize(("settings", "parameters"), [({}, 4_914_230), ({"residual": True}, 4_914_230)])
def test_a_residual_costs_no_parameter(settings, parameters):
    assert sum(p.numel() for p in ESAUNet(**settings).parameters()) == parameters


@pytest.mark.parametrize("settings", [{"fold": 0}, {"channels": 12}, {"channels": 0}, {"nonsense": 1}])
def test_settings_that_cannot_be_are_refused(settings):
    with pytest.raises(InputError, match="esau_net cannot be made with the settings"):
        build("esau_net", settings)
    with pytest.raises(InputError, match="no network nothing"):
        build("nothing", {})


def test_sides_that_do_not_fit_are_refused_and_padded_by_inference():
    network = ESAUNet(residual=True, fold=2, channels=8)
    with pytest.raises(ValueError, match="multiples of 16"):
        network(an_image(1, 1, 24, 32))
    voxels = np.random.default_rng(0).normal(40, 20, (2, 30, 41)).astype(np.int16)
    assert (inference.denoise(voxels, network, device="cpu", precision="fp32").voxels == voxels).all()


def test_inference_sees_the_features_of_a_folded_network_at_every_pixel():
    torch.manual_seed(0)
    network = ESAUNet(fold=2, channels=8).eval()
    seen = []
    voxels = np.random.default_rng(0).normal(40, 20, (1, 32, 48)).astype(np.float32)
    inference.denoise(
        voxels, network, device="cpu", precision="fp32", see_features=lambda k, features, image: seen.append(features)
    )
    (features,) = seen
    assert features.shape == (8, 32, 48)
    x = torch.from_numpy((voxels[:, None] + 1000) / 3000)
    with torch.inference_mode():
        expected = F.interpolate(network.features(x), scale_factor=2, mode="nearest")[0]
    np.testing.assert_allclose(features, expected, atol=1e-5)
    assert has_features(network)
    with torch.inference_mode():
        torch.testing.assert_close(image_of(network, network.features(x), x), network(x))
