"""The measurements of safety as text, as CSV and as a picture."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from ASCONTrainingLib.evaluation.lesions import LesionPoint
from ASCONTrainingLib.evaluation.safety import MIN_KEPT, MIN_SNR, Safety
from ASCONTrainingLib.evaluation.tables import csv_text

COLOURS = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233), (0, 0, 0))
"""Okabe and Ito's colours, which colour-blind people tell apart."""
KEPT = {True: "yes", False: "NO ", None: "not measured"}
"""Of a limit, as `Safety.limits_kept` has it."""


def write(results: Sequence[Safety], folder: Path) -> None:
    """Write safety.txt, safety.json, lesions.csv and lesions.png."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = {
        "safety.txt": text(results) + "\n",
        "safety.json": json.dumps([safety.to_dict() for safety in results], indent=1) + "\n",
        "lesions.csv": lesions_csv(results),
    }
    for name, content in contents.items():
        (folder / name).write_text(content, encoding="utf-8")
    lesions_png(results, folder / "lesions.png")


def text(results: Sequence[Safety]) -> str:
    """All of it as lines for a terminal."""
    return "\n\n".join(map(_text_of_one, results))


def _text_of_one(safety: Safety) -> str:
    lines = [safety.name]
    lines += [f"  {KEPT[kept]}  {limit}" for limit, kept in safety.limits_kept().items()]
    shifts = ", ".join(f"{s.tissue} {s.shift_hu:+.2f}" for s in safety.shifts)
    lines.append(f"  mean HU shift against the NDCT: {shifts or 'no tissue found'}")
    for e in safety.edges:
        widths = f"lost, {e.reference_mm:.2f} mm wide before"
        if e.output_mm is not None:
            widths = f"{e.output_mm:.2f} mm against {e.reference_mm:.2f} mm, {e.ratio:.2f} times"
        lines.append(f"  edge, {e.where} ({e.contrast_hu:+.0f} HU, {e.count}): {widths}")
    if safety.residual_structure is not None:
        ideal = "" if safety.ideal_structure is None else f" ({safety.ideal_structure:.3f} if only noise were removed)"
        lines.append(f"  structure in the residual: {safety.residual_structure:.3f}{ideal}")
    for n in safety.pure_noise:
        change = f"{n.ldct_hu:.1f} HU before ({n.ldct_sd:.1f} sd), {n.output_hu:.1f} after ({n.output_sd:.1f} sd)"
        lines.append(f"  pure noise, what looks most like a lesion of {n.diameter_mm:g} mm: {change}")
    lines.append(f"  pure noise, fixed pattern: {safety.fixed_pattern_hu:.2f} HU")
    for d in safety.detectability:
        change = f"d' {d.ldct:.2f} before, {d.output:.2f} after ({d.count} times)"
        lines.append(f"  disc of {d.contrast_hu:g} HU and {d.diameter_mm:g} mm in a cylinder: {change}")
    for p in safety.lesions:
        kind = f"{p.contrast_hu:g} HU, {p.diameter_mm:g} mm, dose {p.dose:g}"
        spread = f"{p.count} times" if p.kept_sd is None else f"sd {p.kept_sd:.1%}, {p.count} times"
        lines.append(f"  lesion of {kind}: SNR {p.snr:.1f}, keeps {p.kept:.1%} ({spread})")
    return "\n".join(lines)


def lesions_csv(results: Sequence[Safety]) -> str:
    """The curve of contrast kept against SNR, a row for each kind of lesion of each denoiser."""
    names = ["name", *LesionPoint.__dataclass_fields__]
    return csv_text([{"name": one.name} | asdict(point) for one in results for point in one.lesions], names)


def lesions_png(results: Sequence[Safety], path: Path) -> Path:
    """The same as a picture: SNR to the right (logarithmic), contrast kept upwards, a colour for each denoiser."""
    from PIL import Image, ImageDraw, ImageFont

    width, height, left, top, right, bottom = 900, 600, 80, 30, 30, 70
    canvas = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(15)
    points = [point for safety in results for point in safety.lesions]
    snr = [point.snr for point in points] or [1.0]
    low, high = math.log10(min(*snr, MIN_SNR) * 0.8), math.log10(max(*snr, MIN_SNR) * 1.25)
    ceiling = max([1.2, *(point.kept for point in points)])

    def place(value: float, kept: float) -> tuple[float, float]:
        x = left + (math.log10(value) - low) / (high - low) * (width - left - right)
        return x, height - bottom - max(kept, 0) / ceiling * (height - top - bottom)

    for kept in np.arange(0, ceiling + 0.01, 0.2):
        _, y = place(MIN_SNR, kept)
        draw.line((left, y, width - right, y), fill=(220, 220, 220))
        draw.text((left - 50, y - 9), f"{kept:.0%}", fill="black", font=font)
    for value in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200):
        if low <= math.log10(value) <= high:
            x, _ = place(value, 0)
            draw.line((x, top, x, height - bottom), fill=(220, 220, 220))
            draw.text((x - 8, height - bottom + 6), f"{value:g}", fill="black", font=font)
    corner, (end, base) = place(MIN_SNR, MIN_KEPT), place(10**high, 0)
    draw.line((*corner, end, corner[1]), fill=(120, 120, 120), width=2)
    draw.line((*corner, corner[0], base), fill=(120, 120, 120), width=2)
    for number, safety in enumerate(results):
        colour = COLOURS[number % len(COLOURS)]
        for point in safety.lesions:
            x, y = place(point.snr, point.kept)
            draw.ellipse((x - 4, y - 4, x + 4, y + 4), outline=colour, width=2)
        draw.text((left + 12, top + 4 + 20 * number), safety.name, fill=colour, font=font)
    title = "matched-filter SNR in the LDCT; upwards: contrast kept. Right of and above the grey corner is wanted."
    draw.text((left, height - 34), title, fill="black", font=font)
    canvas.save(path)
    return path
