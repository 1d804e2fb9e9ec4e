"""Loss functions: on images (B, 1, H, W) in unit range, and on the features that MAC-Net compares. Pure functions."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable

import torch
from torch.nn import functional as F

SSIM_SIDE = 11
SSIM_SIGMA = 1.5
SSIM_K1, SSIM_K2 = 0.01, 0.03
MEAN_SIDE = 16
"""Pixels, side of the regions whose mean is compared, and of those that the weight of all others refers to."""
NOISE_FLOOR = 10 / 3000
"""In unit range: images of less noise than that, 10 HU, do not count more for having less."""
TYPICAL_NOISE = 20 / 3000
"""In unit range: an image of that noise, 20 HU, counts about as much weighted as not."""
RESPONSE_SIDE = 64
"""Pixels, side of the regions in which the response to lesions is measured: about one lesion each."""
EDGE_SIDE = 3
"""Pixels, side of the local mean that a lesion's edge is the difference from."""
VISIBLE_SNR = 5.0
"""Of a matched filter: lesions of this SNR count half in `response_loss`, fainter ones less."""


def total_loss(losses: Iterable[torch.Tensor]) -> torch.Tensor:
    """The sum of one loss or more."""
    return functools.reduce(torch.add, losses)


def ssim(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Mean structural similarity of (B, 1, H, W) images of data range 1 (Wang et al., IEEE TIP 13:600, 2004).

    11x11 Gaussian window of sigma 1.5, borders reflected, no crop, the map clamped to [0, 1], then the mean: a scalar.
    """
    half = SSIM_SIDE // 2
    axis = torch.arange(-half, half + 1, dtype=x.dtype, device=x.device)
    gauss = torch.exp(-0.5 * (axis / SSIM_SIGMA) ** 2)
    gauss = (gauss / gauss.sum())[None, None, None]  # (1, 1, 1, 11)

    maps = torch.cat((x, y, x * x, y * y, x * y))
    maps = _mirrored(_mirrored(maps, half, -1), half, -2)
    mx, my, mxx, myy, mxy = F.conv2d(F.conv2d(maps, gauss), gauss.mT).chunk(5)
    c1, c2 = SSIM_K1**2, SSIM_K2**2
    covariance = mxy - mx * my
    variances = (mxx - mx * mx) + (myy - my * my)
    similarity = (2 * mx * my + c1) * (2 * covariance + c2) / ((mx * mx + my * my + c1) * (variances + c2))
    return similarity.clamp(0, 1).mean()


def _mirrored(x: torch.Tensor, border: int, dim: int) -> torch.Tensor:
    """Borders reflected with the outermost pixel repeated (d c b a | a b c d), as scikit-image does it."""
    index = torch.arange(-border, x.shape[dim] + border, device=x.device)
    index = torch.where(index < 0, -1 - index, index)
    index = torch.where(index >= x.shape[dim], 2 * x.shape[dim] - 1 - index, index)
    return x.index_select(dim, index)


def noise_weights(ldct: torch.Tensor, ndct: torch.Tensor) -> torch.Tensor:
    """Weights (B, 1, 1, 1) of the images of a batch whose noise differs: squared errors grow with the noise's square.

    Not in the paper. Without them, the noisiest doses rule a training on many. (TYPICAL_NOISE^2 + NOISE_FLOOR^2) over
    (mean squared difference of LDCT and NDCT + NOISE_FLOOR^2).
    """
    own = (ldct - ndct).square().mean((1, 2, 3), keepdim=True)
    return (TYPICAL_NOISE**2 + NOISE_FLOOR**2) / (own + NOISE_FLOOR**2)


def mse_loss(denoised: torch.Tensor, ndct: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Mean squared error, a scalar.

    Args:
        denoised: (B, 1, H, W).
        ndct: like `denoised`.
        weights: (B, 1, 1, 1) of the images; None: 1.
    """
    squares = (denoised - ndct).square()
    return squares.mean() if weights is None else (weights * squares).mean()


def local_mean_loss(
    denoised: torch.Tensor,
    ndct: torch.Tensor,
    sides: Iterable[int] = (MEAN_SIDE,),
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean squared error of the means of square regions, without what is left over at the borders: a scalar.

    Not in the paper. Fine noise all but vanishes in such a mean, so a regional shift of a few HU, and coarse noise,
    which looks mottled, count here, where the MSE of single pixels hardly notices them. Means of regions of the side n
    have nothing above 1 / n cycles per pixel to speak of: with pixels of 0.75 mm and sides of 6, 12 and 24 pixels that
    is the band below 0.2/mm, in three steps.

    Args:
        denoised: (B, 1, H, W).
        ndct: like `denoised`.
        sides: pixels. The errors of each side are weighted by (side / 16)^2: white noise gives all of them alike.
        weights: (B, 1, 1, 1) of the images; None: 1.
    """
    error = denoised - ndct
    fitting = [side for side in sides if side <= min(error.shape[-2:])]
    parts = [
        (side / MEAN_SIDE) ** 2 * mse_loss(F.avg_pool2d(error, side), torch.zeros(()), weights) for side in fitting
    ]
    return total_loss(parts) if parts else error.sum() * 0


def response_loss(
    gained: torch.Tensor,
    added: torch.Tensor,
    noise: torch.Tensor,
    error: torch.Tensor | None = None,
    noise_weight: float = 0.0,
) -> torch.Tensor:
    """How much of the contrast and of the sharpness of lesions a denoiser loses: a scalar, 0 for one that loses none.

    Not in the paper. The error of an image is smallest when faint contrasts shrink towards their surroundings; this
    loss measures the contrast itself. In each region of 64x64 pixels it is (1 - k)^2 with k = <w, gained> / <w, added>,
    once with the lesion as w and once with its edge, the lesion less its local mean. Noise beside the lesion does not
    count: with the error of every pixel, denoisers stop adapting to what they see, and widen edges.

    That alone pays for handing on whatever has the size of a lesion, noise too. What a reader detects is the response
    over the SD of the same matched filter without a lesion, so with `error` the share of that filter's noise power that
    is left is added: sum <w, error>^2 / sum <w, noise>^2 over the regions.

    Args:
        gained: (B, 1, H, W), by how much the output changed when `added` was added to the input.
        added: (B, 1, H, W), the lesions.
        noise: (B, 1, H, W), of that input.
        error: (B, 1, H, W), of the output, against an NDCT with the lesions; None: the noise left does not count.
        noise_weight: of the noise left.
    """
    edge = added - F.avg_pool2d(added, EDGE_SIDE, stride=1, padding=EDGE_SIDE // 2, count_include_pad=False)
    lost = _lost(gained, added, added, noise) + _lost(gained, added, edge, noise)
    if error is None or not noise_weight:
        return lost
    return lost + noise_weight * (_noise_left(error, added, noise) + _noise_left(error, edge, noise))


def _noise_left(error: torch.Tensor, shape: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Share of the noise power that matched filters w = `shape` see, in all regions together, that is in `error`."""
    sides = tuple(min(RESPONSE_SIDE, side) for side in shape.shape[-2:])
    left, there, energy = (F.avg_pool2d(x, sides) for x in (shape * error, shape * noise, shape.square()))
    visible = energy > 1e-15  # where there is a lesion; a weak one's filter counts as much as a strong one's
    left, there = (torch.where(visible, x.square() / energy.clamp(min=1e-15), 0.0).sum() for x in (left, there))
    floor = NOISE_FLOOR**2 / math.prod(sides) * visible.sum()  # what white noise of that SD gives
    return left / (there + floor).clamp(min=NOISE_FLOOR**2 / math.prod(sides))


def _lost(gained: torch.Tensor, added: torch.Tensor, shape: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Mean of (1 - k)^2 with w = `shape`. Regions count by their visibility, snr^4 / (snr^4 + VISIBLE_SNR^4).

    A loss on what noise hides would make the denoiser keep noise of that shape as well: with squares in the place of
    fourth powers, lesions of an SNR of 2 and 3, which maxima of noise look like, would count for a seventh and a
    quarter. SNR is that of the matched filter w in white noise.
    """
    sides = tuple(min(RESPONSE_SIDE, side) for side in added.shape[-2:])
    measured, full, energy, variance = (
        F.avg_pool2d(x, sides) for x in (shape * gained, shape * added, shape.square(), noise.square())
    )
    visible = full > 1e-15
    kept = torch.where(visible, measured, 1.0) / torch.where(visible, full, 1.0)
    snr = math.prod(sides) * full.square() / (energy * variance).clamp(min=1e-24)  # squared
    share = 1 / (1 + (VISIBLE_SNR**2 / snr).square())  # finite for any SNR, infinite and 0 included
    return ((1 - kept).square() * torch.where(visible, share, 0.0)).mean()


def global_loss(
    prediction: torch.Tensor, projection: torch.Tensor, counted: torch.Tensor | None = None
) -> torch.Tensor:
    """2 - 2 cos(prediction, projection): the patch-wise non-contrastive loss (eq. 4), a scalar.

    The paper sums over queries; this is the mean over those that count, or 512 queries would drown the pixel loss.

    Args:
        prediction: (B, N, D), of the online network.
        projection: (B, N, D), of the target network.
        counted: (B, N) bool, which queries count; None: all.
    """
    return _mean(2 - 2 * F.cosine_similarity(prediction, projection, dim=-1), counted)


def local_loss(
    query: torch.Tensor,
    positive: torch.Tensor,
    negatives: torch.Tensor,
    inside: torch.Tensor,
    temperature: float,
    counted: torch.Tensor | None = None,
) -> torch.Tensor:
    """InfoNCE of each query, its positive and its negatives: the pixel-wise contrastive loss (eq. 5), a scalar.

    As in `global_loss` it is the mean over the queries that count.

    Args:
        query: (B, N, D) of length 1, of the online network.
        positive: (B, N, D) of length 1, of the target network.
        negatives: (B, N, K, D) of length 1, of the target network.
        inside: (B, N, K) or (N, K) bool, which negatives lie in the image.
        temperature: tau of equation 5.
        counted: (B, N) bool, which queries count; None: all.
    """
    alike = (query * positive).sum(-1, keepdim=True) / temperature  # (B, N, 1)
    others = (query[:, :, None] * negatives).sum(-1) / temperature  # (B, N, K)
    others = others.masked_fill(~inside, -torch.inf)
    return _mean(torch.logsumexp(torch.cat((alike, others), -1), -1) - alike.squeeze(-1), counted)


def _mean(values: torch.Tensor, counted: torch.Tensor | None) -> torch.Tensor:
    """Mean of (B, N) values over those that count."""
    return values.mean() if counted is None else (values * counted).sum() / counted.sum().clamp(min=1)
