"""Photons and kernel as a scan's own noise shows them, of scans whose photons are known."""

from dataclasses import replace

import numpy as np
import pytest
from dose_fixtures import FAST, PIXEL_MM, water

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.physics import dose
from ASCONDenoiseLib.physics.calibration import CalibrationError, calibrate


def test_calibration_finds_the_photons(a_scan):
    photons, _ = calibrate(a_scan[1], PIXEL_MM, replace(FAST, photons=None))
    assert photons == pytest.approx(np.full(8, FAST.photons), rel=0.06)


def test_calibration_counts_electronic_noise_as_such():
    settings = replace(FAST, electronic_noise=60.0)
    ndct = dose.scan(water(8), PIXEL_MM, settings)
    photons, _ = calibrate(ndct, PIXEL_MM, replace(settings, photons=None))
    assert photons.mean() == pytest.approx(FAST.photons, rel=0.06)
    without, _ = calibrate(ndct, PIXEL_MM, replace(FAST, photons=None))
    assert without.mean() < 0.9 * FAST.photons  # all noise taken for that of photons: fewer of them


def test_calibration_follows_the_tube_current_along_z():
    clean = water(12)
    strong, weak = (dose.scan(clean[:6], PIXEL_MM, replace(FAST, photons=n)) for n in (4e5, 1e5))
    photons, _ = calibrate(np.concatenate([strong, weak]), PIXEL_MM, replace(FAST, photons=None))
    assert photons[0] == pytest.approx(4e5, rel=0.12)
    assert photons[-1] == pytest.approx(1e5, rel=0.12)


@pytest.mark.parametrize("volume", [np.full((1, 64, 64), 0.0), np.full((2, 64, 64), -700.0), np.full((1, 8, 8), 50.0)])
def test_a_scan_without_noisy_soft_tissue_cannot_be_calibrated(volume):
    with pytest.raises(CalibrationError, match="Give the number of photons"):
        dose.simulate(volume.astype(np.float32), PIXEL_MM, replace(FAST, photons=None, kernel="scan"))


def test_a_scan_without_noise_cannot_be_calibrated():
    with pytest.raises(CalibrationError, match="Give the number of photons"):
        dose.simulate(water(1), PIXEL_MM, replace(FAST, photons=None))
    with pytest.raises(InputError, match="set photons and kernel"):
        dose.scan(water(1), PIXEL_MM, replace(FAST, photons=None))
