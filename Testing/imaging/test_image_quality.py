import json
from collections import Counter

import numpy as np
import pytest
from noise_fixtures import noise
from scipy import ndimage

from ASCONDenoiseLib.imaging import image_quality as iq

SPACING_MM = (0.8, 0.8, 3.0)


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


@pytest.fixture(scope="module")
def a_scan():
    clean = anatomy()
    return clean, clean + noise(clean.shape, 20)


@pytest.mark.parametrize("window_px", [8, 11])
def test_windows_lie_in_soft_tissue_and_in_the_image(a_scan, window_px):
    clean, noisy = a_scan
    centres = iq.flat_soft_tissue_windows(noisy, SPACING_MM, window_px=window_px)
    assert len(centres) > 100 and set(centres[:, 0]) == {0, 1, 2}
    for s, row, column in centres:
        first, last = np.array([row, column]) - window_px // 2, np.array([row, column]) - window_px // 2 + window_px
        assert (first >= 0).all() and (last <= clean.shape[1]).all()
        assert (clean[s, first[0] : last[0], first[1] : last[1]] == 40).all()


def test_windows_are_not_chosen_by_their_variance(a_scan):
    """Choosing low-variance windows would give less than the true 20 HU: the chosen and the rejected must agree."""
    _, noisy = a_scan
    kept, everything = (iq.flat_soft_tissue_windows(noisy, SPACING_MM, keep=keep) for keep in (0.5, 1.0))
    kept_set = Counter(map(tuple, kept))
    rejected = np.array([centre for centre in everything if tuple(centre) not in kept_set])
    kept_variance, rejected_variance = (iq.window_variance(noisy, c).mean() for c in (kept, rejected))
    assert len(kept) == pytest.approx(len(everything) / 2, rel=0.1)
    assert kept_variance == pytest.approx(rejected_variance, rel=0.04)
    assert kept_variance == pytest.approx(400, rel=0.03)


def test_steep_places_are_rejected():
    """A vessel-like texture in the left half must push the windows to the right half."""
    volume = np.full((1, 128, 128), 45.0)
    volume[0, :, :64] += 25 * np.sin(np.arange(128) / 3)[:, None]
    centres = iq.flat_soft_tissue_windows(volume + noise(volume.shape, 10), SPACING_MM)
    assert len(centres) > 30 and (centres[:, 2] >= 60).all()


def test_window_variance_is_that_of_a_least_squares_plane():
    volume = noise((2, 30, 40), 15, seed=3) + 7 * np.arange(40) + 3 * np.arange(30)[:, None]
    centres = np.array([[1, 5, 5], [0, 24, 34], [1, 10, 20]])
    rows, columns = np.mgrid[:11, :11]
    design = np.stack([np.ones(121), rows.ravel(), columns.ravel()], axis=1)
    for (s, row, column), variance in zip(centres, iq.window_variance(volume, centres), strict=True):
        window = volume[s, row - 5 : row + 6, column - 5 : column + 6].ravel()
        residual = window - design @ np.linalg.lstsq(design, window, rcond=None)[0]
        assert variance == pytest.approx((residual**2).sum() / 118, rel=1e-9)


@pytest.mark.parametrize("kernel", [None, 0.18, 0.25])
def test_the_same_windows_give_the_ratio_of_two_noises(kernel):
    """What a dose calibration asks: windows found in one image, noise of the same texture in another."""
    clean = anatomy(slices=16, side=256)
    normal = clean + noise(clean.shape, 12, seed=1, kernel=kernel)
    inserted = noise(clean.shape, 30, seed=2, kernel=kernel)
    centres = iq.flat_soft_tissue_windows(normal, SPACING_MM)
    ratio = np.median(iq.window_variance(inserted, centres)) / np.median(iq.window_variance(normal, centres))
    assert ratio == pytest.approx((30 / 12) ** 2, rel=0.025)


@pytest.mark.parametrize("sd_hu", [5, 20, 50])
@pytest.mark.parametrize(("kernel", "tolerance"), [(None, 0.03), (0.25, 0.03), (0.18, 0.07)])
def test_noise_of_known_deviation(sd_hu, kernel, tolerance):
    clean = anatomy()
    found = iq.noise_hu((clean + noise(clean.shape, sd_hu, seed=5, kernel=kernel)).astype(np.int16), SPACING_MM)
    assert found.sd_hu == pytest.approx(sd_hu, rel=tolerance)


