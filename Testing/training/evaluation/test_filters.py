"""Classical filters: each does what its name says, follows the output rule, and is tuned by its error."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ASCONTrainingLib.evaluation import filters


def a_pair(side: int = 48) -> tuple[np.ndarray, np.ndarray]:
    """Two slices of a step with a disc, and with white noise of 30 HU."""
    y, x = np.indices((side, side))
    ndct = np.where(x < side // 2, -100, 60) + 40 * (np.hypot(y - side / 2, x - side * 0.75) < side / 8)
    ndct = np.stack([ndct, ndct.T]).astype(np.int16)
    noise = np.random.default_rng(0).normal(0, 30, ndct.shape)
    return ndct, np.rint(ndct + noise).astype(np.int16)


def rms(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(np.mean((a.astype(float) - b) ** 2)))


@pytest.mark.parametrize("name", [*filters.candidates(30.0)])
def test_each_filter_at_its_best_setting_brings_the_ldct_nearer_to_the_ndct(name):
    ndct, ldct = a_pair()
    settings = filters.candidates(30.0)[name]
    best = filters.tuned(settings, ndct, ldct, [0, 1])
    errors = {setting: rms(filters.apply(ldct, run), ndct) for setting, run in settings.items()}
    assert best == min(errors, key=errors.get)
    assert errors[best] < 0.8 * rms(ldct, ndct)


def test_the_output_follows_the_rule_of_networks():
    """x + F(c) - c: noisy air below the window is filtered like the rest; padding and metal keep their value."""
    _, ldct = a_pair()
    ldct[0, 20:30, 20:30] = -3024
    ldct[0, 5, 5] = 2000
    ldct[1, :, :24] -= 890  # air around -990 HU
    out = filters.apply(ldct, filters.gaussian(1.0))
    for x, y in zip(ldct, out, strict=True):
        c = np.clip(x.astype(np.float32), -1000, 2000)
        wanted = np.rint(x + (gaussian_filter(c, 1.0) - c))
        kept = (x == -3024) | (x >= 2000)
        assert np.array_equal(y[~kept], wanted[~kept]) and np.array_equal(y[kept], x[kept])
    assert (ldct[1] < -1000).any() and out.dtype == ldct.dtype
    assert np.array_equal(filters.apply(ldct, lambda c: c.copy()), ldct)


def test_settings_grow_with_the_noise():
    """So a volume of another dose gets other settings under the same names."""
    ndct, ldct = a_pair()
    for name in ("bilateral", "non-local means", "total variation"):
        mild, strong = (list(filters.candidates(sd)[name].values())[-1] for sd in (5.0, 60.0))
        assert rms(filters.apply(ldct, mild), ldct) < 0.7 * rms(filters.apply(ldct, strong), ldct)


def test_edges_survive_what_keeps_edges():
    """Across the step of 160 HU, the Gaussian of the same noise reduction blurs more than the others."""
    ndct, ldct = a_pair()
    flat = (slice(0, 1), slice(None), slice(4, 16))
    reached = {}
    for name, run in (
        ("Gaussian", filters.gaussian(1.2)),
        ("bilateral", filters.bilateral(2.5, 75.0)),
        ("total variation", filters.total_variation(25.0)),
        ("non-local means", filters.non_local_means(27.0, 5)),
    ):
        out = filters.apply(ldct, run)
        assert out[flat].std() < 12
        step = out[0, :, 25].mean() - out[0, :, 22].mean()
        reached[name] = step / 160
    assert reached["Gaussian"] < min(value for name, value in reached.items() if name != "Gaussian")
