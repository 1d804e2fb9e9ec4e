"""A cylinder of water with rods of known HU and texture, as scanners are tested with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.physics.phantom_volume import Phantom, blurred, checked_spacing, coverage, random_field


@dataclass(frozen=True)
class Insert:
    """A rod in the cylinder, parallel to its axis.

    Attributes:
        name: of its label.
        hu: mean over the rod.
        distance_mm: from the axis.
        angle_deg: from x towards y.
        diameter_mm: of the rod.
        texture_sd_hu: standard deviation of its texture; 0 means uniform.
        correlation_mm: of the texture.
    """

    name: str
    hu: float
    distance_mm: float
    angle_deg: float
    diameter_mm: float
    texture_sd_hu: float = 0.0
    correlation_mm: float = 2.0


def standard_inserts(diameter_mm: float = 200.0) -> tuple[Insert, ...]:
    """Eight rods of known HU on a circle, and inside it a pair of equal mean HU and different texture."""
    scale = diameter_mm / 200
    rods = {"air": -1000, "fat": -100, "polyethylene": -35, "contrast +15": 15, "contrast +40": 40,
            "iodine": 120, "iodine, strong": 300, "bone": 800}  # fmt: skip
    outer = [Insert(n, hu, 68 * scale, 45.0 * i, 24 * scale) for i, (n, hu) in enumerate(rods.items())]
    fine = Insert("fine texture", 60, 26 * scale, 0, 30 * scale, texture_sd_hu=8, correlation_mm=1.2)
    coarse = Insert("coarse texture", 60, 26 * scale, 180, 30 * scale, texture_sd_hu=16, correlation_mm=3)
    return (*outer, fine, coarse)


def cylinder(
    shape: tuple[int, int, int] = (24, 256, 256),
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 3.0),
    diameter_mm: float = 200.0,
    inserts: Sequence[Insert] | None = None,
    seed: int = 0,
) -> Phantom:
    """Make a water cylinder (0 HU, axis along the slices) with rods.

    Label 1 is water, 2, 3, ... the inserts in their order. Textured rods have their mean and SD exactly over the
    whole rod before the blur.

    Args:
        shape: slices, rows, columns.
        spacing_mm: (x, y, z).
        diameter_mm: of the cylinder.
        inserts: the rods; None means `standard_inserts`.
        seed: of the textures.

    Raises:
        InputError: the cylinder leaves the field of view or a rod the cylinder.
    """
    spacing_mm = checked_spacing(shape, spacing_mm)
    inserts = standard_inserts(diameter_mm) if inserts is None else tuple(inserts)
    voxel = np.array(spacing_mm[::-1], float)
    if diameter_mm > min(shape[1] * voxel[1], shape[2] * voxel[2]):
        raise InputError(
            f"A cylinder of {diameter_mm} mm does not fit into the image; make the matrix or voxels larger."
        )
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, voxel, strict=True)]
    y, x = np.meshgrid(axes[1], axes[2], indexing="ij")
    hu = np.full(shape, -1000, np.float32)
    labels = np.zeros(shape, np.uint8)
    names = {0: "air outside", 1: "water"}

    def paint(radius: float, cx: float, cy: float, value: np.ndarray | float, label: int) -> None:
        part = coverage((np.hypot(x - cx, y - cy) - radius).astype(np.float32), float(voxel[2]))
        hu[:] += part * (value - hu)
        labels[:, part > 0.5] = label

    paint(diameter_mm / 2, 0, 0, 0.0, 1)
    for label, rod in enumerate(inserts, 2):
        if rod.distance_mm + rod.diameter_mm / 2 > diameter_mm / 2:
            raise InputError(f"The insert {rod.name!r} leaves the cylinder; lower its distance or diameter.")
        angle = np.radians(rod.angle_deg)
        cx, cy = rod.distance_mm * np.cos(angle), rod.distance_mm * np.sin(angle)
        value: np.ndarray | float = rod.hu
        if rod.texture_sd_hu:
            rng = np.random.default_rng([seed, label])
            field = random_field(rng, axes, rod.correlation_mm, voxel, 256)
            inside = field[:, np.hypot(x - cx, y - cy) < rod.diameter_mm / 2]
            value = rod.hu + rod.texture_sd_hu * (field - inside.mean()) / inside.std()
        paint(rod.diameter_mm / 2, cx, cy, value, label)
        names[label] = rod.name
    return Phantom(blurred(hu, spacing_mm), labels, names, spacing_mm)
