"""The canvas on which a patient is painted, and the shapes to paint: ellipsoids, tubes, vessel trees.

A shape is an implicit function in millimetres, negative inside, over a part of the volume. Shapes live in a frame of
their own (x to the patient's left, y to the back, z to the head, a standard trunk about the origin), so the same seed
gives the same patient at any matrix; the trunk is made smaller where the field of view is too small.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from ASCONDenoiseLib.physics.phantom_volume import (
    PSF_SIGMA_MM,
    Phantom,
    Rng,
    blurred,
    checked_spacing,
    coverage,
    random_field,
)

LABELS = {
    0: "air", 1: "couch", 2: "skin", 3: "fat", 4: "muscle", 5: "cortical bone", 6: "trabecular bone",
    7: "spinal canal", 8: "disc", 9: "liver", 10: "liver vessel", 11: "spleen", 12: "kidney cortex",
    13: "kidney medulla", 14: "artery", 15: "vein", 16: "pancreas", 17: "gut wall", 18: "gut fluid", 19: "gut gas",
    20: "stool", 21: "gallbladder", 22: "lung", 23: "lung vessel", 24: "airway", 25: "airway wall",
    26: "heart muscle", 27: "heart chamber",
}  # fmt: skip
"""Label values of the tissues; lesions follow from FIRST_LESION_LABEL on."""

LABEL_VALUES = {name: value for value, name in LABELS.items()}

PHASES_HU = {
    "none": {"liver": 58, "liver vessel": 40, "spleen": 48, "kidney cortex": 34, "kidney medulla": 30, "artery": 42,
             "vein": 40, "pancreas": 42, "gut wall": 40, "muscle": 55, "heart muscle": 45, "heart chamber": 41},
    "arterial": {"liver": 72, "liver vessel": 105, "spleen": 112, "kidney cortex": 185, "kidney medulla": 75,
                 "artery": 290, "vein": 85, "pancreas": 105, "gut wall": 80, "muscle": 58, "heart muscle": 105,
                 "heart chamber": 240},
    "portal venous": {"liver": 108, "liver vessel": 172, "spleen": 122, "kidney cortex": 190, "kidney medulla": 150,
                      "artery": 155, "vein": 148, "pancreas": 92, "gut wall": 90, "muscle": 62, "heart muscle": 110,
                      "heart chamber": 150},
}  # fmt: skip
"""Mean HU of the tissues that take up contrast medium; each patient deviates by some 4 %."""

# A shape is (region, f): f holds millimetres to the surface, negative inside, over the part `region` of the volume.
Region = tuple[slice, ...]
Shape = tuple[Region, np.ndarray]
FULL: Region = (slice(None),) * 3


class Canvas:
    """A patient's volume being painted: anatomical coordinates of every voxel, HU and labels so far.

    Attributes:
        cavity: field of the inside of the trunk's wall, once the trunk is painted.
        dome: field of what lies above the diaphragm, likewise.
        spine: field of the spine with the vessels before it, where no lung reaches, likewise.
    """

    cavity: np.ndarray
    dome: np.ndarray
    spine: np.ndarray

    def __init__(self, rng: Rng, shape: Sequence[int], spacing_mm: Sequence[float], level_mm: float):
        self.spacing_mm = checked_spacing(shape, spacing_mm)
        fat = rng.gamma(4.0, 4.5) + 5  # subcutaneous fat at the flank
        self.fat_mm = fat
        self.front, self.back = -108 - fat * rng.uniform(0.5, 1.1), 124 + 0.5 * fat
        self.flank = 140 + fat
        habitus = np.array([1.0, rng.uniform(0.9, 1.08), rng.uniform(0.95, 1.12)])  # z, y, x
        voxel = np.array(self.spacing_mm[::-1])
        view = np.array(shape) * voxel
        depth = self.back - self.front
        fit = min(1.0, 0.97 * view[2] / (2.04 * self.flank * habitus[2]), 0.95 * view[1] / (1.02 * depth * habitus[1]))
        self.fit = fit
        self.step = (voxel / (fit * habitus)).tolist()  # (z, y, x) of a voxel in the anatomical frame
        self.pixel = self.step[2]
        centre = np.array([level_mm, (self.front + self.back) / 2, 0.0])
        room = view[1] / (fit * habitus[1]) - 1.02 * depth
        centre[1] += rng.uniform(0, 1) * np.clip(room / 2, 0, 25)  # not always centred: room for the couch
        axes = [(np.arange(n) - (n - 1) / 2) * s + c for n, s, c in zip(shape, self.step, centre, strict=True)]
        self.axes, self.first = axes, [float(a[0]) for a in axes]
        self.shape = tuple(shape)
        self.hu = np.full(self.shape, -1000, np.float32)
        self.labels = np.zeros(self.shape, np.uint8)
        # One smooth deformation for all organs: shapes stay neighbours and no longer are ellipsoids.
        self.shift = [a * random_field(rng, axes, 42.0, self.step, 64) for a in (5.5, 5.0, 5.5)]  # z, y, x
        grids = np.meshgrid(*axes, indexing="ij", sparse=True)
        self.z, self.y, self.x = (g.astype(np.float32) + d for g, d in zip(grids, self.shift, strict=True))
        true_axes = [(a - c) * s for a, c, s in zip(axes, centre, voxel / self.step, strict=True)]
        lengths = (1.1, 2.2, 5.0)
        self.grains = [random_field(rng, true_axes, length, voxel, 192) for length in lengths]  # parenchymal texture
        self.lumps = random_field(rng, axes, 9.0, self.step, 128)  # lobulation of surfaces, strands
        self.phase = str(rng.choice(list(PHASES_HU), p=[0.25, 0.25, 0.5]))
        self.mean_hu = {name: hu * rng.normal(1, 0.04) for name, hu in PHASES_HU[self.phase].items()}

    def box(self, low: Sequence[float], high: Sequence[float], margin: float) -> Region:
        """Return the voxels of the box between two points (x, y, z), whose deformation is looked up in its middle."""
        low, high = [float(v) for v in low[::-1]], [float(v) for v in high[::-1]]
        at = []
        for a, b, first, step, n in zip(low, high, self.first, self.step, self.shape, strict=True):
            at.append(min(max(round(((a + b) / 2 - first) / step), 0), n - 1))
        region = []
        for axis, (first, step, n) in enumerate(zip(self.first, self.step, self.shape, strict=True)):
            offset = first + float(self.shift[axis][tuple(at)])
            start = math.floor((low[axis] - margin - offset) / step)
            stop = math.ceil((high[axis] + margin - offset) / step) + 1
            region.append(slice(min(max(start, 0), n), min(max(stop, 0), n)))
        return tuple(region)

    def at(self, region: Region) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.x[region], self.y[region], self.z[region]

    def ellipsoid(
        self,
        centre: ArrayLike,
        radii: Sequence[float] | np.ndarray,
        turn_deg: float = 0.0,
        lumps: float = 0.0,
        margin: float = 0.0,
    ) -> Shape:
        """Make an ellipsoid turned about z, its surface displaced by `lumps` mm; `margin` widens the region."""
        centre, reach = np.asarray(centre, float), np.array([max(radii[:2]), max(radii[:2]), radii[2]])
        region = self.box(centre - reach, centre + reach, 12 + margin)
        x, y, z = (g - m for g, m in zip(self.at(region), centre, strict=True))
        cos, sin = np.cos(np.radians(turn_deg)), np.sin(np.radians(turn_deg))
        u, v, w = (x * cos + y * sin) / radii[0], (y * cos - x * sin) / radii[1], z / radii[2]
        norm = np.sqrt(u * u + v * v + w * w) + 1e-6
        slope = np.sqrt((u / radii[0]) ** 2 + (v / radii[1]) ** 2 + (w / radii[2]) ** 2) + 1e-6
        return region, norm * (norm - 1) / slope + lumps * self.lumps[region]

    def tubes(self, segments: ArrayLike, radii: ArrayLike, flat: float = 1.0, far: float = 10.0) -> Shape:
        """Unite round-ended cones: segments (N, 2, 3) of x, y, z, radii (N, 2); `flat` < 1 makes them tall.

        The field is known up to `far` mm from the surface.
        """
        far = max(far, 0.8 * max(self.step))
        f = np.full(self.shape, far, np.float32)
        starts, stops = [], []
        segments, radii = np.asarray(segments, np.float32), np.asarray(radii)
        ends = np.array([(a[0], a[-1]) for a in self.axes[::-1]]).T  # most of a tree lies above or below the volume
        near = radii.max(1, keepdims=True) / flat + far + 20
        keep = ((segments.max(1) + near > ends[0]) & (segments.min(1) - near < ends[1])).all(1)
        for (a, b), (r0, r1) in zip(segments[keep], radii[keep], strict=True):
            region = self.box(np.minimum(a, b), np.maximum(a, b), max(r0, r1) / flat + far)
            if any(s.start >= s.stop for s in region):
                continue
            x, y, z = (g - m for g, m in zip(self.at(region), a, strict=True))
            z, d = z * flat, (b - a) * np.array([1, 1, flat], np.float32)
            t = np.clip((x * d[0] + y * d[1] + z * d[2]) / max(float(d @ d), 1e-6), 0, 1)
            distance = np.sqrt((x - t * d[0]) ** 2 + (y - t * d[1]) ** 2 + (z - t * d[2]) ** 2)
            part = f[region]
            np.minimum(part, distance - (r0 + t * (r1 - r0)), out=part)
            starts.append([s.start for s in region])
            stops.append([s.stop for s in region])
        if not starts:
            return (slice(0, 0),) * 3, f[:0, :0, :0]
        region = tuple(slice(a, b) for a, b in zip(np.min(starts, 0), np.max(stops, 0), strict=True))
        return region, f[region]

    def everywhere(self, shape: Shape, far: float = 60.0) -> np.ndarray:
        """Return the shape's field over the whole volume, at most `far`: for unions and differences."""
        field = np.full(self.shape, far, np.float32)
        field[shape[0]] = np.minimum(shape[1], far)
        return field

    def path(self, points: ArrayLike, radii: ArrayLike, flat: float = 1.0) -> Shape:
        """Make one tube through points (N, 3) of x, y, z with a radius at each (or one for all)."""
        points = np.asarray(points, float)
        radii = np.broadcast_to(radii, len(points))
        return self.tubes(np.stack([points[:-1], points[1:]], 1), np.stack([radii[:-1], radii[1:]], 1), flat)

    def paint(self, shape: Shape, hu: float | np.ndarray, name: str, sd: float = 0.0, grain: int = 1) -> None:
        """Mix HU (a number, or an array over the region) in by coverage; `sd`: of the texture, HU."""
        region, f = shape
        if f.size == 0:
            return
        part = coverage(f, self.pixel)
        value = hu + sd * self.grains[grain][region] if sd else hu
        self.hu[region] += part * (value - self.hu[region])
        self.labels[region][part > 0.5] = LABEL_VALUES[name]

    def tissue(self, shape: Shape, name: str, sd: float = 4.0, grain: int = 1) -> None:
        self.paint(shape, self.mean_hu[name], name, sd, grain)

    def phantom(self, psf_mm: float = PSF_SIGMA_MM) -> Phantom:
        return Phantom(blurred(self.hu, self.spacing_mm, psf_mm), self.labels, dict(LABELS), self.spacing_mm)


