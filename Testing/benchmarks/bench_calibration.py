"""The kernel and the photons that `ascon simulate` finds, and the texture of the noise that it adds: a line per scan.

    python Testing/benchmarks/bench_calibration.py [FOLDER_OR_FILE...]

A folder means all its .nii.gz files. Without arguments, phantoms are scanned with known kernels and photons, and the
truth stands beside what is found. Columns: pixel [mm], cut-off [cycles/mm] and order of the kernel, photons per ray
(thousands: least, median, most of the slices), and the noise power at 0.03 cycles/mm over its mean up to the Nyquist
frequency of the pixels: as it follows from ramp and kernel, and, of phantoms, as measured in the added noise. Below
stand the notes of the calibrations.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.imaging.noise_spectrum import nps
from ASCONDenoiseLib.io.reading import read_volume
from ASCONDenoiseLib.physics import calibration, dose, phantoms
from ASCONDenoiseLib.physics.settings import DoseSettings, Kernel
from ASCONDenoiseLib.reports.text_table import aligned

COARSE_PER_MM = 0.03
VIEWS = 492
NPS_SIDE_PX = 128

PHANTOMS = {"abdomen": ((10, 320, 320), (1.1, 1.1, 5.0)), "chest": ((10, 420, 420), (0.8, 0.8, 5.0)),
            "head": ((8, 448, 448), (0.45, 0.45, 5.0))}  # fmt: skip
KNOWN = ((Kernel(0.36, 1.8), 4e5), (Kernel(0.45, 2.2), 1e5), (Kernel(0.45, 2.2), 1e6), (Kernel(0.55, 2.8), 4e5))


@dataclass
class Found:
    """What one calibration found, as cells of a table, as settings of a quarter dose, and its notes."""

    cells: list[str]
    notes: tuple[str, ...] = ()
    quarter: DoseSettings | None = None


def calibrated(voxels: np.ndarray, spacing_mm: tuple[float, float, float], settings: DoseSettings) -> Found:
    try:
        photons, kernel = calibration.calibrate(voxels, spacing_mm, settings)
    except InputError as error:
        return Found(["-"] * 4, (str(error),))
    thousands = " ".join(f"{n / 1000:.0f}" for n in np.quantile(photons, (0, 0.5, 1)))
    coarse = f"{coarse_power(kernel, spacing_mm[0]):.2f}"
    cells = [f"{kernel.cutoff_per_mm:.2f}", f"{kernel.order:.1f}", thousands, coarse]
    quarter = replace(settings, dose=0.25, photons=float(np.median(photons)), kernel=kernel)
    return Found(cells, calibration.doubts(photons, kernel, settings), quarter)


def coarse_power(kernel: Kernel, pixel_mm: float) -> float:
    """Return the noise power at COARSE_PER_MM over its mean up to the Nyquist frequency."""
    frequency = np.linspace(0, 0.5 / pixel_mm, 500)

    def power(f):
        return f * np.exp(-2 * (f / kernel.cutoff_per_mm) ** kernel.order)

    return float(power(COARSE_PER_MM) / power(frequency).mean())


def measured_coarse_power(noise: np.ndarray, spacing_mm: tuple[float, float, float]) -> float:
    """Return the same of noise (S, H, W), in the middle of its slices."""
    top, left = ((side - NPS_SIDE_PX) // 2 for side in noise.shape[1:])
    spectrum = nps(noise[:, top : top + NPS_SIDE_PX, left : left + NPS_SIDE_PX], spacing_mm)
    return float(np.interp(COARSE_PER_MM, spectrum.frequency, spectrum.power) / spectrum.power.mean())


def files_of(paths: list[Path]) -> list[Path]:
    return [file for path in paths for file in (sorted(path.glob("*.nii.gz")) if path.is_dir() else [path])]


def scans(paths: list[Path]) -> None:
    rows = [["scan", "pixel", "cut-off", "order", "photons (1000)", "power at 0.03/mm"]]
    notes = []
    for file in files_of(paths):
        name, volume = file.name.removesuffix(".nii.gz"), read_volume(file)
        found = calibrated(volume.voxels, volume.geometry.spacing_mm, DoseSettings())
        rows.append([name, f"{volume.geometry.spacing_mm[0]:.3f}", *found.cells])
        notes += [f"{name}: {note}" for note in found.notes]
    print("\n".join([aligned(rows), *notes]))


def known_phantoms() -> None:
    rows = [["phantom", "true kernel", "photons", "cut-off", "order", "photons (1000)", "power at 0.03/mm: found",
             "true", "added"]]  # fmt: skip
    notes = []
    for kind, (shape, spacing_mm) in PHANTOMS.items():
        clean = phantoms.ANATOMY[kind](3, shape, spacing_mm).voxels_hu
        for kernel, photons in KNOWN:
            truth = DoseSettings(kernel=kernel, photons=photons, views=VIEWS, seed=1)
            ndct = np.rint(dose.scan(clean, spacing_mm, truth)).astype(np.int16)
            found = calibrated(ndct, spacing_mm, DoseSettings(views=VIEWS))
            added = "-"
            if found.quarter:
                noise = dose.simulate(ndct.astype(np.float32), spacing_mm, found.quarter).voxels - ndct
                added = f"{measured_coarse_power(noise, spacing_mm):.2f}"
            rows.append(
                [
                    kind,
                    f"{kernel.cutoff_per_mm:.2f} {kernel.order:.1f}",
                    f"{photons / 1000:.0f}",
                    *found.cells,
                    f"{coarse_power(kernel, spacing_mm[0]):.2f}",
                    added,
                ]
            )
            notes += [f"{kind}, {kernel}: {note}" for note in found.notes]
    print("\n".join([aligned(rows), *notes]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", type=Path)
    paths = parser.parse_args().paths
    if paths:
        scans(paths)
    else:
        known_phantoms()


if __name__ == "__main__":
    main()
