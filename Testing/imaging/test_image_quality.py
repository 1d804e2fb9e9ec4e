import json

import numpy as np
import pytest
from anatomy_fixtures import anatomy
from noise_fixtures import noise
from scipy import ndimage

from ASCONDenoiseLib.imaging import image_quality as iq
from ASCONDenoiseLib.imaging.detectability import npwe

SPACING_MM = (0.8, 0.8, 3.0)


@pytest.fixture(scope="module")
def a_scan():
    clean = anatomy()
    return clean, clean + noise(clean.shape, 20)


def test_tissue_labels_lie_within_their_tissue(a_scan):
    clean, noisy = a_scan
    noisy = noisy.copy()
    noisy[:, :20] = -2048  # padding
    labels = iq.tissue_labels(noisy, SPACING_MM)
    expected = {"air": -1000, "fat": -100, "lung": -800, "soft tissue": 40, "contrast": 200, "bone": 700}
    for label, name in iq.TISSUE_NAMES.items():
        inside = labels == label
        assert inside.sum() > 200, name
        assert (clean[inside] == expected[name]).all(), name
    assert not labels[:, :20].any()
    assert not iq.tissue_labels(np.full((1, 40, 40), -1024, np.int16), SPACING_MM).any()


def test_hu_shift_finds_a_known_shift_in_one_tissue(a_scan):
    clean, noisy = a_scan
    labels = iq.tissue_labels(noisy, SPACING_MM)
    shifted = np.where(clean == -800, clean - 12.5, clean)
    shifts = {s.tissue: s for s in iq.hu_shift_per_tissue(clean, shifted, labels)}
    assert shifts["lung"].shift_hu == pytest.approx(-12.5) and shifts["lung"].reference_hu == pytest.approx(-800)
    assert shifts["lung"].voxels == (labels == 2).sum()
    assert all(s.shift_hu == 0 for name, s in shifts.items() if name != "lung")


def test_hu_shift_takes_the_labels_of_a_phantom():
    labels = np.array([[[0, 9], [9, 200]]], np.uint8)
    reference = np.array([[[0, 10], [20, 30]]], np.int16)
    (only,) = iq.hu_shift_per_tissue(
        reference, reference + np.array([[[5, 1], [3, 7]]]), labels, {9: "liver", 3: "none"}
    )
    assert (only.tissue, only.voxels, only.reference_hu, only.shift_hu) == ("liver", 2, 15.0, 2.0)


def test_a_perfect_denoiser_shifts_nothing_without_a_reference(a_scan):
    """Regression to the mean: classes cut from the noisy input itself would show a shift here."""
    clean, noisy = a_scan
    shifts = iq.quality(noisy, clean, SPACING_MM).hu_shift
    assert {s.tissue for s in shifts} == set(iq.TISSUE_NAMES.values())
    for s in shifts:
        assert abs(s.shift_hu) < 4 * 20 / np.sqrt(s.voxels), s  # four standard errors of the noise


def test_tissues_come_from_the_output_without_a_reference():
    """92 HU is no soft tissue; in the input, noise carries patches of it below 90, and they would show a shift."""
    clean = np.full((2, 128, 128), 92.0)
    noisy = clean + noise(clean.shape, 80, seed=1)
    assert (iq.tissue_labels(noisy, SPACING_MM) == 4).any()
    assert "soft tissue" not in {s.tissue for s in iq.quality(noisy, clean, SPACING_MM).hu_shift}


def test_residual_structure_tells_noise_from_edges(a_scan):
    clean, noisy = a_scan
    assert abs(iq.residual_structure(noisy, clean, SPACING_MM)) < 0.03
    blurred = ndimage.gaussian_filter(noisy, (0, 1.5, 1.5))
    assert iq.residual_structure(noisy, blurred, SPACING_MM) > 0.5
    assert iq.residual_structure(clean, ndimage.gaussian_filter(clean, (0, 1.5, 1.5)), SPACING_MM, clean) <= 1
    assert iq.residual_structure(noisy, noisy, SPACING_MM) is None
    assert iq.residual_structure(np.full((1, 9, 9), -1000), np.zeros((1, 9, 9)), SPACING_MM) is None  # no patient


def test_residual_structure_is_pearsons_correlation(a_scan):
    clean, noisy = a_scan
    blurred = ndimage.gaussian_filter(noisy, (0, 1, 1))
    x, y = 0.7, 1.1
    smooth = np.stack([ndimage.gaussian_filter(image, (2.0 / y, 2.0 / x)) for image in clean])
    slope = np.hypot(np.gradient(smooth, y, axis=1), np.gradient(smooth, x, axis=2))
    patient = smooth > -950
    oracle = np.corrcoef(np.abs(blurred - noisy)[patient], slope[patient])[0, 1]
    assert iq.residual_structure(noisy, blurred, (x, y, 3.0), clean) == pytest.approx(oracle, abs=1e-4)


def test_quality_of_a_known_denoiser(a_scan):
    """Half of the noise taken away, and 3 HU added: each figure is known."""
    clean, noisy = a_scan
    found = iq.quality(noisy, clean + (noisy - clean) / 2 + 3, SPACING_MM, clean + noise(clean.shape, 6, seed=8))
    assert found.noise_before.sd_hu == pytest.approx(20, rel=0.03)
    assert found.noise_after.sd_hu == pytest.approx(10, rel=0.03)
    assert found.noise_reference.sd_hu == pytest.approx(6, rel=0.03)
    assert found.noise_reduction_percent == pytest.approx(50, abs=0.01)
    assert found.texture_after.mean_frequency == pytest.approx(found.texture_before.mean_frequency, rel=1e-6)
    assert found.texture_after.coarse_hu == pytest.approx(found.texture_before.coarse_hu / 2, rel=1e-6)
    d_before, d_after = (t.disc_detectability for t in (found.texture_before, found.texture_after))
    assert d_after == pytest.approx(2 * d_before, rel=1e-6)
    assert d_before == pytest.approx(npwe(iq.DISC_MM, iq.DISC_HU, found.texture_before))
    assert found.texture_reference.coarse_hu < 0.4 * found.texture_before.coarse_hu
    assert abs(found.slice_correlation_before) < 0.05 and found.slice_correlation_after is not None
    assert {s.tissue: s.shift_hu for s in found.hu_shift}["soft tissue"] == pytest.approx(3, abs=0.3)
    assert found.has_reference and found.slices == 3
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["noise_after"]["windows"] > 100


def test_smoothing_lowers_the_mean_frequency(a_scan):
    _, noisy = a_scan
    found = iq.quality(noisy, ndimage.gaussian_filter(noisy, (0, 1, 1)), SPACING_MM)
    assert found.texture_after.mean_frequency < 0.7 * found.texture_before.mean_frequency
    assert found.texture_after.fine_hu < 0.3 * found.texture_before.fine_hu
    assert found.noise_reference is None and not found.has_reference


def test_quality_without_soft_tissue_says_so():
    air = np.full((60, 24, 24), -1000, np.int16)
    found = iq.quality(air, air, SPACING_MM)
    assert found.noise_before is found.noise_reduction_percent is found.residual_structure is None
    assert any("No noise figure: 0 windows" in note for note in found.notes)
    assert found.slices == iq.MAX_SLICES
    with pytest.raises(ValueError, match="differ in shape"):
        iq.quality(air, air[:2], SPACING_MM)
