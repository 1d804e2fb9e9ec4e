"""A CT volume in HU in, a denoised volume in HU out; the network's features too, slice by slice, for who wants them.

The output is y = x + strength * (G(c) - c) with c = x clipped to the training window, so noise is removed as a
difference: an identity network returns x exactly and nothing is cut off. Padding and voxels of 2000 HU and more keep
their value; noisy air below -1000 HU is treated like the rest. Whole slices go through the network, never tiles: its
attention statistics run over all pixels. Memory beyond the input and the output is that of one batch; on a CUDA GPU of
two, since one is computed while the one before is finished.

Precision: where a device multiplies bf16 natively and the network has a `mixed` copy, most convolutions run in bf16.
Against fp32 that may cost 0.5 HU RMS and 5 HU at most; a small phantom is denoised both ways first, once per network
and device, and fp32 is used for a model that costs more.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import nn

from ASCONDenoiseLib.imaging.hounsfield import TRAINING_WINDOW_HU, clip_to_window, to_unit
from ASCONDenoiseLib.imaging.output_rule import check_strength, with_difference

logger = logging.getLogger(__name__)

FP32 = "fp32"
MIXED = "bf16 convolutions, fp32 image path"
"""What results say of their precision. In both, TensorFloat-32 is off."""

PRECISIONS = ("auto", "fp32", "bf16")
"""What can be asked for; auto: bf16 where it is fast and faithful, else fp32."""

FAITHFUL_RMS_HU, FAITHFUL_MAX_HU = 0.5, 5.0
"""How far the bf16 result may lie from fp32."""

MASKS_BF16 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI")
"""Values of ONEDNN_MAX_CPU_ISA that keep oneDNN from a CPU's bf16 instructions."""

GPU_BYTES_PER_PIXEL = 6000
"""Safe estimate of a forward pass; ESAU-Net took 3600 on a CPU (measured: 0.93 GB for 512x512)."""

GPU_BATCH_PIXELS = 8 * 512 * 512
"""Most pixels at once: enough work to hide a GPU's launches of kernels behind (reckoned, not measured yet)."""

OUT_OF_MEMORY = ("out of memory", "not enough memory", "allocate memory", "bad_alloc", "alloc_failed")
"""Words, in lower case, in the errors of CUDA and MPS, of torch's CPU allocator, of C++, and of cuBLAS and cuDNN."""


class Cancelled(RuntimeError):  # noqa: N818 - what the user asked for, not an error
    """The caller's `cancelled` returned True; no result."""


class InferenceError(RuntimeError):
    """The network could not be run to an end: too little memory for one slice, or output that is not finite."""


@dataclass(frozen=True)
class Result:
    """A denoised volume and how it came about."""

    voxels: np.ndarray
    """(S, H, W) in HU, the input's dtype."""
    device: str
    """What the network ran on, e.g. "cuda:0 NVIDIA H100"; "cuda:0 NVIDIA H100, then cpu" after a fallback."""
    precision: str
    strength: float
    seconds: float
    notes: tuple[str, ...] = ()
    """What the user should know, e.g. that memory ran out and what was done about it."""


