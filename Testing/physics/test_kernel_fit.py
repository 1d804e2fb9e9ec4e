"""The kernel in a scan's own noise: white noise filtered by a known ramp and kernel, with and without anatomy."""

import numpy as np
import pytest

from ASCONDenoiseLib.physics.kernel_fit import measure_kernel
from ASCONDenoiseLib.physics.settings import KERNELS, ORDERS, STANDARD_KERNEL, Kernel

SIDE, SPACING_MM = 320, (0.75, 0.75, 3.0)
NOISE_HU = 15.0


def random_field(rng, power_of, slices=6):
    """(S, H, W) of unit variance with a power spectrum that is a function of the frequency in cycles per mm."""
    fine = 2 * SIDE  # of pixels half as large: what lies beyond the pixels' own frequencies folds back
    frequency = np.hypot(*np.meshgrid(*[np.fft.fftfreq(fine, SPACING_MM[0] / 2)] * 2))
    amplitude = np.sqrt(power_of(frequency))
    white = rng.normal(size=(slices, fine, fine))
    field = np.fft.ifft2(np.fft.fft2(white) * amplitude).real[:, ::2, ::2]
    return field / field.std()


def noise(rng, kernel):
    return NOISE_HU * random_field(rng, lambda f: f * np.exp(-2 * (f / kernel.cutoff_per_mm) ** kernel.order))


def anatomy(rng, sd_hu):
    """Tissue with the power law of anatomy: smooth as organs are, less so at some places."""
    return sd_hu * random_field(rng, lambda f: np.maximum(f, 0.01) ** -3.0 * (f > 0))


@pytest.mark.parametrize("kernel", [Kernel(0.38, 2.0), Kernel(0.50, 2.2), Kernel(0.55, 2.8)])
@pytest.mark.parametrize("anatomy_hu", [0.0, 40.0])
def test_a_kernel_is_found_through_anatomy(kernel, anatomy_hu):
    rng = np.random.default_rng(3)
    found = measure_kernel(50 + anatomy(rng, anatomy_hu) + noise(rng, kernel), SPACING_MM)
    assert found.cutoff_per_mm == pytest.approx(kernel.cutoff_per_mm, rel=0.08)
    assert found.order == pytest.approx(kernel.order, rel=0.2)


def test_windows_with_vessels_do_not_make_the_kernel_coarse():
    rng, kernel = np.random.default_rng(4), Kernel(0.5, 2.4)
    hu = 50 + noise(rng, kernel)
    y, x = np.mgrid[:SIDE, :SIDE]
    for image in hu:  # a vessel in every second window or so
        for cy, cx in rng.uniform(0, SIDE, (500, 2)):
            image += 12 * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * 2.5**2))
    found = measure_kernel(hu, SPACING_MM)
    assert found.cutoff_per_mm == pytest.approx(kernel.cutoff_per_mm, rel=0.1)
    assert found.order == pytest.approx(kernel.order, rel=0.25)


def test_noise_that_no_ramp_made_has_the_least_order():
    rng = np.random.default_rng(5)
    found = measure_kernel(50 + NOISE_HU * random_field(rng, lambda f: f * np.exp(-2 * f / 0.23)), SPACING_MM)
    assert found.order == pytest.approx(ORDERS[0], abs=0.01)


def test_without_flat_soft_tissue_the_kernel_is_the_standard_one():
    assert measure_kernel(np.full((2, 64, 64), -700.0), SPACING_MM) == KERNELS[STANDARD_KERNEL]
