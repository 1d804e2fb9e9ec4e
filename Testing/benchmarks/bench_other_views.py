"""Denoisers on validation slices as other reconstructions would show them: do they know scanners by heart?

    python Testing/benchmarks/bench_other_views.py --data SET [--models NAME=MODEL ...] [--every 3] [--dose 0.25]

Each slice's middle square of 256 pixels of a simulated set, with half of the added noise, with other pixels, and with
kernels of other cutoffs (`data/reconstruction.py`); both images of the pair alike. Prints the PSNR in [-160, 240] HU,
and the error left after a Gaussian of 2 pixels as a share of the LDCT's, each in the mean of slices.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
for folder in ("ASCONDenoise", "ASCONTraining"):
    sys.path.insert(0, str(ROOT / folder))

import numpy as np  # noqa: E402
from scipy import ndimage  # noqa: E402

from ASCONDenoiseLib.imaging.hounsfield import DISPLAY_WINDOWS_HU  # noqa: E402
from ASCONDenoiseLib.models.files import find_model, load_network  # noqa: E402
from ASCONDenoiseLib.models.inference import denoise  # noqa: E402
from ASCONDenoiseLib.physics.dose import noise_factor  # noqa: E402
from ASCONTrainingLib.data.reconstruction import Reconstructions, measured_kernel  # noqa: E402
from ASCONTrainingLib.data.training_set import EvaluationSet  # noqa: E402

SIDE = 256
VIEWS = {
    "as it is": (Reconstructions(), 1.0),
    "half of the noise": (Reconstructions(), 0.5),
    "pixels of 0.5 mm": (Reconstructions(pixels_mm=(0.5, 0.5)), 1.0),
    "pixels of 1 mm": (Reconstructions(pixels_mm=(1.0, 1.0)), 1.0),
    "cutoff 0.22": (Reconstructions(cutoffs=(0.22, 0.22)), 1.0),
    "cutoff 0.3": (Reconstructions(cutoffs=(0.3, 0.3)), 1.0),
    "cutoff 0.6": (Reconstructions(cutoffs=(0.6, 0.6)), 1.0),
}
"""What is drawn, and the factor on the added noise."""


def views_of(data: str, every: int, dose: float) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    """(NDCT, LDCT), float32 HU, of each view."""
    pairs = EvaluationSet(data, "validation", every=every)
    volumes = {volume.name: volume for volume in pairs.index.volumes}
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {name: [] for name in VIEWS}
    for pair in map(pairs.__getitem__, range(len(pairs))):
        volume = volumes[pair.volume]
        ndct = pair.ndct_hu.astype(np.float32)
        noise = (pair.ldct_hu - ndct) * np.float32(noise_factor(volume.dose or dose, dose))
        kernel = measured_kernel(pair.ndct_hu[None], pair.ldct_hu[None], volume.spacing_mm[0])
        for name, (reconstructions, factor) in VIEWS.items():
            most, random = min(ndct.shape), np.random.default_rng(0)
            plan = reconstructions.draw(min(SIDE, most), most, volume.spacing_mm[0], kernel, random)
            square = tuple(
                slice((n - plan.source_side) // 2, (n - plan.source_side) // 2 + plan.source_side) for n in ndct.shape
            )
            clean, added = plan.of(ndct[square], noise[square])
            found[name].append((clean, clean + factor * added))
    return found


def measured(ndct: np.ndarray, image: np.ndarray, ldct: np.ndarray) -> tuple[float, float]:
    """PSNR in the window, in dB, and the share of coarse error."""
    low, high = DISPLAY_WINDOWS_HU["abdomen"]
    error = image.clip(low, high) - ndct.clip(low, high)
    coarse = [ndimage.gaussian_filter(x - ndct, 2.0)[8:-8, 8:-8].std() for x in (image, ldct)]
    return 20 * np.log10((high - low) / np.sqrt(np.square(error).mean())), coarse[0] / coarse[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="SET", help="a prepared set, simulated")
    parser.add_argument("--models", nargs="+", default=["v0.3=best", "fast=fast"], metavar="NAME=MODEL")
    parser.add_argument("--every", type=int, default=3, metavar="N", help="each n-th slice (default: 3)")
    parser.add_argument("--dose", type=float, default=0.25, help="default: 0.25")
    args = parser.parse_args()
    if args.data is None:
        print("Nothing measured: name a simulated set with --data (`ascon prepare simulate`).")
        return 0
    networks = {}
    for named in args.models:
        name, _, model = named.partition("=")
        networks[name], _ = load_network(find_model(model or name))
    means: dict[str, list[float]] = {name: [] for name in ("LDCT", *networks)}
    for view, pairs in views_of(args.data, args.every, args.dose).items():
        line = f"{view:18s}"
        for name in means:
            images = [
                ldct if name == "LDCT" else denoise(ldct[None], networks[name], precision="fp32").voxels[0]
                for _, ldct in pairs
            ]
            rows = [measured(ndct, image, ldct) for (ndct, ldct), image in zip(pairs, images, strict=True)]
            db, share = np.mean(rows, axis=0)
            means[name].append(db)
            line += f" | {name} {db:.2f} dB {share:4.0%}"
        print(line, flush=True)
    print(f"{'mean':18s}" + "".join(f" | {name} {np.mean(db):.2f} dB     " for name, db in means.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