def denoise(
    voxels_hu: np.ndarray,
    network: nn.Module,
    *,
    strength: float = 1.0,
    device: str = "auto",
    batch: int | None = None,
    padding_hu: float | None = None,
    precision: str = "auto",
    progress: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
    see_features: Callable[[int, np.ndarray, np.ndarray], None] | None = None,
    out: np.ndarray | None = None,
) -> Result:
    """Denoises a CT volume; the output rule is at the top of this file.

    Where memory runs out, the batch is halved, then the rest is done on the CPU; the result's notes and the log say so.

    Args:
        voxels_hu: (S, H, W) in HU, integer or floating point, of any size; memory-mapped arrays are read in batches.
        network: maps (B, 1, H, W) in unit range to the same shape; its attribute SIDE_MULTIPLE (1 where it has none)
            is what H and W are padded to. It, or its `mixed` copy, is moved to the device; it stays there.
        strength: 0 (returns a copy, bit for bit, without running the network) to 1 (all the noise that was found).
        device: see `pick_device`.
        batch: slices at once; None chooses: 1 on the CPU, on a GPU what fits into its free memory.
        padding_hu: value of the pixels outside the scan circle; they keep it.
        precision: one of PRECISIONS. "bf16" is not checked against fp32, and slow where the hardware lacks it.
        progress: called with (slices done, slices in all) after each slice.
        cancelled: asked before each batch; True raises Cancelled.
        see_features: called for each slice with (its index, the features before the last layer (C, H, W) in float32,
            the denoised slice). The network then has `features`, (B, 1, H, W) -> (B, C, H, W), and `last`, from there
            to its output; it runs at strength 0, too.
        out: (S, H, W) array of the input's dtype that receives the result, e.g. memory-mapped. Integer results are
            rounded to nearest.

    Raises:
        ValueError: voxels, strength, batch, device, precision or `out` cannot be used, or the network has no features.
        Cancelled: `cancelled` returned True. `out` holds the slices done so far.
        InferenceError: too little memory for one slice, or output that is not finite.
    """
    started = time.monotonic()
    _check_voxels(voxels_hu)
    check_strength(strength)
    out = _checked_output(out, voxels_hu)
    if strength == 0 and see_features is None:
        out[...] = voxels_hu
        if progress is not None:
            progress(len(voxels_hu), len(voxels_hu))
        note = "strength 0: the volume is unchanged, the network was not run"
        return Result(out, "none", FP32, 0.0, time.monotonic() - started, (note,))

    runner = _Runner(network, pick_device(device), batch, precision, with_features=see_features is not None)
    batches = runner.batches(voxels_hu, cancelled)
    if runner.device.type == "cuda":
        batches = _one_ahead(batches)
    low, high = TRAINING_WINDOW_HU
    for first, unit, output, features in batches:
        difference_hu = (output[:, 0] - unit) * np.float32((high - low) * strength)
        for i, slice_difference_hu in enumerate(difference_hu):
            out[first + i] = with_difference(voxels_hu[first + i], slice_difference_hu, padding_hu)
            if see_features is not None:
                see_features(first + i, features[i], out[first + i])
            if progress is not None:
                progress(first + i + 1, len(voxels_hu))
    seconds = time.monotonic() - started
    precision = ", then ".join(runner.precisions)
    return Result(out, runner.device_name, precision, float(strength), seconds, tuple(runner.notes))


