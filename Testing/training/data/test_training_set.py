"""Training sets: what an item is, whole slices in order, and what cannot be trained on."""

from __future__ import annotations

import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from training_fixtures import LIMITS, VOLUMES, make_random_set, some_hu

from ASCONDenoiseLib.errors import InputError
from ASCONTrainingLib.data.background import background_cells
from ASCONTrainingLib.data.reconstruction import Reconstructions
from ASCONTrainingLib.data.training_set import EvaluationSet, TrainingSet


def unit(hu: np.ndarray) -> np.ndarray:
    return (np.clip(hu.astype(np.float64), -1000, 2000) + 1000) / 3000


def test_item_is_the_patch_of_both_images_in_unit_range(a_set):
    folder, arrays = a_set
    items = TrainingSet(folder, "train", 16, stride=8, augment=False)
    seen = Counter()
    for index, (volume, z, top, left) in enumerate(items.table):
        name = "ab"[volume]
        seen[name] += 1
        for image, hu in zip(items[index], arrays[name], strict=True):
            assert image.shape == (1, 16, 16) and image.dtype == torch.float32
            np.testing.assert_allclose(image[0], unit(hu[z, top : top + 16, left : left + 16]), atol=1e-6)
    assert seen["a"] and seen["b"] and len(items) == sum(seen.values())


def test_set_has_its_own_limit_of_background(tmp_path):
    make_random_set(tmp_path, VOLUMES, limits=LIMITS | {"train": 0.3})
    own, given = TrainingSet(tmp_path, patch=16), TrainingSet(tmp_path, patch=16, max_background=0.85)
    assert 0 < len(own) < len(given)


def test_augmentation_is_one_of_eight_and_the_same_for_both_images(a_square_set):
    folder, arrays = a_square_set
    ldct, ndct = arrays["a"]
    items = TrainingSet(folder, patch=32, max_background=1.1)
    ways = Counter()
    for epoch in range(20):
        for index, (_, z, _, _) in enumerate(items.table):
            pair = items.item(index, epoch)
            fits = []
            for flip in (False, True):
                for turns in range(4):
                    images = [np.rot90(hu[z][:, ::-1] if flip else hu[z], turns) for hu in (ldct, ndct)]
                    if all(np.allclose(a[0], unit(b), atol=1e-6) for a, b in zip(pair, images, strict=True)):
                        fits.append((flip, turns))
            assert len(fits) == 1
            ways[fits[0]] += 1
    assert len(ways) == 8 and max(ways.values()) < 30  # of 100


def test_item_is_a_pure_function_of_seed_epoch_turn_and_index(a_square_set):
    folder, _ = a_square_set
    keys = [(epoch, turn, index) for epoch in range(3) for turn in range(2) for index in range(5)]
    first, again = (TrainingSet(folder, patch=32, doses=(0.1, 0.5), max_background=1.1, seed=7) for _ in range(2))
    forwards = {key: first[key] for key in keys}
    backwards = {key: again[key] for key in reversed(keys)}
    assert all(torch.equal(a, b) for key in keys for a, b in zip(forwards[key], backwards[key], strict=True))
    other = TrainingSet(folder, patch=32, doses=(0.1, 0.5), max_background=1.1, seed=8)
    for different in ([other[0, 0, 2]], [first[1, 0, 2]], [first[0, 1, 2]]):
        assert not torch.equal(different[0][0], forwards[0, 0, 2][0])


def test_rectangular_slices_are_only_half_turned(tmp_path):
    arrays = make_random_set(tmp_path, [("a", "A", "train", (2, 24, 40), None)])
    items = TrainingSet(tmp_path, max_background=1.1)
    seen = set()
    for epoch in range(30):
        ndct = items.item(1, epoch)[1]
        original = unit(arrays["a"][1][1])
        ways = [original, original[:, ::-1], original[::-1], original[::-1, ::-1]]
        seen |= {i for i, way in enumerate(ways) if np.allclose(ndct[0], way, atol=1e-6)}
        assert ndct.shape == (1, 24, 40)
    assert seen == {0, 1, 2, 3}


def test_doses_scale_the_noise_within_their_bounds(tmp_path):
    folder = tmp_path / "set"
    make_random_set(folder, [("a", "A", "train", (5, 32, 32), 0.25)], kind="simulate")
    ndct = some_hu((5, 32, 32)).clip(-800, 1800)  # nothing is clipped, so that the factor can be read off
    noise = np.random.default_rng(1).integers(-20, 21, ndct.shape).astype(np.int16)
    np.save(folder / "a.ndct.npy", ndct)
    np.save(folder / "a.ldct.npy", ndct + noise)
    items = TrainingSet(folder, patch=32, doses=(0.125, 0.5), augment=False, max_background=1.1)
    doses = []
    for epoch in range(40):
        ldct, clean = items.item(2, epoch)
        assert np.allclose(clean[0], unit(ndct[2]), atol=1e-6)
        seen = 3000 * (ldct - clean)[0].double().numpy()
        factor = (seen * noise[2]).sum() / (noise[2].astype(float) ** 2).sum()
        assert np.allclose(seen, factor * noise[2], atol=1e-3)
        doses.append(1 / (1 + 3 * factor**2))  # factor^2 = (1 / d - 1) / (1 / 0.25 - 1)
    assert 0.125 - 1e-4 <= min(doses) < 0.16 and 0.4 < max(doses) <= 0.5 + 1e-4


