"""The anatomy in networks' features, as files: label maps, tables, scatter plots, a page like the paper's Fig. 3."""

from __future__ import annotations

import csv
import html
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ASCONDenoiseLib.imaging.hounsfield import DISPLAY_WINDOWS_HU
from ASCONDenoiseLib.io.results import VolumeFile, made_by, results_folder, write_results
from ASCONDenoiseLib.io.volume import Geometry, Volume, like
from ASCONDenoiseLib.messages import cluster_rows
from ASCONDenoiseLib.models.feature_clusters import Anatomy, Cluster, Points
from ASCONDenoiseLib.reports.page import Case, page
from ASCONDenoiseLib.reports.pictures import Colour, Panel, side_by_side_png
from ASCONDenoiseLib.reports.text_table import Table

if TYPE_CHECKING:
    from ASCONDenoiseLib.models.card import ModelCard

COMMAND, REPORT = "cluster", "report.html"

SUGGESTION = "Readings are suggestions: what most of a cluster's voxels are by their HU after denoising."
NOISE_REMOVED = "Noise removed: standard deviation of the input less the denoised image, over the cluster's voxels."
SEPARATION_NOTE = (
    "Of the points in the scatter plots, by all features. Silhouette: -1 to 1, higher is better. Davies-Bouldin and "
    "intra/inter (mean distance to the centre of the own cluster over that between centres): lower is better."
)
T_SNE_NOTE = "In a t-SNE plot, neighbours are alike; distances between clusters and their sizes mean little."

PLOT_PX = 900
FONT_PX = 15
LEGEND_PX = 330
LINE_PX = 26
POINT_PX = 3.2
BACKGROUND, TEXT = (14, 16, 18), (225, 225, 225)


@dataclass(frozen=True)
class ModelAnatomy:
    """The anatomy in the features of one model.

    Attributes:
        name: of its folder; unlike the others'.
        card: of the model.
        anatomy: clusters and points.
        denoised_hu: (S, H, W).
    """

    name: str
    card: ModelCard
    anatomy: Anatomy
    denoised_hu: np.ndarray


def write_anatomy(
    folder: str | Path,
    volume: Volume,
    source_name: str,
    models: Sequence[ModelAnatomy],
    *,
    shown: int,
    suffix: str = ".nrrd",
    warnings: Sequence[str] = (),
) -> dict[str, Any]:
    """Write a folder with the page REPORT and, for each model, label map, tables, pictures; return the results.

    Args:
        folder: as `io.results.check_results_folder` wants it.
        volume: the input.
        source_name: of its file or folder.
        models: with one its files lie in the folder itself, else each model's in one of its own.
        shown: the slice of the pictures.
        suffix: of the label maps.
        warnings: of `suitability`, for the records and the page.

    Raises:
        InputError, WriteError: as `io.results.results_folder`.
    """
    cases, results = [], []
    with results_folder(folder, COMMAND) as staging:
        for one in models:
            own = staging if len(models) == 1 else staging / one.name
            own.mkdir(exist_ok=True)
            results.append(_write_one(own, volume, source_name, one, suffix, warnings))
            cases.append(_case(own, volume, one, shown))
        pictures = [(_compared(staging, volume, models, shown), _describe(shown, models))] if len(models) > 1 else []
        first = Case(
            "Side by side" if pictures else "In numbers", pictures, [separation_table(models)], text=T_SNE_NOTE
        )
        facts = {"Source": source_name, "Slices": str(len(volume.voxels))}
        if remarks := " ".join((*volume.notes, *warnings)):
            facts["Remarks"] = remarks
        page(staging / REPORT, "Anatomy in the features", [first, *cases], facts=facts, text=_introduction(models))
        return write_results(staging, COMMAND, {"source": source_name, "warnings": list(warnings), "models": results})


def separation_table(models: Sequence[ModelAnatomy]) -> Table:
    """Make the table of how well each model's clusters part."""
    rows: list[tuple[str, ...]] = [("", "silhouette", "Davies-Bouldin", "intra/inter", "points")]
    for one in models:
        s = one.anatomy.separation
        numbers = (f"{s.silhouette:.3f}", f"{s.davies_bouldin:.3f}", f"{s.intra_inter:.3f}") if s else ("-",) * 3
        rows.append((f"{one.card.name} {one.card.version}", *numbers, f"{len(one.anatomy.points.xy):,}"))
    return Table("How well the clusters part", rows, SEPARATION_NOTE)


