"""The difference, denoised less LDCT, and its colours: blue where HU fell, light gray at zero, red where they rose."""

from __future__ import annotations

import numpy as np

DIFFERENCE_LIMIT_HU = 100.0
"""Differences are shown from minus to plus this unless another limit is chosen."""

_STOPS = np.array([(0.23, 0.30, 0.75), (0.87, 0.87, 0.87), (0.71, 0.02, 0.15)])


def difference_colours(difference: np.ndarray) -> np.ndarray:
    """Colours (..., 3) from 0 to 1 of differences (...) in units of the limit; beyond -1 and 1 they stay the same."""
    return np.stack([np.interp(difference, (-1, 0, 1), channel) for channel in _STOPS.T], axis=-1)