def test_lesions_and_kernels_keep_a_pair_a_pair(tmp_path):
    folder = tmp_path / "set"
    make_random_set(folder, [("a", "A", "train", (1, 128, 128), 0.25)], kind="simulate")
    ndct = np.full((1, 128, 128), 40, np.int16)
    noise = np.random.default_rng(1).integers(-20, 21, ndct.shape).astype(np.int16)
    np.save(folder / "a.ndct.npy", ndct)
    np.save(folder / "a.ldct.npy", ndct + noise)

    def hu(**changes):
        ldct, clean = TrainingSet(folder, patch=128, augment=False, **changes).item(0, epoch=1)
        return 3000 * ldct[0].double().numpy() - 1000, 3000 * clean[0].double().numpy() - 1000

    ldct, clean = hu(lesions=5.0)
    assert np.abs(clean - 40).max() > 5  # there is a lesion
    assert np.allclose(ldct - clean, noise[0], atol=1e-3)  # and the noise is what it was
    assert np.array_equal(clean, hu(lesions=5.0)[1]) and not np.array_equal(clean, hu(lesions=5.0, seed=1)[1])
    ldct, clean = hu(kernels=(-0.5, -0.5))
    assert np.allclose(clean, 40, atol=1e-3)
    assert 0.5 * noise[0].std() < (ldct - clean).std() < 0.7 * noise[0].std()  # a smoother kernel has less noise


def test_doses_are_for_simulated_sets(a_set):
    with pytest.raises(InputError, match="measured pairs"):
        TrainingSet(a_set[0], patch=16, doses=(0.1, 0.5))


def test_without_clipping_values_beyond_the_window_stay(a_set):
    folder, arrays = a_set
    items = TrainingSet(folder, "train", 16, stride=8, augment=False, clip=False)
    seen = []
    for index, (volume, z, top, left) in enumerate(items.table):
        for image, hu in zip(items[index], arrays["ab"[volume]], strict=True):
            np.testing.assert_allclose(image[0], (hu[z, top : top + 16, left : left + 16] + 1000.0) / 3000, atol=1e-6)
        seen.append(items[index][0])
    assert torch.stack(seen).min() < -0.02 and torch.stack(seen).max() > 1.02


def test_item_travels_to_other_processes_without_the_voxels(tmp_path):
    make_random_set(tmp_path, [("a", "A", "train", (8, 128, 128), None)])
    items = TrainingSet(tmp_path, patch=64)
    expected = items.item(3, 1)
    sent = pickle.dumps(items)
    assert len(sent) < 30_000
    assert all(torch.equal(a, b) for a, b in zip(pickle.loads(sent).item(3, 1), expected, strict=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "val"}, 'no split "val"'),
        ({"patch": 20}, "multiples of 8 pixels; got 20"),
        ({"patch": 16, "stride": 4}, "multiples of 8 pixels; got 16 and 4"),
        ({"patch": 128}, r"6 slices of 48x64, 56x40 .*none of them has a patch of 128x128"),
        ({"patch": 16, "max_background": 0.0}, "less than 0% background"),
        ({"reconstructions": Reconstructions((0.4, 1.0))}, "for patches, not for whole slices"),
        ({}, r"differ in size \(56x40 in 1 volume, 48x64 in 1 volume\)"),
    ],
)
def test_what_cannot_be_trained_on_is_a_sentence(a_set, arguments, message):
    with pytest.raises(InputError, match=message):
        TrainingSet(a_set[0], **arguments)


PATIENTS = [
    ("a", "A", "train", (3, 40, 56), None),
    ("a2", "A", "train", (3, 40, 56), None),
    ("b", "B", "train", (2, 64, 48), None),
    ("c", "C", "train", (4, 40, 40), None),
    ("v", "V", "validation", (3, 32, 32), None),
]


def test_unpaired_images_are_never_of_one_patient_and_the_ldct_is_what_it_was(tmp_path):
    make_random_set(tmp_path, PATIENTS)
    settings = {"patch": 16, "stride": 8, "seed": 3}
    paired, unpaired = TrainingSet(tmp_path, **settings), TrainingSet(tmp_path, unpaired=True, **settings)
    patient = np.array(["A", "A", "B", "C"])[paired.table[:, 0]]
    partners = Counter()
    for epoch in range(4):
        found = [unpaired.partner(index, epoch) for index in range(len(unpaired))]
        assert all(patient[index] != patient[partner] for index, partner in enumerate(found))
        partners.update(found)
        for index in range(0, len(unpaired), 5):
            ldct, ndct = unpaired.item(index, epoch)
            assert torch.equal(ldct, paired.item(index, epoch)[0])
            assert not torch.equal(ndct, paired.item(index, epoch)[1])
            hu = np.sort(ndct.numpy().ravel())  # whatever the turn, the values are those of the partner's NDCT
            assert np.array_equal(hu, np.sort(paired[found[index]][1].numpy().ravel()))
    assert len(partners) > 0.8 * len(unpaired)  # all of them come, not a few
    assert max(partners.values()) < 0.1 * sum(partners.values())


