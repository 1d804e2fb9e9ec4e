"""Peak memory of denoising a large CT volume on the CPU with ESAU-Net; the bound is 2.5 GB for 600 slices of 512x512.

    python Testing/benchmarks/bench_memory.py [--slices 600] [--slices-run 3]

The volume and the result are in memory as a whole; the network runs on the first slices only, then is cancelled, since
every slice takes what the first ones take. A fresh child process is measured (Linux, macOS).
Exit code 1 above the bound.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import subprocess
import sys
import time

BOUND_MB = 2500
SIDE = 512


def peak_mb() -> float:
    """Largest resident set of this process so far, in MB (10^6 bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def measure(slices: int, slices_run: int, batch: int | None) -> dict[str, float]:
    """Peak in MB after each stage, and seconds per slice."""
    import numpy as np

    from ASCONDenoiseLib.errors import Cancelled
    from ASCONDenoiseLib.models.inference import denoise
    from ASCONDenoiseLib.models.networks.esau_net import ESAUNet

    peaks = {"imports": peak_mb()}
    rng = np.random.default_rng(0)
    voxels_hu = np.empty((slices, SIDE, SIDE), np.int16)
    for one in voxels_hu:
        one[...] = rng.integers(-1100, 1500, one.shape, np.int16)
    out = np.full_like(voxels_hu, 1)  # written to, so that all of it is resident from the start
    peaks["volume and result"] = peak_mb()
    done = 0

    def progress(now: int, _: int) -> None:
        nonlocal done
        done = now

    started = time.monotonic()
    with contextlib.suppress(Cancelled):
        denoise(
            voxels_hu,
            ESAUNet(),
            device="cpu",
            batch=batch,
            out=out,
            progress=progress,
            cancelled=lambda: done >= slices_run,
        )
    return peaks | {"denoising": peak_mb(), "seconds per slice": (time.monotonic() - started) / done}


def main() -> int:
    """Starts the child, prints what it measured; 0 where the peak is within the bound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=600)
    parser.add_argument("--slices-run", type=int, default=3)
    parser.add_argument("--batch", type=int, default=None)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure(arguments.slices, arguments.slices_run, arguments.batch)))
        return 0
    child = subprocess.run([sys.executable, __file__, "--child", *sys.argv[1:]], stdout=subprocess.PIPE, check=True)
    measured = json.loads(child.stdout)
    seconds = measured.pop("seconds per slice")
    print(f"{arguments.slices} slices of {SIDE}x{SIDE}, int16; {arguments.slices_run} denoised, {seconds:.1f} s each")
    for stage, peak in measured.items():
        print(f"peak after {stage:18} {peak:7.0f} MB")
    print(f"bound                         {BOUND_MB:7} MB")
    return 0 if measured["denoising"] <= BOUND_MB else 1


if __name__ == "__main__":
    sys.exit(main())
