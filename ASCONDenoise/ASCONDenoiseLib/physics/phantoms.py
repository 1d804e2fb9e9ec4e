"""Procedural anatomy: noise-free CT volumes of an abdomen and a chest, where there is no data.

Organs are painted over one another with a through-plane and in-plane partial volume, then blurred by the scanner's
point spread function. Arrays are (S, H, W); slices run from foot to head and the patient lies on the back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ASCONDenoiseLib.physics.anatomy_canvas import (
    FULL,
    LABEL_VALUES,
    Canvas,
    Shape,
    cut,
    grown,
    melted,
    points_within,
    superellipse,
    vessel_tree,
)
from ASCONDenoiseLib.physics.head_phantom import head
from ASCONDenoiseLib.physics.phantom_volume import PSF_SIGMA_MM, Lesion, Phantom, Rng, add_lesions

Sphere = tuple[np.ndarray, float]
"""Centre (x, y, z) and radius in the anatomical frame, mm."""


def abdomen(
    seed: int,
    shape: tuple[int, int, int] = (24, 256, 256),
    spacing_mm: tuple[float, float, float] = (1.4, 1.4, 3.0),
    lesions: int = 3,
    psf_mm: float = PSF_SIGMA_MM,
) -> Phantom:
    """Make an upper abdomen; habitus, organs, contrast phase and level vary with the seed.

    Args:
        seed: of the patient.
        shape: slices, rows, columns.
        spacing_mm: (x, y, z).
        lesions: low-contrast spheres of 5-20 mm and 10-40 HU in the liver, fewer where they do not fit; with 0 it is
            the same patient without them, and with the vessels that they displace.
        psf_mm: in-plane blur of the scanner and its kernel, the sigma of a Gaussian.

    Raises:
        InputError: shape or spacing is not three positive numbers.
    """
    rng = np.random.default_rng([seed, 1])
    c = Canvas(rng, shape, spacing_mm, level_mm=rng.uniform(-28, 22))
    _trunk(c, rng, ribs=range(5), chest=False)
    _lungs(c, rng, [(-30, 10, 150), (30, 10, 150)], np.maximum.reduce([c.cavity + 2.5, -c.dome, -c.spine]))
    _gut(c, rng)
    planned = _solid_organs(c, rng, lesions)
    return add_lesions(c.phantom(psf_mm), planned, psf_mm)


def chest(
    seed: int,
    shape: tuple[int, int, int] = (24, 256, 256),
    spacing_mm: tuple[float, float, float] = (1.4, 1.4, 3.0),
    psf_mm: float = PSF_SIGMA_MM,
) -> Phantom:
    """Make a chest about the level of the carina and the heart; the patient varies with the seed as in `abdomen`.

    Args:
        seed: of the patient.
        shape: slices, rows, columns.
        spacing_mm: (x, y, z).
        psf_mm: as in `abdomen`.

    Raises:
        InputError: shape or spacing is not three positive numbers.
    """
    rng = np.random.default_rng([seed, 2])
    c = Canvas(rng, shape, spacing_mm, level_mm=rng.uniform(-45, 25))
    _trunk(c, rng, ribs=range(-6, 8), chest=True)
    _thorax(c, rng)
    return c.phantom(psf_mm)


ANATOMY: dict[str, Callable[..., Phantom]] = {"abdomen": abdomen, "chest": chest, "head": head}
"""The phantoms of patients by their name."""


def _trunk(c: Canvas, rng: Rng, ribs: Sequence[int], chest: bool) -> None:
    """Paint couch, skin, fat, wall, back muscles, spine and ribs; leave the fields of cavity and dome on `c`."""
    x, y, z = c.x, c.y, c.z
    ax, ay = c.axes[2][None, None, :], c.axes[1][None, :, None]
    bowl = np.abs(np.hypot(ax, ay - (c.back + 7 - 430)) - 430) - 1.2
    c.paint((FULL, np.broadcast_to(np.maximum(bowl, np.abs(ax) - 215), c.shape).astype(np.float32)), 120, "couch")

    middle, half = (c.front + c.back) / 2, (c.back - c.front) / 2
    groove = 7 * np.exp(-((x / 16) ** 2)) * (y > 0)
    calm_x, calm_y = x - 0.6 * c.shift[2], y - 0.6 * c.shift[1]  # skin is smoother than organs
    body = superellipse(calm_x, calm_y - middle, c.flank, half, 2.3) + groove
    septa = np.clip(1 - np.abs(c.lumps) / 0.12, 0, 1)  # level sets of a random field: thin curved sheets
    fat = -106 + 45 * septa * (c.grains[2] > 0) + 6 * c.grains[2]
    c.paint((FULL, body), 35, "skin")
    c.paint((FULL, body + 1.8), fat, "fat")

    c.cavity = superellipse(x, y + 5, 128, 88)
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
            c.paint(cut(shape, body + 4), muscle[shape[0]], "muscle")
    strands = np.clip(1 - np.abs(c.lumps + 0.5) / 0.1, 0, 1) * (c.grains[2] > -0.2)
    c.paint((FULL, c.cavity), -104 + 50 * strands + 7 * c.grains[2], "fat")
    c.spine = np.minimum(
        superellipse(x, y - 66, 31, 24, 2.2), superellipse(x - 4, y - 38, 26, 18, 2.2)
    )  # and what lies before it
    _spine(c, rng)
    for sign in (-1, 1):
        for i in ribs:
            _rib(c, sign, 30.0 + 27 * i, reach=2.6 if chest else min(1.3 + 0.35 * i, 2.4))


def _dome(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Return the field of the diaphragm: flat-topped, lower behind than in front; below it belongs to the abdomen."""
    height = np.clip(z + 0.3 * y + 0.12 * x + 45, 0, None) / 110
    return superellipse(x, y + 8, 128, 88, 2.2) + 40 * height**2 - 4


