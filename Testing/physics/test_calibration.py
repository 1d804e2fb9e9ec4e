"""Photons and kernel as a scan's own noise shows them, of scans whose photons are known."""

from dataclasses import replace

import numpy as np
import pytest
from dose_fixtures import FAST, PIXEL_MM, SIDE, water

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.physics import dose
from ASCONDenoiseLib.physics.calibration import CalibrationError, calibrate, doubts
from ASCONDenoiseLib.physics.settings import KERNELS, ORDERS, Kernel


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


def test_vessels_and_texture_do_not_cost_photons():
    """Blobs that a vessel or a fold leaves in most windows: they are no noise."""
    clean, rng = water(6), np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE]
    for image in clean:
        inner = image == 0
        for cy, cx in rng.uniform(20, SIDE - 20, (250, 2)):
            image += inner * 30 * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * 1.8**2)).astype(np.float32)
    settings = replace(FAST, photons=2e5)
    photons, _ = calibrate(dose.scan(clean, PIXEL_MM, settings), PIXEL_MM, replace(FAST, photons=None))
    assert np.median(photons) == pytest.approx(2e5, rel=0.15)


def test_doubts_are_said_in_sentences():
    standard, unknown = KERNELS["standard"], replace(FAST, photons=None, kernel="scan")
    assert doubts(np.full(5, 3e5), standard, unknown) == ()
    assert "2,000 photons per ray" in doubts(np.full(5, 2e3), standard, unknown)[0]
    assert "30,000,000" in doubts(np.full(5, 3e7), standard, unknown)[0]
    assert "10,000 to 800,000" in doubts(np.array([1e4, 4e5, 8e5]), standard, unknown)[0]
    assert "coarser" in doubts(np.full(5, 3e5), Kernel(0.3, ORDERS[0]), unknown)[0]


def test_what_is_given_is_not_doubted():
    soft = Kernel(0.3, ORDERS[0])
    assert doubts(np.full(5, 2e3), soft, replace(FAST, photons=2e3, kernel="scan")) == ()
    assert doubts(np.full(5, 3e5), soft, replace(FAST, photons=None, kernel=soft)) == ()


def test_a_doubt_is_a_note_of_the_simulation(a_scan):
    _, ndct = a_scan
    calm = 0.05 * (ndct - a_scan[0]) + a_scan[0]  # as if 400 times the photons had been there
    assert "photons per ray" in " ".join(
        dose.simulate(calm, PIXEL_MM, replace(FAST, photons=None, kernel="scan")).notes
    )
    assert dose.simulate(ndct[:2], PIXEL_MM, replace(FAST, photons=None, kernel="scan")).notes == ()
