"""What MAC-Net gives: one small denoiser that goes on without it and with it, in equal time and in equal steps.

    python Testing/benchmarks/bench_mac_net.py [--data SET] [--out FOLDER] [--seconds 20] [--seeds 2]

The denoiser is an ESAU-Net with a residual, on an image folded by 2, of 8 channels; losses are those of the preset
`released`. For each seed it first learns alone for the time of a run: MAC-Net makes a step some 20 times as dear, and
from random weights such a run would end before the denoiser is one. From there it goes on alone, alone for no more
steps than with MAC-Net, with MAC-Net under plain SGD as published, and with MAC-Net under AdamW, which is not in the
paper. The time is that of one processor core, by the steps that it is worth: it is measured first, so that what else
the machine does changes nothing, and a run repeats itself.

PSNR is that of the set's test patients, or of its validation patients. Clusters are K-means of the features before the
last layer, on phantoms of which every tissue is known, at a quarter of a routine dose: silhouette, and the adjusted
Rand index against the tissues, beside that of clusters of the LDCT's HU alone. A finished run is kept in --out, and
another call goes on; without --out a folder that is removed again. Without --data, on phantoms that it makes.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch

from ASCONDenoiseLib.imaging import clustering
from ASCONDenoiseLib.models import inference
from ASCONDenoiseLib.models.files import load_network
from ASCONDenoiseLib.physics import dose, phantoms
from ASCONDenoiseLib.physics.phantom_volume import Phantom
from ASCONDenoiseLib.physics.settings import DoseSettings
from ASCONDenoiseLib.reports.text_table import aligned
from ASCONTrainingLib.commands.training_arguments import SMOKE_PHANTOMS
from ASCONTrainingLib.config.presets import PRESETS
from ASCONTrainingLib.config.settings import TrainConfig
from ASCONTrainingLib.data.simulated import prepare_simulated
from ASCONTrainingLib.trainer import trainer
from ASCONTrainingLib.trainer.distributed import Processes
from ASCONTrainingLib.trainer.training_state import TrainingState

BATCH, PATCH = 2, 64
SETTINGS = {
    "network_settings": {"residual": True, "fold": 2, "channels": 8},
    "batch": BATCH,
    "patch": PATCH,
    "epochs": 1,
    "minutes": None,
    "precision": "fp32",
    "ema": None,
    "validation_slices": 8,
    "optimizer.learning_rate": 2e-3,
    "optimizer.mac_learning_rate": 2e-4,
    "mac.optimizer": "sgd",
}
"""Of all ways, on the preset smoke: MAC-Net's rate is the published one, the small denoiser's suits so few steps."""

START, LATER_RATE = "where all begin", 1e-3
ALONE, AS_LONG, SGD, ADAMW = "without MAC-Net", "the same, as many steps as with", "with it, SGD", "with it, AdamW"
WAYS = {START: {"mac": None}, ALONE: {"mac": None}, AS_LONG: {"mac": None}, SGD: {}, ADAMW: {"mac.optimizer": "adamw"}}
CLUSTERS, POINTS = 8, 1000
ANATOMIES = {"abdomen": 1.5e6, "chest": 6e5}
"""A phantom -> photons of a routine dose."""
PHANTOM_SHAPE, PHANTOM_MM, PHANTOM_SEEDS = (1, 128, 128), 380.0, (1_000_011, 1_000_012)
COUCH = 1
"""Labels of a phantom from here down are no body."""
TIMED_STEPS = 3


@dataclass(frozen=True)
class Worth:
    """What a denoiser came to: mean PSNR in dB, mean silhouette and adjusted Rand index of its clusters."""

    psnr_db: float
    silhouette: float
    rand_index: float


def training(way: str, steps: int, seed: int, start: Path | None = None) -> TrainConfig:
    """The settings of one way; `start` is the model that all begin with."""
    config = PRESETS["smoke"].changed(SETTINGS).changed(WAYS[way])
    if start is not None:
        config = config.changed({"initial": str(start), "optimizer.learning_rate": LATER_RATE})
    return replace(config, steps_per_epoch=steps, seed=seed)


def core_seconds(way: str) -> float:
    """Time of one core that a step takes."""
    state = TrainingState(training(way, 1, 0), Processes("cpu"))
    images = torch.rand(2, BATCH, 1, PATCH, PATCH, generator=torch.Generator().manual_seed(0))
    state.train_step(images[0], images[1], 0.5)  # allocates
    began = time.process_time()
    for _ in range(TIMED_STEPS):
        state.train_step(images[0], images[1], 0.5)
    return (time.process_time() - began) / TIMED_STEPS


def steps_of(seconds: float, out: Path) -> dict[str, int]:
    """Steps of each way that are worth so many seconds; an earlier call's, where `out` has them."""
    path = out / "steps.json"
    if path.exists():
        known = json.loads(path.read_text())
        if known["seconds"] != seconds:
            raise SystemExit(f"{out} holds runs of {known['seconds']:g} seconds: name another folder.")
        return known["steps"]
    steps = {way: max(1, round(seconds / core_seconds(way))) for way in (ALONE, SGD, ADAMW)}
    steps |= {START: steps[ALONE], AS_LONG: steps[SGD]}
    path.write_text(json.dumps({"seconds": seconds, "steps": steps}))
    return steps


