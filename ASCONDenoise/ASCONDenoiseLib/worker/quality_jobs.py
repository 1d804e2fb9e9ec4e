"""Jobs of the panel's section Image quality: regions and an edge that the user drew; maps and places; the report.

They work without torch. Places are voxels as (column, row, slice), real numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ASCONDenoiseLib.checked_json import FieldError
from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.imaging.difference import NOTHING
from ASCONDenoiseLib.worker.job import TEXT, Job, read_voxels

if TYPE_CHECKING:
    from ASCONDenoiseLib.imaging.findings import Findings
    from ASCONDenoiseLib.imaging.noise import Spacing

Facts = dict[str, Any]

LESION, BACKGROUND = "lesion", "background"


@dataclass(frozen=True, kw_only=True)
class Region:
    """A region that was drawn: a closed curve in a slice, or an ellipsoid.

    Attributes:
        points: of the curve, (column, row) each; none for an ellipsoid.
        slice: of the curve.
        centre: of the ellipsoid.
        axes: its three half axes, in voxels.
    """

    points: tuple[tuple[float, float], ...] = ()
    slice: int = 0
    centre: tuple[float, float, float] | None = None
    axes: tuple[tuple[float, float, float], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Edge:
    """A line across an edge, within a slice; its ends as (column, row)."""

    start: tuple[float, float]
    end: tuple[float, float]
    slice: int


@dataclass(frozen=True, kw_only=True)
class ImagesRequest:
    """The images of a result.

    Attributes:
        input: the LDCT.
        denoised: the result.
        reference: the NDCT, where there is one.
        spacing_mm: (x, y, z).
    """

    input: Path = field(metadata=TEXT)
    denoised: Path = field(metadata=TEXT)
    reference: Path | None = field(default=None, metadata=TEXT)
    spacing_mm: tuple[float, float, float] = field(metadata={"wanted": "three positive numbers"})

    def __post_init__(self) -> None:
        if min(self.spacing_mm) <= 0:
            raise FieldError("wrong", "spacing_mm", self.spacing_mm, "three positive numbers")

    def images(self) -> dict[str, np.ndarray]:
        """LDCT, denoised and, where there is one, NDCT, mapped. Raises InputError where they differ in shape."""
        images = {"LDCT": read_voxels(self.input), "denoised": read_voxels(self.denoised)}
        if self.reference is not None:
            images["NDCT"] = read_voxels(self.reference)
        if len({voxels.shape for voxels in images.values()}) > 1:
            shapes = ", ".join(" x ".join(map(str, voxels.shape)) for voxels in images.values())
            raise InputError(f"The volumes to compare have different numbers of slices, rows and columns: {shapes}.")
        return images


@dataclass(frozen=True, kw_only=True)
class RegionsRequest(ImagesRequest):
    """Regions and an edge to measure.

    Attributes:
        denoised: the result of strength 1.
        strength: at which it is measured.
        lesion: a region, or None.
        background: a region, or None.
        edge: a line, or None.
    """

    strength: float = 1.0
    lesion: Region | None = None
    background: Region | None = None
    edge: Edge | None = None


def regions(job: Job, request: RegionsRequest, _: Any) -> Facts:
    """Returns plain numbers.

    "regions" (name -> image -> Region), "lesion" (image -> RegionPair), "edge" (image -> its width, TTF50 and so on),
    "profiles" (distance_mm and a list for each image), and "notes": what could not be measured.
    """
    from ASCONDenoiseLib.imaging.regions import lesion_and_background, region

    images = request.images()
    job.answer("started")
    notes: list[str] = []
    drawn = {name: getattr(request, name) for name in (LESION, BACKGROUND)}
    masks: dict[str, tuple[tuple[slice, ...], np.ndarray]] = {}
    for name, shape in drawn.items():
        if shape is not None:
            try:
                masks[name] = mask_of(shape, images["LDCT"].shape)
            except InputError as error:
                notes.append(f"{name.capitalize()}: {error}")
    found = {
        name: {image: asdict(region(voxels, mask)) for image, voxels in _parts(images, box, request.strength).items()}
        for name, (box, mask) in masks.items()
    }
    pairs = {}
    if len(masks) == 2:
        box = _around(*(box for box, _mask in masks.values()))
        parts = _parts(images, box, request.strength)
        grown = [_grown(masks[name], box) for name in (LESION, BACKGROUND)]
        try:
            pairs = {image: asdict(pair) for image, pair in lesion_and_background(parts, *grown).items()}
        except InputError as error:
            notes.append(str(error))
    edge, profiles = _edge(images, request, notes) if request.edge is not None else ({}, {})
    return {"regions": found, "lesion": pairs, "edge": edge, "profiles": profiles, "notes": notes}


def mask_of(shape: Region, volume: tuple[int, ...]) -> tuple[tuple[slice, ...], np.ndarray]:
    """The box of a region in a volume of (S, H, W) voxels, and the mask in it. Raises InputError where it is empty.

    A voxel belongs to it where its middle is inside.
    """
    box, mask = _ellipsoid(shape, volume) if shape.centre is not None else _curve(shape, volume)
    if not mask.any():
        raise InputError("it covers no voxel of the volume. Draw it larger, and inside of the volume.")
    return box, mask


def _curve(shape: Region, volume: tuple[int, ...]) -> tuple[tuple[slice, ...], np.ndarray]:
    from skimage.measure import grid_points_in_poly

    columns, rows = np.reshape(shape.points, (-1, 2)).T
    if len(columns) < 3 or not 0 <= shape.slice < volume[0]:
        raise InputError("a closed curve needs three points or more, in a slice of the volume.")
    box = _clipped(((shape.slice, shape.slice), (rows.min(), rows.max()), (columns.min(), columns.max())), volume)
    _, y, x = box
    inside = grid_points_in_poly((y.stop - y.start, x.stop - x.start), np.stack([rows - y.start, columns - x.start], 1))
    return box, np.asarray(inside, bool)[None]


def _ellipsoid(shape: Region, volume: tuple[int, ...]) -> tuple[tuple[slice, ...], np.ndarray]:
    axes = np.reshape(shape.axes, (3, 3)).T  # half axes as columns, in (column, row, slice)
    if abs(np.linalg.det(axes)) < 1e-9:
        raise InputError("it has no extent. Draw it larger.")
    centre, reach = np.array(shape.centre), np.linalg.norm(axes, axis=1)
    box = _clipped(tuple((centre[i] - reach[i], centre[i] + reach[i]) for i in (2, 1, 0)), volume)
    k, j, i = np.meshgrid(*(np.arange(part.start, part.stop) for part in box), indexing="ij")
    away = np.stack([i, j, k], axis=-1) - centre
    return box, np.linalg.norm(away @ np.linalg.inv(axes).T, axis=-1) <= 1


def _clipped(ends: tuple[tuple[float, float], ...], volume: tuple[int, ...]) -> tuple[slice, ...]:
    """The slices that hold all voxels between the ends, within the volume; empty ones where that is outside."""
    parts = []
    for (low, high), size in zip(ends, volume, strict=True):
        first = min(max(int(np.ceil(low)), 0), size)
        parts.append(slice(first, max(first, min(int(np.floor(high)) + 1, size))))
    return tuple(parts)


def _around(*boxes: tuple[slice, ...]) -> tuple[slice, ...]:
    return tuple(slice(min(p.start for p in parts), max(p.stop for p in parts)) for parts in zip(*boxes, strict=True))


def _grown(region: tuple[tuple[slice, ...], np.ndarray], box: tuple[slice, ...]) -> np.ndarray:
    """A region's mask in a larger box."""
    own, mask = region
    grown = np.zeros(tuple(part.stop - part.start for part in box), bool)
    grown[tuple(slice(p.start - b.start, p.stop - b.start) for p, b in zip(own, box, strict=True))] = mask
    return grown


