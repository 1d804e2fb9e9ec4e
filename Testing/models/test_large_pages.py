"""Large pages: torch's tensors lie on them where the system gives them on request."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ASCONDenoiseLib.models import large_pages

HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.skipif(
    not HUGE_PAGES.exists() or "[madvise]" not in HUGE_PAGES.read_text(), reason="no large pages on request here"
)
@pytest.mark.parametrize(("wish", "large"), [({}, True), ({"THP_MEM_ALLOC_ENABLE": "0"}, False)])
def test_tensors_lie_on_large_pages(wish, large):
    """Who sets the variable has the last word."""
    script = """
from ASCONDenoiseLib.models.large_pages import ask_for_large_pages
ask_for_large_pages()
import torch
x = torch.ones(32 * 2**20)
print([line.split()[1] for line in open("/proc/self/smaps_rollup") if line.startswith("AnonHugePages")][0])
"""
    environment = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"} | wish
    environment["PYTHONPATH"] = str(Path(large_pages.__file__).parents[2])
    found = subprocess.run([sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, check=True)
    assert (int(found.stdout) > 100 * 1024) == large  # KiB; the tensor has 128 MiB