def vessel_tree(rng: Rng, root: ArrayLike, targets: ArrayLike, tip_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """Grow a vessel tree from `root` to every target (N, 3), by Murray's law: segments (M, 2, 3), radii (M, 2)."""
    segments, radii = [], []
    todo = [(np.asarray(root, float), np.asarray(targets, float))]
    while todo:
        start, points = todo.pop()
        n = len(points)
        aim = points.mean(0) - start
        end = start + aim * (1.0 if n == 1 else rng.uniform(0.35, 0.55))
        bend = (start + end) / 2 + rng.normal(0, 0.07, 3) * np.linalg.norm(end - start)
        r0 = tip_mm * n ** (1 / 2.8)
        r1 = 0.6 * r0 if n == 1 else tip_mm * (0.7 * n) ** (1 / 2.8)
        segments += [(start, bend), (bend, end)]
        radii += [(r0, (r0 + r1) / 2), ((r0 + r1) / 2, r1)]
        if n > 1:  # part the targets in two across their longest direction, not always evenly
            order = np.argsort(points[:, np.ptp(points, axis=0).argmax()])
            cut = int(np.clip(round(n * rng.uniform(0.3, 0.7)), 1, n - 1))
            todo += [(end, points[order[:cut]]), (end, points[order[cut:]])]
    return np.array(segments), np.array(radii)


def points_within(rng: Rng, centre: ArrayLike, radii: ArrayLike, count: int) -> np.ndarray:
    """Draw random points (N, 3) in an ellipsoid."""
    p = rng.normal(size=(count, 3))
    return centre + np.array(radii) * p / np.linalg.norm(p, axis=1)[:, None] * rng.random((count, 1)) ** (1 / 3)


def grown(shape: Shape, by_mm: float) -> Shape:
    return shape[0], shape[1] - by_mm


def cut(shape: Shape, *fields: np.ndarray) -> Shape:
    """Intersect with shapes known over the whole volume."""
    region, f = shape
    for field in fields:
        f = np.maximum(f, field[region])
    return region, f


def melted(a: np.ndarray, b: np.ndarray, width: float) -> np.ndarray:
    """Unite two shapes with a rounded seam."""
    h = np.clip(0.5 + 0.5 * (b - a) / width, 0, 1)
    return b + h * (a - b) - width * h * (1 - h)


def superellipse(x: np.ndarray, y: np.ndarray, a: float, b: float, power: float = 2.4) -> np.ndarray:
    """Return the radial distance to a superellipse with half axes a, b."""
    r = (np.abs(x / a) ** power + np.abs(y / b) ** power) ** (1 / power) + 1e-6
    return np.hypot(x, y) * (1 - 1 / r)