def _parts(images: Mapping[str, np.ndarray], box: tuple[slice, ...], strength: float) -> dict[str, np.ndarray]:
    """A box of each image, the denoised one at some strength."""
    from ASCONDenoiseLib.imaging.output_rule import blend, check_strength

    check_strength(strength)
    parts = {name: np.asarray(voxels[box]) for name, voxels in images.items()}
    parts["denoised"] = blend(parts["LDCT"], parts["denoised"], strength)
    return parts


def _edge(images: Mapping[str, np.ndarray], request: RegionsRequest, notes: list[str]) -> tuple[Facts, Facts]:
    from ASCONDenoiseLib.imaging.edges import fit_line, line_profile
    from ASCONDenoiseLib.imaging.transfer import LEAST_CNR, transfer_function

    edge = request.edge
    assert edge is not None
    if not 0 <= edge.slice < len(images["LDCT"]):
        notes.append("Edge: the line lies outside of the volume.")
        return {}, {}
    whole = (slice(edge.slice, edge.slice + 1), slice(None), slice(None))
    ends = edge.start[::-1], edge.end[::-1]  # (row, column)
    widths: Facts = {}
    profiles: Facts = {}
    for name, (image,) in _parts(images, whole, request.strength).items():
        try:
            distance_mm, values_hu = line_profile(image, request.spacing_mm, *ends, lateral_mm=1.0)
            profiles["distance_mm"], profiles[name] = distance_mm.tolist(), values_hu.tolist()
            fit = fit_line(image, request.spacing_mm, *ends)
            widths[name] = {"width_mm": fit.width_mm, "low_hu": fit.low_hu, "high_hu": fit.high_hu}
            ttf = transfer_function(fit, request.spacing_mm)
            if ttf.cnr >= LEAST_CNR:
                widths[name] |= {"ttf50": ttf.ttf50, "ttf10": ttf.ttf10}
            else:
                notes.append(f"Edge, {name}: the contrast is {ttf.cnr:.1f} times the noise; a TTF needs {LEAST_CNR:g}.")
        except InputError as error:
            notes.append(f"Edge, {name}: {error}")
    return widths, profiles


