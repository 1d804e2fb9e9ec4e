"""The product's denoising against the plain network: speed, fidelity, memory, cost by size, cold start, roofline.

    python Testing/benchmarks/bench_inference.py [--device cuda] [--slices 2] [--skip sides avx2 roofline]

Plain is the network as the paper writes it, with the same weights and output rule: eager, fp32, NCHW, one slice at a
time, TF32 as torch sets it. Each way runs in a process of its own, in turns with the others, on the same slices:
quarter dose, simulated from the volumes of any size in --data or ASCON_TEST_DATA/validation, or from a phantom. Times
are from memory to memory, medians. On a CPU all is done a second time with ONEDNN_MAX_CPU_ISA=AVX2. Exit code 1 where
a way is not faithful; goals of speed are printed only.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "Testing"))

WAYS = {"plain": "plain network", "fp32": "ours, fp32", "auto": "ours, as chosen"}
RMS_HU, MAX_HU, PSNR_DB = 0.5, 5.0, 0.01
"""How far a way may lie from the plain network: per slice, anywhere, and in the mean PSNR to the NDCT."""
GPU_SLICES, GPU_SECONDS = 300, 1.0
PARTS = ("sides", "avx2", "roofline")


# ---- a way in a process of its own


class Way:
    """A child process that denoises .npy files of HU and says how long it took."""

    def __init__(self, name: str, args: argparse.Namespace, isa: str | None):
        environment = os.environ | ({"ONEDNN_MAX_CPU_ISA": isa} if isa else {})
        command = [sys.executable, __file__, "--child", name, "--device", args.device, "--started", str(time.time())]
        command += ["--threads", str(args.threads)] if args.threads else []
        command += ["--model", args.model] if args.model else []
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.cold = self._answer()

    def run(self, images: Path, output: Path | None = None) -> dict:
        """Seconds, peak_mb, precision and notes; the result goes to `output`."""
        print(json.dumps([str(images), str(output) if output else None]), file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"A child process ended with exit code {self.process.wait()}.")
        return json.loads(line)

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def serve(args: argparse.Namespace) -> None:
    """The child: imports, loads the model, denoises one slice; then what it is asked for, until its input ends."""
    from ASCONDenoiseLib.models.torch_environment import prepare_torch

    if args.child != "plain":
        prepare_torch()
    import torch

    from ASCONDenoiseLib.models import inference
    from ASCONDenoiseLib.models.files import find_model, load_network

    if args.threads:
        torch.set_num_threads(args.threads)
    stamps = [args.started, time.time()]
    network, _ = load_network(find_model(args.model))
    stamps.append(time.time())

    run_plain = plain_way(network, args.device) if args.child == "plain" else None

    def denoise(voxels_hu: np.ndarray) -> tuple[np.ndarray, dict]:
        if run_plain:
            return run_plain(voxels_hu), {"precision": "fp32", "notes": []}
        result = inference.denoise(voxels_hu, network, device=args.device, precision=args.child)
        return result.voxels, {"precision": result.precision, "notes": result.notes}

    denoise(np.zeros((1, 512, 512), np.int16))
    stamps.append(time.time())
    parts = ("imports", "model", "first slice")
    print(json.dumps(dict(zip(parts, np.diff(stamps).tolist(), strict=True))), flush=True)
    for line in sys.stdin:
        images, output = json.loads(line)
        voxels_hu = np.load(images)
        began = time.perf_counter()
        denoised, facts = denoise(voxels_hu)
        facts |= {"seconds": time.perf_counter() - began, "peak_mb": peak_mb(args.device)}
        if output:
            np.save(output, denoised)
        print(json.dumps(facts), flush=True)


def plain_way(network, device: str):
    """A function (S, H, W) HU -> the same denoised by a plain copy of the network."""
    import torch
    from plain_esau_net import plain

    from ASCONDenoiseLib.imaging.hounsfield import TRAINING_WINDOW_HU, clip_to_window, padding_mask, to_unit
    from ASCONDenoiseLib.imaging.output_rule import with_difference
    from ASCONDenoiseLib.imaging.scan_circle import continued

    copied = plain(network).to(device)
    low, high = TRAINING_WINDOW_HU

    def run(voxels_hu: np.ndarray) -> np.ndarray:
        out = np.empty_like(voxels_hu)
        with torch.inference_mode():
            for x, y in zip(voxels_hu, out, strict=True):
                padding = padding_mask(x)
                unit = to_unit(clip_to_window(continued(x, padding)).astype(np.float32))
                denoised = copied(torch.from_numpy(unit)[None, None].to(device))[0, 0].cpu().numpy()
                y[...] = with_difference(x, (denoised - unit) * np.float32(high - low), padding)
        return out

    return run


def peak_mb(device: str) -> float:
    """Largest use so far, in MB (10^6 bytes): of the GPU's memory by tensors, or of the process's resident memory."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated() / 1e6
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


