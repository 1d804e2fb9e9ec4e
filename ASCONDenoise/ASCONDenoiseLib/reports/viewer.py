"""Volumes in an HTML page, to scroll through: curtain of before and after, difference, overlays, window.

The script is Resources/Report/viewer.js, some 280 lines for a canvas, and not a library: docs/report.md says why. The
volumes are embedded as int16, compressed; `html` thins them out where a page would grow too large, and says so.
"""

from __future__ import annotations

import base64
import html as markup
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from ASCONDenoiseLib.imaging.difference import DIFFERENCE_LIMIT_HU, difference_colours
from ASCONDenoiseLib.imaging.hounsfield import DISPLAY_WINDOWS_HU

MAX_PAGE_BYTES = 40_000_000
"""Of the volumes of one page."""

AIR_HU = -900.0
"""Beyond the rows and columns where any voxel is brighter, there is nothing to see."""

CROP_MARGIN_PX = 8

OVERLAY_STEPS = 4000
"""An overlay is stored in so many steps from its lowest to its highest value shown."""


@dataclass(frozen=True)
class Overlay:
    """A map to show over the images.

    Attributes:
        name: for the list of overlays.
        values: (S, H, W).
        low: what the first colour stands for.
        high: what the last colour stands for.
        unit: of the values, for their readout.
        colours: (256, 4) RGBA from 0 to 255; where alpha is 0, the image is seen.
    """

    name: str
    values: np.ndarray
    low: float
    high: float
    unit: str
    colours: np.ndarray


@dataclass(frozen=True)
class Place:
    """A place that a click jumps to.

    Attributes:
        text: of the button.
        voxel: slice, row, column.
        radius_px: of the ring around it, in columns.
    """

    text: str
    voxel: tuple[int, int, int]
    radius_px: float = 5.0


@dataclass(frozen=True)
class Viewer:
    """Volumes of one scan, all of one shape.

    Attributes:
        images: name -> (S, H, W) in HU; the first two are those of the curtain at first, before and after.
        spacing_mm: (x, y, z).
        window: name of the display window at first.
        overlays: maps over the images.
        places: to jump to.
        difference_hu: the difference's colours reach from minus to plus this.
    """

    images: Mapping[str, np.ndarray]
    spacing_mm: tuple[float, float, float]
    window: str = "abdomen"
    overlays: Sequence[Overlay] = ()
    places: Sequence[Place] = ()
    difference_hu: float = DIFFERENCE_LIMIT_HU / 2


def html(viewer: Viewer, max_bytes: int = MAX_PAGE_BYTES) -> str:
    """Write the figure of a viewer; `script` must follow the last one of a page.

    Images are cut to the body. Where they would take more than `max_bytes`, some slices are left out, evenly, but none
    that holds a place. A sentence below the figure says what was left out.
    """
    images = {name: _whole(voxels) for name, voxels in viewer.images.items()}
    if len({voxels.shape for voxels in (*images.values(), *(o.values for o in viewer.overlays))}) > 1:
        raise ValueError("The volumes of a viewer are of one shape.")
    stored = [*images.values(), *map(_stored, viewer.overlays)]
    rows, columns = _body(list(images.values()))
    stored = [voxels[:, rows, columns] for voxels in stored]
    wanted = sorted({place.voxel[0] for place in viewer.places})
    slices = _chosen(stored, max_bytes, wanted)
    facts = {
        "shape": [len(slices), *stored[0].shape[1:]],
        "slices": slices,
        "total": len(stored[0]),
        "images": [{"name": name} for name in images],
        "window_hu": DISPLAY_WINDOWS_HU[viewer.window],
        "difference": {
            "limit_hu": viewer.difference_hu,
            "colours": np.rint(255 * difference_colours(np.linspace(-1, 1, 256))).astype(int).tolist(),
        },
        "overlays": [_overlay_facts(overlay) for overlay in viewer.overlays],
        "places": [
            {
                "slice": slices.index(place.voxel[0]),
                "row": place.voxel[1] - rows.start,
                "column": place.voxel[2] - columns.start,
                "radius": place.radius_px,
            }
            for place in viewer.places
        ],
    }
    data = "\n".join(f'<script type="text/plain" class="volume">{packed(voxels[slices])}</script>' for voxels in stored)
    return (
        f'<figure class="viewer">{_controls(viewer, len(slices))}\n'
        f'<div class="stage">{_canvas(viewer.spacing_mm, stored[0].shape[1:])}<div class="beside"><output></output>'
        f'<div class="legend"></div>{_place_buttons(viewer.places)}</div></div>\n'
        f"<figcaption>{_HELP} {_left_out(viewer, slices, rows, columns)}</figcaption>\n"
        f'<script type="application/json" class="facts">{_json(facts)}</script>\n{data}</figure>'
    )


