"""Trains SET in the folder RUN, and dies in the middle of the third writing of last.pt: SET RUN."""

import os
import signal
import sys
from pathlib import Path

from training_fixtures import Tiny, tiny_config

from ASCONDenoiseLib.models.networks import ARCHITECTURES
from ASCONTrainingLib.trainer.trainer import fit

sync, saved = os.fsync, []


def die_in_the_second_epoch(descriptor: int) -> None:
    if "/.last." in os.readlink(f"/proc/self/fd/{descriptor}"):
        saved.append(1)
        if len(saved) == 3:  # at the start, after the first epoch, after the second
            os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
    sync(descriptor)


os.fsync = die_in_the_second_epoch
ARCHITECTURES["tiny"] = Tiny
fit(tiny_config(validate_every=9), Path(sys.argv[1]), Path(sys.argv[2]), device="cpu")