# ---- slices


Pair = tuple[np.ndarray, np.ndarray]
"""NDCT and LDCT, (S, H, W) in HU, float32."""


def quarter_dose(slices: int, folders: list[Path]) -> tuple[str, list[Pair]]:
    """What it is, and `slices` of each volume in the folders, or of a phantom where there are none.

    Volumes of one size become one pair; sizes and spacings may differ. The most common size comes first.
    """
    from ASCONDenoiseLib.io.reading import read_volume
    from ASCONDenoiseLib.physics import dose, phantoms
    from ASCONDenoiseLib.physics.settings import DoseSettings

    if folders:
        files = [path for folder in folders for path in sorted(folder.iterdir()) if path.suffix == ".gz"]
        volumes = [read_volume(path) for path in files]
        found = [(volume.voxels, volume.geometry.spacing_mm) for volume in volumes]
    else:
        spacing_mm = (0.7, 0.7, 3.0)
        voxels = phantoms.abdomen(1, (max(slices, 2), 512, 512), spacing_mm).voxels_hu
        noise = np.random.default_rng(0).normal(0, 10, voxels.shape)
        found = [(voxels + noise.astype(np.float32), spacing_mm)]
    by_size = defaultdict(list)
    for voxels, spacing_mm in found:
        some = voxels[np.linspace(0, len(voxels) - 1, slices + 2).round().astype(int)[1:-1]].astype(np.float32)
        ldct = dose.simulate(some, spacing_mm, DoseSettings(dose=0.25, seed=7), assume_photons=True).voxels
        by_size[some.shape[1:]].append((some, ldct))
    groups = sorted(by_size.values(), key=len, reverse=True)
    pairs = [tuple(np.concatenate(images) for images in zip(*group, strict=True)) for group in groups]
    sizes = ", ".join(f"{len(ndct)} of {ndct.shape[1]} x {ndct.shape[2]}" for ndct, _ in pairs)
    return f"slices of {'real scans' if folders else 'a phantom'}: {sizes}; quarter dose", pairs


# ---- the tables


def fidelity(folder: Path, name: str, pairs: list[Pair]) -> tuple[float, float, float]:
    """How far a way lies from the plain network, RMS of a slice and anywhere in HU, and its mean PSNR in dB."""
    from ASCONDenoiseLib.imaging import metrics

    rms, largest, psnr = [], [], []
    for i, (ndct, _) in enumerate(pairs):
        found = np.load(folder / f"{name}-{i}.npy")
        off = found - np.load(folder / f"plain-{i}.npy")
        rms.append(float(np.sqrt((off**2).mean(axis=(1, 2))).max()))
        largest.append(float(abs(off).max()))
        psnr += [row.psnr_db for row in metrics.compare(ndct, found).rows]
    return max(rms), max(largest), float(np.mean(psnr))


