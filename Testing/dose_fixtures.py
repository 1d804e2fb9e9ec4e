"""Water cylinders and discs that are scanned in the tests of dose."""

import numpy as np

from ASCONDenoiseLib.physics.settings import DoseSettings

FAST = DoseSettings(views=360, detector_mm=0.7, kernel="standard", photons=2e5)
PIXEL_MM = (1.2, 1.2, 3.0)
SIDE = 180


def distance_mm(side=SIDE, pixel_mm=PIXEL_MM[0], centre=(0.0, 0.0)):
    y, x = (np.mgrid[:side, :side] - (side - 1) / 2) * pixel_mm
    return np.hypot(x - centre[0], y - centre[1])


def water(slices=1, radius_mm=95.0):
    disc = np.where(distance_mm() < radius_mm, 0.0, -1000.0).astype(np.float32)
    return np.repeat(disc[None], slices, axis=0)


def soft_disc(centre_mm, radius_mm, side=SIDE, pixel_mm=PIXEL_MM[0], fine=8):
    """A disc of 1 with antialiased edge: (side, side)."""
    big = distance_mm(side * fine, pixel_mm / fine, centre_mm) < radius_mm
    return big.reshape(side, fine, side, fine).mean((1, 3)).astype(np.float32)
