"""A CT volume in HU in, a denoised volume in HU out; or the network's features, slice by slice.

The output is y = x + strength * (G(c) - c) with c = x clipped to the training window, so noise is removed as a
difference: an identity network returns x exactly and nothing is cut off. Padding and voxels of 2000 HU and more keep
their value; noisy air below -1000 HU is treated like the rest. Whole slices go through the network, never tiles: its
attention statistics run over all pixels. Memory beyond the input and the output is that of one batch.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from .blending import added, check_strength
from .hounsfield import TRAINING_WINDOW_HU, clip_to_window, padding_mask, to_unit

logger = logging.getLogger(__name__)

PRECISION = "fp32"
"""What the network computes in; TensorFloat-32 is off."""

GPU_BYTES_PER_PIXEL = 6000
"""Safe estimate of a forward pass; ESAU-Net took 3600 on a CPU (measured: 0.93 GB for 512x512)."""

MAX_BATCH = 4
"""Slices of 512x512 at once; more keep a GPU no busier."""

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
    progress: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
    out: np.ndarray | None = None,
) -> Result:
    """Denoises a CT volume; the output rule is at the top of this file.

    Where memory runs out, the batch is halved, then the rest is done on the CPU; the result's notes and the log say so.

    Args:
        voxels_hu: (S, H, W) in HU, integer or floating point, of any size; memory-mapped arrays are read in batches.
        network: maps (B, 1, H, W) in unit range to the same shape; its attribute SIDE_MULTIPLE (1 where it has none)
            is what H and W are padded to. It is moved to the device and stays there.
        strength: 0 (returns a copy, bit for bit, without running the network) to 1 (all the noise that was found).
        device: see `pick_device`.
        batch: slices at once; None chooses: 1 on the CPU, on a GPU what fits into its free memory.
        padding_hu: value of the pixels outside the scan circle; they keep it.
        progress: called with (slices done, slices in all) after each slice.
        cancelled: asked before each batch; True raises Cancelled.
        out: (S, H, W) array of the input's dtype that receives the result, e.g. memory-mapped. Integer results are
            rounded to nearest.

    Raises:
        ValueError: voxels, strength, batch, device or `out` cannot be used.
        Cancelled: `cancelled` returned True. `out` holds the slices done so far.
        InferenceError: too little memory for one slice, or output that is not finite.
    """
    started = time.monotonic()
    _check_voxels(voxels_hu)
    check_strength(strength)
    out = _checked_output(out, voxels_hu)
    if strength == 0:
        out[...] = voxels_hu
        if progress is not None:
            progress(len(voxels_hu), len(voxels_hu))
        note = "strength 0: the volume is unchanged, the network was not run"
        return Result(out, "none", PRECISION, 0.0, time.monotonic() - started, (note,))

    runner = _Runner(network, network, pick_device(device), batch)
    low, high = TRAINING_WINDOW_HU
    for first, unit, output in runner.batches(voxels_hu, cancelled):
        difference_hu = (output[:, 0] - unit) * np.float32((high - low) * strength)
        for i, slice_difference_hu in enumerate(difference_hu):
            x = voxels_hu[first + i]
            slice_difference_hu[_keeps_value(x, padding_hu)] = 0
            out[first + i] = added(x, slice_difference_hu)
            if progress is not None:
                progress(first + i + 1, len(voxels_hu))
    seconds = time.monotonic() - started
    return Result(out, runner.device_name, PRECISION, float(strength), seconds, tuple(runner.notes))


def feature_maps(
    voxels_hu: np.ndarray,
    network: nn.Module,
    *,
    device: str = "auto",
    batch: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (slice index, features (C, H, W), float32) for each slice: the network's features before its last layer.

    A generator: nothing runs, and nothing is checked, before the first step. Arguments and errors as in `denoise`; the
    network also has `features(x)`, (B, 1, H, W) -> (B, C, H, W), ESAU-Net with C = 32.
    """
    _check_voxels(voxels_hu)
    if not hasattr(network, "features"):
        raise ValueError(f"{type(network).__name__} has no features to look at. Choose a model that has: ESAU-Net.")
    runner = _Runner(network, network.features, pick_device(device), batch)
    for first, _, output in runner.batches(voxels_hu, cancelled):
        for i, features in enumerate(output):
            yield first + i, features
            if progress is not None:
                progress(first + i + 1, len(voxels_hu))


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