@dataclass(frozen=True, kw_only=True)
class InspectRequest(ImagesRequest):
    """A result to look at in all places.

    Attributes:
        maps: a folder that is there: noise-ldct.npy, noise-denoised.npy and consistency.npy are written into it.
    """

    maps: Path = field(metadata=TEXT)


def inspect(job: Job, request: InspectRequest, _: Any) -> Facts:
    """Returns `findings.Findings.to_dict`, and how far the maps' colours should reach.

    Maps are float32: noise in HU; the noise-consistency map where it exceeds its threshold, positive where HU rose.
    """
    images = request.images()
    found = _found(job, images, request.spacing_mm)
    threshold = found.consistency.threshold_z
    z = np.where(np.abs(found.consistency.z) >= threshold, -found.consistency.z, NOTHING)
    maps = {f"noise-{name.lower()}": np.nan_to_num(map_hu, nan=NOTHING) for name, map_hu in found.noise_maps.items()}
    for name, values in {**maps, "consistency": z}.items():
        job.new_output(request.maps / f"{name}.npy", values.shape, np.dtype(np.float32))[...] = values
    known = found.noise_maps["LDCT"]
    known = known[np.isfinite(known)]
    return found.to_dict() | {
        "noise_limit_hu": float(np.ceil(np.quantile(known, 0.99))) if known.size else 1.0,
        "z_limit": 2 * threshold if np.isfinite(threshold) else 1.0,
    }


@dataclass(frozen=True, kw_only=True)
class ReportRequest(ImagesRequest):
    """A report to write.

    Attributes:
        path: of the page; what is there is replaced.
        name: of the scan.
        made: how it came about, for the reader.
        warning: of whether it suits the model.
    """

    path: Path = field(metadata=TEXT)
    name: str
    made: dict[str, str] = field(default_factory=dict)
    warning: str = ""


def report(job: Job, request: ReportRequest, _: Any) -> Facts:
    """Returns the page's path."""
    from ASCONDenoiseLib.reports import quality_report

    images = request.images()
    found = _found(job, images, request.spacing_mm)
    with job.timed("work"):
        scan = quality_report.Scan(request.name, images, request.spacing_mm, found, request.made, request.warning)
        quality_report.write_page(request.path, scan)
    return {"path": str(request.path)}


def _found(job: Job, images: Mapping[str, np.ndarray], spacing_mm: Spacing) -> Findings:
    from ASCONDenoiseLib.imaging.findings import find

    job.answer("started")
    with job.timed("work"):
        return find(images, spacing_mm, progress=job.progress)