def _rib(c: Canvas, sign: int, top_mm: float, reach: float) -> None:
    """Paint a rib with marrow, from the spine round the wall and down; `reach` is its end, radians from the back."""
    t = np.linspace(0.12, reach, 22)
    points = np.stack([sign * 132 * np.sin(t), 88 * np.cos(t) - 4 + 6 * np.exp(-t), top_mm - 50 * t + 5 * t**2], 1)
    points[0] = (sign * 20, 76, top_mm + 2)
    bone = c.path(points, 3.6, flat=0.55)
    c.paint(bone, 620, "cortical bone", 40, 0)
    c.paint(grown(bone, -1.7), 210, "trabecular bone", 40, 0)


def _spine(c: Canvas, rng: Rng) -> None:
    """Paint vertebrae every 33 mm: body with endplates, discs, arch, processes, canal with fat and the thecal sac."""
    region = c.box((-55, 38, -1e4), (55, 132, 1e4), 14)
    x, y, z = c.at(region)
    z = (z + rng.uniform(0, 33)) % 33 - 16.5  # 0 in the middle of a vertebra
    width, depth = rng.uniform(20, 24), rng.uniform(16, 18.5)
    hollow = 5 * np.exp(-((x / 9) ** 2 + ((y - 79) / 5) ** 2))
    body = superellipse(x, y - 62, width, depth, 2.2) + hollow + 2.0 * np.cos(z / 14 * np.pi / 2) - 1

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
    canal = superellipse(x, y - 88, 11, 9.5, 2.0)
    bone = np.minimum(np.maximum(body, np.abs(z) - 13), np.maximum(arch, -canal))
    c.paint((region, np.maximum(body - 0.8, 12 - np.abs(z))), 88, "disc", 4, 1)
    c.paint((region, canal), -70, "fat")
    c.paint((region, superellipse(x, y - 88, 9, 7.5, 2.0)), 32, "spinal canal", 2, 1)
    c.paint((region, bone), rng.normal(620, 50), "cortical bone", 40, 0)
    marrow = rng.normal(170, 30) + 32 * c.grains[0][region] + 20 * c.grains[2][region]
    c.paint((region, bone + 2.0), marrow, "trabecular bone")


