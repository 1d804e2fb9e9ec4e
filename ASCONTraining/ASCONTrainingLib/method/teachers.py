"""Teachers: denoisers whose image a network learns from in the place of the NDCT. Not in the paper.

An NDCT has noise of its own, at a quarter of the dose half as much as the LDCT; the image of a teacher has hardly any,
so that a step says more. And two teachers can be better than each: one trained for the least error makes faint small
lesions fainter, one trained for the response to lesions (`losses.response_loss`) hands on coarse noise. Where the two
differ by more than noise does, the second is right, elsewhere the first.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ASCONDenoiseLib.models.files import find_model, load_network
from ASCONDenoiseLib.models.networks.esau_pair import SIGNIFICANT_FROM, significance
from ASCONTrainingLib.config.settings import LossConfig
from ASCONTrainingLib.method.denoiser_output import MixedPrecision, ProductOutput


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

        The NDCT, by `share` the first teacher's image, plus what the second has more than the first where that is
        significant. (What else a pair may ask for, edges and little noise, one teacher does that is such a pair.)
        """
        first = self.networks[0](ldct).to(ndct.dtype)
        image = torch.lerp(ndct, first, self.share)
        for network in self.networks[1:]:
            more = network(ldct).to(ndct.dtype) - first
            image = image + significance(more, SIGNIFICANT_FROM) * more
        return image
