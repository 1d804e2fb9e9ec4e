"""Training sets: what counts in them, what an item is, and that the order is a pure function of seed and position."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from ASCONTrainingLib.data.batches import Batches
from ASCONTrainingLib.data.training_set import (
    DataError,
    Index,
    PreparedVolume,
    TrainingSet,
    WholeSlices,
    background_cells,
    patch_table,
    read_index,
    scan_fingerprints,
    slice_table,
    write_index,
)

LIMITS = {"train": 0.85, "validation": 0.85, "test": 0.85}


def some_hu(shape=(3, 40, 56), seed=0) -> np.ndarray:
    """(S, H, W) int16: air and body in blobs of 4 pixels, so that shares of background vary; beyond the window too."""
    random = np.random.default_rng(seed)
    s, h, w = shape
    blobs = random.random((s, -(-h // 4), -(-w // 4))) < random.random((s, 1, 1))
    air = blobs.repeat(4, 1).repeat(4, 2)[:, :h, :w]
    return np.where(air, random.integers(-1100, -499, shape), random.integers(-499, 2300, shape)).astype(np.int16)


def make_set(folder, volumes, kind="paired", planned=None, limits=LIMITS):
    """Write a set of (name, patient, split, shape, dose) with random voxels; returns {name: (ldct, ndct)}."""
    folder.mkdir(exist_ok=True)
    entries, arrays = [], {}
    for seed, (name, patient, split, shape, dose) in enumerate(volumes):
        ndct = some_hu(shape, seed)
        ldct = ndct + np.random.default_rng(seed + 100).integers(-50, 51, shape).astype(np.int16)
        for what, array in (("ndct", ndct), ("ldct", ldct), ("background", background_cells(ndct))):
            np.save(folder / f"{name}.{what}.npy", array)
        entries.append(PreparedVolume(name, patient, split, shape, (0.7, 0.7, 1.0), dose, f"there/{name}"))
        arrays[name] = ldct, ndct
    index = Index(kind, {"a": 1}, dict(limits), len(volumes) if planned is None else planned, tuple(entries))
    write_index(index, folder)
    return arrays


VOLUMES = [
    ("a", "A", "train", (4, 40, 56), None),
    ("b", "B", "train", (2, 64, 48), None),
    ("c", "C", "validation", (3, 32, 32), None),
    ("d", "D", "test", (3, 32, 32), None),
]


@pytest.fixture
def a_set(tmp_path):
    return tmp_path / "set", make_set(tmp_path / "set", VOLUMES)


@pytest.fixture
def a_square_set(tmp_path):
    return tmp_path / "set", make_set(tmp_path / "set", [("a", "A", "train", (5, 32, 32), 0.25)], kind="simulate")


# The index


def test_index_survives_a_round_trip(a_set):
    folder, _ = a_set
    index = read_index(folder)
    assert [(v.name, v.patient, v.split, v.shape, v.dose) for v in index.volumes] == VOLUMES
    assert index.volumes[0].spacing_mm == (0.7, 0.7, 1.0) and not index.simulated
    assert (
        str(index) == "train 2 patients with 6 slices, validation 1 patient with 3 slices, test 1 patient with 3 slices"
    )
    content = json.loads((folder / "index.json").read_text())
    assert content["simulated"] is False and content["volumes"][0]["slices"] == 4
    write_index(index, folder)
    assert read_index(folder) == index
    assert not list(folder.glob(".*"))


def test_patient_in_two_splits_is_refused_with_counts(tmp_path):
    make_set(tmp_path, [(*v[:2], "test" if v[0] == "b" else "train", *v[3:]) for v in VOLUMES])
    index = read_index(tmp_path)
    leaking = replace(
        index, volumes=tuple(replace(v, patient="A" if v.name in "ab" else v.name) for v in index.volumes)
    )
    write_index(leaking, tmp_path)
    with pytest.raises(DataError, match=r"1 patient in more than one split \(A\)"):
        read_index(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "holds no index.json"),
        ("{", "is damaged"),
        ('{"dose": 0.25, "seed": 0, "volumes": ["a"]}', "another version"),
        ('{"format": 2}', "another version"),
        ("[]", "another version"),
    ],
)
def test_what_is_no_index_is_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "index.json").write_text(content)
    with pytest.raises(DataError, match=message):
        read_index(tmp_path)


# Background


def test_background_is_counted_in_cells_of_8():
    ndct = some_hu((2, 21, 30))
    ndct[0, 0, :2] = -500, -499  # the first counts, the second does not
    cells = background_cells(ndct)
    assert cells.shape == (2, 3, 4) and cells.dtype == np.uint8
    for s, row, column in np.ndindex(cells.shape):
        region = ndct[s, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        assert cells[s, row, column] == sum(int(hu) <= -500 for hu in region.ravel())


@pytest.mark.parametrize(
    ("shape", "patch", "stride"), [((3, 40, 56), 16, 8), ((2, 45, 70), 24, 16), ((2, 33, 33), 32, 8)]
)
def test_patches_are_those_that_a_naive_search_finds(shape, patch, stride):
    ndct = some_hu(shape, seed=3)
    expected = []
    starts = [sorted({*range(0, n - patch + 1, stride), (n - patch) // 8 * 8}) for n in shape[1:]]
    for z in range(shape[0]):
        for top in starts[0]:
            for left in starts[1]:
                region = ndct[z, top : top + patch, left : left + patch]
                if (region <= -500).mean() < 0.5:
                    expected.append((z, top, left))
    table = patch_table(background_cells(ndct), shape, patch, stride, 0.5)
    assert [tuple(row) for row in table.tolist()] == expected
    assert 0 < len(expected) < shape[0] * len(starts[0]) * len(starts[1])


def test_paper_patches_of_a_slice():
    """256x256 at a stride of 64 in 512x512: 25 of them."""
    table = patch_table(np.zeros((1, 64, 64), np.uint8), (1, 512, 512), 256, 64, 0.7)
    assert sorted(map(tuple, table.tolist())) == [(0, 64 * i, 64 * j) for i in range(5) for j in range(5)]


@pytest.mark.parametrize("table", ["patch", "slice"])
@pytest.mark.parametrize(("limit", "kept"), [(0.75, []), (0.76, [0])])
def test_share_at_the_limit_is_left_out(table, limit, kept):
    ndct = np.zeros((1, 16, 16), np.int16)
    ndct[0, :12] = -1000  # three quarters
    if table == "patch":
        rows = patch_table(background_cells(ndct), ndct.shape, 16, 8, limit)
    else:
        rows = slice_table(background_cells(ndct), ndct.shape, limit)
    assert rows[:, 0].tolist() == kept


# Items


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
    make_set(tmp_path, VOLUMES, limits=LIMITS | {"train": 0.3})
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
    arrays = make_set(tmp_path, [("a", "A", "train", (2, 24, 40), None)])
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
    make_set(folder, [("a", "A", "train", (5, 32, 32), 0.25)], kind="simulate")
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
    make_set(folder, [("a", "A", "train", (1, 128, 128), 0.25)], kind="simulate")
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
    with pytest.raises(DataError, match="measured pairs"):
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


def test_a_fingerprint_is_of_the_voxels_and_of_nothing_else(tmp_path):
    shape = (5, 40, 56)
    arrays = make_set(tmp_path, [("a", "Doe", "train", shape, None), ("b", "Roe", "train", shape, None)])
    volumes = read_index(tmp_path).of("train")
    middle = arrays["a"][1][2]
    expected = hashlib.sha256(b"40x56:" + b"".join(int(v).to_bytes(2, "little", signed=True) for v in middle.flat))
    found = scan_fingerprints(tmp_path, volumes)
    assert list(found.values()) == ["a", "b"] and list(found)[0] == expected.hexdigest()[:16] != list(found)[1]
    renamed = replace(volumes[0], patient="Miller", split="test", source="elsewhere.nrrd", dose=0.5)
    assert list(scan_fingerprints(tmp_path, [renamed])) == list(found)[:1]
    phantom = replace(volumes[1], source="phantom of 5x40x56 voxels")
    assert list(scan_fingerprints(tmp_path, [volumes[0], phantom])) == list(found)[:1]
    named_so = replace(volumes[1], source="phantoms/ACR.nrrd")  # a scan of the user's, in a folder of that name
    assert list(scan_fingerprints(tmp_path, [named_so])) == list(found)[1:]


def test_item_travels_to_other_processes_without_the_voxels(tmp_path):
    make_set(tmp_path, [("a", "A", "train", (8, 128, 128), None)])
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
        ({}, r"differ in size \(56x40 in 1 volume, 48x64 in 1 volume\)"),
    ],
)
def test_what_cannot_be_trained_on_is_a_sentence(a_set, arguments, message):
    with pytest.raises(DataError, match=message):
        TrainingSet(a_set[0], **arguments)


def test_missing_split_is_named_with_what_there_is(tmp_path):
    make_set(tmp_path, VOLUMES[:2])
    with pytest.raises(DataError, match=r'no patient in the split "validation" \(train 2 patients with 6 slices'):
        WholeSlices(tmp_path, "validation")


def test_unfinished_preparation_is_no_set(tmp_path):
    make_set(tmp_path, VOLUMES, planned=9)
    with pytest.raises(DataError, match="after 4 of 9 volumes"):
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
    with pytest.raises(DataError, match=rf"b\.{what}\.npy (is missing or damaged|holds \(2, 64, 48\) float32)"):
        TrainingSet(a_set[0], patch=16)


# Whole slices


def test_whole_slices_come_in_order_in_hu_without_background(tmp_path):
    arrays = make_set(tmp_path, [("c", "C", "test", (4, 32, 32), None), ("d", "D", "test", (3, 24, 40), None)])
    arrays["c"][1][2] = -1000  # nothing but air
    np.save(tmp_path / "c.ndct.npy", arrays["c"][1])
    np.save(tmp_path / "c.background.npy", background_cells(arrays["c"][1]))
    slices = WholeSlices(tmp_path, "test", max_background=0.999)
    seen = [slices[i] for i in range(len(slices))]
    assert [(pair.volume, pair.patient, pair.index) for pair in seen] == [
        *[("c", "C", i) for i in (0, 1, 3)],
        *[("d", "D", i) for i in range(3)],
    ]
    for pair in seen:
        ldct, ndct = arrays[pair.volume]
        assert pair.ldct_hu.dtype == np.int16
        assert np.array_equal(pair.ldct_hu, ldct[pair.index]) and np.array_equal(pair.ndct_hu, ndct[pair.index])
    few = WholeSlices(tmp_path, "test", every=2, max_background=0.999)
    assert [(few[i].volume, few[i].index) for i in range(len(few))] == [("c", 0), ("c", 3), ("d", 1)]


def test_split_that_is_all_air_is_refused(tmp_path):
    arrays = make_set(tmp_path, VOLUMES)
    np.save(tmp_path / "c.background.npy", background_cells(np.full_like(arrays["c"][1], -1000)))
    with pytest.raises(DataError, match="All 3 slices .* 85% background or more"):
        WholeSlices(tmp_path, "validation")


# Order


def keys_of(**settings):
    return list(Batches(**settings))


def test_epoch_is_one_permutation():
    keys = [key for batch in keys_of(length=23, batch=4, seed=1) for key in batch]
    assert len(keys) == 20 and len({index for _, _, index in keys}) == 20
    assert all(epoch == turn == 0 and 0 <= index < 23 for epoch, turn, index in keys)
    orders = [
        [key[2] for batch in keys_of(length=23, batch=23, seed=s, epoch=e) for key in batch]
        for s, e in ((1, 0), (1, 1), (2, 0))
    ]
    assert all(sorted(order) == list(range(23)) for order in orders)
    assert orders[0] != orders[1] and orders[0] != orders[2] and orders[0] != list(range(23))


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("steps", [None, 9])
def test_ranks_share_the_batches_of_one_process(world, steps):
    settings = {"length": 13, "batch": 8, "seed": 3, "steps": steps, "epoch": 2}
    alone = keys_of(**settings)
    together = zip(*(keys_of(**settings, rank=rank, world=world) for rank in range(world)), strict=True)
    assert [sum(shares, []) for shares in together] == alone


@pytest.mark.parametrize("start", [0, 1, 5, 7])
def test_resuming_continues_the_epoch(start):
    settings = {"length": 9, "batch": 4, "seed": 5, "steps": 7, "epoch": 3}
    resumed = Batches(**settings, start=start)
    assert list(resumed) == keys_of(**settings)[start:]
    assert len(resumed) == 7 - start


def test_long_epoch_goes_round_again_in_another_order():
    keys = [key for batch in keys_of(length=5, batch=2, steps=10) for key in batch]
    rounds = [[index for _, turn, index in keys if turn == t] for t in range(4)]
    assert all(sorted(order) == list(range(5)) for order in rounds)
    assert len({tuple(order) for order in rounds}) > 1
    assert [turn for _, turn, _ in keys] == [t for t in range(4) for _ in range(5)]


def test_set_smaller_than_a_batch_gives_one_step():
    ((*batch,),) = keys_of(length=3, batch=8)
    assert Counter(index for _, _, index in batch).total() == 8


@pytest.mark.parametrize("settings", [{"length": 0, "batch": 1}, {"length": 5, "batch": 3, "world": 2}])
def test_batch_that_cannot_be_shared_is_refused(settings):
    with pytest.raises(DataError, match="cannot be shared"):
        Batches(**settings)


def test_data_loader_gives_the_same_with_and_without_workers(a_square_set):
    folder, _ = a_square_set
    items = TrainingSet(folder, patch=16, doses=(0.1, 0.3), max_background=1.1)
    settings = {"length": len(items), "batch": 4, "steps": 3, "epoch": 1}
    by_hand = [
        [torch.stack(images) for images in zip(*map(items.__getitem__, keys), strict=True)]
        for keys in Batches(**settings)
    ]
    loader = torch.utils.data.DataLoader(items, batch_sampler=Batches(**settings), num_workers=2)
    for expected, got in zip(by_hand, loader, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(expected, got, strict=True))
