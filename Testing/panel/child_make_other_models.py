"""Makes models of other networks with random weights: child_make_other_models.py FOLDER NETWORK...

A process of its own, since Slicer's imports no torch.
"""

import sys
from pathlib import Path

import torch
from model_fixtures import a_card

from ASCONDenoiseLib.models.files import save_model
from ASCONDenoiseLib.models.networks import ARCHITECTURES

folder, *names = sys.argv[1:]
for name in names:
    torch.manual_seed(0)
    save_model(ARCHITECTURES[name](), a_card(name=name, architecture=name), Path(folder) / f"{name}.safetensors")