class _Runner:
    """Runs a network on batches of slices. Out of memory halves the batch, then moves the network to the CPU."""

    def __init__(
        self,
        network: nn.Module,
        forward: Callable[[torch.Tensor], torch.Tensor],
        device: torch.device,
        batch: int | None,
    ):
        if batch is not None and batch < 1:
            raise ValueError(f"A batch has 1 slice or more; got {batch}.")
        self.network = network
        self.forward = forward  # the network or one of its methods
        self.device = device
        self.batch = batch
        self.device_name = _describe(device)
        self.notes: list[str] = []

    def batches(
        self, voxels_hu: np.ndarray, cancelled: Callable[[], bool] | None
    ) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Yields (index of the first slice, the network's input (B, H, W), its output (B, C, H, W)), all float32."""
        if self.batch is None:
            self.batch = _default_batch(self.device, voxels_hu.shape[1:])
        first = 0
        while first < len(voxels_hu):
            if cancelled is not None and cancelled():
                raise Cancelled(f"Cancelled after {first} of {len(voxels_hu)} slices.")
            slices = voxels_hu[first : first + self.batch]
            unit = to_unit(clip_to_window(slices).astype(np.float32))
            output = self._output(unit)
            if output is None:
                self._use_less_memory(len(slices), voxels_hu.shape)
                continue
            for i in range(len(slices)):
                if not np.isfinite(output[i]).all():
                    raise InferenceError(
                        f"The network's output for slice {first + i + 1} is not finite. The model file or the device "
                        f"({self.device_name}) is faulty; try another model, or the CPU."
                    )
            yield first, unit, output
            first += len(slices)

    def _output(self, unit: np.ndarray) -> np.ndarray | None:
        """(B, H, W) -> (B, C, H, W), padded for the network and cropped again; None where memory ran out."""
        height, width = unit.shape[1:]
        multiple = getattr(self.network, "SIDE_MULTIPLE", 1)
        padded = np.pad(unit, ((0, 0), (0, -height % multiple), (0, -width % multiple)), mode="reflect")
        try:
            self.network.to(self.device)
            x = torch.from_numpy(padded)[:, None].to(self.device)
            if self.device.type == "cpu":  # channels last is a quarter faster there; the strides carry it on
                x = torch.empty(x.shape, memory_format=torch.channels_last).copy_(x)
            tf32_off = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
            with _evaluation_mode(self.network), torch.inference_mode(), tf32_off:
                return self.forward(x)[..., :height, :width].cpu().numpy()
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            return None  # from here on the error's traceback no longer holds the tensors

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
        else:
            raise InferenceError(
                f"There is not enough memory to denoise one slice of {shape[1]} x {shape[2]} pixels. "
                "Close other programs, or use a machine with more memory."
            )

    def _note(self, text: str) -> None:
        logger.warning("%s", text)
        self.notes.append(text)


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


def _keeps_value(x: np.ndarray, padding_hu: float | None) -> np.ndarray:
    """Where x is padding or lies above the window."""
    return padding_mask(x, padding_hu) | (x >= TRAINING_WINDOW_HU[1])


def _default_batch(device: torch.device, sides: tuple[int, ...]) -> int:
    if device.type != "cuda":
        return 1  # one slice keeps a CPU busy; MPS shares its memory with everything else
    free, _ = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # torch's own reserve
    needed = GPU_BYTES_PER_PIXEL * sides[0] * sides[1]
    return int(min(MAX_BATCH, max(1, free // (2 * needed))))


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
