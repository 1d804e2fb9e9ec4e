"""Pairs of slices: only what lies at the same place is one, and the differences are told."""

from __future__ import annotations

import numpy as np
import pytest
from ct_folder_fixtures import SHAPE, some_pair

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.io.volume import Geometry, Volume
from ASCONTrainingLib.data.pairing import match_slices, pair_volumes


def a_volume(seed=0, shape=SHAPE, spacing_mm=(0.7, 0.8, 2.0), origin_mm=(-10.0, 5.0, 30.0), **settings) -> Volume:
    return Volume(some_pair(seed, shape)[0], Geometry(spacing_mm, origin_mm), **settings)


FLIPPED = Geometry((0.7, 0.8, 2.0), (-10.0, 5.0, 30.0), (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0))


@pytest.mark.parametrize(
    ("low", "message"),
    [
        (a_volume(1, shape=(4, 16, 16)), "size: 24 x 16 in 5 full-dose slices, 16 x 16 in 4 low-dose slices"),
        (a_volume(1, spacing_mm=(0.7, 0.7, 2.0)), "pixel spacing: 0.7 x 0.8 in 5"),
        (Volume(some_pair(1)[0], FLIPPED), "orientation"),
        (a_volume(1, origin_mm=(-9.0, 5.0, 30.0)), "place of the first pixel: -10 x 5 x 30"),
        (a_volume(1, description={"slice_thickness_mm": "3.0"}), "slice thickness: 1.0 in 5 .* 3.0 in 5"),
        (
            a_volume(1, origin_mm=(-10.0, 5.0, 31.0)),
            "no slice at the same place: 5 slices at 30 to 38 mm and 5 at 31 to 39",
        ),
        (a_volume(1, origin_mm=(-10.0, 5.0, 40.0)), "no slice at the same place"),
        (a_volume(0), "hold the same 5 images"),
    ],
)
def test_series_that_do_not_fit_are_refused_with_both_values(low, message):
    with pytest.raises(InputError, match=message):
        pair_volumes(a_volume(description={"slice_thickness_mm": "1.0"}), low, "A and B")


@pytest.mark.parametrize("seed", range(6))
def test_slices_are_matched_as_by_a_naive_search(seed):
    random = np.random.default_rng(seed)
    n_full, n_low = random.integers(5, 30, 2)
    full = Geometry((1, 1, 1.5), (0, 0, 100.0))
    low = Geometry((1, 1, random.choice([0.75, 1.5, 3.0])), (0, 0, 100.0 + 1.5 * random.integers(-4, 8) + 0.05))
    expected = [
        (a, b)
        for b in range(n_low)
        for a in range(n_full)
        if abs((100.0 + 1.5 * a) - (low.origin_mm[2] + low.spacing_mm[2] * b)) < 0.07
    ]
    found = match_slices(full, n_full, low, n_low)
    assert list(zip(*(indices.tolist() for indices in found), strict=True)) == expected and expected


def test_slices_are_matched_along_an_oblique_axis():
    turned = (1.0, 0, 0, 0, 0.6, -0.8, 0, 0.8, 0.6)
    axis = np.array([0, -0.8, 0.6])
    start = np.array([5.0, 6.0, 7.0])
    full, low = Geometry((1, 1, 2), tuple(start), turned), Geometry((1, 1, 2), tuple(start + 3 * 2 * axis), turned)
    in_full, in_low = match_slices(full, 5, low, 5)
    assert in_full.tolist() == [3, 4] and in_low.tolist() == [0, 1]


def a_body(shift: int = 0, noise: float = 20) -> Volume:
    """Two organs in air, 96 x 96, its anatomy shifted by so many columns while the header says nothing of it."""
    rows, columns = np.mgrid[:96, :96] - 48
    body = np.where(np.hypot(rows, columns) < 32, 40, -1000) + np.where(np.hypot(rows - 9, columns + 8) < 7, 400, 0)
    images = np.roll(body, shift, axis=1) + np.random.default_rng(abs(shift)).normal(0, noise, (5, 96, 96))
    return Volume(images.astype(np.int16), Geometry((0.8, 0.8, 2.0)))


def test_anatomies_at_different_places_are_refused_and_small_shifts_are_told():
    assert pair_volumes(a_body(), a_body(0, 100), "P3: A and B").warnings == ()
    with pytest.raises(InputError, match="P3: A and B differ in place: the anatomy is shifted by 15 columns"):
        pair_volumes(a_body(), a_body(15), "P3: A and B")
    (warning,) = pair_volumes(a_body(), a_body(-1), "P3: A and B").warnings
    assert "P3: A and B differ in place: the anatomy is shifted by 1 column" in warning


@pytest.mark.parametrize("text", ["", "thin", "nan", "-1", "1e999", "0"])
def test_a_thickness_that_is_no_number_is_not_compared(text):
    known = [{"slice_thickness_mm": text}, {"slice_thickness_mm": "3.0"}]
    pair = pair_volumes(
        a_volume(description=known[0]), Volume(some_pair(0)[1], a_volume().geometry, description=known[1]), ""
    )
    assert len(pair.ndct) == 5
