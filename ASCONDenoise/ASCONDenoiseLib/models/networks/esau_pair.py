"""Two ESAU-Nets: one of the least error, and one that keeps lesions, where there is more to keep than noise.

Not in the paper. A network trained for the least error makes small faint lesions fainter and their edges wider; one
trained for the response to lesions (`losses.response_loss` of the training) hands on coarse noise as well. So the
second one counts where

- the two differ by more than noise does (`significance`): their difference holds noise everywhere, and stands out of
  it where there is a lesion;
- the first one shows an edge (`at_edges`): noise is seen less there, and width is what an edge has to lose;
- there is little noise to take off (`in_little_noise`), in heads above all: grey and white matter are 8 HU apart.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from ASCONDenoiseLib.imaging.hounsfield import TRAINING_WINDOW_HU
from ASCONDenoiseLib.models.networks.esau_net import ESAUNet

SIZES = (0.5, 0.8, 1.2, 2.0, 3.2)
"""Pixels, SD of the Gaussians that differences are looked for with: edges, and lesions of some 3, 5 and 8 pixels."""
SURROUNDINGS = 2.5
"""Times that SD: of the Gaussian round it that is taken off."""
NEIGHBOURHOOD = 65
"""Pixels, side of the square of the local root mean square."""
BLOCK = 64
"""Rows that are averaged at once: fewer see much more than themselves, of more most products are with 0."""
SIGNIFICANT_FROM = 2.5
"""Differences of so many times that mean begin to count, where nothing else is said."""

HU = 1 / (TRAINING_WINDOW_HU[1] - TRAINING_WINDOW_HU[0])
"""In unit range."""
LEAST_NOISE_HU = 0.2
"""Floor of that measure: where the networks agree better, gradients are counted against this."""
LITTLE_NOISE_SHARE = 0.96
"""Of the network that keeps lesions, at most, where there is little noise, where nothing else is said."""


class Weights(NamedTuple):
    """Of a last layer: (channels out, channels in, 3, 3)."""

    weight: torch.Tensor


class ESAUPair(nn.Module):
    """a + s (b - a), with a and b of two ESAU-Nets and s from 0 to 1, see the top of this file.

    Args:
        settings: of both networks (`ESAUNet`); residuals as a rule.
        significant_from: differences of so many times their local root mean square begin to count; one more, and they
            count fully.
        edges_from: gradients per pixel of so many times that mean begin to count as edges; None: edges are as all else.
        little_noise_hu: below this SD of what `a` takes off, `b` begins to count everywhere; at four fifths of it, it
            does by `little_noise_share`. 0: nowhere.
        little_noise_share: from 0 to 1.
    """

    PRECISE_LAYERS = tuple(f"*.{name}" for name in ESAUNet.PRECISE_LAYERS)

    def __init__(
        self,
        significant_from: float = SIGNIFICANT_FROM,
        edges_from: float | None = None,
        little_noise_hu: float = 0.0,
        little_noise_share: float = LITTLE_NOISE_SHARE,
        **settings: bool | int,
    ) -> None:
        super().__init__()
        rules = {
            "significant_from": significant_from,
            "edges_from": edges_from or 0.0,
            "little_noise_hu": little_noise_hu,
            "little_noise_share": little_noise_share,
        }
        for name, value in rules.items():
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} is {value}: a number of 0 or more")
        if little_noise_share > 1:
            raise ValueError(f"little_noise_share is {little_noise_share}: a number from 0 to 1")
        self.significant_from, self.edges_from = significant_from, edges_from
        self.little_noise_hu, self.little_noise_share = little_noise_hu, little_noise_share
        self.error, self.lesions = ESAUNet(**settings), ESAUNet(**settings)  # type: ignore[arg-type]
        self.SIDE_MULTIPLE, self.residual = self.error.SIDE_MULTIPLE, self.error.residual

    @classmethod
    def of(cls, error: ESAUNet, lesions: ESAUNet, **rules: Any) -> ESAUPair:
        """The pair of two networks of the same settings, with their weights; `rules` are the other arguments."""
        settings = {"residual": error.residual, "fold": error.fold, "channels": error.stem.out_channels}
        pair = cls(**rules, **settings).eval()
        pair.error.load_state_dict(error.state_dict())
        pair.lesions.load_state_dict(lesions.state_dict())
        return pair

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1, H, W) in unit range -> (B, 2 channels, H / fold, W / fold), those of both networks."""
        return torch.cat((self.error.features(x), self.lesions.features(x)), dim=1)

    @property
    def last(self) -> Weights:
        """The weights that the last layers have for their own features, as of the mean of two networks.

        So that in `anatomy_of` the features of two, which are much alike, count no more than those of one.
        """
        return Weights(torch.cat((self.error.last.weight, self.lesions.last.weight), dim=1) / math.sqrt(2))

    def image(self, features: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """The denoised image (B, 1, H, W) from the features of x, and x itself."""
        of_error, of_lesions = features.chunk(2, dim=1)
        first = self.error.image(of_error, x)
        more = self.lesions.image(of_lesions, x) - first
        return first + self._share(first, more, x) * more

    @torch.no_grad()  # roots of nothing have no gradient
    def _share(self, first: torch.Tensor, more: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Of the second network, (B, 1, H, W) from 0 to 1."""
        share = significance(more, self.significant_from)
        if self.edges_from is not None:
            share = torch.maximum(share, at_edges(first, more, self.edges_from))
        if self.little_noise_hu:
            little = in_little_noise(x - first, share, self.little_noise_hu)
            share = torch.maximum(share, self.little_noise_share * little)
        return share

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1, H, W) in unit range -> the denoised image, the same shape."""
        return self.image(self.features(x), x)


def significance(difference: torch.Tensor, start: float) -> torch.Tensor:
    """Where a difference of two images stands out of its surroundings, as a lesion would: (B, 1, H, W), 0 to 1.

    Differences of Gaussians of SIZES, over their root mean square in a square of NEIGHBOURHOOD: 0 up to `start`, 1 from
    1 beyond it on, widened to the whole of the spot.
    """
    result = torch.zeros_like(difference)
    for size in SIZES:
        band = _averaged(difference, size) - _averaged(difference, SURROUNDINGS * size)
        around = _averaged(band.square(), math.inf).sqrt()
        spots = (band.abs() / around.clamp(min=1e-9) - start).clamp(0, 1)
        result = torch.maximum(result, _averaged(_widened(spots, round(2 * size)), size))
    return result


def at_edges(image: torch.Tensor, difference: torch.Tensor, start: float) -> torch.Tensor:
    """Where a denoised image has edges, (B, 1, H, W), 0 to 1.

    Its gradient per pixel, after a Gaussian of one, over the local root mean square of the `difference`, as a measure
    of noise: 0 up to `start`, 1 from 1 beyond it on.
    """
    smooth = F.pad(_averaged(image, 1.0), (1, 1, 1, 1), mode="replicate")
    along_rows = smooth[..., 1:-1, 2:] - smooth[..., 1:-1, :-2]
    along_columns = smooth[..., 2:, 1:-1] - smooth[..., :-2, 1:-1]
    around = _averaged(difference.square(), math.inf).sqrt()
    steepness = 0.5 * torch.hypot(along_rows, along_columns) / around.clamp(min=LEAST_NOISE_HU * HU)
    return _averaged((steepness - start).clamp(0, 1), 1.0)


def in_little_noise(removed: torch.Tensor, structure: torch.Tensor, below_hu: float) -> torch.Tensor:
    """By how much the noise in a place is little, (B, 1, H, W), 0 to 1.

    Air counts as well, so within some millimetres of the skin noise seems less than it is.

    Args:
        removed: what was taken off, (B, 1, H, W) in unit range: noise,
        structure: but where there is this, (B, 1, H, W), 0 to 1.
        below_hu: SD at which noise begins to be little; at four fifths of it, it is.
    """
    flat = 1 - structure
    variance = _averaged(removed.square() * flat, math.inf) / _averaged(flat, math.inf).clamp(min=1e-3)
    return (5 * (1 - variance.sqrt() / (below_hu * HU))).clamp(0, 1)


def _widened(x: torch.Tensor, reach: int) -> torch.Tensor:
    """The highest value of x (B, 1, H, W), 0 or more, within `reach` rows and columns; on a CPU faster than a pool."""
    for _ in range(2):
        x, seen = F.pad(x, (0, 0, reach, reach)), 1
        while seen <= 2 * reach:
            step = min(seen, 2 * reach + 1 - seen)
            x, seen = torch.maximum(x[..., :-step, :], x[..., step:, :]), seen + step
        x = x.mT
    return x


def _averaged(x: torch.Tensor, sd: float) -> torch.Tensor:
    """x (B, 1, H, W) through a Gaussian of that SD in pixels, or with an infinite one the mean of NEIGHBOURHOOD.

    At the border it is the mean of what there is.
    """
    return _along_columns(_along_columns(x, sd).mT, sd).mT


def _along_columns(x: torch.Tensor, sd: float) -> torch.Tensor:
    """Averages each column of x (B, 1, H, W), in blocks of rows, as products of matrices.

    Convolutions of one channel take nine times as long on a CPU, products with matrices of all rows four times.
    """
    height, weights = x.shape[-2], _weights(x.shape[-2], sd, x.device).to(x.dtype)
    blocks, rows, seen = weights.shape
    reach = (seen - rows) // 2
    padded = F.pad(x, (0, 0, reach, reach + blocks * rows - height))
    return (weights @ padded.unfold(-2, seen, rows).mT).flatten(-3, -2)[..., :height, :]


@functools.lru_cache(maxsize=64)
def _weights(n: int, sd: float, device: torch.device) -> torch.Tensor:
    """Of n rows: (blocks, BLOCK, BLOCK + 2 reach), from the rows that a block sees to the means at its own."""
    with torch.inference_mode(False):  # kept, for trainings too
        reach = NEIGHBOURHOOD // 2 if sd == math.inf else math.ceil(3 * sd)
        first = torch.arange(0, n, BLOCK)[:, None, None]
        own, seen = first + torch.arange(BLOCK)[:, None], first + torch.arange(-reach, BLOCK + reach)
        distance, there = seen - own, (seen >= 0) & (seen < n)
        weights = torch.exp(-0.5 * (distance / sd) ** 2) * (distance.abs() <= reach) * there
        return (weights / weights.sum(-1, keepdim=True).clamp(min=1e-12)).to(device)  # beyond the last row there is 0
