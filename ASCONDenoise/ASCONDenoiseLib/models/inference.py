"""A CT volume in HU in, a denoised volume in HU out; the network's features too, slice by slice, for who wants them.

The output is y = x + strength * (G(c) - c) with c = x clipped to the training window, so noise is removed as a
difference: an identity network returns x exactly and nothing is cut off. Padding and voxels of 2000 HU and more keep
their value; noisy air below -1000 HU is treated like the rest. Where padding cuts the body, the network is shown the
body continued (`imaging/scan_circle.py`), since the cut is no edge of the patient's. Whole slices go through the
network, never tiles: its attention statistics run over all pixels. Memory beyond the input and the output is that of
one batch; on a CUDA GPU of two, since one is computed while the one before is finished.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import nn

from ASCONDenoiseLib.errors import Cancelled, Failure, InputError, is_out_of_memory
from ASCONDenoiseLib.imaging.hounsfield import TRAINING_WINDOW_HU, Padding, clip_to_window, padding_mask, to_unit
from ASCONDenoiseLib.imaging.output_rule import check_strength, with_difference
from ASCONDenoiseLib.imaging.scan_circle import continued
from ASCONDenoiseLib.models import cpu, mixed_precision
from ASCONDenoiseLib.models.devices import device_title, free_main_memory, free_reserved_memory, pick_device
from ASCONDenoiseLib.models.mixed_precision import FP32, MIXED, TF32
from ASCONDenoiseLib.models.networks import anatomy_of, has_features, image_of

logger = logging.getLogger(__name__)

BYTES_PER_PIXEL = 6000
"""Safe estimate of a forward pass; ESAU-Net took 3600 on a CPU (measured: 0.93 GB for 512x512)."""

GPU_BATCH_PIXELS = 8 * 512 * 512
"""Most pixels at once: enough work to hide a GPU's launches of kernels behind (reckoned)."""


@dataclass(frozen=True)
class Result:
    """A denoised volume and how it came about.

    Attributes:
        voxels: (S, H, W) in HU, the input's dtype.
        device: What the network ran on, e.g. "cuda:0 NVIDIA H100"; "cuda:0 NVIDIA H100, then cpu" after a fallback.
        precision: E.g. "fp32".
        strength: 0 to 1.
        seconds: How long it took.
        notes: What the user should know, e.g. that memory ran out and what was done about it.
    """

    voxels: np.ndarray
    device: str
    precision: str
    strength: float
    seconds: float
    notes: tuple[str, ...] = ()


