"""What torch, its OpenMP and the C library are asked for before torch is loaded: about threads and memory."""

from __future__ import annotations

import ctypes
import os
import sys

SHORT_WAITS = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "1"}
"""Threads wait awake for microseconds (GNU's OpenMP) or 1 ms (Intel's, LLVM's), then asleep.

By default they spin for long, which takes the core from the thread that they wait for where other programs keep the
cores busy: on two cores with a load of 9, a slice took 4.7 s instead of 1.8 s.
"""

KEPT_MEMORY = {"MALLOC_MMAP_THRESHOLD_": (-3, 2**25), "MALLOC_TRIM_THRESHOLD_": (-1, 2**28)}
"""GNU's variables, their numbers for mallopt (malloc.h), and bytes: what is smaller than the first, the most that all
versions take, comes from the heap, and the heap keeps what is free at its end, up to the second.

By default it hangs on what was freed before whether the system takes back the tensors of each layer, to clear the next
one's page by page: with two threads a slice took the fast model 60 to 78 ms, and so 53 to 63.
"""


def prepare_torch() -> None:
    """Asks for large pages, memory that is kept and short waits, unless the user has decided otherwise.

    Large pages (on Linux) for tensors of 2 MB and more are a fifth less time on a CPU and 6 % more memory. Entry points
    call this before anything imports torch.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    if not {*SHORT_WAITS, "OMP_WAIT_POLICY"} & {*os.environ}:
        os.environ.update(SHORT_WAITS)
    if not {*KEPT_MEMORY, "GLIBC_TUNABLES"} & {*os.environ} and all(
        _of_glibc("mallopt", option, value) for option, value in KEPT_MEMORY.values()
    ):
        os.environ.update({name: str(value) for name, (_, value) in KEPT_MEMORY.items()})  # read by child processes


def free_kept_memory() -> None:
    """Gives back to the system what the heap keeps."""
    _of_glibc("malloc_trim", 0)


def _of_glibc(name: str, *values: int) -> int:
    """What a function of GNU's C library returns; 0 where there is none: other libraries and systems."""
    function = getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
    return 0 if function is None else int(function(*values))
