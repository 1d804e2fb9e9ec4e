"""Takes three steps of a preset as one of several processes, and writes what its networks are: PRESET SET OUT.

RANK-STEP in the folder OUT has the hash of the weights and statistics of all networks of this process.
"""

import hashlib
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from ASCONTrainingLib.config.presets import PRESETS, peer
from ASCONTrainingLib.data.batches import BatchLoader
from ASCONTrainingLib.trainer.distributed import Processes
from ASCONTrainingLib.trainer.stages import open_stages
from ASCONTrainingLib.trainer.training_state import TrainingState

name, data, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
config = peer(name, PRESETS["smoke"])
config = replace(config, patch=config.patch and 64, batch=2, ema=None)
processes = Processes("cpu")
_, stages = open_stages(config, data, processes)
state = TrainingState(config, processes)
loader = BatchLoader(stages[0], 0, 0, 0, torch.device("cpu"))
for step, fraction in enumerate((0.0, 0.3, 0.6), 1):
    state.train_step(*loader.next(), fraction)
    digest = hashlib.sha256()
    for network in (state.network, *state.objective.parts.values()):
        if isinstance(network, nn.Module):
            for tensor in network.state_dict().values():
                digest.update(tensor.numpy().tobytes())
    (out / f"{processes.rank}-{step}").write_text(digest.hexdigest())
processes.leave()