def denoise(
    voxels_hu: np.ndarray,
    network: nn.Module,
    *,
    strength: float = 1.0,
    device: str = "auto",
    batch: int | None = None,
    padding_hu: Padding = None,
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
            is what H and W are padded to. It, or its bf16 copy, is moved to the device and stays there; on a CPU its
            weights become channels last, too.
        strength: 0 (returns a copy, bit for bit, without running the network) to 1 (all the noise that was found).
        device: see `devices.pick_device`.
        batch: slices at once, less on the CPU where they do not fit into its free memory; None chooses: 1 on the CPU,
            on a GPU what fits into its free memory.
        padding_hu: value, or lowest and highest value, of the pixels outside the scan circle; they keep it.
        precision: one of `mixed_precision.PRECISIONS`. "bf16" is not checked against fp32, and slow where the hardware
            lacks it.
        progress: called with (slices done, slices in all) after each slice.
        cancelled: asked before each batch; True raises Cancelled.
        see_features: called for each slice with (its index, the features before the last layer as `networks.anatomy_of`
            gives them (C, H, W) in float32, the denoised slice). The network then has `features`, (B, 1, H, W) ->
            (B, C, h, w), and `last`, from there to its output; it runs at strength 0, too.
        out: (S, H, W) array of the input's dtype that receives the result, e.g. memory-mapped. Integer results are
            rounded to nearest.

    Raises:
        InputError: voxels, strength, batch, device, precision or `out` cannot be used, or the network has no features.
        Cancelled: `cancelled` returned True. `out` holds the slices done so far.
        Failure: too little memory for one slice, or output that is not finite.
    """
    started = time.monotonic()
    check_voxels(voxels_hu)
    check_strength(strength)
    out = _checked_output(out, voxels_hu)
    if strength == 0 and see_features is None:
        out[...] = voxels_hu
        if progress is not None:
            progress(len(voxels_hu), len(voxels_hu))
        note = "strength 0: the volume is unchanged, the network was not run"
        return Result(out, "none", FP32, 0.0, time.monotonic() - started, (note,))

    picked = pick_device(device)
    with cpu.Threads(len(voxels_hu) // (batch or 1) if picked.type == "cpu" else 0) as threads:
        if picked.type == "cpu":
            cpu.log_cpu()
        runner = _Runner(network, picked, batch, precision, threads, with_features=see_features is not None)
        batches = runner.batches(voxels_hu, padding_hu, cancelled)
        if runner.device.type == "cuda":
            batches = _one_ahead(batches)
        low, high = TRAINING_WINDOW_HU
        for first, padding, unit, output, features in batches:
            difference_hu = (output[:, 0] - unit) * np.float32((high - low) * strength)
            for i, slice_difference_hu in enumerate(difference_hu):
                out[first + i] = with_difference(voxels_hu[first + i], slice_difference_hu, padding[i])
                if see_features is not None and features is not None:
                    see_features(first + i, features[i], out[first + i])
                if progress is not None:
                    progress(first + i + 1, len(voxels_hu))
    seconds = time.monotonic() - started
    precision = ", then ".join(runner.precisions)
    return Result(out, runner.device_name, precision, float(strength), seconds, tuple(runner.notes))


class _Batch(NamedTuple):
    """Slices that went through the network, in float32: input (B, H, W), output (B, 1, H, W), features (B, C, H, W).

    `padding` (B, H, W) says where they are none of the scan.
    """

    first: int
    padding: np.ndarray
    unit: np.ndarray
    output: np.ndarray
    features: np.ndarray | None


class _Runner:
    """Runs a network on batches of slices. Out of memory halves the batch, then moves the network to the CPU."""

    def __init__(
        self,
        network: nn.Module,
        device: torch.device,
        batch: int | None,
        precision: str,
        threads: cpu.Threads,
        *,
        with_features: bool,
    ):
        if batch is not None and batch < 1:
            raise InputError(f"A batch has 1 slice or more; got {batch}.")
        mixed_precision.check_precision(network, precision)
        if with_features and not has_features(network):
            name = type(network).__name__
            raise InputError(f"{name} has no features to look at. Choose a model that has: ESAU-Net.")
        self.network = network
        self.precision = precision
        self.threads = threads
        self.with_features = with_features
        self.device = device
        self.batch = batch
        self.device_name = device_title(device)
        self.precisions: list[str] = []  # each once, in the order of the devices
        self.running: nn.Module | None = None  # the network, or its bf16 copy, chosen on the device at the first batch
        self.placed: tuple[nn.Module, torch.device] | None = None  # which network lies where, as it is to run there
        self.notes: list[str] = []

    def batches(
        self, voxels_hu: np.ndarray, padding_hu: Padding, cancelled: Callable[[], bool] | None
    ) -> Iterator[_Batch]:
        """Runs the network on one batch after the other."""
        if self.batch is None:
            self.batch = _default_batch(self.device, voxels_hu.shape[1:])
        self.batch = self._batch_that_fits(min(self.batch, len(voxels_hu)), voxels_hu.shape[1:])
        first = 0
        while first < len(voxels_hu):
            if cancelled is not None and cancelled():
                raise Cancelled(f"Cancelled after {first} of {len(voxels_hu)} slices.")
            slices = voxels_hu[first : first + self.batch]
            padding = np.stack([padding_mask(x, padding_hu) for x in slices])
            shown = np.stack([continued(*pair) for pair in zip(slices, padding, strict=True)])
            unit = to_unit(clip_to_window(shown).astype(np.float32))
            outputs = self.threads.run(partial(self._outputs, unit))
            if outputs is None:
                self._use_less_memory(len(slices), voxels_hu.shape)
                continue
            for i in range(len(slices)):
                if not np.isfinite(outputs[0][i]).all():
                    raise Failure(
                        f"The network's output for slice {first + i + 1} is not finite. The model file or the device "
                        f"({self.device_name}) is faulty; try another model, or the CPU."
                    )
            yield _Batch(first, padding, unit, *outputs)
            first += len(slices)

    def _batch_that_fits(self, batch: int, sides: tuple[int, ...]) -> int:
        """`batch`, or less with a note where the main memory is smaller: to run out of it takes long, or ends all."""
        free = free_main_memory() if self.device.type == "cpu" and batch > 1 else None
        needed = BYTES_PER_PIXEL * sides[0] * sides[1]
        if free is None or batch * needed <= free:
            return batch
        fitting = max(1, free // needed)
        self._note(
            f"{batch} slices at once would need some {batch * needed / 1e9:.0f} GB and {free / 1e9:.0f} GB are free: "
            f"batch lowered to {fitting}"
        )
        return fitting

    @property
    def _tf32(self) -> bool:
        return self.precision == "auto" and mixed_precision.fits_tf32(self.network, self.device)

    def _outputs(self, unit: np.ndarray) -> tuple[np.ndarray, np.ndarray | None] | None:
        """(B, H, W) -> output and features, in float32 and the slices' size; None where memory ran out."""
        try:
            if self.running is None:
                self.running, note = mixed_precision.chosen(
                    self.network, self.device, self.precision, lambda network, unit: self._run(network, unit)[0]
                )
                if note:
                    self._note(note)
                described = MIXED if self.running is not self.network else TF32 if self._tf32 else FP32
                if described not in self.precisions:
                    self.precisions.append(described)
            return self._run(self.running, unit)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return None  # from here on the error's traceback no longer holds the tensors

    def _run(self, network: nn.Module, unit: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """(B, H, W), padded for the network and cropped again -> output (B, 1, H, W), features (B, C, H, W) or None."""
        height, width = unit.shape[1:]
        multiple = getattr(network, "SIDE_MULTIPLE", 1)
        padded = np.pad(unit, ((0, 0), (0, -height % multiple), (0, -width % multiple)), mode="reflect")
        x = torch.from_numpy(padded)[:, None].to(self.device)
        # channels last is faster on a CPU and in bf16; where image or weights are not, each layer lays them out anew
        channels_last = self.device.type == "cpu" or network is not self.network
        if self.placed != (network, self.device):
            network.to(self.device)
            if channels_last:
                network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            self.placed = network, self.device
        if channels_last:
            x = torch.empty(x.shape, device=self.device, memory_format=torch.channels_last).copy_(x)
        tf32 = torch.backends.cudnn.flags(enabled=True, allow_tf32=self._tf32)

        def cropped(y: torch.Tensor) -> np.ndarray:
            return y[..., :height, :width].float().cpu().numpy()

        with _evaluation_mode(network), torch.inference_mode(), tf32:
            if not self.with_features:
                return cropped(network(x)), None
            features: torch.Tensor = cast(Any, network).features(x)  # checked to have it
            image = image_of(network, features, x)
            return cropped(image), cropped(anatomy_of(network, features, image))

    def _use_less_memory(self, batch: int, shape: tuple[int, ...]) -> None:
        """Halves the batch, or changes to the CPU; raises Failure where neither is left to do."""
        free_reserved_memory()
        if batch > 1:
            self.batch = batch // 2
            self._note(f"out of memory on {device_title(self.device)}: batch halved to {self.batch}")
        elif self.device.type != "cpu":
            self._note(f"out of memory on {device_title(self.device)} with one slice: fell back to the CPU")
            self.batch = 1
            self.device = torch.device("cpu")
            self.device_name += ", then cpu"
            self.running = None
        else:
            raise Failure(
                f"There is not enough memory to denoise one slice of {shape[1]} x {shape[2]} pixels. "
                "Close other programs, or use a machine with more memory."
            )

    def _note(self, text: str) -> None:
        logger.warning("%s", text)
        self.notes.append(text)


def _one_ahead(batches: Iterator[_Batch]) -> Iterator[_Batch]:
    """The same batches; while one is used, a thread makes the next, so that a GPU need not wait for the CPU's part."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = thread.submit(next, batches, None)
            yield batch


@contextmanager
def _evaluation_mode(network: nn.Module) -> Iterator[None]:
    """The network as it is for use; afterwards each of its modules trains again if it did before."""
    training = [module for module in network.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def check_voxels(voxels_hu: np.ndarray) -> None:
    """Raises InputError where this is no volume (S, H, W) of finite numbers."""
    if voxels_hu.ndim != 3 or 0 in voxels_hu.shape:
        raise InputError(f"A volume has one or more slices, rows and columns; got the shape {voxels_hu.shape}.")
    if voxels_hu.dtype.kind not in "iuf":
        raise InputError(f"Voxels are integers or floating-point numbers in HU; got the type {voxels_hu.dtype}.")
    if voxels_hu.dtype.kind == "f":
        for i, x in enumerate(voxels_hu):
            if not np.isfinite(x).all():
                raise InputError(
                    f"Slice {i + 1} of the volume has voxels that are not finite numbers; repair it first."
                )


def _checked_output(out: np.ndarray | None, voxels_hu: np.ndarray) -> np.ndarray:
    if out is None:
        return np.empty(voxels_hu.shape, voxels_hu.dtype)
    if out.shape != voxels_hu.shape or out.dtype != voxels_hu.dtype:
        raise InputError(
            f"Input and output differ in shape or type: {voxels_hu.shape} {voxels_hu.dtype}, {out.shape} {out.dtype}."
        )
    return out


def _default_batch(device: torch.device, sides: tuple[int, ...]) -> int:
    if device.type != "cuda":
        return 1  # one slice keeps a CPU busy; MPS shares its memory with everything else
    free, _ = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # torch's own reserve
    needed = BYTES_PER_PIXEL * sides[0] * sides[1]
    return int(max(1, min(GPU_BATCH_PIXELS // (sides[0] * sides[1]), free // (2 * needed))))
