"""Procedural anatomy: a noise-free CT volume of a head, since no scan of one may be shown.

Shapes live in millimetres in a frame of the head (x to the patient's left, y to the back, z to the crown; the origin
lies midway between the eyes' equators and the ears, on the orbitomeatal line), which is turned and bent a little, as
heads are. Folds of the cortex are sheets on which a random field, drawn on the brain's surface, is zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial.transform import Rotation

from ASCONDenoiseLib.physics.anatomy_canvas import melted, superellipse
from ASCONDenoiseLib.physics.phantom_volume import (
    PSF_SIGMA_MM,
    Phantom,
    Rng,
    blurred,
    checked_spacing,
    coverage,
    random_field,
)

HEAD_LABELS = {
    0: "air", 1: "head rest", 2: "skin", 3: "fat", 4: "muscle", 5: "cortical bone", 6: "diploe", 7: "sinus",
    8: "cerebrospinal fluid", 9: "grey matter", 10: "white matter", 11: "dura", 12: "calcification", 13: "vitreous",
    14: "lens", 15: "sclera", 16: "optic nerve", 17: "blood vessel", 18: "mucosa",
}  # fmt: skip
"""Label values of the tissues of a head."""

VALUES = {name: value for value, name in HEAD_LABELS.items()}

TISSUES_HU = {"grey matter": 37.0, "white matter": 29.0, "cerebrospinal fluid": 7.0, "muscle": 55.0, "fat": -95.0}
"""Mean HU of the tissues that each patient deviates from a little."""

# z, half width, front, back (mm): the skin, from the chin's level to the crown
SKIN = np.array([(-75, 56, -88, 58), (-45, 64, -92, 70), (-25, 72, -94, 90), (0, 76, -95, 97), (25, 78, -96, 101),
                 (45, 77, -93, 101), (65, 71, -84, 95), (82, 58, -68, 81), (96, 38, -45, 57), (103, 18, -20, 32),
                 (106, 5, 0, 12)], float)  # fmt: skip

Region = tuple[slice, slice, slice]


def head(
    seed: int,
    shape: tuple[int, int, int] = (24, 512, 512),
    spacing_mm: tuple[float, float, float] = (0.45, 0.45, 1.5),
    psf_mm: float = PSF_SIGMA_MM,
    level_mm: float | None = None,
) -> Phantom:
    """Make a head; size, folds, ventricles, sinuses, tilt and level vary with the seed.

    A field of view that is smaller than the head cuts it.

    Args:
        seed: of the patient.
        shape: slices, rows, columns.
        spacing_mm: (x, y, z).
        psf_mm: in-plane blur of the scanner and its kernel, the sigma of a Gaussian.
        level_mm: height of the middle slice over the orbitomeatal line; None draws it.

    Raises:
        InputError: shape or spacing is not three positive numbers.
    """
    spacing_mm = checked_spacing(shape, spacing_mm)
    rng = np.random.default_rng([seed, 3])
    drawn = float(rng.uniform(0, 60))
    h = _Head(rng, shape, spacing_mm, drawn if level_mm is None else level_mm)
    _scalp(h, rng)
    _skull(h, rng)
    _face(h, rng)
    _brain(h, rng)
    _hindbrain(h, rng)
    _orbits(h, rng)
    return Phantom(blurred(h.hu, spacing_mm, psf_mm), h.labels, dict(HEAD_LABELS), spacing_mm)


class _Head:
    """A head being painted: coordinates of every voxel in its frame, HU and labels so far.

    Attributes:
        x, y, z: (S, H, W) mm in the frame of the head, where both sides are alike; the voxels bend, not the shapes.
        fine, middle, coarse: random fields of unit SD: grain, lumps, and slow changes.
        skin, skull, cavity: fields of the surfaces of skin, outer and inner table, negative inside.
    """

    skin: np.ndarray
    skull: np.ndarray
    cavity: np.ndarray

    def __init__(self, rng: Rng, shape: Sequence[int], spacing_mm: tuple[float, float, float], level_mm: float):
        voxel = np.array(spacing_mm[::-1])
        size = np.array([rng.normal(1, 0.03), rng.normal(1, 0.03), rng.normal(0.98, 0.03)])  # z, y, x
        self.step = voxel / size
        centre = np.array([level_mm, 4 + rng.normal(0, 2), rng.normal(0, 2)])
        axes = [(np.arange(n) - (n - 1) / 2) * s + c for n, s, c in zip(shape, self.step, centre, strict=True)]
        self.first, self.shape = [float(a[0]) for a in axes], tuple(shape)
        self.pixel = float(self.step[2])
        # tilt, turn and lean of the head in its rest, degrees about x, z and y
        self.turn = Rotation.from_euler("xzy", [rng.normal(6, 5), rng.normal(0, 3), rng.normal(0, 2.5)], degrees=True)
        bends = [a * random_field(rng, axes, 38.0, self.step, 64) for a in (1.6, 1.4, 1.4)]
        z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
        m = self.turn.as_matrix().astype(np.float32)
        self.x, self.y, self.z = (
            (row[0] * x + row[1] * y + row[2] * z + bend).astype(np.float32) for row, bend in zip(m, bends, strict=True)
        )
        self.ground = np.broadcast_to(y, self.shape), np.broadcast_to(x, self.shape)  # not turned: the rest
        self.fine, self.middle, self.coarse = (random_field(rng, axes, mm, self.step, 128) for mm in (1.3, 5.0, 16.0))
        self.hu = np.full(self.shape, -1000, np.float32)
        self.labels = np.zeros(self.shape, np.uint8)
        self.mean_hu = {name: hu + rng.normal(0, 0.012 * abs(hu) + 0.3) for name, hu in TISSUES_HU.items()}

    def box(self, points: ArrayLike, margin: float) -> Region:
        """Return the voxels of the box about points (N, 3) of x, y, z in the frame of the head, and of `margin` mm."""
        places = self.turn.inv().apply(np.atleast_2d(points))
        region = []
        for axis, (first, step, n) in enumerate(zip(self.first, self.step, self.shape, strict=True)):
            along = places[:, 2 - axis]
            low, high = along.min() - margin - 7, along.max() + margin + 7  # 7: the bends
            start, stop = int(np.floor((low - first) / step)), int(np.ceil((high - first) / step)) + 1
            region.append(slice(min(max(start, 0), n), min(max(stop, 0), n)))
        return region[0], region[1], region[2]

    def paint(self, field: np.ndarray, hu: float | np.ndarray, name: str, region: Region = (slice(None),) * 3) -> None:
        """Mix HU (a number, or an array over the region) in where the field is negative, by coverage."""
        if not field.size:
            return
        part = coverage(field, self.pixel)
        self.hu[region] += part * (hu - self.hu[region])
        self.labels[region][part > 0.5] = VALUES[name]

    def ellipsoid(
        self, centre: ArrayLike, radii: Sequence[float] | np.ndarray, lumps: float = 0.0
    ) -> tuple[Region, np.ndarray]:
        """Return the field of an ellipsoid about (x, y, z), its surface displaced by `lumps` mm, and where it is."""
        region = self.box(centre, max(radii) + 4 * lumps + 3)
        u, v, w = (g[region] - c for g, c in zip((self.x, self.y, self.z), np.asarray(centre, float), strict=True))
        a, b, c = radii
        norm = np.sqrt((u / a) ** 2 + (v / b) ** 2 + (w / c) ** 2) + 1e-6
        slope = np.sqrt((u / a**2) ** 2 + (v / b**2) ** 2 + (w / c**2) ** 2) + 1e-6
        return region, norm * (norm - 1) / slope + lumps * self.middle[region]

    def tube(self, points: ArrayLike, radii: ArrayLike) -> tuple[Region, np.ndarray]:
        """Return the field of a tube through points (N, 3) of x, y, z with a radius at each, and where it is."""
        points = np.asarray(points, np.float32)
        sizes = np.broadcast_to(radii, len(points)).astype(float)
        region = self.box(points, float(sizes.max()) + 4)
        x, y, z = self.x[region], self.y[region], self.z[region]
        field = np.full(x.shape, 99, np.float32)
        for a, b, r0, r1 in zip(points[:-1], points[1:], sizes[:-1], sizes[1:], strict=True):
            d = b - a
            t = np.clip(((x - a[0]) * d[0] + (y - a[1]) * d[1] + (z - a[2]) * d[2]) / float(d @ d), 0, 1)
            distance = np.sqrt((x - a[0] - t * d[0]) ** 2 + (y - a[1] - t * d[1]) ** 2 + (z - a[2] - t * d[2]) ** 2)
            np.minimum(field, distance - (r0 + t * (r1 - r0)), out=field)
        return region, field

    def everywhere(self, shape: tuple[Region, np.ndarray]) -> np.ndarray:
        """Return a shape's field over the whole volume, 30 mm where it is not known."""
        field = np.full(self.shape, 30, np.float32)
        field[shape[0]] = np.minimum(shape[1], 30)
        return field


