import json

import numpy as np
import pytest

from ASCONDenoiseLib.imaging import metrics
from ASCONDenoiseLib.imaging.metrics import ABDOMEN, PAPER, Scale, compare
from ASCONDenoiseLib.reports.text_table import metrics_text


@pytest.fixture
def a_pair():
    """Smooth anatomy with values beyond both windows, and the same with noise of 40 HU."""
    rng = np.random.default_rng(1)
    rows, columns = np.mgrid[:40, :48]
    clean = 900 * np.sin(rows / 7) * np.cos(columns / 9) + 100
    reference = np.stack([clean, clean.T[:40, :40].repeat(2, axis=1)[:, :48], clean * 2.5]).round().astype(np.int16)
    test = (reference + rng.normal(0, 40, reference.shape)).round().astype(np.int16)
    return reference, test


def naive_ssim(a, b, data_range):
    """Wang et al. 2004, pixel by pixel, with the half-sample symmetric border of scikit-image."""
    axis = np.arange(-5, 6)
    kernel = np.exp(-(axis[:, None] ** 2 + axis[None, :] ** 2) / (2 * 1.5**2))
    kernel /= kernel.sum()
    a, b = np.pad(a, 5, mode="symmetric"), np.pad(b, 5, mode="symmetric")
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    total, count = 0.0, 0
    for i in range(5, a.shape[0] - 5):
        for j in range(5, a.shape[1] - 5):
            p, q = a[i - 5 : i + 6, j - 5 : j + 6], b[i - 5 : i + 6, j - 5 : j + 6]
            mp, mq = (kernel * p).sum(), (kernel * q).sum()
            vp, vq = (kernel * p * p).sum() - mp**2, (kernel * q * q).sum() - mq**2
            cov = (kernel * p * q).sum() - mp * mq
            value = (2 * mp * mq + c1) * (2 * cov + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2))
            total, count = total + min(max(value, 0), 1), count + 1
    return total / count


@pytest.mark.parametrize("data_range", [1.0, 400.0])
def test_ssim_is_the_naive_loop_clamped(data_range):
    rng = np.random.default_rng(0)
    a = rng.random((24, 20)) * data_range
    b = data_range - a  # anti-correlated: the raw map is negative, so clamping must show
    assert metrics.ssim(a, b, data_range) == pytest.approx(naive_ssim(a, b, data_range), abs=1e-9)
    b = a + rng.normal(0, 0.1 * data_range, a.shape)
    assert metrics.ssim(a, b, data_range) == pytest.approx(naive_ssim(a, b, data_range), abs=1e-9)


@pytest.mark.parametrize(
    ("scale", "low", "high", "data_range"),
    [(PAPER, -1000, 2000, 1.0), (ABDOMEN, -160, 240, 400.0), (Scale("lung", (-1350, 150)), -1350, 150, 1500.0)],
)
def test_compare_agrees_with_scikit_image(a_pair, scale, low, high, data_range):
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    reference, test = a_pair
    rows = compare(reference, test, scale).rows
    assert [row.index for row in rows] == [0, 1, 2]
    for row, a, b in zip(rows, reference, test, strict=True):
        a, b = (np.clip(v.astype(float), low, high) for v in (a, b))
        assert row.rmse_hu == pytest.approx(np.sqrt(((a - b) ** 2).mean()), rel=1e-12)
        a, b = ((v - low) / (high - low) * data_range for v in (a, b))
        assert row.rmse == pytest.approx(np.sqrt(((a - b) ** 2).mean()), rel=1e-12)
        assert row.psnr_db == pytest.approx(peak_signal_noise_ratio(a, b, data_range=data_range), rel=1e-12)
        options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "full": True}
        oracle = structural_similarity(a, b, data_range=data_range, **options)[1].clip(0, 1).mean()
        assert row.ssim == pytest.approx(oracle, abs=1e-12)


def test_a_uniform_offset_has_the_psnr_of_arithmetic():
    reference = np.zeros((1, 16, 16), np.int16)
    row = compare(reference, reference + 30, PAPER).rows[0]
    assert row.psnr_db == pytest.approx(40.0)  # 30 HU of 3000 = 0.01
    assert row.rmse == pytest.approx(0.01)
    assert row.rmse_hu == pytest.approx(30)
    row = compare(reference, reference + 40, ABDOMEN).rows[0]
    assert row.psnr_db == pytest.approx(20.0)  # 40 HU of 400
    assert row.rmse == row.rmse_hu == pytest.approx(40)


