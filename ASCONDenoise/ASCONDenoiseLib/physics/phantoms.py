"""Procedural anatomy: noise-free CT volumes of an abdomen, a chest and a cylinder, where there is no data.

Anatomy is a list of implicit functions in millimetres (negative inside) painted over one another, with a
through-plane and in-plane partial volume, then blurred by the scanner's point spread function. It lives in a
frame of its own (x to the patient's left, y to the back, z to the head, a standard trunk about the origin), so the
same seed gives the same patient at any matrix; the trunk is made smaller where the field of view is too small.
Arrays are (S, H, W); slices run from foot to head and the patient lies on the back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import gaussian_filter

PSF_SIGMA_MM = 0.65
"""In-plane Gaussian blur of a body kernel such as B30: MTF 50 % at 2.9, 10 % at 5.3 line pairs per cm."""

LABELS = {
    0: "air", 1: "couch", 2: "skin", 3: "fat", 4: "muscle", 5: "cortical bone", 6: "trabecular bone",
    7: "spinal canal", 8: "disc", 9: "liver", 10: "liver vessel", 11: "spleen", 12: "kidney cortex",
    13: "kidney medulla", 14: "artery", 15: "vein", 16: "pancreas", 17: "gut wall", 18: "gut fluid", 19: "gut gas",
    20: "stool", 21: "gallbladder", 22: "lung", 23: "lung vessel", 24: "airway", 25: "airway wall",
    26: "heart muscle", 27: "heart chamber",
}  # fmt: skip
"""Label values of `abdomen` and `chest`; lesions follow from FIRST_LESION_LABEL on."""

FIRST_LESION_LABEL = 100
_L = {name: value for value, name in LABELS.items()}

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


@dataclass(frozen=True)
class Lesion:
    """A sphere that differs from what surrounds it by `contrast_hu`. `centre_ijk` counts columns, rows, slices."""

    centre_ijk: tuple[float, float, float]
    diameter_mm: float
    contrast_hu: float
    label: int = 0


@dataclass(frozen=True)
class Insert:
    """A rod in the cylinder, parallel to its axis. `texture_sd_hu` 0 means uniform; the mean over the rod is `hu`."""

    name: str
    hu: float
    distance_mm: float
    angle_deg: float
    diameter_mm: float
    texture_sd_hu: float = 0.0
    correlation_mm: float = 2.0


@dataclass(frozen=True)
class Phantom:
    """voxels_hu: noise-free float32 (S, H, W); labels: uint8 (S, H, W), the tissue that fills most of each voxel."""

    voxels_hu: np.ndarray
    labels: np.ndarray
    label_names: dict[int, str]
    spacing_mm: tuple[float, float, float]
    lesions: tuple[Lesion, ...] = ()


def abdomen(
    seed: int,
    shape: tuple[int, int, int] = (24, 256, 256),
    spacing_mm: tuple[float, float, float] = (1.4, 1.4, 3.0),
    lesions: int = 3,
) -> Phantom:
    """An upper abdomen; habitus, organs, contrast phase and level vary with the seed.

    `lesions` low-contrast spheres of 5-20 mm and 10-40 HU lie in the liver, fewer where they do not fit;
    with 0 it is the same patient without them, and with the vessels that they displace.
    Raises ValueError where shape or spacing is not three positive numbers.
    """
    rng = np.random.default_rng([seed, 1])
    c = _Canvas(rng, shape, spacing_mm, level_mm=rng.uniform(-28, 22))
    _trunk(c, rng, ribs=range(5), chest=False)
    _lungs(c, rng, [(-30, 10, 150), (30, 10, 150)], np.maximum.reduce([c.cavity + 2.5, -c.dome, -c.spine]))
    _gut(c, rng)
    found = _solid_organs(c, rng, lesions)
    return add_lesions(c.phantom(), found)


def chest(
    seed: int,
    shape: tuple[int, int, int] = (24, 256, 256),
    spacing_mm: tuple[float, float, float] = (1.4, 1.4, 3.0),
) -> Phantom:
    """A chest about the level of the carina and the heart; habitus, organs, contrast and level vary with the seed.

    Raises ValueError where shape or spacing is not three positive numbers.
    """
    rng = np.random.default_rng([seed, 2])
    c = _Canvas(rng, shape, spacing_mm, level_mm=rng.uniform(-45, 25))
    _trunk(c, rng, ribs=range(-6, 8), chest=True)
    _thorax(c, rng)
    return c.phantom()


# A shape is (region, f): f holds millimetres to the surface, negative inside, over the part `region` of the volume.
Region = tuple[slice, ...]
Shape = tuple[Region, np.ndarray]
Rng = np.random.Generator
FULL: Region = (slice(None),) * 3


class _Canvas:
    """A patient's volume being painted: anatomical coordinates of every voxel, HU and labels so far."""

    cavity: np.ndarray  # what `_trunk` leaves for the organs: the inside of the wall, what lies below the lungs,
    dome: np.ndarray
    spine: np.ndarray  # and the spine with the vessels before it, where no lung reaches

    def __init__(self, rng: Rng, shape: Sequence[int], spacing_mm: Sequence[float], level_mm: float):
        _check(shape, spacing_mm)
        self.spacing_mm = tuple(float(s) for s in spacing_mm)
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
        self.shift = [a * _waves(rng, axes, 42.0, self.step, 64) for a in (5.5, 5.0, 5.5)]  # z, y, x
        grids = np.meshgrid(*axes, indexing="ij", sparse=True)
        self.z, self.y, self.x = (g.astype(np.float32) + d for g, d in zip(grids, self.shift, strict=True))
        true_axes = [(a - c) * s for a, c, s in zip(axes, centre, voxel / self.step, strict=True)]
        lengths = (1.1, 2.2, 5.0)
        self.grains = [_waves(rng, true_axes, length, voxel, 192) for length in lengths]  # parenchymal texture
        self.lumps = _waves(rng, axes, 9.0, self.step, 128)  # lobulation of surfaces, strands
        self.phase = str(rng.choice(list(PHASES_HU), p=[0.25, 0.25, 0.5]))
        self.mean_hu = {name: hu * rng.normal(1, 0.04) for name, hu in PHASES_HU[self.phase].items()}

    def box(self, low: Sequence[float], high: Sequence[float], margin: float) -> Region:
        """The voxels of the box between two points (x, y, z), whose deformation is looked up in its middle."""
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

    def ellipsoid(self, centre, radii, turn_deg: float = 0.0, lumps: float = 0.0, margin: float = 0.0) -> Shape:
        """An ellipsoid turned about z, its surface displaced by `lumps` mm; `margin` widens the region."""
        centre, reach = np.asarray(centre, float), np.array([max(radii[:2]), max(radii[:2]), radii[2]])
        region = self.box(centre - reach, centre + reach, 12 + margin)
        x, y, z = (g - m for g, m in zip(self.at(region), centre, strict=True))
        cos, sin = np.cos(np.radians(turn_deg)), np.sin(np.radians(turn_deg))
        u, v, w = (x * cos + y * sin) / radii[0], (y * cos - x * sin) / radii[1], z / radii[2]
        norm = np.sqrt(u * u + v * v + w * w) + 1e-6
        slope = np.sqrt((u / radii[0]) ** 2 + (v / radii[1]) ** 2 + (w / radii[2]) ** 2) + 1e-6
        return region, norm * (norm - 1) / slope + lumps * self.lumps[region]

    def tubes(self, segments: np.ndarray, radii: np.ndarray, flat: float = 1.0, far: float = 10.0) -> Shape:
        """The union of round-ended cones: segments (N, 2, 3) of x, y, z, radii (N, 2); `flat` < 1 makes them tall.

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
        """The shape's field over the whole volume, at most `far`: for unions and differences."""
        field = np.full(self.shape, far, np.float32)
        field[shape[0]] = np.minimum(shape[1], far)
        return field

    def path(self, points, radii, flat: float = 1.0) -> Shape:
        """One tube through points (N, 3) of x, y, z with a radius at each (or one for all)."""
        points = np.asarray(points, float)
        radii = np.broadcast_to(radii, len(points))
        return self.tubes(np.stack([points[:-1], points[1:]], 1), np.stack([radii[:-1], radii[1:]], 1), flat)

    def paint(self, shape: Shape, hu, name: str, sd: float = 0.0, grain: int = 1) -> None:
        """Mixes HU (a number, or an array over the region) in by coverage; `sd`: of the texture, HU."""
        region, f = shape
        if f.size == 0:
            return
        part = _coverage(f, self.pixel)
        value = hu + sd * self.grains[grain][region] if sd else hu
        self.hu[region] += part * (value - self.hu[region])
        self.labels[region][part > 0.5] = _L[name]

    def tissue(self, shape: Shape, name: str, sd: float = 4.0, grain: int = 1) -> None:
        self.paint(shape, self.mean_hu[name], name, sd, grain)

    def phantom(self) -> Phantom:
        return Phantom(_blur(self.hu, self.spacing_mm), self.labels, dict(LABELS), self.spacing_mm)