def _outline(h: _Head, table: np.ndarray) -> np.ndarray:
    """Return the field of a surface that is a superellipse at every height; `table` as SKIN."""
    level = np.clip(h.z, table[0, 0], None)
    width, front, back = (np.interp(level, table[:, 0], table[:, i]).astype(np.float32) for i in (1, 2, 3))
    across = superellipse(h.x, h.y - (front + back) / 2, width, (back - front) / 2, 2.25)
    crown = (h.z - table[-1, 0] + 4).astype(np.float32)
    return np.maximum(across, crown)


def _shrunk(by_mm: float) -> np.ndarray:
    """Return SKIN moved inwards."""
    table = SKIN.copy()
    table[:, 0] = np.where(table[:, 0] > 60, table[:, 0] - by_mm * (table[:, 0] - 60) / 46, table[:, 0])
    table[:, 1:] += np.array([-by_mm, by_mm, -by_mm])
    table[:, 1] = np.maximum(table[:, 1], 1)
    return table


def _scalp(h: _Head, rng: Rng) -> None:
    """Paint head rest, ears, nose, skin, the fat below it, and muscle down to the bone."""
    y, x = h.ground
    cup = np.hypot(x, y - 6)
    h.paint(np.maximum(np.abs(cup - 114) - 1.5, 45 - y), -150, "head rest")
    h.paint(np.maximum(cup - 112, 45 - y), -930, "head rest")
    for sign in (-1, 1):
        region, ear = h.ellipsoid((sign * 79, 16, -4), (6, 15, 27), 0.6)
        hollow = h.everywhere(h.ellipsoid((sign * 83, 11, -4), (5, 9, 15), 0.6))[region]
        h.paint(np.maximum(ear, -hollow), 20, "skin", region)
    nose = h.everywhere(h.tube([(0, -94, 14), (0, -105, -16), (0, -97, -26)], [4, 7.5, 11]))
    h.skin = melted(_outline(h, SKIN), nose, 6.0)
    h.paint(h.skin, 30, "skin")
    h.paint(h.skin + 1.8, h.mean_hu["fat"] + 8 * h.middle, "fat")
    galea = _outline(h, _shrunk(rng.uniform(4.0, 6.0)))
    h.paint(galea, h.mean_hu["muscle"] - 8 + 4 * h.fine, "muscle")
    for sign in (-1, 1):  # fat of the cheek, temporal muscle and the muscle of chewing below it
        for centre, radii in (((sign * 47, -52, -22), (13, 24, 26)), ((sign * 30, -10, -34), (9, 14, 20))):
            region, f = h.ellipsoid(centre, radii, 1.2)
            h.paint(np.maximum(f, galea[region] + 1), h.mean_hu["fat"] + 8 * h.middle[region], "fat", region)
        h.paint(*_last(h.ellipsoid((sign * 58, -38, 0), (12, 26, 42), 0.8), h.mean_hu["muscle"] + 4, "muscle"))


