"""The kernel and the photons that `ascon simulate` finds in scans: one line per scan.

    python Testing/benchmarks/bench_calibration.py FOLDER_OR_FILE...

A folder means all its .nii.gz files. Columns: pixel [mm], cut-off [cycles/mm] and order of the kernel, photons per ray
(thousands: least, median, most of the slices), the noise power at 0.03 cycles/mm over its mean up to the Nyquist
frequency of the pixels, as it follows from ramp and kernel, and seconds. Below stand the notes of the calibrations.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.io.reading import read_volume
from ASCONDenoiseLib.physics import calibration
from ASCONDenoiseLib.physics.settings import DoseSettings, Kernel
from ASCONDenoiseLib.reports.text_table import aligned

COARSE_PER_MM = 0.03


def coarse_power(kernel: Kernel, pixel_mm: float) -> float:
    """Return the noise power at COARSE_PER_MM over its mean up to the Nyquist frequency."""
    nyquist = np.linspace(0, 0.5 / pixel_mm, 500)

    def power(f):
        return f * np.exp(-2 * (f / kernel.cutoff_per_mm) ** kernel.order)

    return float(power(COARSE_PER_MM) / power(nyquist).mean())


def files_of(paths: list[Path]) -> list[Path]:
    return [file for path in paths for file in (sorted(path.glob("*.nii.gz")) if path.is_dir() else [path])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", type=Path)
    rows = [["scan", "pixel", "cut-off", "order", "photons (1000)", "power at 0.03/mm", "s"]]
    notes = []
    for file in files_of(parser.parse_args().paths):
        name, volume = file.name.removesuffix(".nii.gz"), read_volume(file)
        spacing_mm = volume.geometry.spacing_mm
        start = time.perf_counter()
        try:
            photons, kernel = calibration.calibrate(volume.voxels, spacing_mm, DoseSettings())
        except InputError as error:
            notes.append(f"{name}: {error}")
            rows.append([name, f"{spacing_mm[0]:.3f}", *["-"] * 5])
            continue
        notes += [f"{name}: {note}" for note in calibration.doubts(photons, kernel, DoseSettings())]
        thousands = " ".join(f"{n / 1000:.0f}" for n in np.quantile(photons, (0, 0.5, 1)))
        rows.append(
            [
                name,
                f"{spacing_mm[0]:.3f}",
                f"{kernel.cutoff_per_mm:.2f}",
                f"{kernel.order:.1f}",
                thousands,
                f"{coarse_power(kernel, spacing_mm[0]):.2f}",
                f"{time.perf_counter() - start:.0f}",
            ]
        )
    print("\n".join([aligned(rows), *notes]))


if __name__ == "__main__":
    main()