def script() -> str:
    """Write the script that shows all viewers of a page."""
    return f"<script>{_source()}</script>"


def packed(voxels: np.ndarray) -> str:
    """Pack a volume (S, H, W) of int16: steps along the rows, all low bytes, then all high bytes, zlib, base64.

    Steps are modulo 2^16. Neighbours differ by little, so nearly all high bytes are 0 or 255.
    """
    steps = np.diff(voxels, axis=2, prepend=np.int16(0)).astype("<i2")
    planes = np.ascontiguousarray(steps).view(np.uint8).reshape(-1, 2).T
    return base64.b64encode(zlib.compress(planes.tobytes(), 6)).decode("ascii")


# ---------------------------------------------------------------------------------------------------- what is embedded


def _whole(voxels: np.ndarray) -> np.ndarray:
    limits = np.iinfo(np.int16)
    if voxels.dtype == np.int16:
        return voxels
    return np.clip(np.rint(voxels), limits.min, limits.max).astype(np.int16)


def _stored(overlay: Overlay) -> np.ndarray:
    return _whole(np.nan_to_num(overlay.values) / _step(overlay))


def _step(overlay: Overlay) -> float:
    return (overlay.high - overlay.low) / OVERLAY_STEPS


def _overlay_facts(overlay: Overlay) -> dict[str, object]:
    return {
        "name": overlay.name,
        "low": overlay.low,
        "high": overlay.high,
        "step": _step(overlay),
        "unit": overlay.unit,
        "colours": np.asarray(overlay.colours, int).tolist(),
    }


def _body(images: Sequence[np.ndarray]) -> tuple[slice, slice]:
    """Find the rows and columns that hold more than air, in any image."""
    ranges = []
    for axis in (1, 2):
        others = tuple({0, 1, 2} - {axis})
        bright = np.flatnonzero(np.max([image.max(axis=others) for image in images], axis=0) > AIR_HU)
        size = images[0].shape[axis]
        if not len(bright):
            ranges.append(slice(0, size))
            continue
        first, last = int(bright[0]), int(bright[-1])
        ranges.append(slice(max(0, first - CROP_MARGIN_PX), min(size, last + 1 + CROP_MARGIN_PX)))
    return ranges[0], ranges[1]


