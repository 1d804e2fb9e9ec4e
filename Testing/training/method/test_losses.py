"""Losses against scikit-image, against loops typed from the paper, and their gradients against finite differences."""

import math

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from torch.nn import functional as F

from ASCONTrainingLib.method import losses


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


def a_lesion() -> tuple[torch.Tensor, torch.Tensor]:
    """Two images with a square lesion each, and noise that does not hide it: SNR 80 by its area."""
    added = torch.zeros(2, 1, 32, 32)
    added[:, :, 8:16, 8:16] = 0.01
    return added, 0.001 * torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))


def test_response_loss_is_the_share_of_contrast_and_of_sharpness_that_is_lost():
    added, noise = a_lesion()
    assert losses.response_loss(added, added, noise) == 0
    assert losses.response_loss(0.8 * added, added, noise).item() == pytest.approx(0.04 + 0.04, rel=0.05)
    assert losses.response_loss(0 * added, added, noise).item() == pytest.approx(1 + 1, rel=0.05)
    blurred = F.avg_pool2d(added, 3, stride=1, padding=1)
    flat = losses._lost(blurred, added, added, noise).item()
    assert losses.response_loss(blurred, added, noise).item() > 3 * flat  # its edge is lost more than its contrast


def test_response_loss_does_not_ask_for_what_noise_hides_or_what_lies_beside():
    added, noise = a_lesion()
    assert 0 < losses.response_loss(0 * added, added, 1000 * noise).item() < 1e-6
    half = 80 / losses.VISIBLE_SNR * noise
    assert losses._lost(0 * added, added, added, half).item() == pytest.approx(0.5, abs=0.03)
    assert losses._lost(0 * added, added, added, 2 * half).item() == pytest.approx(1 / 17, rel=0.2)
    assert losses._lost(0 * added, 100 * added, added, 0 * noise).item() == 1
    elsewhere = added.clone()
    elsewhere[:, :, 20:30, 20:30] = 0.05  # other noise is left over there
    assert losses.response_loss(elsewhere, added, noise).item() == pytest.approx(0, abs=1e-6)


def test_response_loss_is_0_and_finite_without_lesions_and_without_noise():
    nothing, random = torch.zeros(1, 1, 16, 16), torch.rand(1, 1, 16, 16, requires_grad=True)
    loss = losses.response_loss(random, nothing, torch.rand(1, 1, 16, 16))
    loss.backward()
    assert loss == 0 and torch.isfinite(random.grad).all()
    assert torch.isfinite(losses.response_loss(nothing, random.detach(), nothing))


@pytest.mark.parametrize("shape", [(2, 1, 32, 48), (1, 1, 37, 17)])
def test_local_mean_loss_compares_the_means_of_regions(shape):
    x, y = torch.rand(2, *shape, dtype=torch.float64)
    squares = []
    for image, other in zip(x[:, 0].numpy(), y[:, 0].numpy(), strict=True):
        for top in range(0, shape[2] - 15, 16):
            for left in range(0, shape[3] - 15, 16):
                a, b = (i[top : top + 16, left : left + 16].mean() for i in (image, other))
                squares.append((a - b) ** 2)
    assert losses.local_mean_loss(x, y).item() == pytest.approx(sum(squares) / len(squares))


def test_local_mean_loss_sees_a_shift_and_hardly_noise():
    """2 HU everywhere against noise of 20 HU: the noise has 100 times the MSE, the shift 2.6 times this loss."""
    y = torch.full((1, 1, 256, 256), 0.35)
    noise = 20 / 3000 * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    shifted, noisy = (losses.local_mean_loss(image, y).item() for image in (y + 2 / 3000, y + noise))
    assert shifted == pytest.approx((2 / 3000) ** 2, rel=1e-3) and shifted > 2 * noisy


# The losses on features, against loops typed from the paper


