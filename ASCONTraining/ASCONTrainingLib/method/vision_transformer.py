"""Features of a pretrained vision transformer, DINOv2 (Oquab et al., TMLR 2024), in plain torch. Frozen.

The weights come from a file that the user names; none is shipped, and none is fetched. Layers and names of tensors are
those of the public state dicts "dinov2_vits14" and its larger siblings, without registers: 12 blocks of 384 channels
with 6 heads for ViT-S/14. Everything runs in fp32.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.imaging.hounsfield import DISPLAY_WINDOWS_HU, to_hu
from ASCONTrainingLib.method.perceptual import IMAGENET_MEAN, IMAGENET_SD, read_tensors

HEAD_WIDTH = 64
"""Channels of a head, in all sizes of DINOv2."""
NORM_FLOOR = 1e-6
DEPTHS = (1 / 2, 3 / 4, 1.0)
"""After which part of the blocks tokens are taken: blocks 6, 9 and 12 of ViT-S/14."""


class VisionTransformerFeatures:
    """CT images as a vision transformer sees them: tokens of three depths.

    Attributes:
        widths: channels of the tokens of each depth.
    """

    def __init__(self, transformer: VisionTransformer):
        self.transformer = transformer
        self.widths = (transformer.width,) * len(DEPTHS)

    def __call__(self, images: torch.Tensor) -> list[torch.Tensor]:
        """(B, 1, H, W) in unit range -> (B, N, C) of each depth: N patches, by rows."""
        with torch.autocast(images.device.type, enabled=False):
            return self.transformer.tokens(as_photograph(images, self.transformer.patch), DEPTHS)


def as_photograph(images: torch.Tensor, multiple: int) -> torch.Tensor:
    """[-160, 240] HU -> [0, 1], as red, green and blue with ImageNet's mean and deviation.

    (B, 1, H, W) in unit range -> (B, 3, h, w): the sides become the next multiples of `multiple`, bicubic.
    """
    low, high = DISPLAY_WINDOWS_HU["abdomen"]
    sides = [-(-side // multiple) * multiple for side in images.shape[-2:]]
    shown = ((to_hu(images) - low) / (high - low)).clamp(0, 1)
    shown = F.interpolate(shown, size=sides, mode="bicubic", align_corners=False)
    mean, sd = (shown.new_tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_SD))
    return (shown - mean) / sd


class VisionTransformer(nn.Module):
    """A vision transformer with LayerScale (Touvron et al., ICCV 2021), without a head.

    Args:
        width: channels.
        depth: blocks.
        hidden: channels inside of the blocks' perceptrons.
        patch: pixels, side of the patches.
        grid: patches, side of the square whose places the position embedding knows.
    """

    def __init__(self, width: int, depth: int, hidden: int, patch: int, grid: int):
        super().__init__()
        self.width, self.patch, self.grid = width, patch, grid
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid * grid, width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, patch, stride=patch)})
        self.blocks = nn.ModuleList(Block(width, hidden) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=NORM_FLOOR)
        self.requires_grad_(False)

    def tokens(self, x: torch.Tensor, depths: tuple[float, ...]) -> list[torch.Tensor]:
        """(B, 3, H, W), sides multiples of `patch` -> (B, N, width) after each part of the blocks, normalised.

        As usual the last normalisation is applied to each; the class token is left out.
        """
        patches = self.patch_embed["proj"](x)  # (B, width, h, w)
        y = patches.flatten(2).mT + self._positions(patches.shape[-2], patches.shape[-1])
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
        y = torch.cat((first, y), 1)
        wanted = {round(depth * len(self.blocks)) for depth in depths}
        tokens = []
        for number, block in enumerate(self.blocks, 1):
            y = block(y)
            if number in wanted:
                tokens.append(self.norm(y)[:, 1:])
        return tokens

    def _positions(self, height: int, width: int) -> torch.Tensor:
        """(1, height * width, width): the embedding of the patches, bicubic where the grid is another."""
        places = self.pos_embed[:, 1:]
        if (height, width) == (self.grid, self.grid):
            return places
        square = places.mT.reshape(1, self.width, self.grid, self.grid)
        return F.interpolate(square, size=(height, width), mode="bicubic", align_corners=False).flatten(2).mT


class Block(nn.Module):
    """Attention of all tokens to all, then a perceptron for each; both normalised before, scaled after."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=NORM_FLOOR)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.ls1 = nn.ParameterDict({"gamma": torch.ones(width)})
        self.norm2 = nn.LayerNorm(width, eps=NORM_FLOOR)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, hidden), "fc2": nn.Linear(hidden, width)})
        self.ls2 = nn.ParameterDict({"gamma": torch.ones(width)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, N, width) -> the same shape"""
        heads = self.attn["qkv"](self.norm1(x)).unflatten(-1, (3, -1, HEAD_WIDTH))  # (B, N, 3, heads, 64)
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.ls1["gamma"] * self.attn["proj"](attended)
        y: torch.Tensor = x + self.ls2["gamma"] * self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))
        return y


def load_vision_transformer(path: str | Path) -> VisionTransformer:
    """The transformer of a .safetensors file or of a PyTorch state dict (read without running its code).

    Its size is that of the tensors. Raises InputError where it is missing, cannot be read or holds other tensors.
    """
    state = read_tensors(path, "vision transformer")
    try:
        if "register_tokens" in state:
            raise KeyError("register_tokens")
        blocks = {int(match[1]) for name in state if (match := re.match(r"blocks\.(\d+)\.", name))}
        _, positions, width = state["pos_embed"].shape
        grid = round((positions - 1) ** 0.5)
        hidden, patch = state["blocks.0.mlp.fc1.weight"].shape[0], state["patch_embed.proj.weight"].shape[-1]
        transformer = VisionTransformer(width, len(blocks), hidden, patch, grid)
        if width % HEAD_WIDTH or not blocks:
            raise ValueError(width)
        transformer.load_state_dict({name: state[name] for name in transformer.state_dict()})
    except (RuntimeError, TypeError, KeyError, ValueError, AttributeError) as error:
        raise InputError(
            f"{path} does not hold a vision transformer with DINOv2's names and layers, without registers (cls_token, "
            f"pos_embed, patch_embed.proj, blocks.N, norm): {error}"
        ) from error
    return transformer
