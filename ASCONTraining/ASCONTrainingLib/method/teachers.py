"""Teachers: denoisers whose image a network learns from in the place of the NDCT. Not in the paper.

An NDCT has noise of its own, at a quarter of the dose half as much as the LDCT; the image of a teacher has hardly any,
so that a step says more. And two teachers can be better than each: one trained for the least error makes faint small
lesions fainter, one trained for the response to lesions (`losses.response_loss`) hands on coarse noise. Where the two
differ by more than noise does, the second is right, elsewhere the first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from ASCONDenoiseLib.models.files import find_model, load_network
from ASCONTrainingLib.config.settings import LossConfig
from ASCONTrainingLib.method.denoiser_output import MixedPrecision, ProductOutput

SIZES = (1.2, 2.0, 3.2)
"""Pixels, SD of the Gaussians that differences are looked for with: lesions of some 3, 5 and 8 pixels across."""
SURROUNDINGS = 2.5
"""Times that SD: of the Gaussian round it that is taken off."""
FROM, TO = 2.5, 3.5
"""Differences of so many times their local root mean square begin to count, and count fully."""
NEIGHBOURHOOD = 65
"""Pixels, side of the square of that mean."""


class Teachers(nn.Module):
    """One teacher, or the one of the least error and the one that keeps lesions.

    Args:
        networks: one or two; (B, 1, H, W) to the same.
        share: of the first one's image in what is learnt from; the rest is the NDCT.
    """

    def __init__(self, networks: Sequence[nn.Module], share: float = 1.0):
        super().__init__()
        self.networks, self.share = nn.ModuleList(networks).eval().requires_grad_(False), share

    @classmethod
    def of_models(cls, loss: LossConfig) -> Teachers:
        """Those that the settings name. Raises InputError where one cannot be read."""
        networks: list[nn.Module] = [MixedPrecision(load_network(find_model(model))[0]) for model in loss.teachers]
        return cls([ProductOutput(n) for n in networks] if loss.product_output else networks, loss.teachers_share)

    @torch.no_grad()
    def forward(self, ldct: torch.Tensor, ndct: torch.Tensor) -> torch.Tensor:
        """The image to learn from, (B, 1, H, W) fp32 like both.

        The NDCT, by `share` the first teacher's image, plus what the second has more than the first.
        """
        first = self.networks[0](ldct).to(ndct.dtype)
        image = torch.lerp(ndct, first, self.share)
        for network in self.networks[1:]:
            more = network(ldct).to(ndct.dtype) - first
            image = image + significance(more) * more
        return image


def significance(difference: torch.Tensor) -> torch.Tensor:
    """Where a difference of two images stands out of its surroundings, as a lesion would: (B, 1, H, W), 0 to 1.

    Differences of Gaussians of SIZES, over their root mean square in a square of NEIGHBOURHOOD; what is beyond FROM is
    widened to the whole of the spot.
    """
    result = torch.zeros_like(difference)
    for size in SIZES:
        band = _blurred(difference, size) - _blurred(difference, SURROUNDINGS * size)
        around = _mean(_mean(band.square(), -1), -2).sqrt()
        spots = ((band.abs() / around.clamp(min=1e-9) - FROM) / (TO - FROM)).clamp(0, 1)
        reach = round(2 * size)
        result = torch.maximum(result, _blurred(F.max_pool2d(spots, 2 * reach + 1, 1, reach), size))
    return result


def _mean(x: torch.Tensor, dim: int) -> torch.Tensor:
    """Over NEIGHBOURHOOD pixels along one side, at the border over what there is."""
    x = x.transpose(dim, -1)
    half = NEIGHBOURHOOD // 2
    return F.avg_pool2d(x, (1, NEIGHBOURHOOD), 1, (0, half), count_include_pad=False).transpose(dim, -1)


def _blurred(x: torch.Tensor, sd: float) -> torch.Tensor:
    """A Gaussian of that SD in pixels; at the border the mean of what there is."""
    half = math.ceil(3 * sd)
    axis = torch.arange(-half, half + 1, dtype=x.dtype, device=x.device)
    gauss = torch.exp(-0.5 * (axis / sd) ** 2)[None, None, None]  # (1, 1, 1, N)
    both = torch.cat((x, torch.ones_like(x[:1])))
    both = F.conv2d(F.conv2d(both, gauss, padding=(0, half)), gauss.mT, padding=(half, 0))
    return both[:-1] / both[-1:]
