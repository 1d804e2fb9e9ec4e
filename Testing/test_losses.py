"""Losses against scikit-image and by hand."""

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from ASCONTrainingLib import losses


@pytest.mark.parametrize("shape", [(24, 24), (17, 40), (11, 11)])
def test_ssim_is_that_of_scikit_image(shape):
    random = np.random.default_rng(0)
    x, y = random.random((2, *shape))
    y = 0.7 * x + 0.3 * y
    _, full = structural_similarity(
        x, y, data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
    )
    ours = losses.ssim(torch.from_numpy(x)[None, None], torch.from_numpy(y)[None, None])
    assert ours.item() == pytest.approx(full.clip(0, 1).mean(), abs=1e-9)


def test_ssim_of_a_batch_is_the_mean():
    x, y = torch.rand(2, 3, 1, 16, 16)
    apart = torch.stack([losses.ssim(a[None], b[None]) for a, b in zip(x, y, strict=True)])
    assert torch.allclose(losses.ssim(x, y), apart.mean())


def test_pixel_loss_adds_its_two_parts():
    x, y = torch.rand(2, 1, 1, 16, 16, dtype=torch.float64)
    squares = sum((a - b) ** 2 for a, b in zip(x.flatten().tolist(), y.flatten().tolist(), strict=True)) / 256
    assert losses.pixel_loss(x, y, 7.0).item() == pytest.approx(7 * squares + 1 - losses.ssim(x, y).item())
    assert losses.pixel_loss(x, x, 7.0).item() == pytest.approx(0, abs=1e-12)
