"""The scans of the demonstration: two real slices that come with pydicom, three phantoms, or one's own scan."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.io.reading import read_volume
from ASCONDenoiseLib.io.volume import Geometry, Volume
from ASCONDenoiseLib.physics.settings import phantom_settings

PHANTOM_SHAPE = (5, 512, 512)
PHANTOM_SPACING_MM = (0.68, 0.68, 3.0)
HEAD_ZOOM = 1.5
"""The pixels of a head are smaller by this factor."""
PHANTOM_SEEDS = {"abdomen": 1_000_000, "chest": 1_000_005, "head": 1_000_010}
"""Patients that no training has seen: its seeds are small numbers."""

MAX_SLICES = 8
"""Of one's own scan: more would take a CPU many minutes."""

SSIM_WINDOW_PX = 11


@dataclass(frozen=True)
class Scan:
    """A scan at normal dose.

    Attributes:
        name: of its folder and pictures.
        title: of its part of the report.
        text: what it is, for the report.
        ndct: the scan.
        windows: display windows of its pictures, names in DISPLAY_WINDOWS_HU.
        settings: known facts of the scan, as arguments of DoseSettings; what is missing is measured.
        truth_hu: (S, H, W) a phantom without noise.
    """

    name: str
    title: str
    text: str
    ndct: Volume
    windows: tuple[str, ...] = ("abdomen",)
    settings: dict[str, Any] = field(default_factory=dict)
    truth_hu: np.ndarray | None = None


def default_scans() -> list[Scan]:
    """Return phantoms of abdomen, chest and head, and two real slices that come with pydicom, a spine and a head."""
    head, spine = (_bundled(name) for name in ("J2K_pixelrep_mismatch.dcm", "CT_small.dcm"))
    return [
        _phantom("abdomen", ("abdomen",)),
        _phantom("chest", ("abdomen", "lung")),
        _phantom("head", ("brain", "bone")),
        Scan(
            "spine",
            "Thoracic spine, a real cut-out",
            "One 5 mm slice, 128 x 128, of the sample files that come with pydicom. It is a cut-out of a larger image, "
            "so the simulated rays miss what lies around it.",
            spine,
        ),
        Scan(
            "head",
            "Head, a real slice",
            "One 5 mm slice through the posterior fossa, 512 x 512, of the sample files that come with pydicom.",
            head,
            windows=("abdomen", "brain"),
        ),
    ]


def own_scan(path: str | Path, series_uid: str | None = None) -> Scan:
    """Read the middle MAX_SLICES slices of the user's scan. Raises InputError as `io.reading.read_volume`."""
    volume = read_volume(path, series_uid)
    total, *sides = volume.voxels.shape
    if min(sides) < SSIM_WINDOW_PX:
        raise InputError(
            f"{path} has slices of {sides[0]} x {sides[1]} pixels: to be measured they need "
            f"{SSIM_WINDOW_PX} x {SSIM_WINDOW_PX} or more."
        )
    first = max(0, (total - MAX_SLICES) // 2)
    kept = slice(first, first + MAX_SLICES)
    text = f"All {total} slices." if total <= MAX_SLICES else f"Slices {first + 1} to {kept.stop} of {total}."
    return Scan("scan", Path(path).resolve().name, text, _cut(volume, kept), windows=("abdomen", "lung"))


def _cut(volume: Volume, kept: slice) -> Volume:
    """Cut some slices out of a volume; they stay where they lie."""
    geometry = volume.geometry
    normal = np.reshape(geometry.direction, (3, 3))[:, 2]
    x, y, z = map(float, np.asarray(geometry.origin_mm) + kept.start * geometry.spacing_mm[2] * normal)
    moved = replace(geometry, origin_mm=(x, y, z))
    return replace(volume, voxels=volume.voxels[kept], geometry=moved, source=None)


def _bundled(name: str) -> Volume:
    from pydicom.data import get_testdata_file

    path = get_testdata_file(name, download=False)
    if path is None:
        raise InputError(f"pydicom's sample file {name} is missing: reinstall pydicom, or use your own scan (--input).")
    return read_volume(str(path))


def _phantom(kind: str, windows: tuple[str, ...]) -> Scan:
    """Scan a phantom at normal dose."""
    from ASCONDenoiseLib.physics.dose import scan
    from ASCONDenoiseLib.physics.phantoms import ANATOMY

    x_mm, y_mm, z_mm = PHANTOM_SPACING_MM
    zoom = HEAD_ZOOM if kind == "head" else 1.0
    spacing_mm = (x_mm / zoom, y_mm / zoom, z_mm)
    phantom = ANATOMY[kind](PHANTOM_SEEDS[kind], PHANTOM_SHAPE, spacing_mm)
    truth_hu = np.rint(phantom.voxels_hu).astype(np.int16)
    settings = phantom_settings(kind)
    ndct_hu = scan(truth_hu, spacing_mm, settings)
    return Scan(
        f"{kind}-phantom",
        f"{kind.capitalize()}, a phantom",
        "Computed anatomy, scanned by the same simulation at normal dose. What the images should show is known here: "
        "the phantom without noise.",
        Volume(ndct_hu, Geometry(spacing_mm)),
        windows,
        {"photons": settings.photons, "kernel": settings.kernel},
        truth_hu,
    )
