"""A training step against the same step written the naive way: fp32, NCHW, attention as written, loops over queries.

    python Testing/benchmarks/bench_training.py [--device cuda] [--batch 8] [--side 512] [--steps 10]

The denoiser alone, and the full step with MAC-Net. On a GPU the step has 8 images of 512x512 and the full one should be
at least 4 times as fast; on the CPU 1 image of 256x256 (no bound: it is measured, as much as can be had). Each way runs
in a fresh process, so that peak memory is its own; all see the same images and draw the same queries, and their first
losses are compared. Exit code 1 where the losses differ, or, on a GPU, below the bound.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

BOUND = 4.0
WAYS = {
    "naive": "fp32, NCHW, as the equations are written",
    "fp32": "fp32, channels last",
    "ours": "bf16, channels last",
}
PARTS = {"alone": "The denoiser alone", "full": "The full step, with MAC-Net"}
SAME = {"mse": 1e-3, "ssim": 1e-3, "global": 2e-2, "local": 2e-3}
"""Losses of the first step -> how far ours (fp32) may lie from the naive ones, relative."""


def naive_mac_net(mac):
    """The same MAC-Net, whose losses loop over images and queries as the equations are written."""
    import torch
    from torch.nn import functional as F

    from ASCONTrainingLib.method.mac_net import MACNet

    def near(place: int, shape, reach: int) -> torch.Tensor:
        """Places of the square round one, without it, inside the map."""
        y, x = divmod(place, shape[1])
        rows, columns = (range(max(0, c - reach), min(n, c + reach + 1)) for c, n in ((y, shape[0]), (x, shape[1])))
        places = [r * shape[1] + c for r in rows for c in columns if (r, c) != (y, x)]
        return torch.tensor(places)

    def most_similar(pixels: torch.Tensor, place: int, places: torch.Tensor, count: int) -> torch.Tensor:
        with torch.no_grad():
            similarity = F.cosine_similarity(pixels[:, place, None], pixels[:, places], dim=0)
            return places[similarity.topk(min(count, len(places))).indices.cpu()]

    class Naive(MACNet):
        def global_loss(self, online_map, target_map, queries, counted=None):
            online, target = [], []
            for seen, wanted in zip(online_map.flatten(2), target_map.flatten(2), strict=True):
                for place in queries.tolist():
                    places = near(place, target_map.shape[-2:], 1)
                    chosen = torch.cat(
                        (torch.tensor([place]), most_similar(wanted, place, places, self.config.neighbours))
                    )
                    online.append(seen[:, chosen].mean(1))
                    target.append(wanted[:, chosen].mean(1))
            with torch.no_grad():
                projection = self.target.project_global(torch.stack(target))
            prediction = self.predictor(self.online.project_global(torch.stack(online)))
            pairs = zip(prediction, projection, strict=True)
            return torch.stack([2 - 2 * F.cosine_similarity(p, z, dim=0) for p, z in pairs]).mean()

        def local_loss(self, online_map, target_map, queries, generator, counted=None):
            found = []
            for seen, wanted in zip(online_map.flatten(2), target_map.flatten(2), strict=True):
                for place in queries.tolist():
                    places = near(place, target_map.shape[-2:], self.config.window // 2)
                    chosen = torch.cat(
                        (torch.tensor([place]), most_similar(wanted, place, places, self.config.negatives))
                    )
                    with torch.no_grad():
                        keys = F.normalize(self.target.project_local(wanted[:, chosen].T), dim=1)
                    query = F.normalize(self.online.project_local(seen[:, place]), dim=0)
                    alike = keys @ query / self.config.temperature
                    found.append(-torch.log_softmax(alike, 0)[0])
            return torch.stack(found).mean()

    mac.__class__ = Naive


def measure(part: str, way: str, device: str, batch: int, side: int, steps: int) -> dict:
    """Seconds per step (the fastest of `steps`), peak memory in MB and the losses of the first step."""
    import torch
    from plain_esau_net import made_plain

    from ASCONTrainingLib.config.presets import PRESETS
    from ASCONTrainingLib.trainer.distributed import Processes
    from ASCONTrainingLib.trainer.training_state import TrainingState

    config = replace(PRESETS["released"], batch=batch, precision="bf16" if way == "ours" else "fp32")
    config = config if part == "full" else replace(config, mac=None)
    state = TrainingState(config, Processes(device))
    mac = state.objective.parts.get("mac")
    layout = torch.contiguous_format if way == "naive" else torch.channels_last
    if way == "naive":
        made_plain(state.network)
        if mac is not None:
            naive_mac_net(mac.to(memory_format=layout))
    generator = torch.Generator().manual_seed(1)
    ndct = torch.nn.functional.avg_pool2d(torch.rand(batch, 1, side + 8, side + 8, generator=generator), 9, 1)
    ldct = ndct + 0.01 * torch.randn(ndct.shape, generator=generator)
    ldct, ndct = (
        torch.empty(images.shape, device=state.device, memory_format=layout).copy_(images) for images in (ldct, ndct)
    )

    def step() -> tuple[float, dict[str, float]]:
        began = time.monotonic()
        losses = state.train_step(ldct, ndct, 0.0)  # ends with the losses on the CPU, so the device has finished
        return time.monotonic() - began, losses

    _, first = step()
    if state.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = [step()[0] for _ in range(steps)]
    if state.device.type == "cuda":
        peak = torch.cuda.max_memory_allocated() / 1e6
        name = torch.cuda.get_device_name(state.device)
    else:
        import resource

        kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        peak = kilobytes / (1e6 if sys.platform == "darwin" else 1e3)
        name = f"CPU, {torch.get_num_threads()} threads"
    return {"seconds": min(seconds), "peak_mb": peak, "device": name, "losses": first}


def main() -> int:
    """Measures each way in a child process and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default=None, help="default: cuda where there is one, else cpu")
    parser.add_argument("--batch", type=int, default=None)
    parser.add_argument("--side", type=int, default=None)
    parser.add_argument("--steps", type=int, default=None, help="timed, after one that is not (default: 10; CPU: 3)")
    parser.add_argument("--part", choices=PARTS, help="default: both")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.device is None:
        import torch

        arguments.device = "cuda" if torch.cuda.is_available() else "cpu"
    gpu = arguments.device.startswith("cuda")
    batch, side = arguments.batch or (8 if gpu else 1), arguments.side or (512 if gpu else 256)
    steps = arguments.steps or (10 if gpu else 3)
    if arguments.way:
        print(json.dumps(measure(arguments.part, arguments.way, arguments.device, batch, side, steps)))
        return 0

    fine = True
    sizes = ["--device", arguments.device, "--batch", str(batch), "--side", str(side), "--steps", str(steps)]
    for part in PARTS if arguments.part is None else (arguments.part,):
        found = {}
        for way in WAYS:
            command = [sys.executable, __file__, "--part", part, "--way", way, *sizes]
            child = subprocess.run(command, stdout=subprocess.PIPE, check=True)
            found[way] = json.loads(child.stdout.splitlines()[-1])
            print(f"{part}, {WAYS[way]}: {found[way]['seconds']:.3f} s/step", file=sys.stderr, flush=True)
        print(f"{PARTS[part]}, preset released: {batch} x {side}x{side} on {found['ours']['device']}")
        fine = report(found, batch, BOUND if gpu and part == "full" else 0.0) and fine
    return 0 if fine else 1


