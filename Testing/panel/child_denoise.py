"""Denoises an array with a model, by the core alone: child_denoise.py SOURCE.npy MODEL.safetensors TARGET.npy"""

import sys

import numpy as np

from ASCONDenoiseLib.models import inference
from ASCONDenoiseLib.models.files import load_network

source, model, target = sys.argv[1:]
network, _card = load_network(model)
np.save(target, inference.denoise(np.load(source), network, device="cpu").voxels)
