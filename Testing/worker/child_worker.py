"""The worker with a slow network and a few jobs for tests: child_worker.py [--lacks MODULE] [--full-disk] arguments"""

import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from ASCONDenoiseLib.models.networks import ARCHITECTURES
from ASCONDenoiseLib.worker.__main__ import main
from ASCONDenoiseLib.worker.jobs import JOBS


def slow(seconds=0.15):
    """A network that adds 10 HU, and takes its time; some images are faults."""
    import torch
    from torch import nn

    class Slow(nn.Module):
        SIDE_MULTIPLE = 8

        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.ones(1))

        def forward(self, x):
            time.sleep(seconds)
            if x.min() == 0 and x.max() == 0:
                raise RuntimeError("CUDA error: an illegal memory access was encountered\nand more")
            if x.min() == 1:
                return x / 0
            return x * self.gain + 10 / 3000

    return Slow()


@dataclass(frozen=True)
class Nothing:
    pass


@dataclass(frozen=True)
class Output:
    output: Path


def ping(job, request, warm):
    return {}


def loaded(job, request, warm):
    return {"torch": "torch" in sys.modules, "scipy": "scipy" in sys.modules}


def chatter(job, request, warm):
    print("a stray print")
    os.write(1, b"a stray write\n")
    return {"stdin": sys.stdin.read() if sys.stdin else ""}


def stuck(job, request, warm):
    """Neither looks for a cancel nor ends for a minute."""
    job.new_output(request.output, (2, 3, 4), "int16")[...] = 1
    job.answer("started")
    time.sleep(60)


def deaf(job, request, warm):
    """Does not look for a cancel."""
    job.new_output(request.output, (2, 3, 4), "int16")[...] = 1
    job.answer("started")
    time.sleep(0.3)
    return {}


def halfway(job, request, warm):
    """Is stuck while io writes a folder."""
    from ASCONDenoiseLib.io.atomic import atomic_folder

    job.unfinished = request.output
    with atomic_folder(request.output) as partial:
        (partial / "0001.dcm").touch()
        job.answer("started")
        time.sleep(60)


def memory(job, request, warm):
    raise MemoryError


ARCHITECTURES["slow"] = slow
JOBS |= {work.__name__: (Nothing, work) for work in (ping, loaded, chatter, memory)}
JOBS |= {work.__name__: (Output, work) for work in (stuck, deaf, halfway)}
while "--lacks" in sys.argv:
    at = sys.argv.index("--lacks")
    sys.modules[sys.argv[at + 1]] = None
    del sys.argv[at : at + 2]
if "--full-disk" in sys.argv:
    sys.argv.remove("--full-disk")
    shutil.disk_usage = lambda path: SimpleNamespace(free=1000)
main()
