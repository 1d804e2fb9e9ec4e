"""TSC-Net without VGG-19: images are pulled and pushed in the latent space of its own teacher.

The abstract says "in the latent space", and not in whose. `tsc_net` takes VGG-19, as AECR-Net does, and this the way
down of the teacher, which needs no file: features at 1, 1/2 and 1/4 of the size, with the last three of AECR-Net's
weights.
"""

from __future__ import annotations

import copy

import torch

from ASCONDenoiseLib.models.networks.tsc_net import TSCNet
from ASCONTrainingLib.method.objective import TrainingContext
from ASCONTrainingLib.method.objectives.tsc_net import Maps, TSCNetObjective, student_of

WEIGHTS = (1 / 8, 1 / 4, 1.0)


def make(context: TrainingContext) -> TSCNetObjective:
    """The objective. Raises InputError where the network is another than TSC-Net's."""
    student = student_of(context)
    teacher = copy.deepcopy(student)
    return TSCNetObjective(context, student, teacher, encoder_maps(teacher), WEIGHTS)


def encoder_maps(network: TSCNet) -> Maps:
    """What a network's way down makes of images."""

    def maps(images: torch.Tensor) -> list[torch.Tensor]:
        seen = [images]
        for layer in network.encoder:
            seen.append(layer(seen[-1]))
        return seen[1:]

    return maps
