"""Makes models with random weights: child_make_models.py FILE.safetensors...

A process of its own, since Slicer's imports no torch.
"""

import sys

from model_fixtures import a_random_model

for seed, path in enumerate(sys.argv[1:]):
    a_random_model(
        path,
        seed,
        name=f"model {seed}",
        version="1.0",
        training_data=["none <at all>"],
        intended_use="Tests of the panel",
        limits=["Everything"],
        metrics={"psnr_db": 1.25},
    )