def _last(shape: tuple[Region, np.ndarray], hu: float | np.ndarray, name: str) -> tuple[np.ndarray, Any, str, Region]:
    """Return a shape, HU and name in the order of `_Head.paint`."""
    return shape[1], hu, name, shape[0]


def _floor(h: _Head) -> np.ndarray:
    """Return the height of the skull's base, mm: three fossae, each deeper than the one before it."""
    side = np.abs(h.x)
    front = 24 - 4 * np.clip(1 - side / 14, 0, 1) + 1.5 * h.middle  # roofs of the orbits
    middle = np.where(side > 14, -12 + 0.004 * (side - 38) ** 2, 9)
    back = -44 + 0.010 * h.x**2
    to_middle = 1 / (1 + np.exp(-np.clip((h.y + 41 - 0.035 * (side - 38) ** 2) / 1.8, -30, 30)))
    to_back = 1 / (1 + np.exp(-np.clip((h.y - 12 - 0.25 * side) / 4, -30, 30)))
    floor: np.ndarray = front + to_middle * (middle - front) + to_back * (back - middle)
    return floor.astype(np.float32)


def _skull(h: _Head, rng: Rng) -> None:
    """Paint the vault with its diploe and sutures, the base, the petrous bones with their air cells."""
    scalp, thick = rng.uniform(6.0, 9.0), rng.uniform(5.5, 7.5)
    vault = _outline(h, _shrunk(scalp)) - 0.5 * h.coarse
    vault = vault + 0.5 * np.clip(-h.z - 4, 0, None) * np.clip((h.y - 20) / 60, 0, 1)  # before the neck's muscles
    wall = thick + 1.3 * h.coarse + 3 * np.exp(-(((h.y - 88) / 14) ** 2) - ((h.z - 5) / 12) ** 2)  # the occipital knob
    wall = wall - 2.5 * np.exp(-(((np.abs(h.x) - 66) / 10) ** 2) - ((h.y + 5) / 30) ** 2 - ((h.z - 10) / 22) ** 2)
    floor = _floor(h)
    above = floor - h.z  # negative above the skull's base
    h.skull = np.maximum(vault, above - np.where(h.y < -20, 3 + 13 * np.exp(-((h.x / 17) ** 2)), 5.0))
    h.cavity = np.maximum(vault + np.clip(wall, 2.2, None), above)
    bone = 1350 + 90 * h.middle
    h.paint(np.maximum(h.skull, -h.cavity), bone, "cortical bone")
    spongy = np.clip(520 + rng.normal(0, 60) + 190 * h.fine + 90 * h.middle, 150, None)
    within = np.maximum(vault + 1.9 + 0.3 * h.middle, 1.7 - vault - wall)
    h.paint(np.maximum(within, above + 2), spongy, "diploe")
    zigzag = 2.5 * h.fine + 4 * h.middle
    coronal = np.abs(h.y + 22 + zigzag) - 0.5
    lambdoid = np.abs(h.y - 70 + 0.45 * np.abs(h.x) - 0.3 * (h.z - 40) + zigzag) - 0.5
    for suture in (np.maximum(coronal, 45 - h.z), np.maximum(lambdoid, 20 - h.z)):
        h.paint(np.maximum.reduce([suture, h.skull + 0.5, -h.cavity]), 300, "diploe")
    for sign in (-1, 1):
        region, f = h.tube([(sign * 14, 4, 0), (sign * 34, 14, 1), (sign * 60, 22, -5)], [7, 9.5, 14])
        f = f + 0.8 * h.middle[region]
        h.cavity = np.maximum(h.cavity, -h.everywhere((region, f)))
        h.paint(f, 1450 + 150 * h.middle[region], "cortical bone", region)
        cells = np.maximum(f + 2.0, 46 - sign * h.x[region])
        air = np.maximum(cells, 1.6 * (np.abs(h.fine[region]) - 0.15) * -1)  # walls where the field is near zero
        h.paint(air, -820, "sinus", region)
        canal = h.tube([(sign * 78, 12, -6), (sign * 50, 11, -5)], [3.6, 3.2])
        h.paint(*_last(canal, -980, "sinus"))
        drum = h.ellipsoid((sign * 46, 11, -4), (4, 6, 7))
        h.paint(*_last(drum, -950, "sinus"))
        cochlea = h.ellipsoid((sign * 36, 8, -3), (4, 3, 3))
        h.paint(*_last(cochlea, 250, "mucosa"))
        inner = h.tube([(sign * 18, 15, -2), (sign * 31, 14, -2)], [3.0, 2.4])
        h.paint(*_last(inner, 15, "cerebrospinal fluid"))
    clivus = h.tube([(0, -14, 2), (0, 4, -22), (0, 16, -42)], [9, 7, 5])
    h.paint(*_last(clivus, 700 + 120 * h.fine[clivus[0]], "diploe"))


