"""Denoisers on validation patches as other reconstructions would show them: do they know scanners by heart?

    python Testing/benchmarks/bench_other_views.py --data SET [--models NAME=MODEL ...] [--every 8] [--dose 0.25]

Patches of 256 pixels of a simulated set, with half of the added noise, with other pixels, and with kernels of other
cutoffs (`data/reconstruction.py`); both images of the pair alike. Prints the PSNR in [-160, 240] HU, and the error left
after a Gaussian of 2 pixels as a share of the LDCT's, each in the mean of patches.
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

from ASCONDenoiseLib.imaging.hounsfield import to_hu  # noqa: E402
from ASCONDenoiseLib.imaging.metrics import ABDOMEN, compare  # noqa: E402
from ASCONDenoiseLib.models.files import find_model, load_network  # noqa: E402
from ASCONDenoiseLib.models.inference import denoise  # noqa: E402
from ASCONTrainingLib.data.reconstruction import Reconstructions  # noqa: E402
from ASCONTrainingLib.data.training_set import TrainingSet  # noqa: E402

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


def view(data: str, reconstructions: Reconstructions, dose: float, every: int) -> list[np.ndarray]:
    """LDCT and NDCT of each n-th patch, (N, 256, 256) float32 HU."""
    drawn = {"doses": (dose, dose), "reconstructions": reconstructions}
    items = TrainingSet(data, "validation", SIDE, stride=SIDE, augment=False, **drawn)
    pairs = [items[i] for i in range(0, len(items), every)]
    return [to_hu(np.concatenate(images)) for images in zip(*pairs, strict=True)]


def coarse(error_hu: np.ndarray) -> float:
    """Mean SD of what a Gaussian of 2 pixels leaves of (N, H, W), away from the border."""
    return float(ndimage.gaussian_filter(error_hu, (0, 2, 2))[:, 8:-8, 8:-8].std((1, 2)).mean())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="SET", help="a prepared set, simulated")
    parser.add_argument("--models", nargs="+", default=["v0.3=best", "fast=fast"], metavar="NAME=MODEL")
    parser.add_argument("--every", type=int, default=8, metavar="N", help="each n-th patch (default: 8)")
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
    for title, (reconstructions, factor) in VIEWS.items():
        dose = 1 / (1 + factor**2 * (1 / args.dose - 1))
        ldct, ndct = view(args.data, reconstructions, dose, args.every)
        line = f"{title:18s}"
        for name, values in means.items():
            image = ldct if name == "LDCT" else denoise(ldct, networks[name], precision="fp32").voxels
            values.append(compare(ndct, image, ABDOMEN).mean_sd("psnr_db")[0])
            line += f" | {name} {values[-1]:.2f} dB {coarse(image - ndct) / coarse(ldct - ndct):4.0%}"
        print(line, flush=True)
    print(f"{'mean':18s}" + "".join(f" | {name} {np.mean(db):.2f} dB     " for name, db in means.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