def features(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def naive_global_loss(prediction, projection, counted):
    """Equation 4, one query after the other, divided by their number."""
    found = []
    for b in range(prediction.shape[0]):
        for i in range(prediction.shape[1]):
            if counted is not None and not counted[b, i]:
                continue
            q, z = prediction[b, i].numpy(), projection[b, i].numpy()
            distance = q / math.sqrt(sum(q * q)) - z / math.sqrt(sum(z * z))
            found.append(sum(d * d for d in distance))
    return sum(found) / len(found)


def naive_local_loss(query, positive, negatives, inside, temperature, counted):
    """Equation 5, one query after the other, divided by their number."""
    found = []
    for b in range(query.shape[0]):
        for i in range(query.shape[1]):
            if counted is not None and not counted[b, i]:
                continue
            alike = math.exp(sum(query[b, i].numpy() * positive[b, i].numpy()) / temperature)
            others = 0.0
            for j in range(negatives.shape[2]):
                if inside[b, i, j]:
                    others += math.exp(sum(query[b, i].numpy() * negatives[b, i, j].numpy()) / temperature)
            found.append(-math.log(alike / (alike + others)))
    return sum(found) / len(found)


COUNTED = torch.tensor([[True, False, True, True], [False, False, True, False]])


@pytest.mark.parametrize("counted", [None, COUNTED])
def test_global_loss_is_equation_4(counted):
    prediction, projection = features(2, 2, 4, 6).unbind()
    ours = losses.global_loss(prediction, projection, counted)
    assert ours.item() == pytest.approx(naive_global_loss(prediction, projection, counted), rel=1e-12)


@pytest.mark.parametrize(
    "angle, loss", [(0, 0), (math.pi / 2, 2), (math.pi, 4)], ids=["same way", "square", "other way"]
)
def test_global_loss_sees_the_angle_only(angle, loss):
    prediction = torch.tensor([[[3.0, 0.0]]], dtype=torch.float64)
    projection = 0.01 * torch.tensor([[[math.cos(angle), math.sin(angle)]]], dtype=torch.float64)
    assert losses.global_loss(prediction, projection).item() == pytest.approx(loss, abs=1e-12)


@pytest.mark.parametrize("counted", [None, COUNTED])
@pytest.mark.parametrize("temperature", [1.0, 0.07])
def test_local_loss_is_equation_5(counted, temperature):
    query, positive = F.normalize(features(2, 2, 4, 6), dim=-1).unbind()
    negatives = F.normalize(features(2, 4, 5, 6, seed=1), dim=-1)
    inside = torch.rand(2, 4, 5, generator=torch.Generator().manual_seed(2)) > 0.4
    inside[0, 0] = False  # a query without negatives costs nothing
    ours = losses.local_loss(query, positive, negatives, inside, temperature, counted)
    naive = naive_local_loss(query, positive, negatives, inside, temperature, counted)
    assert ours.item() == pytest.approx(naive, rel=1e-12)


def test_local_loss_of_one_query_without_negatives_is_zero_with_a_gradient_of_zero():
    query = features(1, 1, 6).requires_grad_()
    loss = losses.local_loss(
        query, features(1, 1, 6, seed=1), features(1, 1, 3, 6), torch.zeros(1, 3, dtype=torch.bool), 0.1
    )
    loss.backward()
    assert loss.item() == 0 and torch.equal(query.grad, torch.zeros_like(query))


def test_local_loss_takes_sharp_temperatures_without_overflow():
    query, positive = F.normalize(torch.randn(2, 1, 3, 6), dim=-1).unbind()
    inside = torch.ones(1, 3, 4, dtype=torch.bool)
    assert torch.isfinite(losses.local_loss(query, positive, -query[:, :, None].expand(-1, -1, 4, -1), inside, 1e-3))


@pytest.mark.parametrize("counted", [None, COUNTED])
def test_gradients_are_those_of_finite_differences(counted):
    inputs = [features(2, 4, 3, seed=seed).requires_grad_() for seed in (0, 1)]
    assert torch.autograd.gradcheck(lambda q, z: losses.global_loss(q, z, counted), inputs)

    inside = torch.rand(2, 4, 5, generator=torch.Generator().manual_seed(2)) > 0.4
    negatives = features(2, 4, 5, 3, seed=3).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda q, z, n: losses.local_loss(q, z, n, inside, 0.2, counted), [*inputs, negatives]
    )


