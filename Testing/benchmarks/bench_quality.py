"""The table of image quality: LDCT, classical filters at their best setting, and a model, against the NDCT.

    .venv/bin/python Testing/benchmarks/bench_quality.py --data FOLDER

FOLDER holds normal-dose volumes or DICOM folders. For each, quarter dose is simulated; each classical filter runs at
the setting with the highest PSNR on evenly spaced slices of that very volume, which favours it: the model has no such
choice. BM3D has a row where its package is installed (`pip install bm3d`; for non-commercial use only).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ASCONDenoiseLib import dose, hounsfield, image_quality, inference, metrics, models
from ASCONDenoiseLib.blending import with_difference
from ASCONDenoiseLib.volume import Volume, read_volume

Filter = Callable[[np.ndarray], np.ndarray]  # (H, W) HU -> (H, W) HU


def median(size: int) -> Filter:
    from scipy.ndimage import median_filter

    return lambda image: median_filter(image, size)


def non_local_means(h_hu: float, patch: int) -> Filter:
    from skimage.restoration import denoise_nl_means

    return lambda image: denoise_nl_means(image, patch_size=patch, patch_distance=7, h=h_hu, fast_mode=True)


def total_variation(weight_hu: float) -> Filter:
    from skimage.restoration import denoise_tv_chambolle

    # the weight counts in the image's own units; its tolerance is relative
    return lambda image: denoise_tv_chambolle(image, weight=weight_hu, eps=1e-5, max_num_iter=300)


def bm3d(sigma_hu: float) -> Filter:
    import bm3d as package

    return lambda image: package.bm3d(image, sigma_hu)


def candidates(noise_hu: float) -> dict[str, dict[str, Filter]]:
    """Name -> setting -> filter, around the noise of the LDCT."""
    found = {
        "median": {f"{n}x{n}": median(n) for n in (3, 5, 7)},
        "non-local means": {
            f"h {k:g} sd, patch {p}": non_local_means(k * noise_hu, p) for k in (0.5, 0.7, 0.9, 1.2) for p in (3, 5, 7)
        },
        "total variation": {
            f"weight {k:g} sd": total_variation(k * noise_hu) for k in (0.1, 0.2, 0.3, 0.4, 0.5, 0.8, 1.2)
        },
    }
    try:
        import bm3d as _  # noqa: F401 - is it there?
    except ImportError:
        return found
    return found | {"BM3D": {f"sigma {k:g} sd": bm3d(k * noise_hu) for k in (0.6, 0.8, 1.0, 1.3)}}


def filtered(ldct: np.ndarray, run: Filter) -> np.ndarray:
    """(S, H, W) through a filter, by the rule that the model follows: difference of clipped images, padding kept."""
    out = np.empty_like(ldct)
    for image, result in zip(ldct, out, strict=True):
        clipped = hounsfield.clip_to_window(image.astype(np.float32))
        result[...] = with_difference(image, run(clipped) - clipped)
    return out


def best_of(settings: dict[str, Filter], ndct: np.ndarray, ldct: np.ndarray, slices: int) -> str:
    """The setting with the highest PSNR on evenly spaced slices."""
    some = np.unique(np.linspace(0, len(ldct) - 1, slices + 2).round().astype(int)[1:-1])

    def psnr(name: str) -> float:
        return metrics.compare(ndct[some], filtered(ldct[some], settings[name])).mean_sd("psnr_db")[0]

    return max(settings, key=psnr)


def measure(name: str, volume: Volume, network, args: argparse.Namespace) -> dict:
    """One volume: prints its table, returns its numbers."""
    ndct = volume.voxels[:: args.every]
    spacing = volume.geometry.spacing_mm
    simulation = dose.simulate(ndct, spacing, dose.DoseSettings(dose=args.dose, seed=args.seed))
    ldct = simulation.voxels
    noise = image_quality.noise_hu(ldct, spacing)
    rows = {"LDCT": ldct, "model": inference.denoise(ldct, network, device=args.device).voxels}
    for peer, settings in candidates(noise.sd_hu if noise else 40.0).items():
        setting = best_of(settings, ndct, ldct, args.tune_slices)
        rows[f"{peer} ({setting})"] = filtered(ldct, settings[setting])
    labels = image_quality.tissue_labels(ndct, spacing)
    windows = image_quality.flat_soft_tissue_windows(ndct, spacing)
    print(f"\n{name}: {len(ndct)} slices, dose {args.dose:g}, {simulation.photons.mean():.3g} photons per ray")
    print(f"  {metrics.PAPER.describe()}; abdomen PSNR: {metrics.ABDOMEN.describe()}")
    heads = ("PSNR dB", "SSIM x100", "RMSE HU", "abdomen PSNR", "noise HU")
    print("  {:<42}".format("") + "".join(f"{h:>15}" for h in heads) + "   HU shift against the NDCT")
    table = {}
    for row, voxels in rows.items():
        paper, abdomen = metrics.compare(ndct, voxels), metrics.compare(ndct, voxels, metrics.ABDOMEN)
        noise = image_quality.noise_hu(voxels, spacing, centres=windows)
        shifts = image_quality.hu_shift_per_tissue(ndct, voxels, labels)
        table[row] = {
            "psnr_db": paper.mean_sd("psnr_db"),
            "ssim": paper.mean_sd("ssim"),
            "rmse_hu": paper.mean_sd("rmse_hu"),
            "abdomen_psnr_db": abdomen.mean_sd("psnr_db"),
            "noise_hu": noise.sd_hu if noise else None,
            "hu_shift": {s.tissue: round(s.shift_hu, 3) for s in shifts},
        }
        one = table[row]
        cells = (
            "{:.2f} +- {:.2f}".format(*one["psnr_db"]),
            "{:.2f} +- {:.2f}".format(*(100 * v for v in one["ssim"])),
            "{:.1f} +- {:.1f}".format(*one["rmse_hu"]),
            "{:.2f} +- {:.2f}".format(*one["abdomen_psnr_db"]),
            f"{noise.sd_hu:.1f}" if noise else "-",
        )
        shown = ", ".join(f"{tissue} {shift:+.2f}" for tissue, shift in one["hu_shift"].items())
        print(f"  {row:<42}" + "".join(f"{c:>15}" for c in cells) + f"   {shown}", flush=True)
    gain = table["model"]["psnr_db"][0] - table["LDCT"]["psnr_db"][0]
    best = max(v["psnr_db"][0] for k, v in table.items() if k not in ("LDCT", "model"))
    lead = table["model"]["psnr_db"][0] - best
    print(f"  the model: {gain:+.2f} dB above the LDCT, {lead:+.2f} dB above the best filter")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = os.environ.get("ASCON_TEST_DATA")
    parser.add_argument("--data", type=Path, default=Path(data) / "validation" if data else None)
    parser.add_argument("--model", help="name or path; the default model when left out")
    parser.add_argument("--dose", type=float, default=0.25)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--every", type=int, default=1, help="take every n-th slice")
    parser.add_argument("--tune-slices", type=int, default=3, help="slices on which each filter's setting is chosen")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, help="write the numbers there")
    args = parser.parse_args()
    if args.data is None:
        print("No data: name a folder with --data, or set ASCON_TEST_DATA. Nothing was measured.")
        return
    network, card = models.load_network(models.find_model(args.model))
    print(f"model {card.name} {card.version}, sha256 {card.sha256[:12]}")
    tables = {p.name: measure(p.name, read_volume(p), network, args) for p in sorted(args.data.iterdir())}
    if args.json:
        args.json.write_text(json.dumps({"dose": args.dose, "seed": args.seed, "volumes": tables}, indent=1))


if __name__ == "__main__":
    sys.exit(main())
