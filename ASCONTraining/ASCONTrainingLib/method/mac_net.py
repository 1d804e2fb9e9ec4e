"""MAC-Net: the multi-scale anatomical contrastive network, which teaches a denoiser anatomy (paper, section 2.3).

It is used in training only. The online network sees the denoised image; the target network, its moving average, sees
the normal-dose image. Queries, neighbours and rankings are chosen once, on the target's features, and used for both.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn
from torch.nn import functional as F

from ASCONTrainingLib.config.settings import MACConfig
from ASCONTrainingLib.method import losses, patch_sampling

PATCH = 16
"""Pixels: one position of F_g represents a patch of this side."""
GAIN = 0.02
"""Spread of the first weights of trunk and projectors."""


class DisentangledUNet(nn.Module):
    """The trunk: a U-Net whose step up from the coarsest level is cut, so that F_g and F_l go separate ways.

    7,822,016 parameters. The path up starts at the 256 channels at 1/8; no bias in any convolution.
    """

    def __init__(self) -> None:
        super().__init__()
        self.enc1 = _double_conv(1, 64, 64)
        self.enc2 = _double_conv(64, 128, 128)
        self.enc3 = _double_conv(128, 256, 256)
        self.enc4 = _double_conv(256, 256, 256)
        self.enc5 = _double_conv(256, 512, 512)
        self.dec1 = _double_conv(256 + 256, 256, 128)
        self.dec2 = _double_conv(128 + 128, 128, 64)
        self.dec3 = _double_conv(64 + 64, 64, 64)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, 0, GAIN)
            elif isinstance(layer, nn.BatchNorm2d):
                nn.init.normal_(layer.weight, 1, GAIN)
                nn.init.zeros_(layer.bias)

    def levels(self, x: torch.Tensor) -> list[torch.Tensor]:
        """(B, 1, H, W) in unit range -> 64, 128, 256, 256 channels at 1, 1/2, 1/4, 1/8 of the size."""
        maps = [self.enc1(x)]
        for stage in (self.enc2, self.enc3, self.enc4):
            maps.append(stage(F.max_pool2d(maps[-1], 2)))
        return maps

    def global_features(self, levels: list[torch.Tensor]) -> torch.Tensor:
        """F_g (B, 512, H/16, W/16): one position for each patch."""
        features: torch.Tensor = self.enc5(F.max_pool2d(levels[3], 2))
        return features

    def local_features(self, levels: list[torch.Tensor]) -> torch.Tensor:
        """F_l (B, 64, H, W): one position for each pixel."""
        x: torch.Tensor = self.dec1(_up_beside(levels[3], levels[2]))
        x = self.dec2(_up_beside(x, levels[1]))
        x = self.dec3(_up_beside(x, levels[0]))
        return x


class Branch(nn.Module):
    """What the online and the target network have in common: the trunk and a projector for each scale."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = DisentangledUNet()
        self.project_global = _mlp(512)
        self.project_local = nn.Sequential(nn.Linear(64, 256), nn.ReLU(inplace=True), nn.Linear(256, 256))
        for layer in (*self.project_global, *self.project_local):
            if isinstance(layer, nn.Linear):
                nn.init.xavier_normal_(layer.weight, GAIN)
                nn.init.zeros_(layer.bias)


