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
NDCT is cleaner than its dose makes it, as after an iterative reconstruction. The first factor is nominal: the noise
that is left in what is taken for anatomy is in all copies, coarse noise above all."""

ANATOMY_DOSE = 0.25
"""At which a denoiser tells anatomy from noise: what noise it is to leave is little then, of the normal dose much."""
ANATOMY_NOISES = 4
"""So many denoised images of that dose, each with other noise, are averaged: half of what is left of it goes."""


def at_level(pair: PairedVolume, anatomy_hu: np.ndarray, copy: int) -> PairedVolume:
    """The pair with its noise at one of LEVELS.

    Args:
        pair: NDCT and LDCT.
        anatomy_hu: (S, H, W) what of the NDCT is not noise, as far as a denoiser tells. It must not be made of this
            LDCT, whose noise a network would learn to keep.
        copy: number of the copy, from 0 on.
    """
    own, added = LEVELS[copy % len(LEVELS)]
    ndct, anatomy = np.asarray(pair.ndct, np.float32), np.asarray(anatomy_hu, np.float32)
    leveled = anatomy + own * (ndct - anatomy)
    noise = np.subtract(pair.ldct, pair.ndct, dtype=np.float32)
    return PairedVolume(to_int16(leveled), to_int16(leveled + added * noise), pair.spacing_mm)