def to_ras(ijk: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Turn columns, rows, slices (N, 3) into right, anterior, superior in mm (N, 3); files use left, posterior."""
    steps = np.reshape(geometry.direction, (3, 3)) * geometry.spacing_mm
    return (ijk @ steps.T + geometry.origin_mm) * (-1, -1, 1)


def scatter_svg(points: Points, clusters: Sequence[Cluster]) -> str:
    """Draw the scatter plot with its legend as SVG; clusters bear their number where their points' median lies."""
    width = PLOT_PX + LEGEND_PX
    text = f'fill="rgb{TEXT}" font-size="{FONT_PX}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {PLOT_PX}" font-family="sans-serif">',
        f'<rect width="{width}" height="{PLOT_PX}" fill="rgb{BACKGROUND}"/>',
    ]
    xy, colours = _places(points.xy, PLOT_PX), _colours(points, clusters)
    for (x, y), colour in zip(xy, colours, strict=True):
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{POINT_PX}" fill="rgb{colour}"/>')
    for (x, y), label in _medians(xy, points.labels):
        for halo in (f'stroke="rgb{BACKGROUND}" stroke-width="4" ', ""):  # drawn first, then the number on it
            at = f'x="{x:.1f}" y="{y + FONT_PX / 3:.1f}" text-anchor="middle"'
            parts.append(f"<text {at} {halo}{text}>{label}</text>")
    for line, (colour, words) in enumerate(_legend(clusters), 1):
        y = LINE_PX * line
        parts.append(f'<rect x="{PLOT_PX}" y="{y}" width="14" height="14" fill="rgb{colour}"/>')
        parts.append(f'<text x="{PLOT_PX + 22}" y="{y + 13}" {text}>{html.escape(words)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def scatter_picture(points: Points, clusters: Sequence[Cluster], *, legend: bool = True) -> np.ndarray:
    """Draw the same as (PLOT_PX, PLOT_PX, 3) uint8, with a legend LEGEND_PX wider."""
    from PIL import Image, ImageDraw, ImageFont

    fine = 2  # drawn larger, then made smaller: smooth edges
    plot = Image.new("RGB", (fine * PLOT_PX, fine * PLOT_PX), BACKGROUND)
    draw, radius = ImageDraw.Draw(plot), fine * POINT_PX
    for (x, y), colour in zip(_places(points.xy, fine * PLOT_PX), _colours(points, clusters), strict=True):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    canvas = Image.new("RGB", (PLOT_PX + LEGEND_PX * legend, PLOT_PX), BACKGROUND)
    canvas.paste(plot.resize((PLOT_PX, PLOT_PX), Image.Resampling.LANCZOS))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(FONT_PX)
    for middle, label in _medians(_places(points.xy, PLOT_PX), points.labels):
        draw.text(middle, str(label), font=font, fill=TEXT, stroke_width=3, stroke_fill=BACKGROUND, anchor="mm")
    for line, (colour, words) in enumerate(_legend(clusters) if legend else [], 1):
        y = LINE_PX * line
        draw.rectangle((PLOT_PX, y, PLOT_PX + 13, y + 13), fill=colour)
        draw.text((PLOT_PX + 22, y - 2), words, font=font, fill=TEXT)
    return np.asarray(canvas)


def _places(xy: np.ndarray, side_px: float) -> np.ndarray:
    """Fit points (N, 2) into a square with a margin, both axes to one scale, y upwards."""
    middle = (xy.max(axis=0) + xy.min(axis=0)) / 2
    scale = 0.94 * side_px / max(float(np.ptp(xy, axis=0).max()), 1e-6)
    return (xy - middle) * (scale, -scale) + side_px / 2


def _colours(points: Points, clusters: Sequence[Cluster]) -> list[Colour]:
    by_label = {c.label: c.colour for c in clusters}
    return [by_label[label] for label in points.labels.tolist()]


def _medians(xy: np.ndarray, labels: np.ndarray) -> list[tuple[tuple[float, float], int]]:
    """Return where the middle of each cluster's points lies."""
    medians = ((np.median(xy[labels == label], axis=0).tolist(), label) for label in np.unique(labels).tolist())
    return [((x, y), label) for (x, y), label in medians]


def _legend(clusters: Sequence[Cluster]) -> list[tuple[Colour, str]]:
    return [(c.colour, f"{c.label}  {c.reading}, {c.mean_before_hu:.0f} HU") for c in clusters]


def _write_one(
    folder: Path, volume: Volume, source_name: str, one: ModelAnatomy, suffix: str, warnings: Sequence[str]
) -> dict[str, Any]:
    """Write a model's label map with its record, tables and scatter plots; return the record."""
    from PIL import Image

    anatomy, points = one.anatomy, one.anatomy.points
    clusters = [asdict(cluster) for cluster in anatomy.clusters]
    record = made_by(COMMAND, volume, source_name) | {
        "model": one.card.name,
        "model_version": one.card.version,
        "model_sha256": one.card.sha256,
        "device": anatomy.device,
        "precision": anatomy.precision,
        "settings": asdict(anatomy.settings),
        "fit_slices": anatomy.fit_slices,
        "seconds": round(anatomy.seconds, 2),
        "notes": [*volume.notes, *anatomy.notes],
        "warnings": list(warnings),
        "separation": asdict(anatomy.separation) if anatomy.separation else None,
        "clusters": clusters,
    }
    VolumeFile(folder / f"labels{suffix}").write(like(volume, anatomy.labels), record)
    rows = [(c | {"colour": "#{:02x}{:02x}{:02x}".format(*c["colour"])}).values() for c in clusters]
    _write_csv(folder / "clusters.csv", list(clusters[0]), rows)
    header = ("i", "j", "k", "r_mm", "a_mm", "s_mm", "cluster", "hu", "x", "y")
    ras = to_ras(points.ijk, volume.geometry).round(3)
    columns = (*points.ijk.T, *ras.T, points.labels, points.hu, *points.xy.astype(np.float64).round(4).T)
    _write_csv(folder / "t-sne.csv", header, zip(*(column.tolist() for column in columns), strict=True))
    (folder / "t-sne.svg").write_text(scatter_svg(points, anatomy.clusters), encoding="utf-8")
    Image.fromarray(scatter_picture(points, anatomy.clusters)).save(folder / "t-sne.png", optimize=True)
    return record


def _write_csv(path: Path, header: Sequence[str], rows: Any) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def _case(folder: Path, volume: Volume, one: ModelAnatomy, shown: int) -> Case:
    """Make a model's part of the page."""
    before, after, labels = volume.voxels[shown], one.denoised_hu[shown], one.anatomy.labels[shown]
    panels = [
        Panel("Input", before),
        Panel("Denoised", after, "strength 1"),
        Panel("Clusters", after, labels=labels),
        Panel("Clusters over the denoised image", after, labels=labels, opacity=0.4),
    ]
    path = _picture(folder / "clusters.png", volume, panels, shown)
    anatomy = one.anatomy
    colours = [cluster.colour for cluster in anatomy.clusters]
    rows = cluster_rows([asdict(cluster) for cluster in anatomy.clusters])
    table = Table("Clusters, by their mean HU before", rows, f"{SUGGESTION} {NOISE_REMOVED}", colours)
    facts = {
        "Model": f"{one.card.name}, version {one.card.version}",
        "SHA-256 of the weights": one.card.sha256,
        "Trained with": f"preset {one.card.preset}",
        "Run on": f"{anatomy.device}, {anatomy.precision}, {anatomy.seconds:.0f} s",
        "K-means": f"{anatomy.settings.clusters} clusters, fitted on {anatomy.fit_slices} slices, "
        f"seed {anatomy.settings.seed}",
        **({"Notes": " ".join(anatomy.notes)} if anatomy.notes else {}),
    }
    pictures = [(path, _describe(shown, [one])), (folder / "t-sne.png", f"t-SNE of {len(anatomy.points.xy):,} voxels.")]
    return Case(f"{one.card.name} {one.card.version}", pictures, [table], facts)


def _compared(folder: Path, volume: Volume, models: Sequence[ModelAnatomy], shown: int) -> Path:
    """Draw the paper's Fig. 3: a column for each model, with image, clusters and scatter plot."""
    rows: list[list[Panel]] = [[], [], []]
    for one in models:
        title = f"{one.card.name} {one.card.version}"
        image, labels, s = one.denoised_hu[shown], one.anatomy.labels[shown], one.anatomy.separation
        drawing = scatter_picture(one.anatomy.points, one.anatomy.clusters, legend=False)
        rows[0].append(Panel(title, image, "denoised, strength 1"))
        rows[1].append(Panel("", image, "clusters of its features", labels=labels))
        rows[2].append(Panel("", drawing, f"t-SNE, silhouette {s.silhouette:.3f}" if s else "t-SNE"))
    panels = [panel for row in rows for panel in row]
    return _picture(folder / "side-by-side.png", volume, panels, shown, columns=len(models))


def _picture(path: Path, volume: Volume, panels: Sequence[Panel], shown: int, **options: Any) -> Path:
    return side_by_side_png(
        panels,
        path,
        window_hu=DISPLAY_WINDOWS_HU["abdomen"],
        spacing_mm=volume.geometry.spacing_mm,
        footer=f"slice {shown + 1} of {len(volume.voxels)}",
        **options,
    )


def _describe(shown: int, models: Sequence[ModelAnatomy]) -> str:
    names = " and ".join(f"{one.card.name} {one.card.version}" for one in models)
    return f"Slice {shown + 1}: denoised, and the clusters of the features before the last layer; {names}."


def _introduction(models: Sequence[ModelAnatomy]) -> str:
    both = " Each model's features were clustered on their own, with the same voxels." if len(models) > 1 else ""
    residual = " and ".join(one.card.name for one in models if one.card.settings.get("residual"))
    image = f" With {residual}, whose features hold noise, the denoised image is one of them." if residual else ""
    return (
        "The features that a denoising network has before its last layer, clustered by K-means over the whole volume, "
        "each voxel of the body shown in the colour of its cluster, as in Fig. 3 of the ASCON paper. Clusters are "
        f"numbered by their mean HU.{both}{image}"
    )
