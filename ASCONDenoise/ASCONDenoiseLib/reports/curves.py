"""Curves of image quality, as PNG and SVG: noise spectra, local noise levels. Drawn by matplotlib, without a window."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ASCONDenoiseLib.io.atomic import atomic_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ASCONDenoiseLib.imaging.noise_spectrum import Texture

COLOURS = {"LDCT": "#c2410c", "denoised": "#1d4ed8", "NDCT": "#15803d"}
"""Of each image's curve, in the page and in the panel."""

SIZE_INCHES, DPI = (6.4, 3.6), 150


def spectrum(path: str | Path, textures: Mapping[str, Texture]) -> Path:
    """Draw the radial noise power spectra of several images into one file.

    Args:
        path: ends in .png or .svg; is replaced.
        textures: name of the image -> its spectrum.
    """

    def draw(axes: Axes) -> None:
        for name, texture in textures.items():
            label = f"{name}, mean {texture.mean_frequency:.2f}/mm"
            axes.plot(texture.frequency, texture.power, color=COLOURS.get(name), label=label)
        axes.set(xlabel="spatial frequency [1/mm]", ylabel="noise power [HU² mm²]")
        axes.set_ylim(bottom=0)

    return _write(Path(path), draw)


def noise_levels(path: str | Path, maps_hu: Mapping[str, np.ndarray]) -> Path:
    """Draw how often each local noise level occurs, of several noise maps with nan where there is none.

    Args:
        path: ends in .png or .svg; is replaced.
        maps_hu: name of the image -> its noise map.
    """
    known = {name: values[np.isfinite(values)] for name, values in maps_hu.items()}
    last = max((float(np.quantile(values, 0.95)) for values in known.values() if values.size), default=1.0)
    bins = np.linspace(0, max(last, 1.0), 80).tolist()

    def draw(axes: Axes) -> None:
        for name, values in known.items():
            if not values.size:
                continue
            axes.hist(values, bins, density=True, histtype="step", color=COLOURS.get(name), label=name, linewidth=1.5)
        axes.set(xlabel="local noise, SD [HU]", ylabel="share of the patient [1/HU]")

    return _write(Path(path), draw)


def _write(path: Path, draw: Any) -> Path:
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    style: Any = {"svg.hashsalt": "ASCON", "svg.fonttype": "path", "font.size": 9, "axes.spines.top": False}
    style |= {"axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25}
    with mpl.rc_context(style):
        figure = Figure(figsize=SIZE_INCHES, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        draw(axes)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False)
        with atomic_file(path) as file:
            metadata = {"Date": None} if path.suffix == ".svg" else None
            figure.savefig(file, format=path.suffix[1:], dpi=DPI, metadata=metadata)
    return path