def compared(args: argparse.Namespace, folder: Path, pairs: list[Pair], isa: str | None) -> tuple[bool, float]:
    """Prints cold start, speed, memory and fidelity of each way; whether all are faithful, and ours' s/slice."""

    print(f"\n{'CPU as if it had ' + isa + ' only' if isa else 'All that the device has'}")
    ways = {name: Way(name, args, isa) for name in WAYS}
    for name, way in ways.items():
        parts = ", ".join(f"{part} {seconds:.1f}" for part, seconds in way.cold.items())
        print(f"  cold start, {WAYS[name]:16} {sum(way.cold.values()):5.1f} s to the first slice: {parts}")
    runs = defaultdict(list)
    for _ in range(args.repeats):
        for name, way in ways.items():
            runs[name].append(way.run(folder / "volume.npy"))
    for name, way in ways.items():
        for i in range(len(pairs)):
            way.run(folder / f"ldct-{i}.npy", folder / f"{name}-{i}.npy")
    count = len(np.load(folder / "volume.npy", mmap_mode="r"))
    seconds = {name: statistics.median(run["seconds"] for run in runs[name]) / count for name in WAYS}
    offs = {name: fidelity(folder, name, pairs) for name in WAYS}
    print(f"  {'':16}  s/slice  times as fast  peak MB  RMS HU  max HU   PSNR dB  precision")
    faithful = True
    for name in WAYS:
        rms, largest, psnr = offs[name]
        last = runs[name][-1]
        fine = rms <= RMS_HU and largest <= MAX_HU and abs(psnr - offs["plain"][2]) <= PSNR_DB
        faithful = faithful and fine
        cells = f"{seconds[name]:7.4f}  {seconds['plain'] / seconds[name]:13.2f}  {last['peak_mb']:7.0f}"
        cells += f"  {rms:6.3f}  {largest:6.2f}  {psnr:8.3f}  {last['precision']}"
        print(f"  {WAYS[name]:16}  {cells}{'' if fine else '  NOT FAITHFUL'}{''.join('; ' + n for n in last['notes'])}")
    gain = seconds["plain"] / seconds["auto"]
    goal = 1.3 if isa else 5.0
    print(f"  goal: {goal:g} times as fast; {'reached' if gain >= goal else 'not reached'}")
    if args.device.startswith("cuda"):
        print(f"  {count} slices in {count * seconds['auto']:.2f} s, goal {GPU_SECONDS:g} s for {GPU_SLICES}")
    if isa is None and "sides" not in args.skip:
        sizes(args, folder, ways["auto"])
    for way in ways.values():
        way.end()
    return faithful, seconds["auto"]


