"""Everything that is measured of one denoised scan, in one go: for the command, the panel and the report.

Images go by their names: "LDCT", "denoised" and, where there is one, "NDCT"; all (S, H, W) in HU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.imaging import metrics, noise_consistency
from ASCONDenoiseLib.imaging.image_quality import Quality, quality
from ASCONDenoiseLib.imaging.noise import Spacing, global_noise_hu, noise_map_hu
from ASCONDenoiseLib.imaging.noise_consistency import Consistency
from ASCONDenoiseLib.imaging.regions import Region, RegionPair, lesion_and_background, region

LESION, BACKGROUND = 1, 2
"""Labels of regions whose contrast is measured; other labels are regions of their own."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Findings:
    """What was measured.

    Attributes:
        quality: noise, texture, HU shift, structure in what was removed.
        comparisons: of LDCT and denoised image with the NDCT; empty without one.
        noise_maps: of LDCT and denoised image, (S, H, W) HU; nan at edges and outside of the patient.
        global_noise_hu: mode of each noise map over soft tissue; None where there is none.
        consistency: whether what was removed is noise, and the places where it is not.
        regions: label -> name of the image -> the region.
        pairs: name of the image -> lesion and background; empty without both.
    """

    quality: Quality
    comparisons: tuple[metrics.Comparison, ...]
    noise_maps: dict[str, np.ndarray]
    global_noise_hu: dict[str, float | None]
    consistency: Consistency
    regions: dict[int, dict[str, Region]]
    pairs: dict[str, RegionPair]

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, strings and lists, for JSON; the maps are left out."""
        return {
            "quality": self.quality.to_dict(),
            "against_reference": [comparison.to_dict() for comparison in self.comparisons],
            "global_noise_hu": self.global_noise_hu,
            "consistency": self.consistency.to_dict(),
            "regions": {str(label): {name: asdict(r) for name, r in of.items()} for label, of in self.regions.items()},
            "lesion": {name: asdict(pair) for name, pair in self.pairs.items()},
        }


def find(
    images_hu: Mapping[str, np.ndarray],
    spacing_mm: Spacing,
    labels: np.ndarray | None = None,
    progress: Progress | None = None,
) -> Findings:
    """Measure all of it.

    Args:
        images_hu: LDCT, denoised, perhaps NDCT.
        spacing_mm: (x, y, z).
        labels: (S, H, W) regions: LESION, BACKGROUND, others; 0 is none.
        progress: called with (steps done, steps in all); a step is one map of one slice.

    Raises:
        InputError: shapes differ, a region is too small, or progress raised it.
    """
    before, after, reference = images_hu["LDCT"], images_hu["denoised"], images_hu.get("NDCT")
    measured = quality(before, after, spacing_mm, reference)
    regions, pairs = _regions(images_hu, labels) if labels is not None else ({}, {})
    slices, total = len(before), 3 * len(before)
    guide = after if reference is None else reference
    maps = {}
    for i, (name, voxels) in enumerate((("LDCT", before), ("denoised", after))):
        maps[name] = np.empty(voxels.shape, np.float32)
        for s in range(slices):
            part = slice(s, s + 1)
            maps[name][part] = noise_map_hu(voxels[part], spacing_mm, guide_hu=guide[part])
            if progress:
                progress(i * slices + s + 1, total)

    def last_third(done: int, of: int) -> None:
        if progress:
            progress(2 * slices + round(slices * done / of), total)

    modes = {name: global_noise_hu(values, after) for name, values in maps.items()}
    return Findings(
        quality=measured,
        comparisons=_comparisons(images_hu),
        noise_maps=maps,
        global_noise_hu={name: None if math.isnan(value) else value for name, value in modes.items()},
        consistency=noise_consistency.measure(before, after, spacing_mm, progress=last_third),
        regions=regions,
        pairs=pairs,
    )


def _regions(
    images_hu: Mapping[str, np.ndarray], labels: np.ndarray
) -> tuple[dict[int, dict[str, Region]], dict[str, RegionPair]]:
    """Measure the regions within the box that holds all of them."""
    if labels.shape != images_hu["LDCT"].shape:
        raise InputError(f"The regions differ in shape from the images: {labels.shape}, {images_hu['LDCT'].shape}.")
    places = np.nonzero(labels)
    if not len(places[0]):
        raise InputError("The volume of regions has no label but 0: mark a region with 1, its background with 2.")
    box = tuple(slice(int(place.min()), int(place.max()) + 1) for place in places)
    images = {name: voxels[box] for name, voxels in images_hu.items()}
    labels = labels[box]
    found = {
        int(label): {name: region(voxels, labels == label) for name, voxels in images.items()}
        for label in np.unique(labels)
        if label
    }
    both = {LESION, BACKGROUND} <= found.keys()
    return found, lesion_and_background(images, labels == LESION, labels == BACKGROUND) if both else {}


def _comparisons(images_hu: Mapping[str, np.ndarray]) -> tuple[metrics.Comparison, ...]:
    """Compare with the NDCT in the units of the paper and in the abdomen window."""
    if "NDCT" not in images_hu:
        return ()
    return tuple(
        metrics.compare(images_hu["NDCT"], images_hu[name], scale, name=name)
        for scale in (metrics.PAPER, metrics.ABDOMEN)
        for name in ("LDCT", "denoised")
    )