def _lungs(c: Canvas, rng: Rng, roots: Sequence[tuple[float, float, float]], lung: np.ndarray) -> None:
    """Paint air spaces with a gradient towards the back, fissures, and a bronchovascular tree from each root."""
    fissure = 60 * np.clip(1 - np.abs(c.y * 0.7 + c.z * 0.7 + 4 * c.lumps + 12) / 1.2, 0, 1)
    density = rng.normal(-865, 15) + 0.35 * c.y + fissure + 14 * c.grains[2] + 8 * c.grains[1]
    c.paint((FULL, lung), density, "lung")
    for root in roots:
        side = np.sign(root[0])
        targets = points_within(rng, (side * 70, 0, root[2] * 0.5), (58, 90, 100), 2200)
        segments, radii = vessel_tree(rng, root, targets, 0.52)
        c.paint(cut(c.tubes(segments, radii, far=2.5), lung + 0.5), c.mean_hu["vein"], "lung vessel")
        large = radii[:, 0] > 1.9  # every larger artery has a bronchus beside it
        beside = segments[large] + np.array([1.2, 1.4, 0.6]) * radii[large, :1, None] * side
        airway = cut(c.tubes(beside, 0.6 * radii[large], far=4), lung + 0.5)
        c.paint(grown(airway, 0.8), -80, "airway wall")
        c.paint(airway, -960, "airway")


def _gut(c: Canvas, rng: Rng) -> None:
    """Paint mesenteric vessels, stomach, small bowel and colon, all inside the cavity and below the diaphragm."""
    inside = np.maximum(c.cavity + 3, c.dome + 3)
    vessels = vessel_tree(rng, (4, 24, 0), points_within(rng, (10, -20, -35), (95, 55, 60), 160), 0.55)
    c.paint(cut(c.tubes(*vessels), inside), 0.7 * c.mean_hu["vein"], "vein")
    turns = np.linspace(0, 1, 9)[:, None]
    arc = np.array([[-96, 25, -90], [-100, 20, -30], [-60, -62, -22], [0, -68, -30], [60, -62, -12], [98, 0, 22]])
    descending = np.array([[98, 0, 22], [102, 36, 0], [98, 42, -110]])
    for nodes in (arc + rng.normal(0, 5, arc.shape), descending):
        points = np.concatenate([a + (b - a) * turns for a, b in zip(nodes[:-1], nodes[1:], strict=True)])
        radii = rng.uniform(14, 20) + 3.5 * np.cos(np.arange(len(points)) * 1.3)  # haustra
        _loop(c, rng, cut(c.path(points, radii), inside), "stool", 2.0, rng.uniform(0.1, 0.9))
    for _ in range(rng.integers(13, 19)):
        point = points_within(rng, (15, -32, -30), (85, 42, 50), 1)[0]
        course = []
        heading = rng.normal(size=3)
        for _ in range(12):
            heading = 0.75 * heading + rng.normal(0, 0.7, 3) - 0.006 * (point - (15, -32, -35))
            point = point + 11 * heading / np.linalg.norm(heading)
            course.append(point)
        shape = cut(c.path(course, rng.uniform(8.5, 14.5)), inside)
        _loop(c, rng, shape, "gut fluid", rng.uniform(2.0, 3.5), rng.choice([0.0, 0.0, 0.3, 0.6]))
    a = c.ellipsoid((56, -18, 48), (44, 44, 46), 20, 2)
    b = c.ellipsoid((18, -56, 14), (42, 20, 24), -20, 2)
    _loop(c, rng, cut(a, inside), "gut fluid", 4.5, rng.uniform(0.1, 0.6))
    _loop(c, rng, cut(b, inside), "gut fluid", 4.5, rng.uniform(0.0, 0.4))


def _loop(c: Canvas, rng: Rng, shape: Shape, content: str, wall_mm: float, gas: float) -> None:
    """Paint a hollow organ in a rim of fat: wall, content with food texture, gas above a level that lies flat."""
    region, f = shape
    contrast = content == "gut fluid" and rng.random() < 0.15  # drunk contrast medium
    mean = 260 if contrast else rng.uniform(5, 30) if content == "gut fluid" else rng.uniform(0, 45)
    level_share, mottle = gas, rng.uniform(2, 6) if content == "gut fluid" else rng.uniform(40, 130)
    if f.size == 0:
        return
    c.paint(grown(shape, 1.6), -100, "fat", 8, 2)
    c.tissue(shape, "gut wall", 5, 0)
    lumen = f + wall_mm
    texture = mottle * (c.grains[1][region] if content == "gut fluid" else np.minimum(c.grains[1][region], 0.4))
    c.paint((region, lumen), mean + texture, content)
    if gas and (lumen < 0).any():
        y = np.broadcast_to(c.axes[1][None, :, None], c.shape)[region].astype(np.float32)
        level = np.quantile(y[lumen < 0], level_share)
        c.paint((region, np.maximum(lumen, y - level)), -985, "gut gas")