@cache
def scanned_phantoms() -> list[tuple[Phantom, np.ndarray, np.ndarray]]:
    """Phantoms, none of which a training has seen, their LDCT and where that shows the body."""
    spacing_mm = (PHANTOM_MM / PHANTOM_SHAPE[2], PHANTOM_MM / PHANTOM_SHAPE[1], 3.0)
    scanned = []
    for anatomy, photons in ANATOMIES.items():
        for seed in PHANTOM_SEEDS:
            phantom = getattr(phantoms, anatomy)(seed, PHANTOM_SHAPE, spacing_mm)
            settings = DoseSettings(photons=photons / 4, kernel="standard", seed=seed)
            ldct = dose.scan(phantom.voxels_hu.round().astype(np.int16), spacing_mm, settings)
            body = np.stack([clustering.body_mask(image, spacing_mm) for image in ldct])
            scanned.append((phantom, ldct, body & (phantom.labels > COUCH)))
    return scanned


def cluster_quality(features: np.ndarray, tissues: np.ndarray) -> tuple[float, float]:
    """Silhouette and adjusted Rand index of K-means on features (N, C), whose tissues (N,) are known."""
    from sklearn.metrics import adjusted_rand_score

    labels = clustering.nearest_centre(features, clustering.cluster_centres(features, CLUSTERS))
    some = np.random.default_rng(0).choice(len(labels), POINTS, replace=False)
    parted = clustering.separation(features[some], labels[some])
    return parted.silhouette if parted else float("nan"), float(adjusted_rand_score(tissues, labels))


def features_of(network: torch.nn.Module, ldct: np.ndarray) -> np.ndarray:
    """(S, C, H, W), before the last layer."""
    maps: list[np.ndarray] = []

    def see(number: int, features: np.ndarray, denoised_hu: np.ndarray) -> None:
        maps.append(features.copy())

    inference.denoise(ldct, network, device="cpu", precision="fp32", see_features=see)
    return np.stack(maps)


def clusters_of(network: torch.nn.Module | None) -> tuple[float, float]:
    """Means over the phantoms, by the network's features; None: by the LDCT's HU alone, which it has to better."""
    found = []
    for phantom, ldct, body in scanned_phantoms():
        maps = ldct[:, None].astype(np.float32) if network is None else features_of(network, ldct)
        features = maps.transpose(0, 2, 3, 1)[body]
        found.append(cluster_quality(features, phantom.labels[body]))
    silhouette, index = np.mean(found, axis=0).tolist()
    return silhouette, index


def worth(config: TrainConfig, data: Path, run: Path) -> Worth:
    """Train, or go on, and measure."""
    kept = run / "worth.json"
    if kept.exists():
        return Worth(**json.loads(kept.read_text()))
    trained = trainer.fit(config, data, run, resume=True, device="cpu")
    assert trained is not None
    network, _ = load_network(trained.model)
    result = Worth(trained.comparisons[1].mean_sd("psnr_db")[0], *clusters_of(network))
    (run / "ldct.json").write_text(json.dumps(trained.comparisons[0].mean_sd("psnr_db")[0]))
    kept.write_text(json.dumps(vars(result)))
    return result


def table(found: dict[str, list[Worth]], steps: dict[str, int], ldct_db: float) -> str:
    """A row for each way, mean ± SD over seeds."""
    rows: list[tuple[str, ...]] = [("", "steps", "PSNR [dB]", "silhouette", "adjusted Rand index")]
    silhouette, index = clusters_of(None)
    rows.append(("LDCT; clusters of its HU", "", f"{ldct_db:.2f}", f"{silhouette:.3f}", f"{index:.3f}"))
    for way, runs in found.items():
        numbers = np.array([list(vars(run).values()) for run in runs])
        means, sds = numbers.mean(0), numbers.std(0, ddof=1) if len(runs) > 1 else np.full(3, np.nan)
        cells = (f"{mean:.{d}f} ± {sd:.{d}f}" for mean, sd, d in zip(means, sds, (2, 3, 3), strict=True))
        rows.append((way, str(steps[way]), *cells))
    return aligned(rows, numbers=True)


def run_all(data: Path, out: Path, seconds: float, seeds: int) -> None:
    """Train all ways, seed after seed, so that each seed that is done compares all; print the table."""
    steps, found = steps_of(seconds, out), dict[str, list[Worth]]()
    for seed in range(seeds):
        for number, way in enumerate(WAYS):
            run = out / f"{number}-{seed}"
            start = None if way == START else out / f"0-{seed}" / "ascon-smoke.safetensors"
            result = worth(training(way, steps[way], seed, start), data, run)
            found.setdefault(way, []).append(result)
            print(f"seed {seed}, {way}: {result.psnr_db:.2f} dB, silhouette {result.silhouette:.3f}, ", end="")
            print(f"adjusted Rand index {result.rand_index:.3f}", flush=True)
    ldct_db = json.loads((out / "0-0" / "ldct.json").read_text())
    print(f"\n{seconds:g} s of one core, {seeds} seeds, {BATCH} patches of {PATCH}x{PATCH} a step; mean ± SD of seeds")
    print(table(found, steps, ldct_db))


def main() -> int:
    """Makes the set where none is named, and runs all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="prepared set (default: the preset smoke's phantoms)")
    parser.add_argument("--out", type=Path, help="folder of the runs, to go on with (default: none is kept)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of one core, for each run (default: 20)")
    parser.add_argument("--seeds", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        out = arguments.out or Path(temporary)
        out.mkdir(parents=True, exist_ok=True)
        data = arguments.data
        if data is None:
            data = out / "data"
            prepare_simulated(None, data, **SMOKE_PHANTOMS)
        run_all(data, out, arguments.seconds, arguments.seeds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
