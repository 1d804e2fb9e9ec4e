"""Patch-DML's generator and its wavelet: PyWavelets and the description carried out by hand are the judges."""

from __future__ import annotations

import numpy as np
import pytest
import pywt
import torch
from torch.nn import functional as F

from ASCONDenoiseLib.models import inference
from ASCONDenoiseLib.models.card import ModelCard, Scope
from ASCONDenoiseLib.models.files import load_network, save_model
from ASCONDenoiseLib.models.networks import ARCHITECTURES
from ASCONDenoiseLib.models.networks.patch_dml import PatchDML
from ASCONDenoiseLib.models.networks.wavelet import DB3, low_band


@pytest.fixture
def a_generator():
    """With biases that are not 0, which would hide their misuse, in evaluation mode."""
    torch.manual_seed(0)
    network = PatchDML()
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, 0.0, 0.05)
    return network.eval()


def an_image(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1))


def low_band_by_pywavelets(image: np.ndarray) -> np.ndarray:
    """Padded as the authors' implementation pads: to a multiple of 64, and by 6 * 64 more."""
    pads = []
    for side in image.shape:
        more = -side % 64 + 6 * 64
        pads.append((more // 2, more - more // 2))
    coefficients = pywt.wavedec2(np.pad(image, pads, mode="symmetric"), "db3", mode="symmetric", level=6)
    without = [coefficients[0], *(tuple(np.zeros_like(d) for d in details) for details in coefficients[1:])]
    rows, columns = (slice(before, before + side) for (before, _), side in zip(pads, image.shape, strict=True))
    return pywt.waverec2(without, "db3", mode="symmetric")[rows, columns]


def test_the_filter_is_that_of_db3():
    assert np.allclose(DB3, pywt.Wavelet("db3").rec_lo, atol=1e-15)


@pytest.mark.parametrize("shape", [(512, 512), (130, 201), (37, 64), (8, 9)])
def test_the_low_band_is_that_of_pywavelets(shape):
    image = np.random.default_rng(0).normal(size=shape)
    ours = low_band(torch.from_numpy(image)[None, None])[0, 0].numpy()
    wanted = low_band_by_pywavelets(image)
    assert np.abs(ours - wanted).max() < 1e-12
    assert np.abs(wanted).max() > 0.01


def test_parameters_are_as_many_as_published():
    assert sum(p.numel() for p in ARCHITECTURES["patch_dml"]().parameters()) == 32_833


def test_a_forward_pass_is_its_description_carried_out_by_hand(a_generator):
    """Three dense blocks with one set of weights; low band beside; units of 2000 HU inside."""
    x = an_image(2, 1, 40, 33)
    low = torch.stack([torch.from_numpy(low_band_by_pywavelets(image[0].double().numpy())) for image in x])[:, None]

    def conv(layer, x):
        side = layer.weight.shape[-1] // 2
        return F.conv2d(F.pad(x, (side,) * 4, mode="replicate"), layer.weight.double(), layer.bias.double())

    x = x.double()
    first = y = conv(a_generator.first, 1.5 * (x - low))
    for _ in range(3):
        maps = [y]
        for layer in a_generator.dense.block.convs:
            maps.append(F.leaky_relu(conv(layer, torch.cat(maps, 1)), 0.2))
        y = maps[0] + 0.1 * maps[-1]
    y = F.leaky_relu(conv(a_generator.middle, first + 0.1 * y), 0.2)
    wanted = low + conv(a_generator.last, y) / 1.5
    assert torch.allclose(a_generator(x.float()).double(), wanted, atol=1e-5)
    assert (wanted - low).std() > 1e-3


def test_every_convolution_has_spectral_norm_1_once_its_iteration_has_settled():
    torch.manual_seed(0)
    network = PatchDML()
    with torch.no_grad():
        for _ in range(60):
            network(an_image(1, 1, 16, 16))
    layers = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(layers) == 8
    for layer in layers:
        assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1, abs=0.02)


def test_the_low_band_passes_untouched_to_rounding(a_generator):
    """An offset, that is a shift of all CT numbers, comes out as it went in, whatever the weights; so does low band."""
    x = an_image(1, 1, 96, 96)
    with torch.no_grad():
        shift = a_generator(x + 0.1) - a_generator(x)
        assert (shift - 0.1).abs().max() * 3000 < 0.02  # HU
        a_generator.generated = torch.zeros_like  # no details at all
        assert torch.equal(a_generator(x), low_band(x))
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(a_generator(x), low_band(x))


def test_patches_with_the_low_band_of_the_whole_are_denoised_as_in_the_whole(a_generator):
    """Away from a patch's border, whose width is that of the layers' sight."""
    x = an_image(1, 1, 160, 160)
    low = low_band(x)
    patch = (slice(None), slice(None), slice(40, 120), slice(32, 128))
    with torch.no_grad():
        whole, given = a_generator(x), a_generator(torch.cat((x[patch], low[patch]), 1))
        alone = a_generator(x[patch])
    inner = (slice(None), slice(None), slice(18, -18), slice(18, -18))
    assert given.shape == (1, 1, 80, 96)
    assert torch.allclose(whole[patch][inner], given[inner], atol=1e-5)
    assert (whole[patch][inner] - alone[inner]).abs().max() > 1e-3  # a patch by itself has another low band


def test_every_weight_learns_from_the_first_step_on():
    for seed in range(3):
        torch.manual_seed(seed)
        network = PatchDML()
        network(an_image(1, 1, 48, 48)).square().mean().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_a_model_file_gives_back_the_network_and_denoises_any_size(tmp_path, a_generator):
    card = ModelCard(
        "patch", "1", "patch_dml", {}, (-1000, 2000), "patch_dml", [], "0.25", "2026-01-01", "-", "-", [], Scope(), {}
    )
    save_model(a_generator, card, tmp_path / "patch.safetensors")
    loaded, _ = load_network(tmp_path / "patch.safetensors")
    voxels = np.random.default_rng(0).integers(-1000, 500, (2, 37, 50)).astype(np.int16)
    results = [inference.denoise(voxels, n, device="cpu").voxels for n in (a_generator, loaded)]
    assert np.array_equal(*results) and results[0].shape == voxels.shape and not np.array_equal(results[0], voxels)