def pick_device(name: str = "auto") -> torch.device:
    """The device called "auto" (CUDA, else MPS, else CPU), "cpu", "cuda", "cuda:N" or "mps", after a small trial on it.

    Raises ValueError where the name is unknown, or the device is not there or does not work.
    """
    if name == "auto":
        for gpu, there in (("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available())):
            if there:
                try:
                    return pick_device(gpu)
                except ValueError as error:
                    logger.warning("%s", error)
        return torch.device("cpu")
    kind = name.split(":")[0]
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or kind not in ("cpu", "cuda", "mps"):
        raise ValueError(f'There is no device called "{name}". Choose auto, cpu, cuda, cuda:N or mps.')
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not count:
            raise ValueError(
                "No CUDA GPU can be used: there is none, its driver is missing, or this torch was built without CUDA. "
                "Choose auto or cpu."
            )
        device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
        if device.index >= count:
            raise ValueError(f'There is no device "{name}": the CUDA GPUs here are cuda:0 to cuda:{count - 1}.')
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ValueError("There is no Apple GPU (MPS) that this torch can use. Choose auto or cpu.")
    try:
        torch.ones(1, device=device).add_(1).cpu()  # a GPU that is too old or too new for this torch fails here
    except RuntimeError as error:
        if not _is_out_of_memory(error):  # where it is, a smaller batch or the CPU will do
            reason = str(error).splitlines()[0]
            raise ValueError(f'The device "{name}" does not work with this torch ({reason}). Choose cpu.') from None
    return device


def mixed_dtype(device: torch.device) -> torch.dtype | None:
    """bf16 where this device multiplies it faster than fp32: CUDA from Ampere on, CPUs with AVX512-BF16 or AMX."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else None
    masked = os.environ.get("ONEDNN_MAX_CPU_ISA", os.environ.get("DNNL_MAX_CPU_ISA", "")).upper() in MASKS_BF16
    if device.type != "cpu" or masked or not torch.backends.mkldnn.is_available():
        return None
    # private, and not in every torch: without them fp32 it is
    asked = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return torch.bfloat16 if any(ask is not None and ask() for ask in asked) else None


@dataclass(frozen=True)
class _Trial:
    """What the comparison of bf16 with fp32 gave, for one state of a network on one device."""

    tried: tuple[torch.device, list[tuple[int, int]]]
    """The device, and each weight's identity and version, which torch counts up with each change in place."""
    mixed: nn.Module | None
    """The copy that is faithful, else None."""
    rms_hu: float


_trials: WeakKeyDictionary[nn.Module, _Trial] = WeakKeyDictionary()
"""Kept for as long as the network is, so that a warm process tries once."""


class _Runner:
    """Runs a network on batches of slices. Out of memory halves the batch, then moves the network to the CPU."""

    def __init__(
        self, network: nn.Module, device: torch.device, batch: int | None, precision: str, *, with_features: bool
    ):
        if batch is not None and batch < 1:
            raise ValueError(f"A batch has 1 slice or more; got {batch}.")
        name = type(network).__name__
        if precision not in PRECISIONS:
            raise ValueError(f'There is no precision "{precision}". Choose {", ".join(PRECISIONS)}.')
        if precision == "bf16" and not hasattr(network, "mixed"):
            raise ValueError(f"{name} has no bf16 form. Choose the precision auto or fp32.")
        if with_features and not (hasattr(network, "features") and hasattr(network, "last")):
            raise ValueError(f"{name} has no features to look at. Choose a model that has: ESAU-Net.")
        self.network = network
        self.asked = precision
        self.with_features = with_features
        self.device = device
        self.batch = batch
        self.device_name = _describe(device)
        self.precisions: list[str] = []  # each once, in the order of the devices
        self.running: nn.Module | None = None  # the network, or its mixed copy, chosen on the device at the first batch
        self.notes: list[str] = []

    def batches(
        self, voxels_hu: np.ndarray, cancelled: Callable[[], bool] | None
    ) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray | None]]:
        """Yields the first slice's index, input (B, H, W), output (B, 1, H, W) and features or None, all float32."""
        if self.batch is None:
            self.batch = _default_batch(self.device, voxels_hu.shape[1:])
        first = 0
        while first < len(voxels_hu):
            if cancelled is not None and cancelled():
                raise Cancelled(f"Cancelled after {first} of {len(voxels_hu)} slices.")
            slices = voxels_hu[first : first + self.batch]
            unit = to_unit(clip_to_window(slices).astype(np.float32))
            found = self._outputs(unit)
            if found is None:
                self._use_less_memory(len(slices), voxels_hu.shape)
                continue
            for i in range(len(slices)):
                if not np.isfinite(found[0][i]).all():
                    raise InferenceError(
                        f"The network's output for slice {first + i + 1} is not finite. The model file or the device "
                        f"({self.device_name}) is faulty; try another model, or the CPU."
                    )
            yield first, unit, *found
            first += len(slices)

    def _outputs(self, unit: np.ndarray) -> tuple[np.ndarray, np.ndarray | None] | None:
        """(B, H, W) -> output and features, in float32 and the slices' size; None where memory ran out."""
        try:
            if self.running is None:
                self.running = self._chosen()
                described = FP32 if self.running is self.network else MIXED
                if described not in self.precisions:
                    self.precisions.append(described)
            return self._run(self.running, unit)
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            return None  # from here on the error's traceback no longer holds the tensors

    def _chosen(self) -> nn.Module:
        """The network, or its mixed copy: where asked for, or where that is fast and faithful."""
        dtype = torch.bfloat16 if self.asked == "bf16" else mixed_dtype(self.device)
        if self.asked == "fp32" or dtype is None or not hasattr(self.network, "mixed"):
            return self.network
        if self.asked == "bf16":
            return self.network.mixed(dtype)
        tried = (self.device, [(id(w), w._version) for w in self.network.parameters()])
        if self.network not in _trials or _trials[self.network].tried != tried:
            _trials[self.network] = _Trial(tried, *self._mixed_and_its_cost(dtype))
        trial = _trials[self.network]
        if trial.mixed is None:
            self._note(f"fp32, as bf16 would change this model's result by {trial.rms_hu:.2g} HU (RMS)")
        return trial.mixed or self.network

    def _mixed_and_its_cost(self, dtype: torch.dtype) -> tuple[nn.Module | None, float]:
        """The mixed copy, None where it is not faithful, and how far it takes a phantom from fp32, in HU (RMS)."""
        mixed = self.network.mixed(dtype)
        phantom = to_unit(_phantom_hu())[None]
        low, high = TRAINING_WINDOW_HU
        difference_hu = (self._run(mixed, phantom)[0] - self._run(self.network, phantom)[0]) * (high - low)
        rms_hu, max_hu = float(np.sqrt((difference_hu**2).mean())), float(abs(difference_hu).max())
        faithful = rms_hu <= FAITHFUL_RMS_HU and max_hu <= FAITHFUL_MAX_HU  # not where one is NaN
        return mixed if faithful else None, rms_hu

    def _run(self, network: nn.Module, unit: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """(B, H, W), padded for the network and cropped again -> output (B, 1, H, W), features (B, C, H, W) or None."""
        height, width = unit.shape[1:]
        multiple = getattr(network, "SIDE_MULTIPLE", 1)
        padded = np.pad(unit, ((0, 0), (0, -height % multiple), (0, -width % multiple)), mode="reflect")
        network.to(self.device)
        x = torch.from_numpy(padded)[:, None].to(self.device)
        if self.device.type == "cpu" or network is not self.network:  # channels last is faster there, and in bf16
            x = torch.empty(x.shape, device=self.device, memory_format=torch.channels_last).copy_(x)
        tf32_off = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
        with _evaluation_mode(network), torch.inference_mode(), tf32_off:
            features = network.features(x) if self.with_features else None
            output = network(x) if features is None else network.last(features)
        found = (None if y is None else y[..., :height, :width].float().cpu().numpy() for y in (output, features))
        return tuple(found)

    def _use_less_memory(self, batch: int, shape: tuple[int, ...]) -> None:
        """Halves the batch, or changes to the CPU; raises InferenceError where neither is left to do."""
        _free_cache(self.device)
        if batch > 1:
            self.batch = batch // 2
            self._note(f"out of memory on {_describe(self.device)}: batch halved to {self.batch}")
        elif self.device.type != "cpu":
            self._note(f"out of memory on {_describe(self.device)} with one slice: fell back to the CPU")
            self.batch = 1
            self.device = torch.device("cpu")
            self.device_name += ", then cpu"
            self.running = None
        else:
            raise InferenceError(
                f"There is not enough memory to denoise one slice of {shape[1]} x {shape[2]} pixels. "
                "Close other programs, or use a machine with more memory."
            )

    def _note(self, text: str) -> None:
        logger.warning("%s", text)
        self.notes.append(text)


def _one_ahead(batches: Iterator[tuple]) -> Iterator[tuple]:
    """The same batches; while one is used, a thread makes the next, so that a GPU need not wait for the CPU's part."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = thread.submit(next, batches, None)
            yield batch


@contextmanager
def _evaluation_mode(network: nn.Module) -> Iterator[None]:
    """The network as it is for use; afterwards each of its modules trains again if it did before."""
    training = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in training.items():
            module.training = mode


def _check_voxels(voxels_hu: np.ndarray) -> None:
    if voxels_hu.ndim != 3 or 0 in voxels_hu.shape:
        raise ValueError(f"A volume has one or more slices, rows and columns; got the shape {voxels_hu.shape}.")
    if voxels_hu.dtype.kind not in "iuf":
        raise ValueError(f"Voxels are integers or floating-point numbers in HU; got the type {voxels_hu.dtype}.")
    if voxels_hu.dtype.kind == "f":
        for i, x in enumerate(voxels_hu):
            if not np.isfinite(x).all():
                raise ValueError(
                    f"Slice {i + 1} of the volume has voxels that are not finite numbers; repair it first."
                )


def _checked_output(out: np.ndarray | None, voxels_hu: np.ndarray) -> np.ndarray:
    if out is None:
        return np.empty(voxels_hu.shape, voxels_hu.dtype)
    if out.shape != voxels_hu.shape or out.dtype != voxels_hu.dtype:
        raise ValueError(
            f"Input and output differ in shape or type: {voxels_hu.shape} {voxels_hu.dtype}, {out.shape} {out.dtype}."
        )
    return out


def _phantom_hu() -> np.ndarray:
    """(96, 96), float32: air, a body of soft tissue with lung and bone in it, and noise; the same each time."""
    y, x = np.mgrid[:96, :96] - 47.5
    image = np.where(np.hypot(x, y) < 42, 40.0, -1000.0)
    image[np.hypot(x - 15, y) < 14] = -850
    image[np.hypot(x + 18, y + 10) < 6] = 900
    image += np.random.default_rng(0).normal(0, 30, image.shape)
    return clip_to_window(image).astype(np.float32)


def _default_batch(device: torch.device, sides: tuple[int, ...]) -> int:
    if device.type != "cuda":
        return 1  # one slice keeps a CPU busy; MPS shares its memory with everything else
    free, _ = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # torch's own reserve
    needed = GPU_BYTES_PER_PIXEL * sides[0] * sides[1]
    return int(max(1, min(GPU_BATCH_PIXELS // (sides[0] * sides[1]), free // (2 * needed))))


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)):
        return True
    return any(words in str(error).lower() for words in OUT_OF_MEMORY)


def _free_cache(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def _describe(device: torch.device) -> str:
    return f"{device} {torch.cuda.get_device_name(device)}" if device.type == "cuda" else str(device)
