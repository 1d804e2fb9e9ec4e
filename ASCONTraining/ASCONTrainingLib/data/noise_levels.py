"""A simulated pair as another tube current would have given it: with less or with more noise, its own and the added.

How strong the noise of a normal dose is goes with the scanner. A network that has seen a dozen knows theirs by heart:
from another, whose quarter dose is as noisy as their normal dose, it takes little off. With several levels of each scan
there is nothing to know. Not in the paper.
"""

from __future__ import annotations

import numpy as np

from ASCONTrainingLib.data.pairing import PairedVolume, to_int16

LEVELS = ((0.3, 0.3), (0.3, 0.7), (0.65, 0.65), (1.5, 1.5))
"""Factors on the noise of the NDCT and on what the LDCT has on top, for one copy after the other. In the second the
NDCT is cleaner than its dose makes it, as after an iterative reconstruction."""


def at_level(pair: PairedVolume, anatomy_hu: np.ndarray, copy: int) -> PairedVolume:
    """The pair with its noise at one of LEVELS.

    Args:
        pair: NDCT and LDCT.
        anatomy_hu: (S, H, W) what of the NDCT is not noise. What noise is left in it must not be that of the LDCT, or
            a network learns to keep it.
        copy: number of the copy, from 0 on.
    """
    own, added = LEVELS[copy % len(LEVELS)]
    ndct, anatomy = np.asarray(pair.ndct, np.float32), np.asarray(anatomy_hu, np.float32)
    leveled = anatomy + own * (ndct - anatomy)
    noise = np.subtract(pair.ldct, pair.ndct, dtype=np.float32)
    return PairedVolume(to_int16(leveled), to_int16(leveled + added * noise), pair.spacing_mm)