def test_noise_is_none_without_soft_tissue_and_water_has_its_own_range():
    water = noise((2, 96, 96), 10)
    assert iq.noise_hu(water - 1000, SPACING_MM) is None
    assert iq.noise_hu(water - 40, SPACING_MM) is None
    assert iq.noise_hu(water, SPACING_MM, tissue_hu=(-20, 20)).sd_hu == pytest.approx(10, rel=0.04)
    assert iq.noise_hu(np.full((1, 8, 8), 40), SPACING_MM) is None  # smaller than one window
    with pytest.raises(ValueError, match="slices, rows, columns"):
        iq.noise_hu(water[0], SPACING_MM)


def test_nps_of_white_noise_is_flat_and_keeps_the_variance():
    rois = noise((300, 32, 32), 10)
    found = iq.nps(rois, (0.5, 0.5))
    assert found.power[2:] == pytest.approx(100 * 0.25, rel=0.06)  # variance * pixel area
    step = 1 / (32 * 0.5)
    assert found.power_2d.sum() * step**2 == pytest.approx(found.variance_hu2, rel=1e-12)  # Parseval
    assert found.variance_hu2 == pytest.approx(100 * (1 - 6 / 1024), rel=0.01)  # 6 terms of the trend
    assert found.frequency[-1] == pytest.approx(1.0) and found.rois == 300
    assert found.mean_frequency == pytest.approx(found.frequency.mean(), rel=0.04)  # less the trend


def test_nps_of_oblong_pixels():
    found = iq.nps(noise((200, 32, 32), 10), (0.5, 0.8))
    assert found.power[2:] == pytest.approx(100 * 0.4, rel=0.08)
    assert found.power_2d.sum() / (32 * 0.5 * 32 * 0.8) == pytest.approx(found.variance_hu2, rel=1e-12)
    assert found.frequency[-1] <= 0.5 / 0.8  # Nyquist of the coarser axis
    wave = np.sin(2 * np.pi * 4 * np.arange(32) / 32)
    assert iq.nps(np.tile(wave, (1, 32, 1)), (0.5, 0.8)).peak_frequency == pytest.approx(4 / 16)
    assert iq.nps(np.tile(wave[:, None], (1, 1, 32)), (0.5, 0.8)).peak_frequency == pytest.approx(4 / 25.6, abs=1 / 32)


def test_nps_of_a_kernel_is_the_analytic_spectrum():
    pixel_mm, sd_hu = 0.7, 20
    f0 = 0.2 / pixel_mm  # cycles/mm
    found = iq.nps(noise((60, 128, 128), sd_hu, seed=2, kernel=0.2)[:, 32:96, 32:96], (pixel_mm, pixel_mm))
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
    found = iq.nps((wave + trend)[None], (0.5, 0.5))
    assert found.peak_frequency == pytest.approx(8 / 32)  # 8 cycles in 32 mm
    assert found.variance_hu2 == pytest.approx(50, rel=0.02)


@pytest.mark.parametrize("shape", [(4, 16), (3, 16, 12), (0, 16, 16), (2, 6, 6)])
def test_nps_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match=r"\(N, n, n\)"):
        iq.nps(np.zeros(shape), (1, 1))


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
    assert found.nps_mean_after == pytest.approx(found.nps_mean_before, rel=1e-6)
    assert {s.tissue: s.shift_hu for s in found.hu_shift}["soft tissue"] == pytest.approx(3, abs=0.3)
    assert found.has_reference and found.slices == 3
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["noise_after"]["windows"] > 100


def test_smoothing_lowers_the_mean_frequency(a_scan):
    _, noisy = a_scan
    found = iq.quality(noisy, ndimage.gaussian_filter(noisy, (0, 1, 1)), SPACING_MM)
    assert found.nps_mean_after < 0.7 * found.nps_mean_before
    assert found.noise_reference is None and not found.has_reference


def test_quality_without_soft_tissue_says_so():
    air = np.full((60, 24, 24), -1000, np.int16)
    found = iq.quality(air, air, SPACING_MM)
    assert found.noise_before is found.noise_reduction_percent is found.residual_structure is None
    assert any("No noise figure: 0 windows" in note for note in found.notes)
    assert found.slices == iq.MAX_SLICES
    with pytest.raises(ValueError, match="differ in shape"):
        iq.quality(air, air[:2], SPACING_MM)
