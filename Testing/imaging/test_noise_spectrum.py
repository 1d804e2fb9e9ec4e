"""Spectra of noise against closed forms."""

import numpy as np
import pytest
from noise_fixtures import noise

from ASCONDenoiseLib.imaging import noise_spectrum as spectrum

SPACING_MM = (0.8, 0.8, 3.0)


def test_nps_of_white_noise_is_flat_and_keeps_the_variance():
    rois = noise((300, 32, 32), 10)
    found = spectrum.nps(rois, (0.5, 0.5))
    assert found.power[2:] == pytest.approx(100 * 0.25, rel=0.06)  # variance * pixel area
    step = 1 / (32 * 0.5)
    assert found.power_2d.sum() * step**2 == pytest.approx(found.variance_hu2, rel=1e-12)  # Parseval
    assert found.variance_hu2 == pytest.approx(100 * (1 - 6 / 1024), rel=0.01)  # 6 terms of the trend
    assert found.frequency[-1] == pytest.approx(1.0) and found.rois == 300
    assert found.mean_frequency == pytest.approx(found.frequency.mean(), rel=0.04)  # less the trend


def test_nps_of_oblong_pixels():
    found = spectrum.nps(noise((200, 32, 32), 10), (0.5, 0.8))
    assert found.power[2:] == pytest.approx(100 * 0.4, rel=0.08)
    assert found.power_2d.sum() / (32 * 0.5 * 32 * 0.8) == pytest.approx(found.variance_hu2, rel=1e-12)
    assert found.frequency[-1] <= 0.5 / 0.8  # Nyquist of the coarser axis
    wave = np.sin(2 * np.pi * 4 * np.arange(32) / 32)
    assert spectrum.nps(np.tile(wave, (1, 32, 1)), (0.5, 0.8)).peak_frequency == pytest.approx(4 / 16)
    assert spectrum.nps(np.tile(wave[:, None], (1, 1, 32)), (0.5, 0.8)).peak_frequency == pytest.approx(
        4 / 25.6, abs=1 / 32
    )


def test_nps_of_a_kernel_is_the_analytic_spectrum():
    pixel_mm, sd_hu = 0.7, 20
    f0 = 0.2 / pixel_mm  # cycles/mm
    found = spectrum.nps(noise((60, 128, 128), sd_hu, seed=2, kernel=0.2)[:, 32:96, 32:96], (pixel_mm, pixel_mm))
    scale = sd_hu**2 * 2 / (np.pi**1.5 * f0**3)  # the integral of scale f exp(-(f/f0)^2) over the plane is the variance
    analytic = scale * found.frequency * np.exp(-((found.frequency / f0) ** 2))
    middle = slice(3, 20)
    assert found.power[middle] == pytest.approx(analytic[middle], rel=0.1)
    assert found.mean_frequency == pytest.approx(f0 * np.sqrt(np.pi) / 2, rel=0.03)
    assert found.peak_frequency == pytest.approx(f0 / np.sqrt(2), rel=0.15)


def test_nps_peak_and_trend():
    rows, columns = np.mgrid[:64, :64]
    wave = 10 * np.sin(2 * np.pi * 8 * columns / 64)
    trend = 0.02 * rows**2 - 0.5 * columns + 0.01 * rows * columns
    found = spectrum.nps((wave + trend)[None], (0.5, 0.5))
    assert found.peak_frequency == pytest.approx(8 / 32)  # 8 cycles in 32 mm
    assert found.variance_hu2 == pytest.approx(50, rel=0.02)


@pytest.mark.parametrize("shape", [(4, 16), (3, 16, 12), (0, 16, 16), (2, 6, 6)])
def test_nps_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match=r"\(N, n, n\)"):
        spectrum.nps(np.zeros(shape), (1, 1))


def test_bands_of_white_noise_share_its_variance_by_their_areas():
    found = spectrum.nps(noise((300, 64, 64), 20), (0.5, 0.5))
    coarse, fine = found.sd_between(0, 0.15), found.sd_between(0.15)
    assert coarse**2 + fine**2 == pytest.approx(found.variance_hu2, rel=1e-12)
    trend = 6  # coefficients, all of them coarse
    assert coarse**2 == pytest.approx(400 * (np.pi * 0.15**2 / 2**2 - trend / 64**2), rel=0.1)
    summary = found.summary()
    assert (summary.coarse_hu, summary.fine_hu) == (coarse, fine)
    assert (summary.regions, summary.region_px) == (300, 64)


def test_the_largest_regions_that_fit_are_taken():
    volume = np.full((2, 150, 150), 40.0) + noise((2, 150, 150), 10)
    centres, side = spectrum.flat_regions(volume, SPACING_MM)
    assert side == 48 and len(centres) >= 20  # 64 does not fit so often
    assert spectrum.flat_regions(volume[:, :20, :20], SPACING_MM) is None
    found = spectrum.nps_at(volume, centres, side, SPACING_MM)
    naive = np.stack([volume[s, r - 24 : r + 24, c - 24 : c + 24] for s, r, c in centres])
    assert found.power_2d == pytest.approx(spectrum.nps(naive, SPACING_MM).power_2d)


@pytest.mark.parametrize("wanted", [0.0, 0.3, 0.7])
def test_correlation_between_slices(wanted):
    """Each slice shares a part of the next one's noise, so that neighbours correlate as wanted."""
    one = noise((13, 160, 160), 15, seed=7, kernel=0.25)
    share = {0.0: 0.0, 0.3: 1 / 3, 0.7: 0.7}[wanted]
    if wanted == 0.3:  # overlapping slices: (a, 1) . (1, a) / (1 + a^2) = 0.3
        volume = 40 + one[:-1] + share * one[1:]
    else:  # each slice a part of the last
        volume = one.copy()
        for s in range(1, 13):
            volume[s] = share * volume[s - 1] + np.sqrt(1 - share**2) * one[s]
        volume += 40
    found = spectrum.slice_correlation(volume, SPACING_MM)
    assert found == pytest.approx(wanted, abs=0.02)
    assert spectrum.slice_correlation(volume, SPACING_MM, distance=2) == pytest.approx(
        0.49 if wanted == 0.7 else 0, abs=0.03
    )
    assert spectrum.slice_correlation(volume[:1], SPACING_MM) is None