def report(found: dict[str, dict], batch: int, bound: float) -> bool:
    """Prints the table of one part; whether losses agree and the bound is kept."""
    print(f"{'':42}  s/step  images/s  peak MB  times as fast")
    for way, meaning in WAYS.items():
        seconds, ratio = found[way]["seconds"], found["naive"]["seconds"] / found[way]["seconds"]
        print(f"{meaning:42}  {seconds:6.3f}  {batch / seconds:8.2f}  {found[way]['peak_mb']:7.0f}  {ratio:13.2f}")
    losses = {way: found[way]["losses"] for way in WAYS}
    names = [name for name in SAME if name in losses["naive"]]
    print("first losses, naive / fp32 / bf16:", end="")
    print(*(f" {name} {' / '.join(f'{losses[way][name]:.5f}' for way in WAYS)}" for name in names), sep=",")
    wrong = [n for n in names if abs(losses["fp32"][n] / losses["naive"][n] - 1) > SAME[n]]
    if wrong:
        print(f"The naive step computes something else: {', '.join(wrong)}.")
    slow = found["naive"]["seconds"] / found["ours"]["seconds"] < bound
    if slow:
        print(f"Below the bound of {bound:g}.")
    return not wrong and not slow


if __name__ == "__main__":
    sys.exit(main())
