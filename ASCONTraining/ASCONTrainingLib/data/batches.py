"""In which order a training sees its set, and the batches of it, prepared ahead by threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from ASCONDenoiseLib.errors import InputError
from ASCONTrainingLib.data.training_set import Key, TrainingSet

AHEAD = 2
"""Batches that are prepared in advance."""


class Batches:
    """The batches of one epoch, as keys of a TrainingSet, for one of `world` processes: a DataLoader's batch_sampler.

    The epoch is one permutation of all items; each step takes the next `batch` of it, and each process an equal part
    of those. What is left over at the end is dropped. An epoch of more `steps` than there is data goes round again, in
    another order. The position is (epoch, start): set both to resume.

    Args:
        length: items of the set.
        batch: items per step, all processes together; a multiple of `world`.
        seed: of the order.
        steps: steps of an epoch; None: as many as the set gives, at least one.
        rank: number of this process.
        world: number of processes.
        epoch: the epoch that the next iteration goes through.
        start: step at which it begins.
    """

    def __init__(
        self,
        length: int,
        batch: int,
        seed: int = 0,
        steps: int | None = None,
        rank: int = 0,
        world: int = 1,
        epoch: int = 0,
        start: int = 0,
    ):
        if length < 1 or batch < 1 or batch % world or not 0 <= rank < world:
            raise InputError(
                f"A batch of {batch} from {length} items cannot be shared by {world} processes: "
                "make the batch a multiple of their number."
            )
        self.length, self.batch, self.seed = length, batch, seed
        self.steps = max(1, length // batch) if steps is None else steps
        self.rank, self.world, self.epoch, self.start = rank, world, epoch, start

    def __len__(self) -> int:
        """Steps from `start` to the end of the epoch."""
        return max(0, self.steps - self.start)

    def __iter__(self) -> Iterator[list[Key]]:
        own = self.batch // self.world
        now, order = -1, np.empty(0, np.int64)
        for step in range(self.start, self.steps):
            first = step * self.batch + self.rank * own
            keys = []
            for position in range(first, first + own):
                turn, place = divmod(position, self.length)
                if turn != now:
                    now, order = turn, np.random.default_rng((self.seed, self.epoch, turn)).permutation(self.length)
                keys.append((self.epoch, turn, int(order[place])))
            yield keys


@dataclass(frozen=True)
class Stage:
    """A part of the training with images of one size.

    Attributes:
        begins: fraction of the training that is done before, 0..1.
        items: the images.
        batches: the order in which they come.
    """

    begins: float
    items: TrainingSet
    batches: Batches


class BatchLoader:
    """A stage's batches for this process, (LDCT, NDCT) on its device, from step `start` of `epoch` on, without end."""

    def __init__(self, stage: Stage, epoch: int, start: int, workers: int, device: torch.device):
        self.stage, self.device = stage, device
        self._keys = _keys(stage.batches, epoch, start)
        self._pool = ThreadPoolExecutor(workers, "ascon-data") if workers else None
        self._ahead: deque[list[Future[tuple[torch.Tensor, torch.Tensor]]]] = deque()

    def next(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(b, 1, h, w) each. Raises what reading raises."""
        items = self.stage.items
        if self._pool is None:
            pairs = [items[key] for key in next(self._keys)]
        else:
            while len(self._ahead) <= AHEAD:
                self._ahead.append([self._pool.submit(items.__getitem__, key) for key in next(self._keys)])
            pairs = [future.result() for future in self._ahead.popleft()]
        ldct, ndct = (self._moved(torch.stack(images)) for images in zip(*pairs, strict=True))
        return ldct, ndct

    def close(self) -> None:
        """Nothing more is read."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _moved(self, images: torch.Tensor) -> torch.Tensor:
        cuda = self.device.type == "cuda"
        # new memory: one channel is laid out both ways at once, and only these strides carry channels last on
        there = torch.empty(images.shape, device=self.device, memory_format=torch.channels_last)
        return there.copy_(images.pin_memory() if cuda else images, non_blocking=cuda)


def _keys(batches: Batches, epoch: int, start: int) -> Iterator[list[Key]]:
    """The keys of each batch from one on, epoch after epoch."""
    while True:
        batches.epoch, batches.start = epoch, start
        yield from batches
        epoch, start = epoch + 1, 0
