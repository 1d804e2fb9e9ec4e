"""Writes a model whose network costs next to nothing: make_small_model.py FILE.safetensors, with Testing in PYTHONPATH.

A process of its own, since the panel's imports no torch.
"""

import sys

from model_fixtures import a_card

from ASCONDenoiseLib.models.files import save_model
from ASCONDenoiseLib.models.networks.red_cnn import REDCNN

save_model(REDCNN(channels=1), a_card(architecture="red_cnn", settings={"channels": 1}), sys.argv[1])