def sizes(args: argparse.Namespace, folder: Path, way: Way) -> None:
    """Prints ours' cost by side and by number of slices; 1.00 is a pixel of the first row."""
    one = np.load(folder / "ldct-0.npy")[0].astype(np.int16)
    print("  cost by size:   slices  side    seconds  per pixel, relative  peak MB so far")
    first = None
    for count, side in [(1, side) for side in sorted(args.sides)] + [(n, 512) for n in (2, 4, 8)]:
        tiles = [-(-side // n) for n in one.shape]
        np.save(folder / "size.npy", np.repeat(np.tile(one, tiles)[None, :side, :side], count, axis=0))
        runs = [way.run(folder / "size.npy") for _ in range(args.repeats + 1)][1:]  # the first one warms up
        seconds = statistics.median(run["seconds"] for run in runs)
        per_pixel = seconds / (count * side**2)
        first = first or per_pixel
        cells = f"{count:6}  {side:4}  {seconds:9.4f}  {per_pixel / first:19.2f}  {runs[-1]['peak_mb']:14.0f}"
        print(f"                  {cells}")


# ---- roofline


def count_layers(network, side: int) -> dict[tuple[str, str], list[float]]:
    """(layer, dtype) -> [(operations, bytes of its tensors)] for one slice: convolutions, matrix products, resampling.

    Element by element work (activations, sums, casts) is not counted: it could be a part of its neighbours.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import flop_registry

    aten = torch.ops.aten
    counted = {aten.convolution: "", aten.bmm: "product", aten.mm: "product"}
    counted |= {aten.max_pool2d_with_indices: "max-pool", aten.upsample_bilinear2d: "doubling"}
    found = defaultdict(list)

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            packet = function._overloadpacket
            if packet in counted:
                out = result[0] if isinstance(result, tuple) else result
                flops = flop_registry[packet](*args, **(kwargs or {}), out_val=out) if packet in flop_registry else 0
                name = counted[packet]
                if not name:
                    kernel, groups = args[1].shape[-1], args[8]
                    name = f"{kernel}x{kernel} {'depthwise' if groups > 1 else 'convolution'}"
                tensors = [t for t in (*args, out) if isinstance(t, torch.Tensor)]
                moved = sum(t.numel() * t.element_size() for t in tensors)
                found[name, str(args[0].dtype).removeprefix("torch.")].append((flops, moved))
            return result

    with torch.no_grad(), Counting():
        network.to("meta")(torch.empty(1, 1, side, side, device="meta"))
    return found


def measured_rates(device) -> tuple[dict[str, float], float]:
    """Operations per second of a large product in fp32 and bf16, and bytes per second (read and written) of a copy."""
    import torch

    gpu = device.type == "cuda"

    def fastest(run) -> float:
        times = []
        for _ in range(6):
            began = time.perf_counter()
            run()
            if gpu:
                torch.cuda.synchronize(device)
            times.append(time.perf_counter() - began)
        return min(times)

    side = 8192 if gpu else 2048
    rates = {}
    for dtype in (torch.float32, torch.bfloat16):
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        rates[str(dtype).removeprefix("torch.")] = 2 * side**3 / fastest(lambda a=a, b=b: a @ b)
    source = torch.ones(2**28 if gpu else 2**26, device=device)
    target = torch.empty_like(source)
    return rates, 2 * source.nbytes / fastest(lambda: target.copy_(source))


def roofline(args: argparse.Namespace) -> None:
    """A child: prints the least time per layer at measured rates, and answers with the sum for one slice."""
    import copy

    import torch

    from ASCONDenoiseLib.models import devices, mixed_precision
    from ASCONDenoiseLib.models.files import find_model, load_network

    if args.threads:
        torch.set_num_threads(args.threads)
    device = devices.pick_device(args.device)
    network, _ = load_network(find_model(args.model))
    tf32 = mixed_precision.fits_tf32(network, device)
    torch.backends.cuda.matmul.allow_tf32 = tf32
    rates, copy_rate = measured_rates(device)
    dtype = None if tf32 else mixed_precision.mixed_dtype(device)
    layers = count_layers(mixed_precision.mixed_copy(network, dtype) if dtype else copy.deepcopy(network), 512)
    shown = ", ".join(f"{name} {rate / 1e12:.2f} TFLOP/s" for name, rate in rates.items())
    print(f"\nRoofline of 512x512 at rates measured here: {shown}, copy {copy_rate / 1e9:.1f} GB/s")
    print(f"  {'layers':26} number    GFLOP       GB  least ms  (bound by operations, by bytes)")
    total = 0.0
    for (name, kind), costs in sorted(layers.items()):
        least = [max(flops / rates[kind], moved / copy_rate) for flops, moved in costs]
        bound = Counter(flops / rates[kind] > moved / copy_rate for flops, moved in costs)
        flops, moved = (sum(column) for column in zip(*costs, strict=True))
        total += sum(least)
        sums = f"{len(costs):6}  {flops / 1e9:7.2f}  {moved / 1e9:7.3f}  {1e3 * sum(least):8.3f}"
        print(f"  {name + ', ' + kind:26} {sums}  ({bound[True]}, {bound[False]})")
    print(json.dumps(total))


def main() -> int:
    """Prints all tables; 0 where every way is faithful."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--device", default=None, help="cpu, cuda or cuda:N; default: cuda where there is one, else cpu"
    )
    parser.add_argument("--model", help="name or path; default: the model that comes with it")
    parser.add_argument("--slices", type=int, default=2, help="of each volume")
    parser.add_argument(
        "--data",
        type=Path,
        nargs="+",
        help="folders of NIfTI volumes of any size (default: ASCON_TEST_DATA/validation)",
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sides", type=int, nargs="+", default=[256, 512, 768, 1024])
    parser.add_argument("--threads", type=int, help="default: as torch chooses")
    parser.add_argument("--skip", nargs="+", default=[], choices=PARTS)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--started", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        roofline(args) if args.child == "roofline" else serve(args)
        return 0
    import torch

    args.device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    gpu = args.device.startswith("cuda")
    machine = torch.cuda.get_device_name(args.device) if gpu else torch.backends.cpu.get_cpu_capability()
    data = os.environ.get("ASCON_TEST_DATA")
    what, pairs = quarter_dose(args.slices, args.data or ([Path(data) / "validation"] if data else []))
    print(
        f"{args.device} {machine}, {args.threads or torch.get_num_threads()} threads, torch {torch.__version__}; {what}"
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for i, (_, ldct) in enumerate(pairs):
            np.save(folder / f"ldct-{i}.npy", ldct)
        volume = np.rint(pairs[0][1]).astype(np.int16)  # times are of the most common size
        np.save(folder / "volume.npy", np.resize(volume, (GPU_SLICES, *volume.shape[1:])) if gpu else volume)
        faithful, seconds = compared(args, folder, pairs, None)
        if "roofline" not in args.skip:
            command = [sys.executable, *sys.argv, "--child", "roofline", "--device", args.device]
            lines = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
            print(*lines[:-1], sep="\n")
            least = json.loads(lines[-1])
            print(f"  sum {1e3 * least:.2f} ms a slice; ours, memory to memory, takes {seconds / least:.2f} times that")
        if not gpu and "avx2" not in args.skip:
            faithful = compared(args, folder, pairs, "AVX2")[0] and faithful
    print(f"\nfidelity: {'every way is within the bounds' if faithful else 'a way is out of bounds'}")
    return 0 if faithful else 1


if __name__ == "__main__":
    sys.exit(main())
