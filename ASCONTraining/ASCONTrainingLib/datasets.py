"""Training pairs from normal-dose volumes: the NDCT and the noise that separates it from a low dose, on disk.

A set is a folder with index.json and, for each volume, NAME.ndct.npy (S, H, W) int16 HU and NAME.noise.npy, the same,
LDCT - NDCT at the set's dose. Both arrays are memory-mapped, so a set may be larger than the memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ASCONDenoiseLib import hounsfield

BODY_HU = -500.0  # body above, air below
MIN_BODY = 0.15  # share of body in a patch; the paper leaves out patches with more than 85 % background


@dataclass(frozen=True)
class Source:
    """A normal-dose volume to make pairs from: (S, H, W) int16 HU and (x, y, z) spacing in mm."""

    name: str
    voxels_hu: np.ndarray
    spacing_mm: tuple[float, float, float]


def prepare(
    sources: Iterable[Source], folder: Path, dose: float, seed: int, log: Callable[[str], None] = print
) -> None:
    """Write the pairs of all sources at `dose` to `folder`; volumes that are there already are kept."""
    from ASCONDenoiseLib.dose import DoseSettings, simulate

    folder.mkdir(parents=True, exist_ok=True)
    index = []
    for number, source in enumerate(sources):
        noise_path = folder / f"{source.name}.noise.npy"
        index.append(source.name)
        if noise_path.exists():
            continue
        ndct = source.voxels_hu.astype(np.int16)
        simulation = simulate(ndct, source.spacing_mm, DoseSettings(dose=dose, seed=seed + number))
        np.save(folder / f"{source.name}.ndct.npy", ndct)
        noise = simulation.voxels.astype(np.int32) - ndct
        partial = folder / f"{source.name}.partial.npy"
        np.save(partial, noise.clip(-32768, 32767).astype(np.int16))
        partial.replace(noise_path)  # last, so that a name in place means a whole pair
        log(f"{source.name}: {len(ndct)} slices, photons {simulation.photons.mean():.3g}, {simulation.kernel}")
    (folder / "index.json").write_text(json.dumps({"dose": dose, "seed": seed, "volumes": index}, indent=1))


class PairSampler:
    """Random patches of a set: (LDCT, NDCT), each (B, 1, side, side) float32 in unit range, clipped to the window.

    Volumes are drawn in proportion to their slices. A patch is flipped and turned by a multiple of 90 degrees. With
    `dose_jitter` j, the noise's variance is that of a dose drawn between dose / (1 + j) and dose * (1 + j).
    """

    def __init__(self, folder: Path, seed: int, dose_jitter: float = 0.0):
        index = json.loads((folder / "index.json").read_text())
        self.dose, self.dose_jitter = index["dose"], dose_jitter
        self.ndct = [np.load(folder / f"{name}.ndct.npy", mmap_mode="r") for name in index["volumes"]]
        self.noise = [np.load(folder / f"{name}.noise.npy", mmap_mode="r") for name in index["volumes"]]
        slices = np.array([len(v) for v in self.ndct])
        self.share = slices / slices.sum()
        self.random = np.random.default_rng(seed)

    def batch(self, size: int, side: int) -> tuple[torch.Tensor, torch.Tensor]:
        pairs = [self._patch(side) for _ in range(size)]
        ldct, ndct = (torch.from_numpy(np.stack(images))[:, None] for images in zip(*pairs, strict=True))
        return ldct, ndct

    def _patch(self, side: int) -> tuple[np.ndarray, np.ndarray]:
        while True:
            volume = self.random.choice(len(self.ndct), p=self.share)
            s, h, w = self.ndct[volume].shape
            if min(h, w) < side:
                continue
            z, y, x = (self.random.integers(n) for n in (s, h - side + 1, w - side + 1))
            where = (z, slice(y, y + side), slice(x, x + side))
            ndct = self.ndct[volume][where].astype(np.float32)
            if (ndct > BODY_HU).mean() >= MIN_BODY:
                break
        jitter = (1 + self.dose_jitter) ** self.random.uniform(-1, 1)
        factor = np.sqrt((1 / min(1.0, self.dose * jitter) - 1) / (1 / self.dose - 1))
        ldct = ndct + np.float32(factor) * self.noise[volume][where]
        turns, flip = self.random.integers(4), self.random.integers(2)
        return tuple(
            np.ascontiguousarray(np.rot90(image[:, ::-1] if flip else image, turns))
            for image in (hounsfield.to_unit(hounsfield.clip_to_window(i)) for i in (ldct, ndct))
        )
