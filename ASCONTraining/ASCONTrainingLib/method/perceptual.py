"""Perceptual loss: distance between images in the features of a VGG-19 (Yang et al., IEEE TMI 37:1348, 2018; Table 2).

The weights come from a file that the user names; none is shipped, and none is fetched.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ASCONDenoiseLib.errors import InputError

BLOCKS = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))
"""Channels and number of convolutions between the poolings of VGG-19 (Simonyan and Zisserman, 2015, column E)."""
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_SD = (0.229, 0.224, 0.225)


class VGG19(nn.Module):
    """VGG-19 up to its 16th convolution, whose output is compared before the ReLU. Frozen.

    Layers have the numbers that the usual weight files give them ("features.0.weight" to "features.34.bias").
    """

    mean: torch.Tensor
    sd: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width, convolutions in BLOCKS:
            for _ in range(convolutions):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers[:-2])  # without the last ReLU and pooling
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("sd", torch.tensor(IMAGENET_SD)[:, None, None], persistent=False)
        self.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1, H, W) in unit range, sides at least 16 -> (B, 512, H/16, W/16); gray is shown as red, green, blue."""
        features: torch.Tensor = self.features((x - self.mean) / self.sd)
        return features


def perceptual_loss(vgg: VGG19, denoised: torch.Tensor, ndct: torch.Tensor) -> torch.Tensor:
    """Mean squared difference of the features of two (B, 1, H, W) images in unit range: a scalar, fp32 at least."""
    with torch.no_grad():
        target = vgg(ndct)
    features = vgg(denoised)
    kind = torch.promote_types(features.dtype, torch.float32)
    return F.mse_loss(features.to(kind), target.to(kind))


def load_vgg19(path: str | Path) -> VGG19:
    """VGG-19 with the weights of a .safetensors file or of a PyTorch state dict (read without running its code).

    The file names its tensors features.N.weight and features.N.bias; others, like the classifier's, are ignored.
    Raises InputError where it is missing, cannot be read or holds other tensors.
    """
    state = read_tensors(path, "VGG-19")
    vgg = VGG19()
    expected = vgg.state_dict()
    if not isinstance(state, dict) or not all(
        isinstance(state.get(name), torch.Tensor) and state[name].shape == tensor.shape
        for name, tensor in expected.items()
    ):
        raise InputError(
            f"{path} does not hold the convolutions of a VGG-19 (without batch normalisation), named features.0.weight "
            "to features.34.bias."
        )
    vgg.load_state_dict({name: state[name] for name in expected})
    return vgg


def read_tensors(path: str | Path, network: str) -> Any:
    """What a .safetensors file or a PyTorch state dict holds, read without running its code; `network` is for errors.

    Raises InputError where it is missing or cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no file {path} with {network} weights, which this loss needs.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(
            f"{path} cannot be read as {network} weights ({type(error).__name__}); name a .safetensors file or a "
            "PyTorch state dict that holds nothing but tensors."
        ) from error
