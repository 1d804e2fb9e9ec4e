"""What is asked of torch and its OpenMP before they are loaded."""

from __future__ import annotations

import os
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
    monkeypatch.setattr(os, "environ", dict(wish))
    torch_environment.prepare_torch()
    assert {name: value for name, value in os.environ.items() if name in SHORT} == after
