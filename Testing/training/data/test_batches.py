"""Batches: their order is a pure function of seed and position."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from ASCONDenoiseLib.errors import InputError
from ASCONTrainingLib.data.batches import Batches
from ASCONTrainingLib.data.training_set import TrainingSet


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
    with pytest.raises(InputError, match="cannot be shared"):
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