def _solid_organs(c: Canvas, rng: Rng, lesions: int) -> list[Lesion]:
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
    spleen = cut(spleen, inside, -c.everywhere(bite), -np.minimum(taken[1], 50))
    c.paint(grown(spleen, 1.5), -100, "fat")
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
    lobes = cut((pancreas[0], pancreas[1] + 2.6 * c.lumps[pancreas[0]]), inside)
    c.paint(grown(lobes, 1.5), -95, "fat")
    c.tissue(lobes, "pancreas", 9)
    c.tissue(c.path([(82, 28, 24), (46, 23, 18), (10, 13, 6), (-12, 10, 4), (-36, 0, 18)], 4.8), "vein", 3, 2)
    c.tissue(c.path([(-12, 10, 4), (-6, 5, -60)], [5.5, 4]), "vein", 3, 2)
    return planned


def _kidney(c: Canvas, rng: Rng, centre: np.ndarray, sign: int, inside: np.ndarray) -> np.ndarray:
    """Paint a cortex with columns between the medullary pyramids, sinus fat, vessels; return the outer field."""
    size = rng.uniform(0.9, 1.1)
    kidney = c.ellipsoid(centre, np.array([24, 28, 52]) * size, sign * 30, 1.0, margin=20)
    region, f = kidney = cut(kidney, inside + 2)
    sinus = c.ellipsoid(centre - (sign * 17, 6, 0), np.array([19, 12, 26]) * size, sign * 30, 3.0)
    rim = (region, f - 5 + 3 * c.lumps[region] + 0.4 * c.shift[0][region])
    c.paint(cut(rim, inside), -104 + 6 * c.grains[2][region], "fat")
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