def _check(shape: Sequence[int], spacing_mm: Sequence[float]) -> None:
    if len(shape) != 3 or min(shape) < 1 or len(spacing_mm) != 3 or not min(spacing_mm) > 0:
        raise ValueError(f"A phantom needs three sizes and three spacings above 0; got {shape} and {spacing_mm} mm.")


def _blur(hu: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    sigma = (0, PSF_SIGMA_MM / spacing_mm[1], PSF_SIGMA_MM / spacing_mm[0])
    return gaussian_filter(hu, sigma, mode="nearest", output=np.float32)


def _coverage(f: np.ndarray, pixel: float) -> np.ndarray:
    """The share of each voxel inside f < 0, to first order: f over its change across one voxel."""
    width = np.zeros_like(f)
    for axis in range(f.ndim):
        if f.shape[axis] > 1:
            width += np.gradient(f, axis=axis) ** 2
    return np.clip(0.5 - f / np.maximum(np.sqrt(width), pixel), 0, 1)


def _waves(rng: Rng, axes: Sequence[np.ndarray], length_mm: float, step: Sequence[float], count: int) -> np.ndarray:
    """Gaussian random field of unit SD and autocorrelation exp(-r^2 / 2 length^2), as `count` plane waves.

    Known in millimetres, not voxels: the same draw looks the same at any matrix. Voxels average over their size.
    """
    k = rng.normal(0, 1 / length_mm, (count, 3))
    box = np.prod(np.sinc(k * np.asarray(step) / (2 * np.pi)), 1)
    weight = np.sqrt(2 / count) * box * np.exp(2j * np.pi * rng.random(count))
    ez, ey, ex = (np.exp(1j * np.outer(k[:, i], axes[i])).astype(np.complex64) for i in range(3))
    ez *= weight[:, None].astype(np.complex64)
    right = np.concatenate([ex.real, -ex.imag])
    field = np.empty([len(a) for a in axes], np.float32)
    for s in range(len(field)):
        left = ez[:, s, None] * ey
        field[s] = np.concatenate([left.real, left.imag]).T @ right
    return field


def _tree(rng: Rng, root, targets, tip_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """A vessel tree from `root` to every target (N, 3): segments (M, 2, 3), radii (M, 2); tapered by Murray's law."""
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


def _within(rng: Rng, centre, radii, count: int) -> np.ndarray:
    """Random points (N, 3) in an ellipsoid."""
    p = rng.normal(size=(count, 3))
    return centre + np.array(radii) * p / np.linalg.norm(p, axis=1)[:, None] * rng.random((count, 1)) ** (1 / 3)


def _grow(shape: Shape, by_mm: float) -> Shape:
    return shape[0], shape[1] - by_mm


def _cut(shape: Shape, *fields: np.ndarray) -> Shape:
    """Intersection with shapes known over the whole volume."""
    region, f = shape
    for field in fields:
        f = np.maximum(f, field[region])
    return region, f


def _melt(a: np.ndarray, b: np.ndarray, width: float) -> np.ndarray:
    """Union of two shapes with a rounded seam."""
    h = np.clip(0.5 + 0.5 * (b - a) / width, 0, 1)
    return b + h * (a - b) - width * h * (1 - h)


def _round(x, y, a: float, b: float, power: float = 2.4) -> np.ndarray:
    """Radial distance to a superellipse with half axes a, b."""
    r = (np.abs(x / a) ** power + np.abs(y / b) ** power) ** (1 / power) + 1e-6
    return np.hypot(x, y) * (1 - 1 / r)


def _trunk(c: _Canvas, rng: Rng, ribs: Sequence[int], chest: bool) -> None:
    """Couch, skin, fat, wall, back muscles, spine and ribs; leaves the cavity (and the dome below the lungs) on `c`."""
    x, y, z = c.x, c.y, c.z
    ax, ay = c.axes[2][None, None, :], c.axes[1][None, :, None]
    bowl = np.abs(np.hypot(ax, ay - (c.back + 7 - 430)) - 430) - 1.2
    c.paint((FULL, np.broadcast_to(np.maximum(bowl, np.abs(ax) - 215), c.shape).astype(np.float32)), 120, "couch")

    middle, half = (c.front + c.back) / 2, (c.back - c.front) / 2
    groove = 7 * np.exp(-((x / 16) ** 2)) * (y > 0)
    calm_x, calm_y = x - 0.6 * c.shift[2], y - 0.6 * c.shift[1]  # skin is smoother than organs
    body = _round(calm_x, calm_y - middle, c.flank, half, 2.3) + groove
    septa = np.clip(1 - np.abs(c.lumps) / 0.12, 0, 1)  # level sets of a random field: thin curved sheets
    fat = -106 + 45 * septa * (c.grains[2] > 0) + 6 * c.grains[2]
    c.paint((FULL, body), 35, "skin")
    c.paint((FULL, body + 1.8), fat, "fat")

    c.cavity = _round(x, y + 5, 128, 88)
    c.dome = _dome(x, y, z + rng.uniform(130, 160) if chest else z - rng.uniform(15, 40))
    side = np.clip(np.abs(x) / 95, 0, 1) ** 2
    wall = c.cavity - (3.0 + rng.uniform(6, 11) * side * (1 + 0.25 * c.lumps + 0.15 * c.shift[1]))
    muscle = c.mean_hu["muscle"] + 5 * c.grains[1] - 70 * septa * np.clip(c.grains[2], 0, 1)
    c.paint((FULL, np.maximum(wall, body + 4)), muscle, "muscle")
    if not chest:
        for level in (0.33, 0.66):  # fat between the three flat muscles
            sheet = np.abs(c.cavity - level * (c.cavity - wall)) - 0.5
            c.paint((FULL, np.maximum(sheet, 75 - np.abs(x))), -40, "fat")
    for sign in (-1, 1):
        backs = [((33, 101, 0), (31, 17, 900), 8), ((66, 88, 0), (26, 10, 900), 40)]
        fronts = [((34, -94, 0), (33, 6.5, 900), -10)] if not chest else [((60, -96, 40), (62, 11, 90), -22)]
        flanks = [((132, 35, 0), (12, 48, 900), 18)] if chest else []
        for (mx, my, mz), radii, turn in backs + fronts + flanks:
            shape = c.ellipsoid((sign * mx, my, mz), radii, -sign * turn, 1.5)
            c.paint(_cut(shape, body + 4), muscle[shape[0]], "muscle")
    strands = np.clip(1 - np.abs(c.lumps + 0.5) / 0.1, 0, 1) * (c.grains[2] > -0.2)
    c.paint((FULL, c.cavity), -104 + 50 * strands + 7 * c.grains[2], "fat")
    c.spine = np.minimum(_round(x, y - 66, 31, 24, 2.2), _round(x - 4, y - 38, 26, 18, 2.2))  # and what lies before it
    _spine(c, rng)
    for sign in (-1, 1):
        for i in ribs:
            _rib(c, sign, 30.0 + 27 * i, reach=2.6 if chest else min(1.3 + 0.35 * i, 2.4))


def _dome(x, y, z) -> np.ndarray:
    """The diaphragm: flat-topped, lower behind than in front; below it belongs to the abdomen."""
    height = np.clip(z + 0.3 * y + 0.12 * x + 45, 0, None) / 110
    return _round(x, y + 8, 128, 88, 2.2) + 40 * height**2 - 4


def _rib(c: _Canvas, sign: int, top_mm: float, reach: float) -> None:
    """From the spine backwards, round the wall and down; marrow inside. `reach`: its end, radians from the back."""
    t = np.linspace(0.12, reach, 22)
    points = np.stack([sign * 132 * np.sin(t), 88 * np.cos(t) - 4 + 6 * np.exp(-t), top_mm - 50 * t + 5 * t**2], 1)
    points[0] = (sign * 20, 76, top_mm + 2)
    bone = c.path(points, 3.6, flat=0.55)
    c.paint(bone, 620, "cortical bone", 40, 0)
    c.paint(_grow(bone, -1.7), 210, "trabecular bone", 40, 0)


def _spine(c: _Canvas, rng: Rng) -> None:
    """Vertebrae every 33 mm: body with endplates, discs, arch, processes, canal with fat and the thecal sac."""
    region = c.box((-55, 38, -1e4), (55, 132, 1e4), 14)
    x, y, z = c.at(region)
    z = (z + rng.uniform(0, 33)) % 33 - 16.5  # 0 in the middle of a vertebra
    width, depth = rng.uniform(20, 24), rng.uniform(16, 18.5)
    hollow = 5 * np.exp(-((x / 9) ** 2 + ((y - 79) / 5) ** 2))
    body = _round(x, y - 62, width, depth, 2.2) + hollow + 2.0 * np.cos(z / 14 * np.pi / 2) - 1

    def bar(p, q, radius: float, low: float, high: float) -> np.ndarray:
        d = np.subtract(q, p)
        ox, oy = np.abs(x) - p[0], y - p[1]
        t = np.clip((ox * d[0] + oy * d[1]) / (d @ d), 0, 1)
        return np.maximum(np.hypot(ox - t * d[0], oy - t * d[1]) - radius, np.maximum(low - z, z - high))

    pedicle = bar((16, 72), (17, 92), 4.2, -1, 11)
    lamina = bar((17, 93), (0, 105), 3.4, -12, 9)
    process = bar((0, 104), (0, 121), 2.8, -12, 3)
    transverse = bar((18, 90), (43, 93), 3.0, -2, 7)
    facet = bar((18, 93), (22, 96), 5.5, -15, 15)
    joint = np.abs(np.hypot(np.abs(x) - 16, y - 90) - 6.5) - 0.7  # the gap of the facet joint, a curved line
    arch = np.minimum.reduce([pedicle, lamina, process, transverse, np.maximum(facet, -joint)])
    canal = _round(x, y - 88, 11, 9.5, 2.0)
    bone = np.minimum(np.maximum(body, np.abs(z) - 13), np.maximum(arch, -canal))
    c.paint((region, np.maximum(body - 0.8, 12 - np.abs(z))), 88, "disc", 4, 1)
    c.paint((region, canal), -70, "fat")
    c.paint((region, _round(x, y - 88, 9, 7.5, 2.0)), 32, "spinal canal", 2, 1)
    c.paint((region, bone), rng.normal(620, 50), "cortical bone", 40, 0)
    marrow = rng.normal(170, 30) + 32 * c.grains[0][region] + 20 * c.grains[2][region]
    c.paint((region, bone + 2.0), marrow, "trabecular bone")


def _lungs(c: _Canvas, rng: Rng, roots, lung: np.ndarray) -> None:
    """Air spaces with a gradient towards the back, fissures, and a bronchovascular tree from each root."""
    fissure = 60 * np.clip(1 - np.abs(c.y * 0.7 + c.z * 0.7 + 4 * c.lumps + 12) / 1.2, 0, 1)
    density = rng.normal(-865, 15) + 0.35 * c.y + fissure + 14 * c.grains[2] + 8 * c.grains[1]
    c.paint((FULL, lung), density, "lung")
    for root in roots:
        side = np.sign(root[0])
        targets = _within(rng, (side * 70, 0, root[2] * 0.5), (58, 90, 100), 2200)
        segments, radii = _tree(rng, root, targets, 0.52)
        c.paint(_cut(c.tubes(segments, radii, far=2.5), lung + 0.5), c.mean_hu["vein"], "lung vessel")
        large = radii[:, 0] > 1.9  # every larger artery has a bronchus beside it
        beside = segments[large] + np.array([1.2, 1.4, 0.6]) * radii[large, :1, None] * side
        airway = _cut(c.tubes(beside, 0.6 * radii[large], far=4), lung + 0.5)
        c.paint(_grow(airway, 0.8), -80, "airway wall")
        c.paint(airway, -960, "airway")


def _gut(c: _Canvas, rng: Rng) -> None:
    """Mesenteric vessels, stomach, small bowel and colon, all inside the cavity and below the diaphragm."""
    inside = np.maximum(c.cavity + 3, c.dome + 3)
    vessels = _tree(rng, (4, 24, 0), _within(rng, (10, -20, -35), (95, 55, 60), 160), 0.55)
    c.paint(_cut(c.tubes(*vessels), inside), 0.7 * c.mean_hu["vein"], "vein")
    turns = np.linspace(0, 1, 9)[:, None]
    arc = np.array([[-96, 25, -90], [-100, 20, -30], [-60, -62, -22], [0, -68, -30], [60, -62, -12], [98, 0, 22]])
    descending = np.array([[98, 0, 22], [102, 36, 0], [98, 42, -110]])
    for nodes in (arc + rng.normal(0, 5, arc.shape), descending):
        points = np.concatenate([a + (b - a) * turns for a, b in zip(nodes[:-1], nodes[1:], strict=True)])
        radii = rng.uniform(14, 20) + 3.5 * np.cos(np.arange(len(points)) * 1.3)  # haustra
        _loop(c, rng, _cut(c.path(points, radii), inside), "stool", 2.0, rng.uniform(0.1, 0.9))
    for _ in range(rng.integers(13, 19)):
        point, points = _within(rng, (15, -32, -30), (85, 42, 50), 1)[0], []
        heading = rng.normal(size=3)
        for _ in range(12):
            heading = 0.75 * heading + rng.normal(0, 0.7, 3) - 0.006 * (point - (15, -32, -35))
            point = point + 11 * heading / np.linalg.norm(heading)
            points.append(point)
        shape = _cut(c.path(points, rng.uniform(8.5, 14.5)), inside)
        _loop(c, rng, shape, "gut fluid", rng.uniform(2.0, 3.5), rng.choice([0.0, 0.0, 0.3, 0.6]))
    a = c.ellipsoid((56, -18, 48), (44, 44, 46), 20, 2)
    b = c.ellipsoid((18, -56, 14), (42, 20, 24), -20, 2)
    _loop(c, rng, _cut(a, inside), "gut fluid", 4.5, rng.uniform(0.1, 0.6))
    _loop(c, rng, _cut(b, inside), "gut fluid", 4.5, rng.uniform(0.0, 0.4))


def _loop(c: _Canvas, rng: Rng, shape: Shape, content: str, wall_mm: float, gas: float) -> None:
    """A hollow organ in a rim of fat: wall, content with food texture, gas above a level that lies flat."""
    region, f = shape
    contrast = content == "gut fluid" and rng.random() < 0.15  # drunk contrast medium
    mean = 260 if contrast else rng.uniform(5, 30) if content == "gut fluid" else rng.uniform(0, 45)
    level_share, mottle = gas, rng.uniform(2, 6) if content == "gut fluid" else rng.uniform(40, 130)
    if f.size == 0:
        return
    c.paint(_grow(shape, 1.6), -100, "fat", 8, 2)
    c.tissue(shape, "gut wall", 5, 0)
    lumen = f + wall_mm
    texture = mottle * (c.grains[1][region] if content == "gut fluid" else np.minimum(c.grains[1][region], 0.4))
    c.paint((region, lumen), mean + texture, content)
    if gas and (lumen < 0).any():
        y = np.broadcast_to(c.axes[1][None, :, None], c.shape)[region].astype(np.float32)
        level = np.quantile(y[lumen < 0], level_share)
        c.paint((region, np.maximum(lumen, y - level)), -985, "gut gas")


def _solid_organs(c: _Canvas, rng: Rng, lesions: int) -> list[Lesion]:
    """Psoas, kidneys, liver, spleen, pancreas and the great vessels; returns the lesions planned in the liver."""
    inside = np.maximum(c.cavity + 2.5, c.dome + 3)
    taken = []
    for sign in (-1, 1):
        c.tissue(c.path([(sign * 28, 62, 40), (sign * 34, 64, -20), (sign * 44, 58, -110)], [6, 14, 20]), "muscle", 5)
        c.tissue(c.path([(sign * 14, 44, 90), (sign * 17, 48, 0), (sign * 12, 52, -40)], [5, 6, 3]), "muscle", 5)
        centre = np.array([sign * 66, 44, -28 if sign < 0 else -12]) + rng.normal(0, 5, 3)
        taken.append(_kidney(c, rng, centre, sign, inside) - 4 + 3 * c.lumps)
    cava = c.path([(-20, 28, 120), (-21, 34, 10), (-19, 40, -120)], rng.uniform(8, 11))
    cava = (cava[0], cava[1] + 2.5 * c.lumps[cava[0]])
    taken.append(c.everywhere(cava) - 1)

    bite = c.ellipsoid((42, 0, 30), (34, 40, 90), -25, 2, margin=20)
    spleen = c.ellipsoid((86, 34, 36), np.array([40, 46, 48]) * rng.uniform(0.85, 1.1), -25, 2)
    spleen = _cut(spleen, inside, -c.everywhere(bite), -np.minimum(taken[1], 50))
    c.paint(_grow(spleen, 1.5), -100, "fat")
    c.tissue(spleen, "spleen", 4.5)
    planned = _liver(c, rng, lesions, inside, -np.minimum.reduce(taken))

    aorta = rng.uniform(8.5, 11.5)
    c.tissue(c.path([(10, 36, 120), (6, 38, 0), (2, 38, -120)], [aorta + 1, aorta, aorta - 1]), "artery", 3, 2)
    for _ in range(rng.integers(0, 7)):  # calcified plaque
        turn, level = rng.uniform(0, 2 * np.pi), rng.uniform(-60, 60)
        spot = np.array([6 + aorta * np.cos(turn), 38 + aorta * np.sin(turn), level])
        c.paint(c.ellipsoid(spot, (2.2, 2.2, 4)), 700, "cortical bone")
    c.tissue(cava, "vein", 3, 2)
    c.tissue(c.path([(2, 27, 0), (4, 14, -8), (6, 8, -60)], [4, 3.5, 3]), "artery", 3, 2)  # superior mesenteric
    course = np.array([(-34, 14, -26), (-28, 8, -8), (-8, 4, 4), (18, 0, 8), (48, 16, 14), (78, 22, 20)])
    pancreas = c.path(course + rng.normal(0, 3, course.shape), np.array([14, 13, 9, 9, 10, 8]) * rng.uniform(0.8, 1.1))
    lobes = _cut((pancreas[0], pancreas[1] + 2.6 * c.lumps[pancreas[0]]), inside)
    c.paint(_grow(lobes, 1.5), -95, "fat")
    c.tissue(lobes, "pancreas", 9)
    c.tissue(c.path([(82, 28, 24), (46, 23, 18), (10, 13, 6), (-12, 10, 4), (-36, 0, 18)], 4.8), "vein", 3, 2)
    c.tissue(c.path([(-12, 10, 4), (-6, 5, -60)], [5.5, 4]), "vein", 3, 2)
    return planned


def _kidney(c: _Canvas, rng: Rng, centre: np.ndarray, sign: int, inside: np.ndarray) -> np.ndarray:
    """Cortex with columns between the medullary pyramids, sinus fat, artery and vein; returns the outer field."""
    size = rng.uniform(0.9, 1.1)
    kidney = c.ellipsoid(centre, np.array([24, 28, 52]) * size, sign * 30, 1.0, margin=20)
    region, f = kidney = _cut(kidney, inside + 2)
    sinus = c.ellipsoid(centre - (sign * 17, 6, 0), np.array([19, 12, 26]) * size, sign * 30, 3.0)
    rim = (region, f - 5 + 3 * c.lumps[region] + 0.4 * c.shift[0][region])
    c.paint(_cut(rim, inside), -104 + 6 * c.grains[2][region], "fat")
    c.tissue(kidney, "kidney cortex", 4, 0)
    x, y, z = c.at(region)
    around = np.cos(7 * np.arctan2(y - centre[1], sign * (x - centre[0]) + 1e-3) + z / 6)  # pyramids and columns
    c.tissue((region, np.maximum(f + 6.5, 4.0 * around - 2.5)), "kidney medulla", 4, 0)
    hollow = c.everywhere(sinus)[region]
    c.paint((region, np.maximum(hollow, f + 2)), -90 + 15 * c.grains[1][region], "fat")
    hilum, middle = centre - (sign * 22, 8, 0), np.array([sign * 12, 36, centre[2] + 6])
    c.tissue(c.path([middle, hilum, centre - (sign * 8, 2, 6)], [4.5, 3.5, 2]), "vein", 3, 2)
    renal = [middle + (0, 3, -3), hilum + (0, 4, 5), centre + (-sign * 8, 4, 8)]
    c.tissue(c.path(renal, [3, 2.4, 1.5]), "artery", 3, 2)
    return c.everywhere(kidney)


def _liver(c: _Canvas, rng: Rng, lesions: int, inside: np.ndarray, clear: np.ndarray) -> list[Lesion]:
    """Two lobes, gallbladder, portal and hepatic veins that spare the planned lesions."""
    size = rng.uniform(0.92, 1.1)
    right = c.ellipsoid((-78, -2, 18), np.array([62, 78, 90]) * size, -8, 1.5, margin=30)
    left = c.ellipsoid((-8, -58, 44), np.array([72, 30, 46]) * size, 12, 1.5, margin=30)
    cleft = c.ellipsoid((-20, 4, 2), (26, 14, 26), 30, 4, margin=10)  # porta hepatis
    field = _melt(c.everywhere(right), c.everywhere(left), 14)
    field = np.maximum.reduce([field, inside, clear, -c.everywhere(cleft)])
    bladder = c.ellipsoid((-46, -36, -22), np.array([15, 20, 28]) * rng.uniform(0.7, 1.2), 30, 1)
    field = np.maximum(field, 1.5 - c.everywhere(bladder))
    shape = (FULL, field)
    c.paint(_grow(shape, 1.5), -98, "fat")
    c.tissue(shape, "liver", 4, 1)
    c.paint(_cut(_grow(bladder, 1.6), inside), 35, "gut wall")
    c.paint(_cut(bladder, inside + 1.6), 8, "gallbladder", 1.5, 2)
    planned, spheres = _plan_lesions(c, rng, lesions, field)
    for root, tip, count in (((-36, 0, 14), 0.85, 200), ((-20, 20, 72), 1.25, 70)):  # portal, hepatic
        lobes = _within(rng, (-72, 0, 22), (58, 68, 80), count), _within(rng, (-4, -51, 42), (48, 25, 34), count // 4)
        segments, radii = _tree(rng, root, np.concatenate(lobes), tip)
        for middle, radius in spheres:  # a lesion has no vessel in it
            ends = np.concatenate([segments, segments.mean(1, keepdims=True)], 1)
            keep = np.linalg.norm(ends - middle, axis=2).min(1) > radius + radii[:, 0] + 2.5
            segments, radii = segments[keep], radii[keep]
        c.tissue(_cut(c.tubes(segments, radii, far=3), field + 1.5), "liver vessel", 3, 2)
    return planned


def _plan_lesions(c: _Canvas, rng: Rng, count: int, liver: np.ndarray) -> tuple[list[Lesion], list]:
    """Places in the liver, away from its surface and each other; also as (centre, radius) in anatomical mm."""
    planned, spheres = [], []
    rng = np.random.default_rng(rng.integers(2**32))  # the patient is the same with any number of lesions
    for _ in range(count):
        radius = rng.uniform(2.5, 10) * min(1.0, c.fit / 0.7)  # small ones only in a much smaller patient
        contrast, pick = rng.uniform(10, 40) * (1 if rng.random() < 0.2 else -1), rng.random()
        reach = radius * max(c.step[1:]) / min(c.spacing_mm[:2])  # the same radius in the anatomical frame
        free = liver < -(reach + 3)
        for middle, other in spheres:
            free &= (c.x - middle[0]) ** 2 + (c.y - middle[1]) ** 2 + (c.z - middle[2]) ** 2 > (reach + other + 8) ** 2
        places = np.flatnonzero(free)
        at = np.unravel_index(places[int(pick * len(places))], free.shape) if len(places) else None
        if at is not None:
            planned.append(Lesion(tuple(float(i) for i in at[::-1]), float(2 * radius), float(contrast)))
            spheres.append((np.array([c.x[at], c.y[at], c.z[at]]), reach))
    return planned, spheres


def _thorax(c: _Canvas, rng: Rng) -> None:
    """Lungs, mediastinum with heart, great vessels, airways, oesophagus; sternum and shoulder blades."""
    x, y, z = c.x, c.y, c.z
    heart_at, size = np.array([24, -32, -42]) + rng.normal(0, 4, 3), rng.uniform(0.9, 1.12)
    heart = c.ellipsoid(heart_at, np.array([62, 50, 58]) * size, 30, 1.0, margin=30)
    centre = _melt(_round(x - 2, y + 8, 33, 50, 2.0) + 0.08 * z, _round(x, y + 84, 12, 30, 2.0), 16) + 3 * c.lumps
    centre = _melt(_melt(centre, c.everywhere(heart) - 3, 12), c.spine, 6)
    lobes = np.maximum.reduce([c.cavity + 2.5, -centre, -c.dome])
    _lungs(c, rng, [(-38, 14, -4), (40, 16, -2)], lobes)
    below = np.maximum(np.maximum(c.cavity + 4, c.dome + 3), 8 - c.everywhere(heart))
    c.tissue((FULL, np.maximum.reduce([below, x - 30 + 0.4 * y, -c.spine])), "liver", 4, 1)
    c.tissue((FULL, np.maximum.reduce([below, 40 - x + 0.2 * y, -c.spine])), "spleen", 4, 1)
    _heart(c, rng, heart, heart_at, size)

    aorta = rng.uniform(10.5, 14)
    arch = [(4, -20, -20), (-12, -22, 0), (-16, -18, 25), (-8, -8, 44), (8, 14, 52), (28, 36, 44), (31, 44, 20),
            (28, 46, -40), (20, 44, -140)]  # fmt: skip
    c.tissue(c.path(arch, aorta + np.repeat([3, 1, 0], 3)), "artery", 3, 2)
    for end in ((-22, -2, 130), (6, 4, 130), (24, 14, 130)):
        c.tissue(c.path([(end[0] * 0.5, -2 + end[0] * 0.3, 48), end], [6.0, 4.5]), "artery", 3, 2)
    trunk = [(24, -34, -14), (22, -20, 4), (10, 0, 4), (-14, 6, 0), (-40, 14, -6)]
    c.tissue(c.path(trunk, [13, 14, 11, 10, 7]), "heart chamber", 3, 2)
    c.tissue(c.path([(22, -20, 4), (34, 8, 4), (44, 18, -2)], [13, 11, 7]), "heart chamber", 3, 2)
    c.tissue(c.path([(-26, -24, -30), (-27, -14, 20), (-22, -20, 130)], [10, 9, 8]), "vein", 3, 2)
    c.paint(c.path([(10, 36, 130), (2, 36, 20), (8, 36, -120)], rng.uniform(6, 8)), 40, "muscle", 5, 1)
    carina = (0, 16, 14)
    pipes = [((0, 8, 140), carina), (carina, (-36, 16, -8)), (carina, (42, 20, -10))]
    radii = np.array([(9.0, 8.5), (7.5, 6.0), (6.5, 5.0)])
    c.paint(c.tubes(pipes, radii + 1.5), 45, "airway wall")
    c.paint(c.tubes(pipes, radii), -990, "airway")
    for node in _within(rng, (0, 4, 0), (26, 30, 60), 10):  # lymph nodes
        shape = c.ellipsoid(node, rng.uniform(2.5, 5, 3), rng.uniform(0, 180))
        c.tissue(_cut(shape, -(lobes - 1), np.where(c.labels == _L["fat"], -9.0, 9.0)), "muscle", 4)

    sternum = c.ellipsoid((0, -95, 20), (18, 7, 110), 0, 0.8)
    c.paint(sternum, 480, "cortical bone", 40, 0)
    c.paint(_grow(sternum, -1.6), 150, "trabecular bone", 40, 0)
    for sign in (-1, 1):
        blade = np.array([(sign * 62, 106, 0), (sign * 100, 100, 30), (sign * 128, 84, 90)])
        plate = c.tubes([(a, b) for a in blade[:2] for b in blade[1:]], [(3.2, 3.2)] * 4, flat=0.25)
        c.paint(plate, 520, "cortical bone", 40, 0)
        c.paint(_grow(plate, -1.8), 200, "trabecular bone", 40, 0)


def _heart(c: _Canvas, rng: Rng, heart: Shape, centre: np.ndarray, size: float) -> None:
    """Pericardial fat, muscle and four chambers; the left ventricle's wall is thick."""
    region = heart[0]
    c.paint(_grow(heart, 1.5), -98, "fat", 8)
    c.tissue((region, heart[1] + 2 + 2.5 * np.clip(c.lumps[region], -0.8, 2)), "heart muscle", 4)
    chambers = (((24, 6, -4), (30, 17, 36), 38), ((-6, -24, -4), (34, 15, 34), 28), ((-38, 6, 0), (18, 22, 28), 10),
                ((-6, 34, 12), (30, 15, 20), 5))  # fmt: skip
    inner = c.everywhere(_grow(heart, -5))
    for offset, radii, turn in chambers:
        shape = c.ellipsoid(centre + np.array(offset) * size, np.array(radii) * size, turn, 2.0)
        c.tissue(_cut(shape, inner) if offset[1] < 30 else shape, "heart chamber", 3, 2)
    for start, end in (((-10, -30, 40), (40, -44, -10)), ((-12, -30, 40), (-44, -30, -10))):  # coronary arteries in fat
        ends = [centre + np.array(p) * size for p in (start, end)]
        groove = c.path([ends[0], (ends[0] + ends[1]) / 2 + (0, -6, 0), ends[1]], 4.5)
        c.paint(groove, -90, "fat")
        c.tissue(_grow(groove, -3.0), "artery")


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
    """A water cylinder (0 HU, axis along the slices) with rods; `inserts` None means `standard_inserts`.

    Label 1 is water, 2, 3, ... the inserts in their order. Textured rods have their mean and SD exactly over the
    whole rod before the blur. Raises ValueError where the cylinder leaves the field of view or a rod the cylinder.
    """
    _check(shape, spacing_mm)
    inserts = standard_inserts(diameter_mm) if inserts is None else tuple(inserts)
    voxel = np.array(spacing_mm[::-1], float)
    if diameter_mm > min(shape[1] * voxel[1], shape[2] * voxel[2]):
        raise ValueError(
            f"A cylinder of {diameter_mm} mm does not fit into the image; make the matrix or voxels larger."
        )
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, voxel, strict=True)]
    y, x = np.meshgrid(axes[1], axes[2], indexing="ij")
    hu = np.full(shape, -1000, np.float32)
    labels = np.zeros(shape, np.uint8)
    names = {0: "air outside", 1: "water"}

    def paint(radius: float, cx: float, cy: float, value, label: int) -> None:
        part = _coverage((np.hypot(x - cx, y - cy) - radius).astype(np.float32), float(voxel[2]))
        hu[:] += part * (value - hu)
        labels[:, part > 0.5] = label

    paint(diameter_mm / 2, 0, 0, 0.0, 1)
    for label, rod in enumerate(inserts, 2):
        if rod.distance_mm + rod.diameter_mm / 2 > diameter_mm / 2:
            raise ValueError(f"The insert {rod.name!r} leaves the cylinder; lower its distance or diameter.")
        angle = np.radians(rod.angle_deg)
        cx, cy = rod.distance_mm * np.cos(angle), rod.distance_mm * np.sin(angle)
        value = rod.hu
        if rod.texture_sd_hu:
            rng = np.random.default_rng([seed, label])
            field = _waves(rng, axes, rod.correlation_mm, voxel, 256)
            inside = field[:, np.hypot(x - cx, y - cy) < rod.diameter_mm / 2]
            value = rod.hu + rod.texture_sd_hu * (field - inside.mean()) / inside.std()
        paint(rod.diameter_mm / 2, cx, cy, value, label)
        names[label] = rod.name
    return Phantom(_blur(hu, spacing_mm), labels, names, tuple(float(s) for s in spacing_mm))


def add_lesions(phantom: Phantom, lesions: Sequence[Lesion]) -> Phantom:
    """The phantom with spheres added on top of what is there, blurred like the rest; labels are numbered on.

    Raises ValueError where a centre lies outside the volume or the labels run out.
    """
    hu, labels, names, placed = phantom.voxels_hu.copy(), phantom.labels.copy(), dict(phantom.label_names), []
    for lesion in lesions:
        label = FIRST_LESION_LABEL + len(phantom.lesions) + len(placed)
        if label > 255 or not all(0 <= i <= n - 1 for i, n in zip(lesion.centre_ijk, hu.shape[::-1], strict=True)):
            raise ValueError(f"The lesion at {lesion.centre_ijk} lies outside the volume, or there are more than 156.")
        reach = lesion.diameter_mm / 2 + 5 * PSF_SIGMA_MM
        region, axes = [], []
        for i, n, s in zip(lesion.centre_ijk[::-1], hu.shape, phantom.spacing_mm[::-1], strict=True):
            region.append(slice(max(0, int(i - reach / s - 1)), min(n, int(i + reach / s + 3))))
            axes.append((np.arange(n)[region[-1]] - i) * s)
        z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
        f = np.sqrt(x * x + y * y + z * z) - lesion.diameter_mm / 2
        part = _coverage(f.astype(np.float32), phantom.spacing_mm[0])
        hu[tuple(region)] += lesion.contrast_hu * _blur(part, phantom.spacing_mm)
        labels[tuple(region)][part > 0.5] = label
        names[label] = f"lesion {label - FIRST_LESION_LABEL + 1}"
        placed.append(replace(lesion, label=label))
    return replace(phantom, voxels_hu=hu, labels=labels, label_names=names, lesions=phantom.lesions + tuple(placed))
