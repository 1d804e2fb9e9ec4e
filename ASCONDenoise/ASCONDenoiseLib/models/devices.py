"""What networks run on: the device of a name, its title, the memory that torch keeps in reserve."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path

import torch

from ASCONDenoiseLib.errors import InputError, is_out_of_memory
from ASCONDenoiseLib.models.torch_environment import free_kept_memory

logger = logging.getLogger(__name__)


def pick_device(name: str = "auto") -> torch.device:
    """The device called "auto" (CUDA, else MPS, else CPU), "cpu", "cuda", "cuda:N" or "mps", after a small trial on it.

    Raises:
        InputError: the name is unknown, or the device is not there or does not work.
    """
    if name == "auto":
        for gpu, there in (("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available())):
            if there:
                try:
                    return pick_device(gpu)
                except InputError as error:
                    logger.warning("%s", error)
        return torch.device("cpu")
    kind = name.split(":")[0]
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or kind not in ("cpu", "cuda", "mps"):
        raise InputError(f'There is no device called "{name}". Choose auto, cpu, cuda, cuda:N or mps.')
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not count:
            raise InputError(
                "No CUDA GPU can be used: there is none, its driver is missing, or this torch was built without CUDA. "
                "Choose auto or cpu."
            )
        device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
        if device.index >= count:
            raise InputError(f'There is no device "{name}": the CUDA GPUs here are cuda:0 to cuda:{count - 1}.')
    if kind == "mps" and not torch.backends.mps.is_available():
        raise InputError("There is no Apple GPU (MPS) that this torch can use. Choose auto or cpu.")
    try:
        torch.ones(1, device=device).add_(1).cpu()  # a GPU that is too old or too new for this torch fails here
    except RuntimeError as error:
        if not is_out_of_memory(error):  # where it is, a smaller batch or the CPU will do
            reason = str(error).splitlines()[0]
            raise InputError(f'The device "{name}" does not work with this torch ({reason}). Choose cpu.') from None
    return device


def device_title(device: torch.device) -> str:
    """E.g. "cuda:0 NVIDIA H100", "cpu"."""
    return f"{device} {torch.cuda.get_device_name(device)}" if device.type == "cuda" else str(device)


def free_main_memory() -> int | None:
    """Bytes that the CPU's work can still have, a container's limit among them; None where the system does not say."""
    free = []
    with suppress(OSError, ValueError, IndexError):
        (line,) = (line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable:"))
        free.append(1024 * int(line.split()[1]))
    with suppress(OSError, ValueError):  # "max" where there is no limit
        limit, used = (int(Path("/sys/fs/cgroup", f"memory.{what}").read_text()) for what in ("max", "current"))
        free.append(max(0, limit - used))
    return min(free, default=None)


def free_reserved_memory() -> None:
    """Gives back what torch keeps in reserve on GPUs, as Slicer draws with the same one, and what the heap keeps."""
    free_kept_memory()
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
