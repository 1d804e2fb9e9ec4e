"""In what precision a network runs: fp32, TF32, or a copy with most convolutions in bf16 that is faithful to fp32.

A network has a bf16 form where its class names in PRECISE_LAYERS the layers that stay in fp32 (as patterns of
`fnmatch`). Against fp32 the copy may cost 0.5 HU RMS and 5 HU at most; a small phantom is denoised both ways first,
once per network and device, and a network that costs more runs in fp32.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import nn

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.imaging.hounsfield import TRAINING_WINDOW_HU, clip_to_window, to_unit

FP32 = "fp32"
TF32 = "fp32 with TF32 convolutions"
MIXED = "bf16 convolutions, fp32 image path"
"""What results say of their precision. TensorFloat-32 is on in the second alone."""

PRECISIONS = ("auto", "fp32", "bf16")
"""What can be asked for; auto: TF32 where `fits_tf32` says so, else bf16 where it is fast and faithful, else fp32."""

FAITHFUL_RMS_HU, FAITHFUL_MAX_HU = 0.5, 5.0
"""How far the bf16 result may lie from fp32."""

MASKS_BF16 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI")
"""Values of ONEDNN_MAX_CPU_ISA that keep oneDNN from a CPU's bf16 instructions."""

Run = Callable[[nn.Module, np.ndarray], np.ndarray]
"""Runs a network on the device in question: input (B, H, W) in unit range -> output (B, 1, H, W)."""


@dataclass(frozen=True)
class Trial:
    """The comparison of bf16 with fp32, for one state of a network on one device.

    Attributes:
        state: The device, and each weight's identity and version, which torch counts up with each change in place.
        mixed: The copy where it is faithful, else None.
        rms_hu: How far the copy takes a phantom from fp32.
        max_hu: The same, of the voxel that it takes farthest.
    """

    state: tuple[torch.device, list[tuple[int, int]]]
    mixed: nn.Module | None
    rms_hu: float
    max_hu: float


trials: WeakKeyDictionary[nn.Module, Trial] = WeakKeyDictionary()
"""Kept for as long as the network is, so that a warm process tries once."""


def mixed_dtype(device: torch.device) -> torch.dtype | None:
    """bf16 where this device multiplies it faster than fp32: CUDA from Ampere on, CPUs with AVX512-BF16 or AMX."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else None
    masked = os.environ.get("ONEDNN_MAX_CPU_ISA", os.environ.get("DNNL_MAX_CPU_ISA", "")).upper() in MASKS_BF16
    if device.type != "cpu" or masked or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return None
    # private, and not in every torch: without them fp32 it is
    asked = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return torch.bfloat16 if any(ask is not None and ask() for ask in asked) else None


def fits_tf32(network: nn.Module, device: torch.device) -> bool:
    """CUDA from Ampere on, for networks that add to the image and do not hand it on through their layers.

    On an H100 the pair, version 0.3.3, took 26.3 ms a slice in it and was 0.10 HU (RMS) from the plain network; in bf16
    version 0.3.1 took 17.8 ms, with fewer threads, and was 0.45 HU off, a voxel by 6.8. That was the first attention's
    doing, which is in fp32 since: TF32 stays until bf16 has been measured on a GPU again.
    """
    return device.type == "cuda" and mixed_dtype(device) is not None and bool(getattr(network, "residual", False))


def lowered_layers(network: nn.Module) -> list[str]:
    """Names of the convolutions that are not among a network's PRECISE_LAYERS: those that its bf16 form has in bf16."""
    precise: Any = network.PRECISE_LAYERS
    return [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d) and not any(fnmatch(name, pattern) for pattern in precise)
    ]


def mixed_copy(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy, for use only, that computes in `dtype` (bf16) except in the network's PRECISE_LAYERS."""
    copied = copy.deepcopy(network).requires_grad_(False)
    for name in lowered_layers(copied):
        copied.get_submodule(name).to(dtype)
    return copied


def check_precision(network: nn.Module, precision: str) -> None:
    """Raises InputError where the precision is none of PRECISIONS, or the network does not have it."""
    if precision not in PRECISIONS:
        raise InputError(f'There is no precision "{precision}". Choose {", ".join(PRECISIONS)}.')
    if precision == "bf16" and not hasattr(network, "PRECISE_LAYERS"):
        raise InputError(f"{type(network).__name__} has no bf16 form. Choose the precision auto or fp32.")


def chosen(network: nn.Module, device: torch.device, precision: str, run: Run) -> tuple[nn.Module, str]:
    """The network to run, itself or its bf16 copy, and a note for the user where the copy was not faithful, else "".

    Args:
        network: in fp32.
        device: what it is to run on.
        precision: one of PRECISIONS.
        run: runs a network on that device.
    """
    dtype = torch.bfloat16 if precision == "bf16" else mixed_dtype(device)
    if precision == "fp32" or dtype is None or not hasattr(network, "PRECISE_LAYERS"):
        return network, ""
    if precision == "bf16":
        return mixed_copy(network, dtype), ""
    if fits_tf32(network, device):
        return network, ""
    state = (device, [(id(w), w._version) for w in network.parameters()])
    if network not in trials or trials[network].state != state:
        copied = mixed_copy(network, dtype)
        rms_hu, max_hu = _cost(network, copied, run)
        faithful = rms_hu <= FAITHFUL_RMS_HU and max_hu <= FAITHFUL_MAX_HU  # not where one is NaN
        trials[network] = Trial(state, copied if faithful else None, rms_hu, max_hu)
    trial = trials[network]
    if trial.mixed is None:
        cost = f"{trial.rms_hu:.2g} HU (RMS), one voxel by {trial.max_hu:.2g} HU"
        return network, f"fp32, as bf16 would change this model's result by {cost}"
    return trial.mixed, ""


def _cost(network: nn.Module, copied: nn.Module, run: Run) -> tuple[float, float]:
    """How far the copy takes a phantom from fp32, in HU: RMS, and the voxel that it takes farthest."""
    phantom = to_unit(_phantom_hu())[None]
    low, high = TRAINING_WINDOW_HU
    difference_hu = (run(copied, phantom) - run(network, phantom)) * (high - low)
    return float(np.sqrt((difference_hu**2).mean())), float(abs(difference_hu).max())


def _phantom_hu() -> np.ndarray:
    """(160, 160), float32: air, a body of soft tissue with lung and bone in it, and noise; the same each time.

    In one of 96 pixels, rounding took the models little more than half as far as in real slices.
    """
    y, x = np.mgrid[:160, :160] - 79.5
    image = np.where(np.hypot(x, y) < 70, 40.0, -1000.0)
    image[np.hypot(x - 25, y) < 23] = -850
    image[np.hypot(x + 30, y + 17) < 10] = 900
    image += np.random.default_rng(0).normal(0, 30, image.shape)
    return clip_to_window(image).astype(np.float32)