def test_unpaired_images_are_a_pure_function_of_the_key(tmp_path):
    make_random_set(tmp_path, PATIENTS)
    keys = [(epoch, turn, index) for epoch in range(2) for turn in range(2) for index in (0, 9, 30)]
    first, again, other = (TrainingSet(tmp_path, patch=16, unpaired=True, seed=seed) for seed in (1, 1, 2))
    forwards = {key: first[key] for key in keys}
    backwards = {key: again[key] for key in reversed(keys)}
    assert all(torch.equal(a, b) for key in keys for a, b in zip(forwards[key], backwards[key], strict=True))
    assert {first.partner(5, epoch, turn) for epoch, turn in ((0, 0), (1, 0), (0, 1))} != {first.partner(5)}
    assert any(not torch.equal(other[key][1], forwards[key][1]) for key in keys)


def test_unpaired_training_needs_two_patients(tmp_path):
    make_random_set(tmp_path, [*PATIENTS[:2], PATIENTS[4]])
    with pytest.raises(InputError, match="has one patient to train on; unpaired training needs two"):
        TrainingSet(tmp_path, patch=16, unpaired=True)
    TrainingSet(tmp_path, patch=16, unpaired=True, with_validation=True)  # V is the second


def test_the_validation_patients_may_train_too(tmp_path):
    make_random_set(tmp_path, PATIENTS)
    alone, together = (TrainingSet(tmp_path, patch=16, with_validation=more) for more in (False, True))
    assert np.array_equal(together.table[: len(alone)], alone.table) and (together.table[len(alone) :, 0] == 4).all()
    assert len(together) > len(alone)


def test_missing_split_is_named_with_what_there_is(tmp_path):
    make_random_set(tmp_path, VOLUMES[:2])
    with pytest.raises(InputError, match=r'no patient in the split "validation" \(train 2 patients with 6 slices'):
        EvaluationSet(tmp_path, "validation")


def test_unfinished_preparation_is_no_set(tmp_path):
    make_random_set(tmp_path, VOLUMES, planned=9)
    with pytest.raises(InputError, match="after 4 of 9 volumes"):
        TrainingSet(tmp_path, patch=16)


@pytest.mark.parametrize("what", ["ndct", "ldct", "background"])
@pytest.mark.parametrize("damage", ["lost", "truncated", "another"])
def test_lost_file_is_named(a_set, what, damage):
    path = a_set[0] / f"b.{what}.npy"
    if damage == "lost":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:-10])
    else:
        np.save(path, np.zeros((2, 64, 48), np.float32))
    with pytest.raises(InputError, match=rf"b\.{what}\.npy (is missing or damaged|holds \(2, 64, 48\) float32)"):
        TrainingSet(a_set[0], patch=16)


# Whole slices


def test_whole_slices_come_in_order_in_hu_without_background(tmp_path):
    arrays = make_random_set(tmp_path, [("c", "C", "test", (4, 32, 32), None), ("d", "D", "test", (3, 24, 40), None)])
    arrays["c"][1][2] = -1000  # nothing but air
    np.save(tmp_path / "c.ndct.npy", arrays["c"][1])
    np.save(tmp_path / "c.background.npy", background_cells(arrays["c"][1]))
    slices = EvaluationSet(tmp_path, "test", max_background=0.999)
    seen = [slices[i] for i in range(len(slices))]
    assert [(pair.volume, pair.patient, pair.index) for pair in seen] == [
        *[("c", "C", i) for i in (0, 1, 3)],
        *[("d", "D", i) for i in range(3)],
    ]
    for pair in seen:
        ldct, ndct = arrays[pair.volume]
        assert pair.ldct_hu.dtype == np.int16
        assert np.array_equal(pair.ldct_hu, ldct[pair.index]) and np.array_equal(pair.ndct_hu, ndct[pair.index])
    few = EvaluationSet(tmp_path, "test", every=2, max_background=0.999)
    assert [(few[i].volume, few[i].index) for i in range(len(few))] == [("c", 0), ("c", 3), ("d", 1)]


def test_split_that_is_all_air_is_refused(tmp_path):
    arrays = make_random_set(tmp_path, VOLUMES)
    np.save(tmp_path / "c.background.npy", background_cells(np.full_like(arrays["c"][1], -1000)))
    with pytest.raises(InputError, match="All 3 slices .* 85% background or more"):
        EvaluationSet(tmp_path, "validation")