def _face(h: _Head, rng: Rng) -> None:
    """Paint the walls of orbits and jaw, and the air of the sinuses in them, each side of its own size."""
    plates: list[tuple[tuple[int, int, int], ArrayLike, float]] = [
        ((0, -60, -8), (15, 36, 30), 1.3),
        ((0, -26, -8), (15, 17, 15), 1.5),
    ]  # nose with ethmoid, sphenoid
    for sign in (-1, 1):
        plates.append(((sign * 30, -58, -36), np.array([19, 22, 17]) * rng.uniform(0.85, 1.1), 1.4))
        arch = [(sign * 40, -82, -18), (sign * 56, -72, -16), (sign * 68, -48, -14), (sign * 71, -20, -12),
                (sign * 69, 2, -9)]  # fmt: skip
        h.paint(*_last(h.tube(arch, [7, 6, 3.2, 2.8, 4]), 1150, "cortical bone"))
        wing = [(sign * 47, -58, 2), (sign * 42, -44, 3), (sign * 32, -30, 4)]  # between orbit and temple
        for rise in (-12, 0, 12):
            h.paint(*_last(h.tube(np.array(wing) + (0, 0, rise), [3.4, 3, 3.4]), 1200, "cortical bone"))
        jaw = [(sign * 56, -8, -20), (sign * 57, -4, -45), (sign * 54, -8, -80)]
        h.paint(*_last(h.tube(jaw, [6, 5.5, 7]), 1250, "cortical bone"))
    brow = h.tube([(-46, -70, 22), (-24, -86, 24), (0, -89, 25), (24, -86, 24), (46, -70, 22)], [5, 6.5, 8, 6.5, 5])
    h.paint(*_last((brow[0], np.maximum(brow[1], h.skin[brow[0]] + 5)), 1200, "cortical bone"))
    for centre, radii, wall in plates:
        region, f = h.ellipsoid(centre, np.asarray(radii, float) + wall, 0.7)
        h.paint(f, 900, "cortical bone", region)
        h.paint(f + wall, 45, "mucosa", region)
        lining = wall + rng.uniform(0.6, 2.5)
        septa = np.abs(h.x[region] + 2 * h.middle[region]) - 0.5  # between left and right
        air = f + lining
        if centre[0] == 0:
            air = np.maximum(air, -septa)
        if centre[1] == -60:  # ethmoid cells above, turbinates below
            walls = np.abs(h.middle[region] + 0.5 * np.sin(h.y[region] / 2.6)) * 2.2 - 0.45
            shells = 3.2 - np.hypot(np.abs(h.x[region]) - 7, (h.z[region] + 20) / 2.2 + 1.5 * h.middle[region])
            upper = h.z[region] > -6
            h.paint(np.where(upper, np.maximum(air, -walls), np.maximum(air, shells)), -980, "sinus", region)
        else:
            h.paint(air, -990, "sinus", region)
    for sign in (-1, 1):  # frontal sinus, in the bone over the nose
        size = rng.uniform(0.2, 1.1)
        region, f = h.ellipsoid((sign * 11, -85, 27), (12 * size + 2, 5.5 * min(1, size + 0.4), 13 * size + 2), 0.8)
        walls = np.maximum.reduce([1.2 - h.cavity[region], h.skull[region] + 1.3, 0.8 - np.abs(h.x[region])])
        h.paint(np.maximum(f, walls), -990, "sinus", region)


