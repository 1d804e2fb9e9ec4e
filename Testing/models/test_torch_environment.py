"""What is asked of torch and its OpenMP before they are loaded."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from ASCONDenoiseLib.models import torch_environment

SHORT = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "1"}
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.skipif(
    not HUGE_PAGES.exists() or "[madvise]" not in HUGE_PAGES.read_text(), reason="no large pages on request here"
)
@pytest.mark.parametrize(("wish", "large"), [({}, True), ({"THP_MEM_ALLOC_ENABLE": "0"}, False)])
def test_tensors_lie_on_large_pages(wish, large):
    """Who sets the variable has the last word."""
    script = """
from ASCONDenoiseLib.models.torch_environment import prepare_torch
prepare_torch()
import torch
x = torch.ones(32 * 2**20)
print([line.split()[1] for line in open("/proc/self/smaps_rollup") if line.startswith("AnonHugePages")][0])
"""
    environment = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"} | wish
    environment["PYTHONPATH"] = str(Path(torch_environment.__file__).parents[2])
    found = subprocess.run([sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, check=True)
    assert (int(found.stdout) > 100 * 1024) == large  # KiB; the tensor has 128 MiB


@pytest.mark.parametrize(
    ("wish", "after"),
    [({}, SHORT), ({"OMP_WAIT_POLICY": "active"}, {}), ({"GOMP_SPINCOUNT": "5"}, {"GOMP_SPINCOUNT": "5"})],
)
def test_threads_wait_asleep_unless_the_user_has_decided_otherwise(monkeypatch, wish, after):
    monkeypatch.setattr(os, "environ", {"MALLOC_TRIM_THRESHOLD_": "131072"} | wish)  # this process stays as it is
    torch_environment.prepare_torch()
    assert {name: value for name, value in os.environ.items() if name in SHORT} == after


@pytest.mark.skipif("glibc" not in platform.libc_ver()[0], reason="only GNU's C library is asked to keep memory")
@pytest.mark.parametrize(
    ("wish", "kept"),
    [
        ({}, True),
        ({"MALLOC_TRIM_THRESHOLD_": "131072"}, False),
        ({"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=131072"}, False),
    ],
)
def test_memory_of_one_array_is_that_of_the_next_until_it_is_given_back(wish, kept):
    """In a child process as well; who sets one of glibc's variables has the last word.

    Arrays, as memory on a boundary, which is what tensors ask for, is not always found again.
    """
    script = """
import resource, subprocess, sys
from ASCONDenoiseLib.models.torch_environment import free_kept_memory, prepare_torch
if len(sys.argv) > 1:
    prepare_torch()
import numpy

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

def faults():
    numpy.full(2**24, 1, numpy.uint8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        numpy.full(2**24, 1, numpy.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

found = faults(), resident()
free_kept_memory()
print(*found, resident(), flush=True)
if len(sys.argv) > 1:
    subprocess.run([sys.executable, "-c", sys.argv[1]], check=True)
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")} | wish
    environment |= {"PYTHONPATH": str(Path(torch_environment.__file__).parents[2])}
    command = [sys.executable, "-c", script, script]
    found = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    lines = [[int(number) for number in line.split()] for line in found.stdout.splitlines()]
    assert len(lines) == 2
    for faults, before, after in lines:
        assert (faults < 8) == kept
        assert (before - after > 15e6) == kept  # of 17 MB
