"""Slices side by side in one PNG: images in a display window, differences and clusters in colours, drawings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.imaging.clustering import COLOURS
from ASCONDenoiseLib.imaging.difference import DIFFERENCE_LIMIT_HU, difference_colours
from ASCONDenoiseLib.imaging.hounsfield import DISPLAY_WINDOWS_HU, to_gray
from ASCONDenoiseLib.io.atomic import atomic_file

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

Colour = tuple[int, int, int]

MIN_SIDE_PX = 384
MARGIN_PX, GAP_PX = 18, 12
WHITE, GREY = (238, 238, 238), (165, 165, 165)


@dataclass(frozen=True)
class Panel:
    """One picture.

    Attributes:
        title: above it.
        image_hu: a slice (H, W) in HU, or a drawing (h, w, 3) uint8, which is fitted in.
        caption: below it.
        difference: whether the slice is a difference, denoised less LDCT, to be shown in colours.
        labels: (H, W) clusters from 1 on, painted over the slice in their colours.
        opacity: of the labels.
    """

    title: str
    image_hu: np.ndarray
    caption: str = ""
    difference: bool = False
    labels: np.ndarray | None = None
    opacity: float = 1.0


def side_by_side_png(
    panels: Sequence[Panel],
    path: str | Path,
    *,
    window_hu: tuple[float, float] = DISPLAY_WINDOWS_HU["abdomen"],
    difference_hu: float = DIFFERENCE_LIMIT_HU,
    spacing_mm: tuple[float, ...] = (1.0, 1.0),
    footer: str = "",
    columns: int | None = None,
) -> Path:
    """Write the panels on black, each with title and caption.

    Slices keep their proportions; shorter sides than MIN_SIDE_PX are magnified by a whole number, bicubic, and the
    footer says so. Differences have a bar.

    Args:
        panels: all slices of one shape.
        path: the PNG file, which is replaced.
        window_hu: lowest and highest HU shown.
        difference_hu: differences are shown from minus to plus this.
        spacing_mm: (x, y, ...).
        footer: what stands first below the panels.
        columns: panels in a row; None puts all into one.

    Returns:
        The path.

    Raises:
        InputError: panels are missing or differ in shape.
        WriteError: the disk is full or protected.
    """
    from PIL import Image, ImageDraw

    shapes = {np.shape(panel.image_hu) for panel in panels if np.ndim(panel.image_hu) != 3}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2:
        raise InputError(f"A picture needs slices (rows, columns) of one shape; got {sorted(shapes)}.")
    rows, columns_px = shapes.pop()
    width, height, zoom = _shown_size(rows, columns_px, spacing_mm)
    across = min(columns or len(panels), len(panels))
    down = -(-len(panels) // across)
    pitch = width + GAP_PX
    small = max(14, min(round(pitch * across / 110), 20))  # legible when a wide picture is shown smaller
    large, bar = round(1.3 * small), 5 * small if any(panel.difference for panel in panels) else 0
    title_px, caption_px = large + 10, 8 + (2 * small if any(panel.caption for panel in panels) else small // 2)
    row_px = title_px + height + caption_px
    footer_y = MARGIN_PX + down * row_px
    size = (2 * MARGIN_PX + pitch * across - GAP_PX + bar, footer_y + small + MARGIN_PX)
    canvas = Image.new("RGB", size)
    draw = ImageDraw.Draw(canvas)
    for i, panel in enumerate(panels):
        x, y = MARGIN_PX + i % across * pitch, MARGIN_PX + i // across * row_px
        shown = _shown(panel, width, height, window_hu, difference_hu)
        canvas.paste(shown, (x + (width - shown.width) // 2, y + title_px + (height - shown.height) // 2))
        _write(draw, (x, y), panel.title, large, WHITE, width)
        _write(draw, (x, y + title_px + height + 8), panel.caption, small, GREY, width)
    if bar:
        corner = (size[0] - MARGIN_PX - bar + GAP_PX, MARGIN_PX + title_px)
        _draw_bar(canvas, draw, corner, height, small, difference_hu)
    low, high = window_hu
    facts = [
        f"window [{low:g}, {high:g}] HU",
        f"{columns_px} x {rows} pixels of {spacing_mm[0]:.3g} x {spacing_mm[1]:.3g} mm",
    ]
    line = ",   ".join(([footer] if footer else []) + facts + ([f"magnified {zoom}x (bicubic)"] if zoom > 1 else []))
    _write(draw, (MARGIN_PX, footer_y), line, small, GREY, size[0] - 2 * MARGIN_PX)
    with atomic_file(path) as file:
        canvas.save(file, "PNG", optimize=True)
    return Path(path)


def _shown_size(rows: int, columns: int, spacing_mm: tuple[float, ...]) -> tuple[int, int, int]:
    """Return width and height on the picture, and the magnification of the finer axis."""
    x, y = spacing_mm[:2]
    width, height = columns * x / min(x, y), rows * y / min(x, y)
    zoom = max(int(np.ceil(MIN_SIDE_PX / max(width, height))), 1)
    return max(round(width * zoom), 1), max(round(height * zoom), 1), zoom


def _shown(panel: Panel, width: int, height: int, window_hu: tuple[float, float], difference_hu: float) -> Image.Image:
    """Draw a panel: (width, height) or, where it is a drawing, as large as fits in there."""
    from PIL import Image

    if np.ndim(panel.image_hu) == 3:
        drawing = Image.fromarray(panel.image_hu)
        scale = min(width / drawing.width, height / drawing.height)
        return drawing.resize((round(drawing.width * scale), round(drawing.height * scale)), Image.Resampling.LANCZOS)
    shown = _colours(_resized(panel.image_hu, width, height), panel.difference, window_hu, difference_hu)
    if panel.labels is not None:
        labels = Image.fromarray(np.asarray(panel.labels, np.uint8)).resize((width, height), Image.Resampling.NEAREST)
        labels = np.asarray(labels)
        paint = np.array([(0, 0, 0), *COLOURS], float)[labels]
        opacity = panel.opacity * (labels > 0)[..., None]
        shown = (shown + opacity * (paint - shown)).round().astype(np.uint8)
    return Image.fromarray(shown)


def _resized(image_hu: np.ndarray, width: int, height: int) -> np.ndarray:
    from PIL import Image

    image = np.asarray(image_hu, np.float32)
    if image.shape == (height, width):
        return image  # pixel for pixel
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def _colours(
    image_hu: np.ndarray, difference: bool, window_hu: tuple[float, float], difference_hu: float
) -> np.ndarray:
    """Turn HU (H, W) into colours (H, W, 3), uint8."""
    if not difference:
        return np.repeat(to_gray(image_hu, window_hu)[..., None], 3, axis=2)
    return (255 * difference_colours(image_hu / difference_hu)).round().astype(np.uint8)


def _draw_bar(
    canvas: Image.Image,
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    height: int,
    font_px: int,
    difference_hu: float,
) -> None:
    """Draw the scale of the differences' colours, in HU."""
    from PIL import Image

    x, y = corner
    ramp = np.repeat(np.linspace(difference_hu, -difference_hu, height)[:, None], font_px, axis=1)
    canvas.paste(Image.fromarray(_colours(ramp, True, (0, 1), difference_hu)), corner)
    for part in (1, 0.5, 0, -0.5, -1):
        middle = y + round((1 - part) / 2 * (height - 1))
        label_y = min(max(middle - font_px // 2 - 2, y - 3), y + height - font_px - 1)
        label = f"{part * difference_hu:+g}" if part else "0 HU"
        draw.line((x + font_px, middle, x + font_px + 4, middle), fill=GREY)
        _write(draw, (x + font_px + 8, label_y), label, font_px - 1, GREY, 4 * font_px)


def _write(
    draw: ImageDraw.ImageDraw, corner: tuple[int, int], text: str, font_px: int, colour: Colour, width: int
) -> None:
    """Write one line of text, shortened where it is wider than `width`."""
    from PIL import ImageFont

    font = ImageFont.load_default(font_px)
    shown = text
    while font.getlength(shown) > width and len(shown) > 4:
        shown = shown[:-4].rstrip() + "..."
    draw.text(corner, shown, font=font, fill=colour)