def _folds(h: _Head, rng: Rng, length_mm: float, waves: int, centre: ArrayLike) -> np.ndarray:
    """Return a random field of unit SD that changes little along rays from `centre`: its zeros are sulci."""
    x, y, z = (g - c for g, c in zip((h.x, h.y, h.z), np.asarray(centre, np.float32), strict=True))
    out = 62 / np.sqrt(x * x + y * y + z * z + 900)  # the surface that the rays are followed to, not from the middle on
    stretch = (0.3 + 0.7 * out).astype(np.float32)
    field = np.zeros(h.shape, np.float32)
    for k, phase in zip(rng.normal(0, 1 / length_mm, (waves, 3)), rng.uniform(0, 2 * np.pi, waves), strict=True):
        field += np.cos((k[0] * x + k[1] * y + k[2] * z) * stretch + phase)
    return field * np.float32(np.sqrt(2 / waves))


def _tentorium(h: _Head) -> np.ndarray:
    """Return the height of the tentorium, mm: a tent over the cerebellum, and far below before it."""
    side = np.abs(h.x)
    tent = 6 + 20 * np.exp(-((side / 24) ** 2)) * np.clip((96 - h.y) / 62, 0, 1) + 1.2 * h.middle
    before = 1 / (1 + np.exp(-np.clip((13 + 0.22 * side - h.y) / 2.0, -30, 30)))
    height: np.ndarray = tent - 75 * before
    return height.astype(np.float32)


