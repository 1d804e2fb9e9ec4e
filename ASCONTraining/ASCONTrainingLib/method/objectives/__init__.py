"""The training objectives, one per file: ASCON's own and those of the methods that the paper compares with."""

from __future__ import annotations

from collections.abc import Callable

from ASCONTrainingLib.method.objective import Objective, TrainingContext
from ASCONTrainingLib.method.objectives import ascon, cncl, du_gan, edcnn, wgan_vgg

OBJECTIVES: dict[str, Callable[[TrainingContext], Objective]] = {
    "ascon": ascon.make,
    "edcnn": edcnn.make,
    "cncl": cncl.make,
    "du_gan": du_gan.make,
    "wgan_vgg": wgan_vgg.make,
}
"""The setting `objective` -> what makes it."""
