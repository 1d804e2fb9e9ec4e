"""Noise of known deviation and spectrum."""

import numpy as np


def noise(shape, sd_hu, seed=0, kernel=None):
    """Gaussian noise of known deviation: white, or as a reconstruction kernel leaves it, NPS ~ f exp(-(f / kernel)^2).

    `kernel` is in cycles/pixel: 0.18 is a soft one, 0.25 a standard one.
    """
    values = np.random.default_rng(seed).normal(size=shape)
    if kernel:
        f = np.hypot(np.fft.fftfreq(shape[1])[:, None], np.fft.fftfreq(shape[2])[None, :])
        transfer = np.sqrt(f) * np.exp(-0.5 * (f / kernel) ** 2)
        values = np.fft.ifft2(np.fft.fft2(values) * transfer).real / np.sqrt((transfer**2).mean())
    return values * sd_hu