def _brain(h: _Head, rng: Rng) -> None:
    """Paint the cerebrum: folded cortex, white and deep grey matter, falx, ventricles, cisterns."""
    grey, white, fluid = (h.mean_hu[n] for n in ("grey matter", "white matter", "cerebrospinal fluid"))
    grey_hu, white_hu = grey + 0.8 * h.middle + 0.5 * h.fine, white + 0.9 * h.middle + 0.4 * h.fine
    age = rng.uniform(0, 1)  # widens sulci and ventricles
    side, x, y, z = np.abs(h.x), h.x, h.y, h.z
    h.paint(h.cavity, fluid, "cerebrospinal fluid")
    h.paint(np.maximum(h.cavity, -h.cavity - 0.9), 55, "dura")
    brain = np.maximum(h.cavity + 1.6 + 1.6 * age, _tentorium(h) - z + 1.5)
    stem = h.everywhere(h.tube([(0, 8, 26), (0, 10, 12), (0, 14, -6)], [17, 16, 17]))
    brain = np.maximum(brain, np.where(z < 22, -stem, -99))  # the cisterns about the brain stem

    fold = _folds(h, rng, 3.9, 72, (0, 8, 26))
    depth = -brain
    reach = 15 + 5 * h.coarse
    gap = 0.1 + 0.7 * age + 0.35 * h.middle
    sulcus = np.hypot(np.abs(fold) * 3.6, np.clip(depth - reach, 0, None))
    midline = np.hypot(x + 0.8 * h.middle, np.clip(58 - z - 0.55 * np.clip(np.abs(y - 4) - 26, 0, None), 0, None))
    insula = np.hypot(side - 37 - 0.02 * (y + 4) ** 2, np.clip(np.abs(y + 2) - 22, 0, None))
    insula = np.hypot(insula, np.clip(np.abs(z - 30) - 14, 0, None))
    sylvian = np.hypot(
        (z - 26 - 0.6 * (y + 8) + 0.3 * (side - 50)) / 1.2 + 1.2 * h.middle, np.clip(np.abs(y + 6) - 26, 0, None)
    )
    sylvian = np.hypot(sylvian, np.clip(37 - side, 0, None))
    sheet = np.minimum.reduce([sulcus - gap, midline - 1.2 - age, insula - 1.0 - 0.6 * age, sylvian - 1.2 - age])
    ribbon = 3.0 + 0.5 * h.middle
    h.paint(brain, white_hu, "white matter")
    h.paint(np.maximum(brain, np.minimum(sheet, depth) - ribbon), grey_hu, "grey matter")
    h.paint(np.maximum(brain, sheet), fluid, "cerebrospinal fluid")
    falx = np.maximum.reduce(
        [np.abs(x + 0.8 * h.middle) - 0.7, h.cavity, 46 - z - 0.8 * np.clip(np.abs(y - 4) - 30, 0, None)]
    )
    h.paint(falx, 52, "dura")

    for sign in (-1, 1):  # caudate, putamen and pallidum, thalamus, with the capsule between them left white
        nuclei = [((sign * 13, -22, 38), (6, 11, 12)), ((sign * 27, -4, 30), (6, 17, 11)),
                  ((sign * 20, 0, 27), (5, 9, 7)), ((sign * 11, 14, 32), (9, 14, 11))]  # fmt: skip
        for centre, radii in nuclei:
            region, f = h.ellipsoid(centre, radii, 0.6)
            h.paint(f, grey_hu[region] - 0.5, "grey matter", region)
        capsule = h.tube([(sign * 12, -30, 32), (sign * 19, -3, 31), (sign * 25, 24, 32)], 2.2)
        h.paint(*_last(capsule, white_hu[capsule[0]], "white matter"))
        wide = 1 + 0.7 * age + 0.1 * rng.normal()
        horn = [(sign * 14, -36, 38), (sign * 8, -20, 44), (sign * 10, 4, 50), (sign * 20, 26, 46), (sign * 29, 36, 36),
                (sign * 27, 54, 36)]  # fmt: skip
        region, f = h.tube(horn, np.array([3.6, 3.8, 3.2, 4.2, 5.0, 2.0]) * wide)
        h.paint(f + 0.6 * h.middle[region], fluid, "cerebrospinal fluid", region)
        lower = h.tube([(sign * 29, 36, 36), (sign * 32, 18, 14), (sign * 32, -4, 8)], np.array([4, 1.8, 1.5]) * wide)
        h.paint(*_last(lower, fluid, "cerebrospinal fluid"))
        plexus = h.ellipsoid((sign * 28, 35, 38), (2.2, 4, 4), 0.5)
        h.paint(*_last(plexus, 45 if rng.random() < 0.35 else rng.uniform(120, 350), "calcification"))
    h.paint(*_last(h.ellipsoid((0, 4, 28), (1.2 + 1.8 * age, 15, 10)), fluid, "cerebrospinal fluid"))
    septum = np.maximum.reduce([np.abs(x) - 0.6, np.abs(y + 14) - 18, np.abs(z - 44) - 6])
    h.paint(septum, white, "white matter")
    callosum = h.tube([(0, -42, 38), (0, -34, 50), (0, 0, 57), (0, 26, 51), (0, 32, 42)], [4, 3.5, 3, 3.5, 4.5])
    region = callosum[0]
    h.paint(*_last((region, np.maximum(callosum[1], -99)), white_hu[region] + 1, "white matter"))
    if rng.random() < 0.7:
        h.paint(
            *_last(h.ellipsoid((rng.normal(0, 0.6), 31, 33), (2.2, 2.6, 2.4)), rng.uniform(100, 300), "calcification")
        )
    sinus = h.tube([(0, 84, 80), (0, 96, 50), (0, 92, 18), (30, 80, 8), (58, 50, 4)], [3, 4, 4.5, 4, 4])
    other = h.tube([(0, 92, 18), (-30, 80, 8), (-58, 50, 4)], [4, 3, 3])
    for vessel in (sinus, other):
        h.paint(np.maximum(vessel[1], h.cavity[vessel[0]] - 1), 54, "blood vessel", vessel[0])


