"""What was measured as rows of text, with the same headings in the panel, in reports and on the command line.

The first row is the header. `_` translates the words; numbers are not translated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ASCONDenoiseLib.imaging.metrics import Comparison

Translate = Callable[[str], str]
Row = tuple[str, ...]

METRIC_COLUMNS = (
    ("PSNR [dB]", "psnr_db", 1, 2),
    ("SSIM x100", "ssim", 100, 2),
    ("RMSE x100", "rmse", 100, 3),
    ("RMSE [HU]", "rmse_hu", 1, 2),
)
"""Heading, name in metrics.METRICS, factor and digits of each metric."""

DISC = "Detectability of a disc of 6 mm and 20 HU, d'"
"""Of `image_quality.DISC_MM` and DISC_HU."""

_VOLUMES = ("before", "after", "reference")
"""LDCT, denoised and NDCT, as `image_quality.Quality` names them."""


def metric_tables(comparisons: Iterable[Comparison], *, per_slice: bool = False) -> dict[str, list[Row]]:
    """Make a table for each scale, under a title that names its window and range.

    A row is the mean ± sd over slices of one comparison, with `per_slice` after a row for each of its slices. The RMSE
    in the scale's units has a column where they are not HU.
    """
    tables: dict[str, list[Row]] = {}
    for c in comparisons:
        columns = [column for column in METRIC_COLUMNS if column[1] != "rmse" or c.scale.unit_hu != 1]
        title = f"{c.describe()}, mean ± sd of {len(c.rows)} slice{'s' if len(c.rows) > 1 else ''}"
        rows = tables.setdefault(title, [("", *(heading for heading, *_ in columns))])
        for row in c.rows if per_slice else ():
            cells = (mean_sd(getattr(row, metric), None, k, digits) for _, metric, k, digits in columns)
            rows.append((f"{c.name}, slice {row.index + 1}", *cells))
        left_out = f" ({c.identical_slices} identical slices not in PSNR)" if c.identical_slices else ""
        rows.append((c.name + left_out, *(mean_sd(*c.mean_sd(metric), k, digits) for _, metric, k, digits in columns)))
    return tables


def quality_rows(
    quality: Mapping[str, Any],
    denoised: str,
    metrics: Sequence[Mapping[str, Any]] = (),
    *,
    unknown: str = "",
    _: Translate = str,
) -> list[Row]:
    """Make a table of noise and metrics with a column for the LDCT, the denoised image and the NDCT, if there is one.

    Args:
        quality: `image_quality.Quality` as a dictionary.
        denoised: heading of the denoised image's column.
        metrics: `metrics.Comparison` as dictionaries, of "LDCT" and "denoised".
        unknown: what a cell says whose number could not be measured; rows without any text are left out.
        _: translates.
    """
    q, of = quality, {numbers["name"]: numbers for numbers in metrics}
    noise, textures = ([q[f"{what}_{which}"] for which in _VOLUMES] for what in ("noise", "texture"))
    rows = [
        (_("Measure"), "LDCT", denoised, "NDCT"),
        (_("Noise in soft tissue, SD [HU]"), *(number(n and n["sd_hu"], 1, unknown) for n in noise)),
        (_("Noise removed [%]"), "", number(q["noise_reduction_percent"], 0, unknown), ""),
        (_("Noise frequency [1/mm]"), *(number(t and t["mean_frequency"], 2, unknown) for t in textures)),
        (_("Coarse noise, below 0.15/mm, SD [HU]"), *(number(t and t["coarse_hu"], 1, unknown) for t in textures)),
        (_(DISC), *(number(t and t["disc_detectability"], 1, unknown) for t in textures)),
    ]
    for heading, metric, factor, digits in METRIC_COLUMNS:
        if metric != "rmse":
            cells = [
                mean_sd(of[name]["mean"][metric], of[name]["sd"][metric], factor, digits) if name in of else ""
                for name in ("LDCT", "denoised")
            ]
            rows.append((heading, *cells, ""))
    last = 4 if q["has_reference"] else 3
    return [row[:last] for row in rows if any(row[1:last])]


def shift_rows(quality: Mapping[str, Any], digits: int, *, _: Translate = str) -> list[Row]:
    """Make a table of the mean HU of each tissue: before (in the NDCT, if there is one), shift of the denoised image.

    Args:
        quality: `image_quality.Quality` as a dictionary.
        digits: of the shift.
        _: translates.
    """
    tissues = _tissue_names(_)
    if quality["has_reference"]:
        header = "", "NDCT [HU]", _("HU shift from NDCT"), _("voxels")
    else:
        header = "", "LDCT [HU]", _("HU shift from LDCT"), _("voxels")
    rows: list[Row] = [header]
    for shift in quality["hu_shift"]:
        cells = number(shift["reference_hu"], 1), number(shift["shift_hu"], digits, sign=True), f"{shift['voxels']:,}"
        rows.append((tissues.get(shift["tissue"], shift["tissue"]), *cells))
    return rows


def _tissue_names(_: Translate) -> dict[str, str]:
    return {
        "air": _("air"),
        "lung": _("lung"),
        "fat": _("fat"),
        "soft tissue": _("soft tissue"),
        "contrast": _("contrast medium"),
        "bone": _("bone"),
    }


def number(value: float | None, digits: int, unknown: str = "", *, sign: bool = False) -> str:
    """Write a number; with `sign` also the plus of positive ones, never the minus of zero."""
    if value is None:
        return unknown
    text = f"{value:{'+' if sign else ''}.{digits}f}"
    return text.lstrip("+-") if float(text) == 0 else text


def mean_sd(mean: float | None, sd: float | None, factor: float, digits: int) -> str:
    """Write mean ± standard deviation.

    Args:
        mean: None stands for infinity in JSON: PSNR where nothing differs.
        sd: None or NaN where there is one value only; it is left out.
        factor: of both.
        digits: of both.
    """
    text = "inf" if mean is None else f"{mean * factor:.{digits}f}"
    return text if mean is None or sd is None or math.isnan(sd) else f"{text} ± {sd * factor:.{digits}f}"


def place_rows(places: Sequence[Mapping[str, Any]], *, _: Translate = str) -> list[Row]:
    """Make a table of the places where what denoising changed is no noise.

    Args:
        places: `noise_consistency.Place` as dictionaries; slices, rows and columns are shown from 1 on.
        _: translates.
    """
    tissues = _tissue_names(_) | {"between tissues": _("between tissues")}
    rows: list[Row] = [
        ("", _("Change [HU]"), _("Size [mm]"), _("Tissue"), _("SD of noise"), _("Slice"), _("Row"), _("Column"))
    ]
    for i, place in enumerate(places, start=1):
        tissue = tissues.get(place["tissue"], place["tissue"])
        rows.append(
            (
                str(i),
                number(-place["contrast_hu"], 1, sign=True),
                number(place["diameter_mm"], 0),
                _("{tissue}, at an edge").format(tissue=tissue) if place["at_edge"] else tissue,
                number(abs(place["z"]), 1),
                *(str(place[axis] + 1) for axis in ("slice_index", "row", "column")),
            )
        )
    return rows


def region_rows(
    regions: Mapping[str, Mapping[str, Mapping[str, Any]]],
    pairs: Mapping[str, Mapping[str, Any]],
    *,
    _: Translate = str,
) -> list[Row]:
    """Make a table of regions, a column for each image: mean ± SD of each; then contrast and CNR of the pair.

    Args:
        regions: name of the region -> name of the image -> `regions.Region` as a dictionary.
        pairs: name of the image -> `regions.RegionPair` as a dictionary; empty where there is none.
        _: translates.
    """
    images = list(next(iter(regions.values())))
    rows: list[Row] = [("", *images)]
    for name, of in regions.items():
        cells = (mean_sd(of[image]["mean_hu"], of[image]["sd_hu"], 1, 1) for image in images)
        voxels = next(iter(of.values()))["voxels"]
        rows.append((_("{region}, {voxels} voxels [HU]").format(region=name, voxels=voxels), *cells))
    if pairs:
        rows.append((_("Contrast [HU]"), *(number(pairs[image]["contrast_hu"], 1, sign=True) for image in images)))
        rows.append(("CNR", *(number(pairs[image]["cnr"], 2) for image in images)))
        kept = (pairs[image]["contrast_kept"] for image in images)
        rows.append((_("Contrast kept [%]"), *(number(None if k is None else 100 * k, 0) for k in kept)))
    return rows
