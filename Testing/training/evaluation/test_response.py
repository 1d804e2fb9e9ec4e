"""How noise and a lesion come through denoisers whose effect is known in closed form."""

from __future__ import annotations

import numpy as np
import pytest
from noise_fixtures import noise
from scipy.ndimage import gaussian_filter

from ASCONDenoiseLib.imaging.detectability import npwe_of_response
from ASCONTrainingLib.evaluation import response
from ASCONTrainingLib.evaluation.lesions import lesion_shape
from ASCONTrainingLib.evaluation.volumes import VolumePair

SPACING_MM = (0.8, 0.8, 3.0)
SD_HU = 20.0


@pytest.fixture(scope="module")
def a_pair() -> VolumePair:
    """Soft tissue with faint texture below noise of a standard kernel; slices 0 and 1 are air."""
    ndct = 60 + gaussian_filter(noise((7, 160, 160), 60, seed=1), (0, 6, 6))
    ndct[:2] = -1000
    ldct = ndct + noise(ndct.shape, SD_HU, seed=2, kernel=0.25)
    return VolumePair("tissue", ndct, ldct, SPACING_MM)


def measured(run, pair):
    probe = response.find_probe(pair)
    return response.measure_response(run, pair, probe)


def identity(volume, _):
    return volume


def test_places_lie_in_tissue_and_apart(a_pair):
    probe = response.find_probe(a_pair)
    assert probe.side_px == 32 and 2 <= probe.first <= 3 and len(probe.centres) >= 12
    for s in range(response.SLICES):
        centres = probe.centres[probe.centres[:, 0] == s, 1:]
        assert len(centres) and min(centres.min(), 160 - centres.max()) >= 16
        gaps = np.abs(centres[:, None] - centres[None]).max(axis=-1)
        assert (gaps[~np.eye(len(centres), dtype=bool)] >= 32).all()
    air = np.full((3, 64, 64), -1000.0)
    assert response.find_probe(VolumePair("air", air, air, SPACING_MM)) is None


def test_the_ldct_has_its_own_noise_in_both_bands(a_pair):
    found = measured(identity, a_pair)
    assert np.hypot(found.coarse_hu, found.fine_hu) == pytest.approx(SD_HU, rel=0.04)
    f = np.hypot(np.fft.fftfreq(256, 0.8)[:, None], np.fft.fftfreq(256, 0.8)[None])
    power = f * np.exp(-((f * 0.8 / 0.25) ** 2))
    coarse = SD_HU * np.sqrt(power[f < 0.15].sum() / power.sum())
    assert found.coarse_hu == pytest.approx(coarse, rel=0.15)  # windows of 26 mm smear the frequencies


def test_half_the_noise_is_half_in_each_band_and_twice_the_detectability(a_pair):
    """D(x) = N + (x - N) / 2 would also halve the lesion: d' stays. With the lesion kept, it doubles."""

    def shrink(volume, _):
        part = slice(response.find_probe(a_pair).first, None)
        guide = a_pair.ndct_hu[part][: len(volume)]
        return guide + (volume - guide) / 2

    before, after = measured(identity, a_pair), measured(shrink, a_pair)
    assert (after.coarse_hu, after.fine_hu) == pytest.approx((before.coarse_hu / 2, before.fine_hu / 2), rel=1e-4)
    assert after.detectability == pytest.approx(before.detectability, rel=1e-4)
    assert response.noise_left([(before, after)] * 3, "coarse_hu") == pytest.approx(50, rel=1e-4)


def test_a_blur_takes_fine_noise_and_leaves_the_coarse(a_pair):
    before = measured(identity, a_pair)
    after = measured(lambda v, _: gaussian_filter(v, (0, 1.0, 1.0)), a_pair)
    assert after.fine_hu < 0.45 * before.fine_hu
    assert after.coarse_hu > 0.8 * before.coarse_hu  # exp(-(2 pi 0.15 0.8)^2 / 2) = 0.75 at the band's end


def test_detectability_is_that_of_the_disc_in_its_noise(a_pair):
    f = np.hypot(np.fft.fftfreq(32, 0.8)[:, None], np.fft.fftfreq(32, 0.8)[None])
    fine = np.hypot(np.fft.fftfreq(512, 0.8)[:, None], np.fft.fftfreq(512, 0.8)[None])
    shape = fine * np.exp(-((fine * 0.8 / 0.25) ** 2))
    power = f * np.exp(-((f * 0.8 / 0.25) ** 2)) * SD_HU**2 * 0.8**2 / shape.mean()
    disc = response.CONTRAST_HU * lesion_shape(response.DIAMETER_MM, SPACING_MM, (32, 32))
    found = measured(identity, a_pair).detectability
    assert found == pytest.approx(npwe_of_response(disc, power, SPACING_MM), rel=0.08)


def test_anatomy_that_is_taken_away_is_no_noise(a_pair):
    """The texture of the NDCT is in both mirror images: what happens to it changes nothing."""

    def no_texture(volume, _):
        part = slice(response.find_probe(a_pair).first, None)
        return volume - a_pair.ndct_hu[part][: len(volume)]

    before, after = measured(identity, a_pair), measured(no_texture, a_pair)
    assert after.coarse_hu == pytest.approx(before.coarse_hu, rel=1e-4)
