"""The head phantom: tissues in their ranges, two sides that are alike and not the same, a head in any field of view."""

import numpy as np
import pytest
from scipy.ndimage import binary_erosion

from ASCONDenoiseLib.physics.dose import scan
from ASCONDenoiseLib.physics.head_phantom import HEAD_LABELS, TISSUES_HU, head
from ASCONDenoiseLib.physics.settings import PHANTOM_PHOTONS, DoseSettings

SHAPE, SPACING_MM = (8, 224, 224), (1.0, 1.0, 12.0)  # the whole head, coarsely
VALUES = {name: value for value, name in HEAD_LABELS.items()}


@pytest.fixture(scope="module")
def whole():
    return head(1, SHAPE, SPACING_MM, level_mm=30.0)


@pytest.fixture(scope="module")
def ventricles():
    """Thin slices through the ventricles, in pixels of a routine head."""
    return head(2, (3, 448, 448), (0.45, 0.45, 1.0), level_mm=42.0)


def test_tissues_have_their_hounsfield_units(ventricles):
    for name, hu in TISSUES_HU.items():
        if name in ("muscle", "fat"):
            continue
        inner = binary_erosion(ventricles.labels == VALUES[name], np.ones((1, 5, 5)))
        assert ventricles.voxels_hu[inner].mean() == pytest.approx(hu, abs=3), name
    bone = binary_erosion(ventricles.labels == VALUES["cortical bone"], np.ones((1, 3, 3)))
    assert 900 < ventricles.voxels_hu[bone].mean() < 1700
    diploe = ventricles.voxels_hu[ventricles.labels == VALUES["diploe"]]
    assert 300 < np.median(diploe) < 800


def test_grey_and_white_matter_differ_as_they_do_in_patients(ventricles):
    grey, white = (
        np.median(ventricles.voxels_hu[ventricles.labels == VALUES[n]]) for n in ("grey matter", "white matter")
    )
    assert 5 < grey - white < 11


def test_cortex_is_a_folded_ribbon(ventricles):
    """Grey matter reaches 20 mm deep and is nowhere far from fluid or bone; a smooth shell would be 3 mm deep."""
    from scipy.ndimage import distance_transform_edt

    brain = np.isin(ventricles.labels, [VALUES[n] for n in ("grey matter", "white matter", "cerebrospinal fluid")])
    depth = distance_transform_edt(brain[1]) * 0.45
    grey = ventricles.labels[1] == VALUES["grey matter"]
    share = [grey[(depth > a) & (depth < a + 4)].mean() for a in (2, 8, 14)]
    assert share[0] > share[1] > 0.15 and share[2] > 0.05


def test_all_parts_are_there(whole):
    volumes_ml = {
        name: np.count_nonzero(whole.labels == value) * np.prod(SPACING_MM) / 1000
        for value, name in whole.label_names.items()
    }
    assert set(whole.label_names) >= set(np.unique(whole.labels))
    assert 900 < volumes_ml["grey matter"] + volumes_ml["white matter"] < 1800
    assert 60 < volumes_ml["cerebrospinal fluid"] < 400
    assert 5 < volumes_ml["sinus"] < 150
    thin = head(1, (3, 320, 320), (0.6, 0.6, 4.0), level_mm=0.0)
    for name in ("lens", "vitreous", "optic nerve", "sclera", "muscle", "fat", "skin", "mucosa"):
        assert (thin.labels == VALUES[name]).any(), name
    lens = thin.voxels_hu[thin.labels == VALUES["lens"]]
    assert 50 < lens.max() < 110


def test_both_sides_are_alike_and_not_the_same(ventricles):
    labels = ventricles.labels[1]
    matter = labels == VALUES["grey matter"]
    columns = np.nonzero(np.isin(labels, [VALUES["grey matter"], VALUES["white matter"]]).any(0))[0]
    middle = (columns[0] + columns[-1]) / 2
    half = int((columns[-1] - columns[0]) / 2)
    left = matter[:, int(middle - half) : int(middle)]
    right = matter[:, int(np.ceil(middle)) : int(np.ceil(middle)) + left.shape[1]][:, ::-1]
    assert left.sum() == pytest.approx(right.sum(), rel=0.35)
    assert (left != right).mean() > 0.05


def test_a_seed_repeats_and_another_is_another_patient():
    small = ((2, 96, 96), (2.2, 2.2, 8.0))
    first, again, other = (head(seed, *small) for seed in (4, 4, 5))
    assert np.array_equal(first.voxels_hu, again.voxels_hu)
    assert np.abs(first.voxels_hu - other.voxels_hu).mean() > 20


def test_the_same_patient_at_another_matrix():
    coarse, fine = head(6, (1, 100, 100), (2.0, 2.0, 3.0)), head(6, (1, 200, 200), (1.0, 1.0, 3.0))
    averaged = fine.labels.reshape(1, 100, 2, 100, 2)[:, :, 0, :, 0]
    assert (averaged == coarse.labels).mean() > 0.9


def test_a_small_field_of_view_cuts_the_head():
    cut = head(1, (1, 128, 128), (0.5, 0.5, 2.0), level_mm=50.0)
    assert cut.voxels_hu.shape == (1, 128, 128) and cut.voxels_hu.min() > -200  # brain to the edge
    assert head(1, (1, 16, 16), (1.0, 1.0, 2.0), level_mm=400.0).voxels_hu.max() < -100  # beside it is air


def test_a_bone_kernel_shows_thinner_walls():
    smooth, sharp = (head(3, (1, 400, 400), (0.45, 0.45, 1.0), psf, 0.0) for psf in (0.65, 0.3))
    assert np.array_equal(smooth.labels, sharp.labels)
    assert np.abs(np.diff(sharp.voxels_hu)).max() > 1.2 * np.abs(np.diff(smooth.voxels_hu)).max()


def test_noise_is_that_of_a_routine_head(ventricles):
    settings = DoseSettings(photons=PHANTOM_PHOTONS["head"], kernel="soft", views=492)
    noise = scan(ventricles.voxels_hu[1:2], ventricles.spacing_mm, settings) - ventricles.voxels_hu[1:2]
    brain = np.isin(ventricles.labels[1:2], [VALUES["grey matter"], VALUES["white matter"]])
    assert 2.5 < noise[brain].std() < 6