@pytest.mark.parametrize("scale", [PAPER, ABDOMEN])
def test_padding_is_clipped_away(a_pair, scale):
    reference, test = a_pair
    padded_reference, padded_test = reference.copy(), test.copy()
    padded_reference[:, :8] = -1024
    padded_test[:, :8] = -2048
    rows = compare(padded_reference, padded_test, scale).rows
    alone = compare(reference[:, 8:], test[:, 8:], scale).rows
    for row, other in zip(rows, alone, strict=True):
        assert row.rmse_hu**2 * 40 == pytest.approx(other.rmse_hu**2 * 32)
    unclipped = compare(padded_reference, padded_test, PAPER, clip_test=False).rows[0]
    assert unclipped.rmse_hu > 400  # sqrt(1048^2 * 8/40)


def test_unclipped_predictions_are_left_as_they_are():
    reference = np.full((1, 12, 12), 2500, np.int16)
    assert compare(reference, reference, PAPER).rows[0].rmse_hu == 0
    assert compare(reference, reference, PAPER, clip_test=False).rows[0].rmse_hu == pytest.approx(500)


def test_mean_and_sd_over_slices():
    reference = np.zeros((3, 12, 12))
    test = reference + np.array([10.0, 20.0, 60.0])[:, None, None]
    result = compare(reference, test, PAPER)
    assert result.mean_sd("rmse_hu") == pytest.approx((30.0, np.sqrt((400 + 100 + 900) / 2)))


def test_identical_slices_do_not_make_the_mean_infinite():
    reference = np.zeros((3, 12, 12), np.int16)
    test = reference.copy()
    test[0] += 30
    result = compare(reference, test, PAPER)
    assert np.isinf(result.rows[1].psnr_db) and result.rows[1].ssim == 1
    assert result.mean_sd("psnr_db")[0] == pytest.approx(40.0)
    assert result.identical_slices == 2
    plain = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert plain["slices"][1]["psnr_db"] is None and plain["slices"][1]["ssim"] == 1
    assert plain["sd"]["psnr_db"] is None and plain["mean"]["rmse_hu"] == pytest.approx(10)
    assert "2 identical slices not in PSNR" in metrics_text([result])


def test_all_slices_identical():
    volume = np.zeros((2, 12, 12), np.int16)
    result = compare(volume, volume)
    assert result.mean_sd("psnr_db")[0] == np.inf
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False))["mean"]["psnr_db"] is None
    assert "inf" in metrics_text([result])


@pytest.mark.parametrize(
    ("reference", "test", "message"),
    [
        (np.zeros((2, 16, 16)), np.zeros((3, 16, 16)), r"\(2, 16, 16\).*'test' \(3, 16, 16\)"),
        (np.zeros((16, 16)), np.zeros((16, 16)), "slices, rows and columns"),
        (np.zeros((0, 16, 16)), np.zeros((0, 16, 16)), "slices, rows and columns"),
        (np.zeros((1, 10, 16)), np.zeros((1, 10, 16)), "11 x 11"),
        (np.zeros((1, 16, 16)), np.full((1, 16, 16), np.nan), "Slice 1 .* not finite"),
        (np.full((1, 16, 16), np.inf), np.zeros((1, 16, 16)), "Slice 1 .* not finite"),
    ],
)
def test_bad_input_is_refused_with_a_sentence(reference, test, message):
    with pytest.raises(ValueError, match=message):
        compare(reference, test)


def test_cnr_of_known_regions():
    image = np.zeros((1, 4, 4))
    image[0, 0] = [98, 102, 98, 102]
    image[0, 1] = [48, 52, 48, 52]
    first, second = np.zeros(image.shape, bool), np.zeros(image.shape, bool)
    first[0, 0], second[0, 1] = True, True
    assert metrics.cnr(image, first, second) == pytest.approx(50 / np.sqrt(16 / 3))  # sample variance 4 * 4 / 3
    assert metrics.cnr(np.where(first, 5.0, 0.0), first, second) == np.inf
    with pytest.raises(ValueError, match="second region"):
        metrics.cnr(image, first, np.zeros(image.shape, bool))
