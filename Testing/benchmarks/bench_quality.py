"""Measures of image quality: seconds per 100 slices, and how well the noise-consistency map keeps what it promises.

    python Testing/benchmarks/bench_quality.py [--only speed null sensitivity denoisers] [--runs 200] [--model NAME]

speed        each measure on slices of 512 x 512, the noise-consistency map also against Gaussian filters of its scales
null         pure noise: how many volumes have any place, against the 5 % that were asked for
sensitivity  discs of which a known contrast is missing in the output: how many are found
denoisers    the shipped model, two filters and an over-trained network on discs: contrast lost, and found, at each size

Exit code 1 where pure noise has places in more volumes than 5 % and three binomial standard errors.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage, special
from threadpoolctl import threadpool_limits

sys.path.append(str(Path(__file__).resolve().parents[1]))
from noise_fixtures import noise  # noqa: E402

from ASCONDenoiseLib.imaging import detectability, image_quality, noise_consistency, transfer  # noqa: E402
from ASCONDenoiseLib.imaging import noise as local_noise  # noqa: E402
from ASCONDenoiseLib.reports.text_table import aligned  # noqa: E402

if TYPE_CHECKING:
    from ASCONDenoiseLib.models.networks.esau_net import ESAUNet

PIXEL_MM, SLICE_MM = 0.8, 3.0
SPACING_MM = (PIXEL_MM, PIXEL_MM, SLICE_MM)
SD_HU, KERNEL = 20.0, 0.25
DIAMETERS_MM = (3.0, 5.0, 10.0)
LOST_HU = (5.0, 10.0, 15.0, 20.0, 30.0, 40.0)
DISC_HU = 40.0


def body(slices: int, side: int) -> np.ndarray:
    """A body of 50 HU with fat and bone, free of noise."""
    rows, columns = np.mgrid[:side, :side]
    image = np.where(np.hypot(rows - side / 2, 0.85 * (columns - side / 2)) < 0.46 * side, 50.0, -1000.0)
    image[np.hypot(rows - 0.7 * side, columns - 0.35 * side) < 0.07 * side] = -100
    image[np.hypot(rows - 0.7 * side, columns - 0.65 * side) < 0.05 * side] = 500
    return np.repeat(image[None], slices, axis=0)


def noise_of(seed: int, slices: int, side: int) -> np.ndarray:
    """Of a standard kernel, growing from left to right."""
    return noise((slices, side, side), SD_HU, seed=seed, kernel=KERNEL) * np.linspace(0.7, 1.4, side)


def disc(centre: tuple[int, int], diameter_mm: float, side: int) -> np.ndarray:
    """(side, side), 1 inside, with the blur of a body kernel."""
    rows, columns = np.mgrid[:side, :side]
    distance = PIXEL_MM * np.hypot(rows - centre[0], columns - centre[1])
    return 0.5 + 0.5 * special.erf((diameter_mm / 2 - distance) / 0.9)


def seconds(run: Callable[[], object]) -> float:
    """Processor time of one call: other programs on the machine do not count."""
    started = time.process_time()
    run()
    return time.process_time() - started


def speed(_: argparse.Namespace) -> bool:
    slices, side = 8, 512
    clean = body(slices, side)
    ldct = (clean + noise_of(0, slices, side)).round().astype(np.int16)
    output = (clean + 0.3 * noise_of(1, slices, side)).round().astype(np.int16)
    removed = (ldct - output).astype(np.float32)
    noise_consistency.measure(ldct[:2], output[:2], SPACING_MM)  # imports
    texture = image_quality.quality(ldct, output, SPACING_MM).texture_before
    insert = clean[0] + noise_of(2, 1, side)[0] / 10
    blurred = ndimage.gaussian_filter(insert, 1.0)

    def filters() -> None:
        for scale in noise_consistency.SCALES_MM:
            ndimage.gaussian_filter(removed, tuple(scale / d for d in SPACING_MM[::-1]))

    per_slice = {
        "noise, spectrum, HU shift (image_quality.quality)": lambda: image_quality.quality(ldct, output, SPACING_MM),
        "noise map": lambda: local_noise.noise_map_hu(ldct, SPACING_MM),
        "noise-consistency map": lambda: noise_consistency.measure(ldct, output, SPACING_MM),
        "Gaussian filters of its scales": filters,
    }
    single = {
        "TTF of an insert": lambda: transfer.ttf_of_insert(
            blurred, SPACING_MM, (0.7 * side, 0.65 * side), 0.05 * side * PIXEL_MM
        ),
        "d' of a disc (NPWE)": lambda: detectability.npwe(5.0, 20.0, texture),
    }
    times = {name: min(seconds(run) for _ in range(2)) for name, run in per_slice.items()}
    rows = [("measure, slices of 512 x 512", "CPU s per 100 slices")]
    rows += [(name, f"{100 / slices * value:.1f}") for name, value in times.items()]
    print(aligned(rows, numbers=True))
    ratio = times["noise-consistency map"] / times["Gaussian filters of its scales"]
    print(f"The noise-consistency map takes {ratio:.1f} times as long as Gaussian filters of its scales.")
    print(aligned([("one call", "CPU s"), *((n, f"{seconds(run):.3f}") for n, run in single.items())], numbers=True))
    return True


def null(arguments: argparse.Namespace) -> bool:
    slices, side, rate = 6, 128, noise_consistency.RATE
    clean = body(slices, side)
    found = sum(
        bool(noise_consistency.measure(clean + noise_of(1000 + run, slices, side), clean, SPACING_MM).places)
        for run in range(arguments.runs)
    )
    error = math.sqrt(rate * (1 - rate) / arguments.runs)
    print(
        f"Pure noise, {arguments.runs} volumes: {found} with any place, {100 * found / arguments.runs:.1f} %; "
        f"asked for: {100 * rate:g} % ± {100 * error:.1f} % (one binomial standard error)."
    )
    return found / arguments.runs <= rate + 3 * error


def places_of_discs(side: int) -> list[tuple[int, int]]:
    """Thirteen places apart from each other, from the edge, from fat and from bone."""
    grid = [(int(side * y), int(side * x)) for y in (0.2, 0.35, 0.5) for x in (0.25, 0.4, 0.55, 0.7)]
    return [*grid, (int(side * 0.85), int(side * 0.5))]


def is_found(found: noise_consistency.Consistency, centre: tuple[int, int], diameter_mm: float, sign: float) -> bool:
    reach = diameter_mm / 2 + 2.0  # what goes of a large one goes at its rim
    return any(
        math.hypot(p.row - centre[0], p.column - centre[1]) * PIXEL_MM <= reach and p.contrast_hu * sign > 0
        for p in found.places
    )


def sensitivity(_: argparse.Namespace) -> bool:
    slices, side = 8, 256
    clean, centres = body(slices, side), places_of_discs(side)
    rows = [("contrast lost [HU]", *(f"{c:g}" for c in LOST_HU))]
    for diameter in DIAMETERS_MM:
        cells = []
        for number, lost in enumerate(LOST_HU):
            before = clean + noise_of(50 + number, slices, side)
            before[3:6] += lost * sum(disc(centre, diameter, side) for centre in centres)
            found = noise_consistency.measure(before, clean, SPACING_MM)
            cells.append(f"{100 * np.mean([is_found(found, c, diameter, 1) for c in centres]):.0f} %")
        rows.append((f"discs of {diameter:g} mm found", *cells))
    print(f"Noise of {SD_HU:g} HU in the middle, discs three slices thick, {len(centres)} of each kind:")
    print(aligned(rows, numbers=True))
    return True


def over_trained(clean: np.ndarray, steps: int) -> ESAUNet:
    """A network that has seen one slice and no disc, ever again: it knows by heart what it should be looking for."""
    import torch

    from ASCONDenoiseLib.imaging.hounsfield import to_unit
    from ASCONDenoiseLib.models.networks.esau_net import ESAUNet

    torch.manual_seed(0)
    network = ESAUNet(residual=True, fold=2, channels=8).train()
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    target = torch.from_numpy(to_unit(clean[:1].astype(np.float32)))[None]
    for step in range(steps):
        noisy = to_unit((clean[:1] + noise_of(5000 + step, 1, clean.shape[1])).astype(np.float32))
        loss = torch.nn.functional.mse_loss(network(torch.from_numpy(noisy)[None]), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


def denoisers(arguments: argparse.Namespace) -> bool:
    from ASCONDenoiseLib.models import inference
    from ASCONDenoiseLib.models.files import find_model, load_network

    network, card = load_network(find_model(arguments.model))
    runs: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        f"{card.name} {card.version}": lambda v: inference.denoise(v, network).voxels,
        "over-trained network": lambda v: inference.denoise(v, learnt_by_heart).voxels,
        "median 5x5": lambda v: ndimage.median_filter(v, (1, 5, 5)),
        "Gaussian, 1.5 px": lambda v: ndimage.gaussian_filter(v, (0, 1.5, 1.5)),
        "perfect": lambda v: v,
    }
    slices, side = 5, 256
    blur = (0, 0.65 / PIXEL_MM, 0.65 / PIXEL_MM)  # of a body kernel: no scan has sharper edges
    clean, centres = ndimage.gaussian_filter(body(slices, side), blur), places_of_discs(side)
    learnt_by_heart = over_trained(clean, arguments.steps)
    rows = [("discs of 40 HU", *(f"lost at {d:g} mm / found" for d in DIAMETERS_MM), "other places, flat / at edges")]
    for name, run in runs.items():
        cells, flat, edges = [], 0, 0
        for number, diameter in enumerate(DIAMETERS_MM):
            e = noise_of(80 + number, slices, side).astype(np.float32)
            shape = sum(disc(centre, diameter, side) for centre in centres)
            with_discs = clean.astype(np.float32)
            with_discs[1:4] += DISC_HU * shape
            if name == "perfect":
                before, after, plain = with_discs + e, with_discs, clean
            else:
                before = with_discs + e
                after, plain = run(before), run(clean.astype(np.float32) + e)
            gained = ((after - plain)[1:4] * shape).sum() / (3 * (shape**2).sum())
            found = noise_consistency.measure(before, after, SPACING_MM)
            hits = [is_found(found, c, diameter, 1) for c in centres]
            cells.append(f"{DISC_HU - gained:.1f} HU / {100 * np.mean(hits):.0f} %")
            near = [
                any(math.hypot(p.row - r, p.column - c) * PIXEL_MM < diameter + 4 for r, c in centres)
                for p in found.places
            ]
            others = [p for p, close in zip(found.places, near, strict=True) if not close]
            edges += sum(p.at_edge for p in others)
            flat += sum(not p.at_edge for p in others)
        rows.append((name, *cells, f"{flat} / {edges}"))
    print(aligned(rows, numbers=True))
    return True


PARTS = {"speed": speed, "null": null, "sensitivity": sensitivity, "denoisers": denoisers}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--model", default="ascon-default")
    parser.add_argument("--steps", type=int, default=400, help="of the over-trained network")
    arguments = parser.parse_args()
    with threadpool_limits(1):  # threads that wait for each other would count as processor time
        kept = [PARTS[part](arguments) for part in arguments.only]
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