def _hindbrain(h: _Head, rng: Rng) -> None:
    """Paint brain stem and cerebellum, the fourth ventricle, the vessels at the base."""
    grey, white, fluid = (h.mean_hu[n] for n in ("grey matter", "white matter", "cerebrospinal fluid"))
    region, f = h.ellipsoid((0, 50, -8), (60, 46, 42), 0.5)
    front = 17 + 0.25 * np.abs(h.x[region]) + 7 * np.exp(-((h.x[region] / 14) ** 2)) - h.y[region]
    vallecula = 3 - np.abs(h.x[region]) - 0.3 * np.clip(70 - h.y[region], 0, None)
    f = np.maximum.reduce([f, h.cavity[region] + 2.5, h.z[region] - _tentorium(h)[region] + 1.2, front, vallecula])
    depth = np.clip(-f, 0, None)
    leaves = np.sin(depth * 2.2 + 0.9 * h.z[region] + 1.5 * h.middle[region])
    h.paint(f, grey - 1.5 + leaves + 0.6 * h.middle[region], "grey matter", region)
    h.paint(f + 12 + 3 * h.middle[region] + 1.5 * h.fine[region], white + 2.5, "white matter", region)
    fissure = np.abs(np.sin(h.z[region] / 4.5 - 0.05 * h.y[region] + 0.6 * h.middle[region])) * 4.5 - 0.3
    h.paint(np.maximum(f, fissure + np.clip(depth - 7, 0, 9)), fluid + 10, "cerebrospinal fluid", region)
    tent = np.maximum(np.abs(h.z - _tentorium(h)) - 0.6, h.cavity)
    notch = 24 - np.hypot(h.x, np.clip(h.y - 20, None, 12))
    h.paint(np.maximum.reduce([tent, notch, 15 + 0.22 * np.abs(h.x) - h.y]), 46, "dura")
    stem = h.tube(
        [(0, 8, 30), (0, 9, 16), (0, 8, 2), (0, 10, -14), (0, 18, -40), (0, 22, -80)], [13, 13, 15, 13, 7.5, 5.5]
    )
    h.paint(*_last(stem, white + 2 + h.middle[stem[0]], "white matter"))
    bridge = h.tube([(-30, 34, -8), (0, 10, -6), (30, 34, -8)], [8, 9, 8])
    h.paint(*_last(bridge, white + 2 + h.middle[bridge[0]], "white matter"))
    fourth = h.ellipsoid((0, 27, -8), (7.5, 4.5, 9), 0.5)
    h.paint(*_last(fourth, fluid, "cerebrospinal fluid"))
    h.paint(*_last(h.tube([(0, 18, 24), (0, 20, 4)], 1.1), fluid, "cerebrospinal fluid"))
    vessels = [[(0, -6, -14), (0, -7, 4), (0, -6, 14)]]
    for sign in (-1, 1):
        vessels.append([(sign * 11, -18, 4), (sign * 11, -16, 14), (sign * 24, -18, 17), (sign * 38, -14, 22)])
        h.paint(*_last(h.tube([(sign * 10, -24, 6), (sign * 6, -10, 8)], 3.0), 1000, "cortical bone"))  # clinoids
    for course in vessels:
        h.paint(*_last(h.tube(course, 1.7), 44, "blood vessel"))


