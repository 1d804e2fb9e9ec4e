"""The loader gives the batches in order."""

from __future__ import annotations

import pytest
import torch
from training_fixtures import make_set

from ASCONTrainingLib.data.batches import Batches, BatchLoader, Stage
from ASCONTrainingLib.data.training_set import TrainingSet


@pytest.mark.parametrize("workers", [0, 3])
def test_the_loader_gives_the_batches_in_order_from_any_step(tmp_path, workers):
    items = TrainingSet(make_set(tmp_path / "set"), "train", 32, seed=4)
    stage = Stage(0.0, items, Batches(len(items), 2, seed=4, steps=3))
    loader = BatchLoader(stage, 1, 1, workers, torch.device("cpu"))
    for epoch, start in ((1, 1), (1, 2), (2, 0), (2, 1)):
        keys = next(iter(Batches(len(items), 2, seed=4, steps=3, epoch=epoch, start=start)))
        expected = [torch.stack(images) for images in zip(*(items[key] for key in keys), strict=True)]
        assert all(torch.equal(got, wanted) for got, wanted in zip(loader.next(), expected, strict=True))
    loader.close()
