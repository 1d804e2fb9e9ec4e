"""DU-GAN's losses: U-Net discriminators of image and gradient, with CutMix (Huang et al., IEEE TIM 71, 2022).

arXiv 2108.10772, section III; the layers are those of the authors' implementation. It has two sets of weights: the
defaults of its code, and the values in the script that it publishes, found by a search; the setting loss.du_gan takes
one of them. Its images are in units of [-300, 300] HU; ours are converted to these before losses and discriminators, or
the weights would mean other things. They are not clipped: air and bone are learnt, too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.imaging.hounsfield import to_hu
from ASCONTrainingLib.method.losses import total_loss
from ASCONTrainingLib.method.objective import TrainingContext, frozen, to_floats
from ASCONTrainingLib.method.objectives.cncl import least_squares

WINDOW_HU = (-300.0, 300.0)
CUTMIX_WARM_UP = 1000
"""Steps until CutMix has its full probability."""
STEPS_DOWN, WIDTH, WIDEST = 6, 64, 512
SLOPE, INITIAL_SD = 0.2, 0.01
SOBEL = ((1.0, 0.0, -1.0), (2.0, 0.0, -2.0), (1.0, 0.0, -1.0))
SOBEL_FLOOR = 1e-4
"""Added under the root of the gradient's magnitude, which makes its slope at 0 finite."""


@dataclass(frozen=True)
class Weights:
    """Weights of the losses, and what else the published script sets.

    Attributes:
        mse: of the MSE.
        gradient: of the mean difference of gradients.
        adversarial: of the adversarial loss in each domain, "image" and "gradient".
        consistency: of CutMix's consistency, in the discriminators' loss.
        cutmix: probability of a step with CutMix, after the warm-up.
        rate: of each discriminator's Adam; the denoiser's is in the presets.
    """

    mse: float
    gradient: float
    adversarial: dict[str, float]
    consistency: float
    cutmix: float
    rate: float


WEIGHTS = {
    "defaults": Weights(1.0, 20.0, {"image": 0.1, "gradient": 0.1}, 1.0, cutmix=0.5, rate=1e-4),
    "script": Weights(
        mse=5.034293425614828,
        gradient=35.310016043755894,
        adversarial={"image": 0.14178356036938378, "gradient": 0.11960717521104237},
        consistency=5.08720932695335,
        cutmix=0.7615524094697519,
        rate=7.122979672016055e-05,
    ),
}
"""The setting loss.du_gan -> what it stands for."""


def make(context: TrainingContext) -> DUGANObjective:
    """The objective with fresh discriminators. Raises InputError where the patches do not fit them."""
    for _, patch, _ in context.config.stages:
        if patch is not None and patch % DualDomain.SIDE_MULTIPLE:
            raise InputError(f"DU-GAN's discriminators need sides that are multiples of 64; got patches of {patch}.")
    discriminators = DualDomain().to(context.device)
    rate = WEIGHTS[context.config.loss.du_gan].rate
    optimizers: dict[str, torch.optim.Optimizer] = {
        name: torch.optim.Adam(getattr(discriminators, name).parameters(), rate) for name in ("image", "gradient")
    }
    return DUGANObjective(context, discriminators, optimizers)


