"""What torch computes with on the CPU, and with how many threads inference is fastest.

Where other programs keep cores busy, threads wait for each other, and fewer can be faster: the first slices of a volume
tell. The number of threads decides in which order some sums are taken, which moves a result by less than 0.001 HU (and
so an integer by 1 HU now and then); ASCON_THREADS or OMP_NUM_THREADS fixes it.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.models.mixed_precision import mixed_dtype

logger = logging.getLogger(__name__)

T = TypeVar("T")

FAST_BLAS = re.compile("mkl|open|accelerate|veclib|blis|flexi|atlas|apl|nvpl|flame")

TRIAL_SLICES = 24
"""Volumes of fewer slices are denoised with all threads: a slice with too few threads would cost more than 4 %."""

WORTH = 1.25
"""Fewer threads are kept where they are faster by this factor: less may be chance."""


def torch_blas() -> str:
    """The library that torch multiplies matrices with: "mkl", "open" (OpenBLAS), ...; its file where any will do."""
    if torch.backends.mkl.is_available():  # type: ignore[no-untyped-call]
        return "mkl"
    name = re.search(r"BLAS_INFO=(\w+)", torch.__config__.show())
    if name is not None and name[1].lower() != "generic":
        return name[1].lower()
    with suppress(OSError):  # Debian's, where libblas.so.3 is one of several
        if found := re.search(r"/\S*/libblas\.so\S*", Path("/proc/self/maps").read_text()):
            return found[0]
    return "generic"


def slow_blas() -> str:
    """A sentence for the user where torch's matrix products are not optimised, else ""."""
    blas = torch_blas()
    if FAST_BLAS.search("/".join(Path(blas).parts[-2:])):
        return ""
    return (
        f"This PyTorch multiplies matrices without an optimised library (BLAS: {blas}), so a slice takes several times "
        "as long on the CPU. Install OpenBLAS, or the PyTorch of its makers (by pip, or by Slicer's extension PyTorch)."
    )


def instruction_sets() -> str:
    """E.g. "AVX512, AMX, bf16 in use": what torch's own code uses, and whether inference uses bf16 on the CPU."""
    asked = getattr(torch.cpu, "_is_amx_tile_supported", None)  # private, and not in every torch
    amx = asked() if asked is not None else _flag("amx_tile")
    bf16 = "in use" if mixed_dtype(torch.device("cpu")) is not None else "not in use"
    return f"{torch.backends.cpu.get_cpu_capability()}{', AMX' if amx else ''}, bf16 {bf16}"


def _flag(name: str) -> bool:
    with suppress(OSError):
        return re.search(rf"^flags\b.*\b{name}\b", Path("/proc/cpuinfo").read_text(), re.MULTILINE) is not None
    return False


def cpu_facts() -> dict[str, str]:
    """The BLAS of torch and NumPy, instruction sets and threads, each in a few words."""
    numpys = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return {
        "BLAS": f"{torch_blas()}; NumPy: {numpys.get('name')} {numpys.get('version')}",
        "CPU": instruction_sets(),
        "threads": f"{torch.get_num_threads()} of {os.cpu_count()} processors",
    }


@functools.cache
def log_cpu() -> None:
    """Writes what there is to compute with into the log, once, with a warning where that is slow."""
    facts = ", ".join(f"{name} {fact}" for name, fact in cpu_facts().items())
    logger.info("torch %s, %s", torch.__version__, facts)
    if slow := slow_blas():
        logger.warning("%s", slow)


def thread_trial(threads: int) -> Generator[int, float, int]:
    """Yields how many threads the next slice is to have, is sent the seconds that it took, returns the fastest number.

    Tried are all, half and one; each step down twice, and only while it pays.
    """
    yield threads  # a first slice takes longer: memory and kernels are made ready
    best, best_s = threads, min((yield threads), (yield threads))
    for fewer in dict.fromkeys((max(1, threads // 2), 1)):
        seconds = yield fewer
        if seconds < WORTH * best_s:
            seconds = min(seconds, (yield fewer))
        if seconds * WORTH > best_s:
            break
        best, best_s = fewer, seconds
    return best


class Threads:
    """The number of torch's threads for one volume on the CPU; afterwards it is what it was before."""

    def __init__(self, slices: int):
        """Takes the user's number where there is one (ASCON_THREADS; OMP_NUM_THREADS and the like are torch's).

        Raises:
            InputError: ASCON_THREADS is no positive number.
        """
        self._before = torch.get_num_threads()
        self._trial: Generator[int, float, int] | None = None
        wished = os.environ.get("ASCON_THREADS", "")
        if wished:
            if not wished.isdecimal() or int(wished) < 1:
                raise InputError(f'ASCON_THREADS is a number of threads, 1 or more; got "{wished}".')
            torch.set_num_threads(int(wished))
        elif self._before > 1 and slices >= TRIAL_SLICES and not {"OMP_NUM_THREADS", "MKL_NUM_THREADS"} & {*os.environ}:
            self._trial = thread_trial(self._before)
            next(self._trial)

    def run(self, work: Callable[[], T]) -> T:
        """Does a slice's work, which the trial measures for as long as it lasts."""
        started = time.monotonic()
        result = work()
        if self._trial is not None:
            try:
                torch.set_num_threads(self._trial.send(time.monotonic() - started))
            except StopIteration as end:
                self._trial = None
                torch.set_num_threads(end.value)
                logger.info("%d of %d threads were fastest on the first slices", end.value, self._before)
        return result

    def __enter__(self) -> Threads:
        return self

    def __exit__(self, *_error: object) -> None:
        torch.set_num_threads(self._before)
