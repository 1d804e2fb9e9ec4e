"""A slice of simple anatomy whose tissues are known."""

import numpy as np


def anatomy(slices=3, side=192):
    """Noise-free HU: a body of 40 HU in air with fat, lung, contrast and bone discs; and the discs' label image."""
    rows, columns = np.mgrid[:side, :side]

    def disc(row, column, radius):
        return np.hypot(rows - row * side, columns - column * side) < radius * side

    image = np.full((side, side), -1000.0)
    image[disc(0.5, 0.5, 0.47)] = 40
    image[disc(0.3, 0.3, 0.09)] = -100
    image[disc(0.3, 0.7, 0.09)] = -800
    image[disc(0.75, 0.7, 0.08)] = 200
    image[disc(0.75, 0.3, 0.08)] = 700
    return np.repeat(image[None], slices, axis=0)