class DUGANObjective:
    """One step: both discriminators learn from the denoised image as it is, then the denoiser learns."""

    def __init__(
        self, context: TrainingContext, discriminators: DualDomain, optimizers: dict[str, torch.optim.Optimizer]
    ):
        self.context, self.discriminators, self.optimizers = context, discriminators, optimizers
        self.weights = WEIGHTS[context.config.loss.du_gan]
        self.wrapped = {name: context.wrap(getattr(discriminators, name)) for name in optimizers}
        self.parts: dict[str, nn.Module | torch.optim.Optimizer] = {"discriminators": discriminators}
        self.parts |= {f"{name}_optimizer": optimizer for name, optimizer in optimizers.items()}

    def step(self, ldct: torch.Tensor, ndct: torch.Tensor, generator: torch.Generator) -> dict[str, float]:
        """As `Objective.step`; `generator` draws CutMix's boxes.

        "mse" and "gradient" are parts of the denoiser's loss before their weights, "adversarial" is one with its
        weights, "image" and "gradient_domain" are the discriminators' losses.
        """
        denoised = to_window(self.context.denoise(ldct))
        ldct, ndct = to_window(ldct), to_window(ndct)
        domains = {
            "image": (ndct, denoised, ldct),
            "gradient": (gradient_size(ndct), gradient_size(denoised), gradient_size(ldct)),
        }
        mixed = self._mixes(generator)
        critic_losses = {}
        for name, (real, false, source) in domains.items():
            mask = cutmix_mask(real.shape, generator).to(real) if mixed else None
            loss = self._discriminator_loss(self.wrapped[name], real, false.detach(), source, mask)
            self.context.descend(loss, f"{name} discriminator", self.optimizers[name])
            critic_losses[name] = loss

        with frozen(self.discriminators):
            adversarial = total_loss(
                self.weights.adversarial[name] * self._fooled(getattr(self.discriminators, name), false)
                for name, (_, false, _) in domains.items()
            )
        mse = F.mse_loss(denoised, ndct)
        gradient = F.l1_loss(domains["gradient"][1], domains["gradient"][0])
        loss = self.weights.mse * mse + self.weights.gradient * gradient + adversarial
        (norm,) = self.context.descend(loss, "denoiser", self.context.optimizer)
        parts = {"loss": loss, "mse": mse, "gradient": gradient, "adversarial": adversarial, "gradient_norm": norm}
        return to_floats(parts | {"image": critic_losses["image"], "gradient_domain": critic_losses["gradient"]})

    def _mixes(self, generator: torch.Generator) -> bool:
        """Whether this step has CutMix; counts the steps."""
        self.discriminators.steps += 1
        probability = self.weights.cutmix * min(1.0, self.discriminators.steps.item() / CUTMIX_WARM_UP)
        return torch.rand((), generator=generator).item() < probability

    def _discriminator_loss(
        self,
        discriminator: nn.Module,
        real: torch.Tensor,
        false: torch.Tensor,
        source: torch.Tensor,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """Real 1, denoised 0, LDCT 0, for the whole image and for each pixel; with a mask (H, W) also CutMix.

        The mixed image's pixels are real where the mask is 1, the whole is false, and its scores are to be the mixture
        of the scores of both images.
        """
        images = [real, false, source] + ([] if mask is None else [mask * real + (1 - mask) * false])
        whole, pixels = (scores.chunk(len(images)) for scores in self._scores(discriminator, torch.cat(images)))
        targets = (1.0, 0.0, 0.0)
        loss = total_loss(least_squares(s[k], t) for s in (whole, pixels) for k, t in enumerate(targets))
        if mask is not None:
            mixture = mask * pixels[0] + (1 - mask) * pixels[1]
            loss = loss + least_squares(whole[3], 0.0) + (pixels[3] - mask).square().mean()
            loss = loss + self.weights.consistency * F.mse_loss(pixels[3], mixture)
        return loss

    def _fooled(self, discriminator: nn.Module, denoised: torch.Tensor) -> torch.Tensor:
        """0 where a discriminator takes the denoised image, and each pixel of it, for real."""
        whole, pixels = self._scores(discriminator, denoised)
        return least_squares(whole, 1.0) + least_squares(pixels, 1.0)

    def _scores(self, discriminator: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with self.context.autocast():
            whole, pixels = discriminator(x)
        return whole.float(), pixels.float()


def to_window(unit: torch.Tensor) -> torch.Tensor:
    """Unit range (3000 HU) -> units of WINDOW_HU, not clipped."""
    low, high = WINDOW_HU
    return (to_hu(unit) - low) / (high - low)


def gradient_size(x: torch.Tensor) -> torch.Tensor:
    """Magnitude of the Sobel gradient, (B, 1, H, W): sqrt(gx^2 + gy^2 + 1e-4), kernels by 4, borders of zeros."""
    kernel = x.new_tensor(SOBEL) / 4
    gradient = F.conv2d(x, torch.stack((kernel, kernel.T))[:, None], padding=1)
    return torch.sqrt(gradient.square().sum(1, keepdim=True) + SOBEL_FLOOR)


def cutmix_mask(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """(H, W) of 1, with a box of 0 somewhere (Yun et al., ICCV 2019): its fraction of the area is uniform.

    Its centre lies anywhere; what leaves the image is cut off.
    """
    height, width = shape[-2:]
    area, row, column = torch.rand(3, generator=generator).tolist()
    mask = torch.ones(height, width)
    top, bottom = _side(row, area, height)
    left, right = _side(column, area, width)
    mask[top:bottom, left:right] = 0
    return mask


def _side(centre: float, area: float, length: int) -> tuple[int, int]:
    half = length * area**0.5 / 2
    return round(max(centre * length - half, 0.0)), round(min(centre * length + half, length))


# ----------------------------------------------------------------------------------------------------- discriminators


class DualDomain(nn.Module):
    """The discriminators of image and gradient, and the number of steps that they have seen."""

    SIDE_MULTIPLE = 2**STEPS_DOWN
    steps: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.image = UNetDiscriminator()
        self.gradient = UNetDiscriminator()
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))


class UNetDiscriminator(nn.Module):
    """A U-Net that scores the whole image in its middle and each pixel at its end.

    Spectral normalisation in all convolutions but those with one output channel or one input channel.
    """

    def __init__(self) -> None:
        super().__init__()
        widths = [1] + [min(WIDTH * 2**k, WIDEST) for k in range(STEPS_DOWN)]
        widths.append(widths[-1])
        pairs = list(zip(widths[:-1], widths[1:], strict=True))
        self.down = nn.ModuleList(Down(a, b, halve=k < STEPS_DOWN) for k, (a, b) in enumerate(pairs))
        self.middle = _double_conv(widths[-1], widths[-1])
        self.whole = nn.Linear(widths[-1], 1)
        self.up = nn.ModuleList(Up(b, a) for a, b in reversed(pairs[:-1]))
        self.pixels = nn.Conv2d(1, 1, 1)
        for layer in list(self.modules()):
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.normal_(layer.weight, 0.0, INITIAL_SD)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
            if isinstance(layer, nn.Conv2d) and layer.out_channels > 1 and layer.in_channels > 1:
                spectral_norm(layer)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, 1, H, W), sides multiples of 64 -> the score of the whole (B, 1), of each pixel (B, 1, H, W)."""
        skips = []
        for down in self.down:
            x, skip = down(x)
            skips.append(skip)
        x = self.middle(x) + x  # (B, 512, H/64, W/64)
        whole = self.whole(F.leaky_relu(x, SLOPE).mean((-2, -1)))
        for up, skip in zip(self.up, reversed(skips[:-1]), strict=True):
            x = up(x, skip)
        return whole, self.pixels(x)


class Down(nn.Module):
    """A double convolution, halved by a strided one, with a 1x1 shortcut; its skip is taken before the halving."""

    def __init__(self, channels_in: int, channels_out: int, halve: bool):
        super().__init__()
        self.shortcut = nn.Conv2d(channels_in, channels_out, 1, stride=2 if halve else 1)
        self.convs = _double_conv(channels_in, channels_out)
        self.halve = nn.Conv2d(channels_out, channels_out, 4, stride=2, padding=1) if halve else nn.Identity()

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, channels_in, H, W) -> (B, channels_out, H/2, W/2) and the skip (B, channels_out, H, W)."""
        skip = self.convs(x)
        return self.halve(skip) + self.shortcut(x), skip


class Up(nn.Module):
    """Bilinear doubling, the skip beside it, a double convolution, with a 1x1 shortcut."""

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__()
        self.shortcut = nn.Conv2d(channels_in, channels_out, 1)
        self.convs = _double_conv(2 * channels_in, channels_out)

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """(B, channels_in, H, W) and the skip (B, channels_in, 2H, 2W) -> (B, channels_out, 2H, 2W)"""
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        y: torch.Tensor = self.convs(torch.cat((x, skip), 1)) + self.shortcut(x)
        return y


def _double_conv(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=1),
        nn.LeakyReLU(SLOPE),
        nn.Conv2d(channels_out, channels_out, 3, padding=1),
        nn.LeakyReLU(SLOPE),
    )