class MACNet(nn.Module):
    """Online and target network, predictor, and the two losses between them.

    The target is the moving average of the online network's trunk and of both its projectors; only the online side has
    a predictor.
    Both copies stay in training mode: they normalise with the statistics of the batch, so BatchNorm's buffers are never
    used, and the target does not average them. Parts that no loss needs require no gradient, so every parameter that
    requires one gets one (which DistributedDataParallel relies on).
    """

    def __init__(self, config: MACConfig):
        super().__init__()
        self.config = config
        self.online = Branch()
        self.predictor = _mlp(256)
        if not config.use_global:
            for unused in (self.online.trunk.enc5, self.online.project_global, self.predictor):
                unused.requires_grad_(False)
        if not config.use_local:
            trunk = self.online.trunk
            for unused in (trunk.dec1, trunk.dec2, trunk.dec3, self.online.project_local):
                unused.requires_grad_(False)
        self.target = copy.deepcopy(self.online).requires_grad_(False)

    def forward(
        self,
        denoised: torch.Tensor,
        ndct: torch.Tensor,
        generator: torch.Generator,
        autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> dict[str, torch.Tensor]:
        """The losses "global" and "local", as far as the settings use them; the target gets no gradient.

        Args:
            denoised: (B, 1, H, W) in unit range, H and W multiples of 8, at least 32.
            ndct: like `denoised`.
            generator: draws the queries.
            autocast: the trunks run inside of it; similarities, projectors and losses keep fp32.

        Raises:
            ValueError: other sizes.
        """
        _check_size(denoised, ndct)
        with torch.no_grad(), autocast():
            target = self._features(self.target.trunk, ndct)
        with autocast():
            online = self._features(self.online.trunk, denoised)
        parts: dict[str, torch.Tensor] = {}
        if self.config.use_global:
            queries, counted = self._draw(self.config.global_queries, target["global"], ndct, PATCH, generator)
            parts["global"] = self.global_loss(online["global"], target["global"], queries, counted)
        if self.config.use_local:
            queries, counted = self._draw(self.config.local_queries, target["local"], ndct, 1, generator)
            parts["local"] = self.local_loss(online["local"], target["local"], queries, generator, counted)
        return parts

    def global_loss(
        self,
        online_map: torch.Tensor,
        target_map: torch.Tensor,
        queries: torch.Tensor,
        counted: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Patch-wise non-contrastive loss (eqs. 3 and 4): a query and its positive neighbours, seen by both networks.

        Args:
            online_map: F'_g (B, 512, h, w).
            target_map: F_g, of the same shape.
            queries: (N,) places.
            counted: (B, N) bool, which queries count; None: all.
        """
        with torch.no_grad():
            places, inside = self._positives(target_map, queries)
            projection = _on_rows(self.target.project_global, _average(target_map, places, inside))
        projected = _on_rows(self.online.project_global, _average(online_map, places, inside))
        return losses.global_loss(_on_rows(self.predictor, projected), projection, counted)

    def local_loss(
        self,
        online_map: torch.Tensor,
        target_map: torch.Tensor,
        queries: torch.Tensor,
        generator: torch.Generator,
        counted: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Pixel-wise contrastive loss (eq. 5): the target's same pixel against its hard negatives.

        Args:
            online_map: F'_l (B, 64, H, W).
            target_map: F_l, of the same shape.
            queries: (N,) places.
            generator: draws candidates for negatives.
            counted: (B, N) bool, which queries count; None: all.
        """
        with torch.no_grad():
            places, inside = self._negatives(target_map, queries, generator)
            negatives = F.normalize(self.target.project_local(patch_sampling.take(target_map, places)), dim=-1)
            positive = F.normalize(self.target.project_local(_at(target_map, queries)), dim=-1)
        query = F.normalize(self.online.project_local(_at(online_map, queries)), dim=-1)
        return losses.local_loss(query, positive, negatives, inside, self.config.temperature, counted)

    @torch.no_grad()
    def update_target(self, momentum: float) -> None:
        """target = momentum * target + (1 - momentum) * online, parameters only."""
        for mean, now in zip(self.target.parameters(), self.online.parameters(), strict=True):
            mean.lerp_(now, 1 - momentum)

    def _features(self, trunk: DisentangledUNet, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """F_g and F_l, as far as a loss needs them."""
        levels = trunk.levels(image)
        features = {}
        if self.config.use_global:
            features["global"] = trunk.global_features(levels)
        if self.config.use_local:
            features["local"] = trunk.local_features(levels)
        return features

    def _draw(
        self, count: int, features: torch.Tensor, ndct: torch.Tensor, patch: int, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Queries for a map whose positions are `patch` pixels wide; a position with a mean NDCT above air is body."""
        body = None
        if self.config.filter_background:
            body = (F.avg_pool2d(ndct, patch) > self.config.background).flatten(1)
        queries, counted = patch_sampling.draw_queries(count, features[0, 0].numel(), generator, body)
        return queries.to(features.device), counted

    def _positives(self, target_map: torch.Tensor, queries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Each query and the most similar of its 8 neighbours: places and inside, (B, N, 1 + neighbours)."""
        itself = queries[:, None].expand(len(target_map), -1, 1)
        if not self.config.neighbour_matching:
            return itself, torch.ones_like(itself, dtype=torch.bool)
        near = patch_sampling.windows(queries, target_map.shape[-2:], 3)
        places, inside = patch_sampling.most_similar(target_map, queries, *near, self.config.neighbours)
        return torch.cat((itself, places), -1), F.pad(inside, (1, 0), value=True)

    def _negatives(
        self, target_map: torch.Tensor, queries: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Places and inside, (B, N, negatives), or (N, negatives) where they are drawn without a ranking."""
        config = self.config
        near = patch_sampling.windows(queries, target_map.shape[-2:], config.window)
        if not config.hard_negatives:
            return patch_sampling.draw_candidates(*near, config.negatives, generator)
        if config.candidates is not None and config.candidates < near[0].shape[1]:
            near = patch_sampling.draw_candidates(*near, config.candidates, generator)
        return patch_sampling.most_similar(target_map, queries, *near, config.negatives)


def _double_conv(channels_in: int, channels_between: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_between, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels_between),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels_between, channels_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )


def _mlp(channels_in: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(channels_in, 1024), nn.BatchNorm1d(1024), nn.ReLU(inplace=True), nn.Linear(1024, 256)
    )


def _on_rows(mlp: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """(B, N, C) -> (B, N, D): BatchNorm1d sees the queries of all images as its batch."""
    rows: torch.Tensor = mlp(x.flatten(0, 1))
    return rows.reshape(*x.shape[:2], -1)


def _at(features: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) at places (N,) -> (B, N, C)"""
    return patch_sampling.take(features, queries[:, None]).squeeze(2)


def _average(features: torch.Tensor, places: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """(B, C, h, w) at places (B, N, K) -> (B, N, C), the mean of those inside (eq. 3)."""
    weights = inside[..., None]
    return (patch_sampling.take(features, places) * weights).sum(2) / weights.sum(2)


def _up_beside(x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
    """`x` at twice its size, behind the channels of `skip`."""
    return torch.cat((skip, F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)), 1)


def _check_size(denoised: torch.Tensor, ndct: torch.Tensor) -> None:
    h, w = ndct.shape[-2:]
    if denoised.shape != ndct.shape or h % 8 or w % 8 or min(h, w) < 2 * PATCH:
        raise ValueError(
            f"MAC-Net compares two batches of one size, with sides that are multiples of 8 and at least {2 * PATCH} "
            f"pixels; got {tuple(denoised.shape)} and {tuple(ndct.shape)}."
        )