def test_gradients_of_the_image_losses_are_those_of_finite_differences():
    random = torch.Generator().manual_seed(0)
    x, y = torch.rand(2, 1, 1, 12, 13, dtype=torch.float64, generator=random)
    assert torch.autograd.gradcheck(lambda x: losses.ssim(x, y), [(0.7 * y + 0.3 * x).requires_grad_()])
    x, y = torch.rand(2, 1, 1, 20, 33, dtype=torch.float64, generator=random)
    assert torch.autograd.gradcheck(lambda x: losses.local_mean_loss(x, y), [x.requires_grad_()])


def test_errors_count_by_the_noise_of_their_image():
    ndct = torch.zeros(2, 1, 32, 32)
    noise = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    sd = torch.tensor([20.0, 80.0])[:, None, None, None] / 3000
    weights = losses.noise_weights(noise * sd, ndct)
    assert weights.shape == (2, 1, 1, 1)
    assert weights[0].item() == pytest.approx(1, rel=0.1)
    assert weights[1].item() == pytest.approx((20**2 + 10**2) / (80**2 + 10**2), rel=0.1)
    errors = torch.tensor([1.0, 3.0])[:, None, None, None].expand(2, 1, 4, 4)
    expected = (weights[0] * 1 + weights[1] * 9).item() / 2
    assert losses.mse_loss(errors, torch.zeros_like(errors), weights).item() == pytest.approx(expected)
    assert losses.mse_loss(errors, torch.zeros_like(errors)).item() == pytest.approx(5)


def test_means_of_each_side_count_alike_for_white_noise_and_more_for_coarse():
    white = torch.randn(4, 1, 384, 384, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    zero = torch.zeros_like(white)
    alone = [losses.local_mean_loss(white, zero, (side,)).item() for side in (6, 12, 24)]
    assert alone == pytest.approx([1 / 256] * 3, rel=0.1)
    assert losses.local_mean_loss(white, zero, (6, 12, 24)).item() == pytest.approx(sum(alone))
    coarse = F.avg_pool2d(white, 9, stride=1, padding=4)
    coarse = coarse / coarse.std()
    assert losses.local_mean_loss(coarse, zero, (6,)).item() > 10 * alone[0]
    assert losses.local_mean_loss(white[..., :8], zero[..., :8], (16,)).item() == 0  # nothing to average


def test_the_response_pays_for_the_noise_that_a_lesions_filter_sees():
    """Of a denoiser that hands on `gain` of everything: the contrast lost, and gain^2 of the noise."""
    random = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    disc = ((y - 32) ** 2 + (x - 32) ** 2 < 64).double() * 0.02
    added = disc.expand(6, 1, 64, 64)
    noise = 0.01 * torch.randn(6, 1, 64, 64, generator=random, dtype=torch.float64)

    def left(gain: float, noise: torch.Tensor) -> float:
        alone = losses.response_loss(gain * added, added, noise)
        return (losses.response_loss(gain * added, added, noise, gain * noise, 0.5) - alone).item()

    assert left(1.0, 100 * noise) == pytest.approx(2 * 0.5, rel=1e-2)  # the disc, and its edge
    assert left(0.3, noise) == pytest.approx(0.3**2 * left(1.0, noise))
    assert left(1.0, 1e-3 * noise) < 1e-3  # images of less noise than the floor do not count more for having less
    fine = noise - F.avg_pool2d(noise, 7, stride=1, padding=3)  # what such a filter hardly sees is nearly free
    seen = losses.response_loss(added, added, noise, fine, 0.5) - losses.response_loss(added, added, noise)
    assert seen.item() < 0.4 * left(1.0, noise)
