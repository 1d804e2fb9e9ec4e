"""Trains the denoiser alone on SET in the folder RUN, as one of several processes where torchrun says so: SET RUN."""

import os
import sys
from pathlib import Path

from training_fixtures import Tiny, tiny_config

from ASCONDenoiseLib.models.networks import ARCHITECTURES
from ASCONTrainingLib.trainer import trainer

ARCHITECTURES["tiny"] = Tiny
trainer.LOG_EVERY = 1
trained = trainer.fit(tiny_config(batch=4, ema=0.9), Path(sys.argv[1]), Path(sys.argv[2]), device="cpu")
assert (trained is None) == (os.environ.get("RANK", "0") != "0")
