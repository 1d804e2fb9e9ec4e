"""EDCNN's compound loss: MSE and a perceptual loss on four scales (Liang et al., ICSP 2020, arXiv 2011.00139, III-C).

loss = MSE + 0.01 * mean over the four stages of a ResNet-50 of the MSE between their features. The ResNet's weights
come from a file that the user names; without one the MSE is all there is, and a warning says so.
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from ASCONDenoiseLib.errors import InputError
from ASCONTrainingLib.method.objective import TrainingContext, to_floats
from ASCONTrainingLib.method.perceptual import read_tensors

logger = logging.getLogger(__name__)

PERCEPTUAL_WEIGHT = 0.01
"""w_p of section III-C."""


def make(context: TrainingContext) -> EDCNNObjective:
    """The compound loss, with the ResNet-50 of loss.resnet_weights. Raises InputError where it cannot be used."""
    weights = context.config.loss.resnet_weights
    if weights is None:
        logger.warning("No file with ResNet-50 weights (loss.resnet_weights): EDCNN learns from the MSE alone.")
        return EDCNNObjective(context, None)
    return EDCNNObjective(context, load_resnet50(weights).to(context.device))


class EDCNNObjective:
    """One step of supervised training on the compound loss; `resnet` None: on the MSE alone."""

    def __init__(self, context: TrainingContext, resnet: ResNet50 | None):
        self.context, self.resnet = context, resnet
        self.parts: dict[str, nn.Module | torch.optim.Optimizer] = {}

    def step(self, ldct: torch.Tensor, ndct: torch.Tensor, generator: torch.Generator) -> dict[str, float]:
        """As `Objective.step`; "mse" and "perceptual" are losses before their weights."""
        denoised = self.context.denoise(ldct)
        parts = {"mse": F.mse_loss(denoised, ndct)}
        loss = parts["mse"]
        if self.resnet is not None:
            with self.context.autocast():
                parts["perceptual"] = multi_scale_loss(self.resnet, denoised, ndct)
            loss = loss + PERCEPTUAL_WEIGHT * parts["perceptual"]
        (norm,) = self.context.descend(loss, "denoiser", self.context.optimizer)
        return to_floats(parts | {"loss": loss, "gradient_norm": norm})


def multi_scale_loss(resnet: ResNet50, denoised: torch.Tensor, ndct: torch.Tensor) -> torch.Tensor:
    """Mean over the stages of the mean squared difference of their features: a scalar, fp32 at least."""
    with torch.no_grad():
        targets = resnet(ndct)
    features = resnet(denoised)
    kind = torch.promote_types(features[0].dtype, torch.float32)
    return torch.stack([F.mse_loss(f.to(kind), t.to(kind)) for f, t in zip(features, targets, strict=True)]).mean()


class ResNet50(nn.Module):
    """ResNet-50 (He et al., CVPR 2016, Table 1) without its classifier, frozen; tensors have the usual files' names.

    Gray is shown as red, green and blue. As in the authors' implementation it is not brought to ImageNet's mean and
    deviation. Batch normalisation uses the file's statistics.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = _stage(64, 64, blocks=3, stride=1)
        self.layer2 = _stage(256, 128, blocks=4, stride=2)
        self.layer3 = _stage(512, 256, blocks=6, stride=2)
        self.layer4 = _stage(1024, 512, blocks=3, stride=2)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> ResNet50:
        """It never trains: its batch statistics are those of the file."""
        return super().train(False)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """(B, 1, H, W) -> (B, 256, H/4, W/4), (B, 512, H/8, W/8), (B, 1024, H/16, W/16), (B, 2048, H/32, W/32)"""
        y = F.relu(self.bn1(self.conv1(x.expand(-1, 3, -1, -1))))
        y = F.max_pool2d(y, 3, stride=2, padding=1)
        features = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            y = stage(y)
            features.append(y)
        return features


def _stage(channels_in: int, inner: int, blocks: int, stride: int) -> nn.Sequential:
    """Blocks of 4 times as many channels as `inner`, the first with the stride."""
    first = Bottleneck(channels_in, inner, stride)
    return nn.Sequential(first, *(Bottleneck(4 * inner, inner, stride=1) for _ in range(blocks - 1)))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions with batch normalisation, and the shortcut; the 3x3 has the stride."""

    def __init__(self, channels_in: int, inner: int, stride: int):
        super().__init__()
        out = 4 * inner
        self.conv1 = nn.Conv2d(channels_in, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.downsample = None
        if stride != 1 or channels_in != out:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, out, 1, stride=stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, channels_in, H, W) -> (B, 4 inner, H / stride, W / stride)"""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


def load_resnet50(path: str | Path) -> ResNet50:
    """ResNet-50 with the weights of a .safetensors file or of a PyTorch state dict (read without running its code).

    Raises InputError where it is missing, cannot be read or holds other tensors.
    """
    state = read_tensors(path, "ResNet-50")
    resnet = ResNet50()
    try:
        resnet.load_state_dict({name: state[name] for name in resnet.state_dict() if name in state})
    except (RuntimeError, TypeError, KeyError) as error:
        raise InputError(
            f"{path} cannot be used as ResNet-50 weights ({type(error).__name__}); name a .safetensors file or a "
            "PyTorch state dict with the tensors conv1.weight to layer4.2.bn3.running_var."
        ) from error
    return resnet
