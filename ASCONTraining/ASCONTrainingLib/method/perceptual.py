"""Perceptual losses: distances between images in the features of a VGG-19 (Table 2, and WGAN-VGG).

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
MAPS = (3, 8, 17, 26, 35)
"""Layers whose outputs are compared: the last ReLU before each pooling, relu1_2, relu2_2, relu3_4, relu4_4, relu5_4."""
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_SD = (0.229, 0.224, 0.225)


class VGG19(nn.Module):
    """VGG-19 up to the ReLU after its 16th convolution. Frozen.

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
        self.features = nn.Sequential(*layers[:-1])  # without the last pooling
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("sd", torch.tensor(IMAGENET_SD)[:, None, None], persistent=False)
        self.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """(B, 1, H, W) in unit range, sides at least 16 -> the outputs of MAPS.

        They are (B, 64, H, W), (B, 128, H/2, W/2), (B, 256, H/4, W/4), (B, 512, H/8, W/8), (B, 512, H/16, W/16). Gray
        is shown as red, green and blue, brought to ImageNet's mean and deviation, as the weights in use expect it.
        """
        y, maps = (x - self.mean) / self.sd, []
        for number, layer in enumerate(self.features):
            y = layer(y)
            if number in MAPS:
                maps.append(y)
        return maps


def perceptual_loss(vgg: VGG19, denoised: torch.Tensor, ndct: torch.Tensor) -> torch.Tensor:
    """The mean squared difference of each of the five maps, summed, as the authors of ASCON do it (Table 2): a scalar.

    Args:
        vgg: gives the maps.
        denoised: (B, 1, H, W) in unit range.
        ndct: like `denoised`.
    """
    return torch.stack([F.mse_loss(*pair) for pair in _map_pairs(vgg, denoised, ndct)]).sum()


def deepest_distance(vgg: VGG19, denoised: torch.Tensor, ndct: torch.Tensor) -> torch.Tensor:
    """Half the sum of the squared differences of the deepest map, the mean over the batch: WGAN-VGG's, a scalar.

    Args:
        vgg: gives the map.
        denoised: (B, 1, H, W) in unit range.
        ndct: like `denoised`.
    """
    features, target = _map_pairs(vgg, denoised, ndct)[-1]
    return 0.5 * (features - target).square().sum() / len(features)


def _map_pairs(vgg: VGG19, denoised: torch.Tensor, ndct: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The maps of both images, in fp32 at least; the NDCT's get no gradient."""
    with torch.no_grad():
        targets = vgg(ndct)
    maps = vgg(denoised)
    kind = torch.promote_types(maps[0].dtype, torch.float32)
    return [(one.to(kind), other.to(kind)) for one, other in zip(maps, targets, strict=True)]


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
