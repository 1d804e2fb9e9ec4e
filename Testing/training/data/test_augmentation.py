"""Lesions and kernels that a training pair is given: their size, contrast, place, and what they must leave alone."""

from __future__ import annotations

import numpy as np
import pytest

from ASCONTrainingLib.data import augmentation
from ASCONTrainingLib.data.augmentation import lesions, with_kernel

SPACING = (0.75, 0.75, 3.0)
TISSUE = np.full((512, 512), 50.0, np.float32)


def one_lesion(monkeypatch, *, mm: float, hu: float, roundness: float = 1.0, blur_mm: float = 0.4) -> np.ndarray:
    """A lesion of these, alone in an image."""
    monkeypatch.setattr(augmentation, "LESION_MM", (mm, mm))
    monkeypatch.setattr(augmentation, "LESION_HU", (hu, hu))
    monkeypatch.setattr(augmentation, "LESION_BLUR_MM", (blur_mm, blur_mm))
    monkeypatch.setattr(augmentation, "LESION_AREA", TISSUE.size // 2)

    class Fixed:
        """Draws one lesion in the middle of the image."""

        def uniform(self, low=0.0, high=1.0):
            return {(0, 1): 0.5, (0.5, 1.0): roundness}.get((low, high), high)

        def integers(self, side):
            return side // 2

        def choice(self, signs):
            return signs[1]

    return lesions(TISSUE, SPACING, 1, Fixed())


@pytest.mark.parametrize(("mm", "roundness"), [(6.0, 1.0), (15.0, 1.0), (24.0, 0.5)])
def test_a_lesion_has_the_area_and_contrast_that_were_asked_for(monkeypatch, mm, roundness):
    added = one_lesion(monkeypatch, mm=mm, hu=20.0, roundness=roundness)
    assert added.sum() / 20 * SPACING[0] ** 2 == pytest.approx(np.pi / 4 * mm**2 * roundness, rel=0.03)
    assert added[256, 256] == pytest.approx(20, abs=0.1)
    assert np.count_nonzero(np.abs(added) > 0.02) * SPACING[0] ** 2 < np.pi / 4 * (mm + 6 * 0.4) ** 2 + 20


def test_the_edge_is_as_wide_as_its_blur(monkeypatch):
    from ASCONDenoiseLib.imaging.edges import circular_edge_width_mm

    for blur_mm in (0.5, 0.9):
        added = one_lesion(monkeypatch, mm=20.0, hu=100.0, blur_mm=blur_mm)
        found = circular_edge_width_mm(added, SPACING, (256, 256), 10.0)
        assert found == pytest.approx(2.563 * blur_mm, rel=0.1)  # 10-90 % of an error function


def test_their_number_and_signs_are_as_many_as_asked_for():
    random = np.random.default_rng(1)
    inside = [lesions(TISSUE[:64, :64], SPACING, 3, random) for _ in range(400)]
    covered = np.mean([np.abs(a) > 1 for a in inside])
    assert 0.01 < covered < 0.15
    assert 0.15 < np.mean([not a.any() for a in inside]) < 0.4  # a sixth has none by number, others have them outside
    assert abs(np.mean([a.sum() > 0 for a in inside]) - np.mean([a.sum() < 0 for a in inside])) < 0.15


def test_none_begins_in_air_and_none_at_all_where_none_is_wanted():
    random = np.random.default_rng(2)
    air = np.full((256, 256), -1000, np.float32)
    assert not lesions(air, SPACING, 20, random).any()
    assert not lesions(TISSUE, SPACING, 0, random).any()


def test_a_kernel_keeps_the_mean_and_scales_the_finest_detail():
    checker = (np.indices((64, 64)).sum(0) % 2 * 2.0 - 1).astype(np.float32)  # the highest frequency there is
    for sharpness in (-0.5, 0.0, 0.5):
        found = with_kernel(50 + 10 * checker, sharpness)
        assert found.mean() == pytest.approx(50, abs=1e-3)
        inner = slice(8, -8)
        assert np.abs(found[inner, inner] - 50) == pytest.approx(10 * (1 + sharpness), rel=0.01)
    assert with_kernel(checker, 0.3).dtype == np.float32