def _chosen(volumes: Sequence[np.ndarray], max_bytes: int, wanted: Sequence[int]) -> list[int]:
    """Choose the slices that fit into `max_bytes`: every one, every second, ..., and those that are wanted."""
    total = len(volumes[0])
    sample = np.unique(np.linspace(0, total - 1, min(total, 5)).astype(int))
    per_slice = sum(len(packed(voxels[sample])) for voxels in volumes) / len(sample)
    room = max(1, int(max_bytes // per_slice))
    every = math.ceil(total / max(1, room - len(wanted))) if total > room else 1
    return sorted({*range((total - 1) % every // 2, total, every), *wanted})


def _left_out(viewer: Viewer, slices: Sequence[int], rows: slice, columns: slice) -> str:
    total, height, width = next(iter(viewer.images.values())).shape
    said = []
    if len(slices) < total:
        said.append(f"{len(slices)} of {total} slices are shown: more would make the page too large.")
    if rows.stop - rows.start < height or columns.stop - columns.start < width:
        kept = f"rows {rows.start + 1} to {rows.stop}, columns {columns.start + 1} to {columns.stop}"
        said.append(f"Air beyond {kept}, is cut off.")
    if any(voxels.dtype.kind == "f" for voxels in viewer.images.values()):
        said.append("Values are shown in whole HU.")
    return " ".join(said)


# ---------------------------------------------------------------------------------------------------------- the markup

_HELP = (
    "Drag the curtain; drag elsewhere for the window (across: width, up and down: level); turn the wheel or use the "
    "arrow keys for slices; double-click to enlarge."
)


def _controls(viewer: Viewer, slices: int) -> str:
    names = list(enumerate(viewer.images))
    parts = [
        _choice("View", "mode", [("curtain", "curtain"), ("difference", "difference")], "curtain"),
        _choice("Left", "left", names, 0),
        _choice("Right", "right", names, 1),
    ]
    for name, ends in DISPLAY_WINDOWS_HU.items():
        parts.append(f'<button type="button" data-window="{list(ends)}">{name}</button>')
    if viewer.overlays:
        overlays = [(-1, "none"), *((i, overlay.name) for i, overlay in enumerate(viewer.overlays))]
        parts += [_choice("Overlay", "overlay", overlays, -1), _range("Opacity", "opacity", 1, 0.05, 0.6)]
    if slices > 1:
        parts.append(_range("Slice", "slice", slices - 1, 1, slices // 2))
    return f'<div class="bar">{"".join(parts)}</div>'


def _choice(label: str, name: str, options: Sequence[tuple[object, str]], chosen: object) -> str:
    inner = "".join(
        f'<option value="{value}"{" selected" if value == chosen else ""}>{markup.escape(text)}</option>'
        for value, text in options
    )
    return f'<label>{label} <select name="{name}" autocomplete="off">{inner}</select></label>'


def _range(label: str, name: str, last: float, step: float, value: float) -> str:
    return (
        f'<label>{label} <input type="range" name="{name}" min="0" max="{last}" step="{step}" value="{value}" '
        'autocomplete="off"></label>'
    )


def _canvas(spacing_mm: tuple[float, float, float], shape: tuple[int, ...]) -> str:
    """Make a canvas in the proportions of the slice, with a long side of 640 pixels or more."""
    finer = min(spacing_mm[:2])
    width, height = shape[1] * spacing_mm[0] / finer, shape[0] * spacing_mm[1] / finer
    scale = max(1, math.ceil(640 / max(width, height)))
    return (
        f'<canvas width="{round(scale * width)}" height="{round(scale * height)}" tabindex="0" '
        'aria-label="CT slice; arrow keys turn the slices and move the curtain"></canvas>'
    )


def _place_buttons(places: Sequence[Place]) -> str:
    buttons = "".join(
        f'<button type="button" data-place="{i}">{markup.escape(place.text)}</button>' for i, place in enumerate(places)
    )
    return f'<div class="places">{buttons}</div>' if buttons else ""


def _json(facts: Mapping[str, object]) -> str:
    return json.dumps(facts, separators=(",", ":")).replace("<", "\\u003c")


@cache
def _source() -> str:
    package = Path(__file__).resolve().parents[1]
    in_package = package / "Resources" / "Report" / "viewer.js"
    path = in_package if in_package.is_file() else package.parent / "Resources" / "Report" / "viewer.js"
    return path.read_text(encoding="utf-8")


STYLE = """
.viewer .bar { display: flex; flex-wrap: wrap; gap: .4rem .9rem; align-items: center; margin-bottom: .5rem; }
.viewer button, .viewer select { font: inherit; color: inherit; background: transparent; border: 1px solid var(--line);
  border-radius: 4px; padding: .1rem .5rem; } .viewer option { color: #000; background: #fff; }
.viewer input { vertical-align: middle; } .viewer label { color: var(--soft); font-size: .9rem; }
.stage { display: grid; grid-template-columns: fit-content(calc(100% - 17.2rem)) 16rem; gap: 1.2rem;
  align-items: start; }
@media (max-width: 900px) { .stage { grid-template-columns: 1fr; } }
.stage canvas { display: block; width: auto; height: auto; max-width: 100%; max-height: 88vh; background: #000;
  border-radius: 4px; touch-action: none; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.beside { font-size: .9rem; }
.beside output { display: block; white-space: pre-line; min-height: 7.5em; }
.ramp { height: .8rem; width: 12rem; border: 1px solid var(--line); margin: .2rem 0; }
.places { display: flex; flex-direction: column; gap: .25rem; margin-top: .8rem; align-items: stretch; max-height: 50vh;
  overflow-y: auto; } .places button { text-align: left; font-variant-numeric: tabular-nums; }
@media print { .viewer .bar, .places { display: none; } }
"""