def _orbits(h: _Head, rng: Rng) -> None:
    """Paint orbits: fat, globe with lens, optic nerve, four straight muscles."""
    gaze = rng.normal(0, 2, 2)
    for sign in (-1, 1):
        middle = np.array([sign * 31.0, -70.0, 1.0])
        cone = h.tube([(sign * 31, -72, 1), (sign * 26, -52, 2), (sign * 15, -32, 4)], [17.5, 13, 4])
        region = cone[0]
        wall = np.maximum(cone[1] - 1.6, h.skin[region] + 3)
        h.paint(np.maximum(wall, -84 - h.y[region]), 950, "cortical bone", region)
        h.paint(np.maximum(cone[1], h.skin[region] + 2), h.mean_hu["fat"] + 6 * h.middle[region], "fat", region)
        apex = np.array([sign * 15, -31, 4])
        for offset in ((10, 0, 0), (-11, 0, 0), (0, 0, 11), (0, 0, -11)):
            belly = middle + np.array(offset) + (0, 12, 0)
            h.paint(*_last(h.tube([apex, belly, middle + 1.05 * np.array(offset)], [1.2, 2.4, 1.0]), 50, "muscle"))
        nerve: list[ArrayLike] = [(sign * 29, -58, 1), (sign * 24, -46, 2 + rng.normal(0, 1)), apex, (sign * 7, -18, 8)]
        h.paint(*_last(h.tube(np.array(nerve), [2.2, 1.9, 1.9, 2.0]), 35, "optic nerve"))
        size = rng.normal(12.0, 0.3)
        h.paint(*_last(h.ellipsoid(middle, (size, size, size)), 55, "sclera"))
        h.paint(*_last(h.ellipsoid(middle, (size - 1.2,) * 3), 8, "vitreous"))
        front = middle + (gaze[0], -8.2, gaze[1])
        h.paint(*_last(h.ellipsoid(front, (4.6, 2.1, 4.6)), rng.normal(85, 6), "lens"))
        lid = h.ellipsoid(middle - (0, 12.5, 0), (14, 2.5, 8))
        h.paint(
            np.maximum(
                lid[1], 12.3 - np.sqrt(((np.stack([h.x[lid[0]], h.y[lid[0]], h.z[lid[0]]], -1) - middle) ** 2).sum(-1))
            ),
            40,
            "skin",
            lid[0],
        )
