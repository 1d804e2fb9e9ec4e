"""Colours of maps: of the difference, denoised less LDCT (blue where HU fell, red where they rose), and of levels."""

from __future__ import annotations

import numpy as np

DIFFERENCE_LIMIT_HU = 100.0
"""Differences are shown from minus to plus this unless another limit is chosen."""

NOTHING = 1000.0
"""In maps: nothing was measured or found here, and nothing is to be shown."""

LIMITS_HU = (5.0, 10.0, 20.0, 50.0, 100.0, 200.0)
"""The limits that `limit_for_spread` chooses from."""

_LEVEL_STOPS = np.array(
    [(0.267, 0.005, 0.329), (0.229, 0.322, 0.546), (0.128, 0.567, 0.551), (0.369, 0.789, 0.383), (0.993, 0.906, 0.144)]
)
"""Colours at 0, 0.25, 0.5, 0.75 and 1, evenly brighter."""

_STOPS = np.array([(0.70, 0.86, 1.00), (0.16, 0.46, 0.96), (0.04, 0.04, 0.04), (0.93, 0.26, 0.16), (1.00, 0.81, 0.74)])
"""Colours at -1, -0.5, 0, 0.5 and 1; opposite ones are about equally bright."""


def difference_colours(difference: np.ndarray) -> np.ndarray:
    """Colours (..., 3) from 0 to 1 of differences (...) in units of the limit; beyond -1 and 1 they stay the same."""
    places = np.linspace(-1, 1, len(_STOPS))
    return np.stack([np.interp(difference, places, channel) for channel in _STOPS.T], axis=-1)


def level_colours(level: np.ndarray) -> np.ndarray:
    """Colours (..., 3) from 0 to 1 of levels (...) in units of the highest, dark to bright: maps of noise."""
    places = np.linspace(0, 1, len(_LEVEL_STOPS))
    return np.stack([np.interp(level, places, channel) for channel in _LEVEL_STOPS.T], axis=-1)


def limit_for_spread(standard_deviation_hu: float) -> float:
    """Return the smallest of LIMITS_HU that three standard deviations of a difference fit in, else the largest."""
    return next((limit for limit in LIMITS_HU if limit >= 3 * standard_deviation_hu), LIMITS_HU[-1])