def _liver(c: Canvas, rng: Rng, lesions: int, inside: np.ndarray, clear: np.ndarray) -> list[Lesion]:
    """Paint two lobes, gallbladder, portal and hepatic veins that spare the planned lesions."""
    size = rng.uniform(0.92, 1.1)
    right = c.ellipsoid((-78, -2, 18), np.array([62, 78, 90]) * size, -8, 1.5, margin=30)
    left = c.ellipsoid((-8, -58, 44), np.array([72, 30, 46]) * size, 12, 1.5, margin=30)
    cleft = c.ellipsoid((-20, 4, 2), (26, 14, 26), 30, 4, margin=10)  # porta hepatis
    field = melted(c.everywhere(right), c.everywhere(left), 14)
    field = np.maximum.reduce([field, inside, clear, -c.everywhere(cleft)])
    bladder = c.ellipsoid((-46, -36, -22), np.array([15, 20, 28]) * rng.uniform(0.7, 1.2), 30, 1)
    field = np.maximum(field, 1.5 - c.everywhere(bladder))
    shape = (FULL, field)
    c.paint(grown(shape, 1.5), -98, "fat")
    c.tissue(shape, "liver", 4, 1)
    c.paint(cut(grown(bladder, 1.6), inside), 35, "gut wall")
    c.paint(cut(bladder, inside + 1.6), 8, "gallbladder", 1.5, 2)
    planned, spheres = _plan_lesions(c, rng, lesions, field)
    for root, tip, count in (((-36, 0, 14), 0.85, 200), ((-20, 20, 72), 1.25, 70)):  # portal, hepatic
        lobes = (
            points_within(rng, (-72, 0, 22), (58, 68, 80), count),
            points_within(rng, (-4, -51, 42), (48, 25, 34), count // 4),
        )
        segments, radii = vessel_tree(rng, root, np.concatenate(lobes), tip)
        for middle, radius in spheres:  # a lesion has no vessel in it
            ends = np.concatenate([segments, segments.mean(1, keepdims=True)], 1)
            keep = np.linalg.norm(ends - middle, axis=2).min(1) > radius + radii[:, 0] + 2.5
            segments, radii = segments[keep], radii[keep]
        c.tissue(cut(c.tubes(segments, radii, far=3), field + 1.5), "liver vessel", 3, 2)
    return planned


def _plan_lesions(c: Canvas, rng: Rng, count: int, liver: np.ndarray) -> tuple[list[Lesion], list[Sphere]]:
    """Choose places in the liver, away from its surface and each other; also as (centre, radius) in anatomical mm."""
    planned: list[Lesion] = []
    spheres: list[Sphere] = []
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
            k, j, i = map(float, at)
            planned.append(Lesion((i, j, k), float(2 * radius), float(contrast)))
            spheres.append((np.array([c.x[at], c.y[at], c.z[at]]), reach))
    return planned, spheres


def _thorax(c: Canvas, rng: Rng) -> None:
    """Paint lungs, mediastinum with heart, great vessels, airways, oesophagus; sternum and shoulder blades."""
    x, y, z = c.x, c.y, c.z
    heart_at, size = np.array([24, -32, -42]) + rng.normal(0, 4, 3), rng.uniform(0.9, 1.12)
    heart = c.ellipsoid(heart_at, np.array([62, 50, 58]) * size, 30, 1.0, margin=30)
    centre = (
        melted(superellipse(x - 2, y + 8, 33, 50, 2.0) + 0.08 * z, superellipse(x, y + 84, 12, 30, 2.0), 16)
        + 3 * c.lumps
    )
    centre = melted(melted(centre, c.everywhere(heart) - 3, 12), c.spine, 6)
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
    for node in points_within(rng, (0, 4, 0), (26, 30, 60), 10):  # lymph nodes
        shape = c.ellipsoid(node, rng.uniform(2.5, 5, 3), rng.uniform(0, 180))
        c.tissue(cut(shape, -(lobes - 1), np.where(c.labels == LABEL_VALUES["fat"], -9.0, 9.0)), "muscle", 4)

    sternum = c.ellipsoid((0, -95, 20), (18, 7, 110), 0, 0.8)
    c.paint(sternum, 480, "cortical bone", 40, 0)
    c.paint(grown(sternum, -1.6), 150, "trabecular bone", 40, 0)
    for sign in (-1, 1):
        blade = np.array([(sign * 62, 106, 0), (sign * 100, 100, 30), (sign * 128, 84, 90)])
        plate = c.tubes([(a, b) for a in blade[:2] for b in blade[1:]], [(3.2, 3.2)] * 4, flat=0.25)
        c.paint(plate, 520, "cortical bone", 40, 0)
        c.paint(grown(plate, -1.8), 200, "trabecular bone", 40, 0)


def _heart(c: Canvas, rng: Rng, heart: Shape, centre: np.ndarray, size: float) -> None:
    """Paint pericardial fat, muscle and four chambers; the left ventricle's wall is thick."""
    region = heart[0]
    c.paint(grown(heart, 1.5), -98, "fat", 8)
    c.tissue((region, heart[1] + 2 + 2.5 * np.clip(c.lumps[region], -0.8, 2)), "heart muscle", 4)
    chambers = (((24, 6, -4), (30, 17, 36), 38), ((-6, -24, -4), (34, 15, 34), 28), ((-38, 6, 0), (18, 22, 28), 10),
                ((-6, 34, 12), (30, 15, 20), 5))  # fmt: skip
    inner = c.everywhere(grown(heart, -5))
    for offset, radii, turn in chambers:
        shape = c.ellipsoid(centre + np.array(offset) * size, np.array(radii) * size, turn, 2.0)
        c.tissue(cut(shape, inner) if offset[1] < 30 else shape, "heart chamber", 3, 2)
    for start, end in (((-10, -30, 40), (40, -44, -10)), ((-12, -30, 40), (-44, -30, -10))):  # coronary arteries in fat
        ends = [centre + np.array(p) * size for p in (start, end)]
        groove = c.path([ends[0], (ends[0] + ends[1]) / 2 + (0, -6, 0), ends[1]], 4.5)
        c.paint(groove, -90, "fat")
        c.tissue(grown(groove, -3.0), "artery")
