"""In which order a training sees its set, and the batches of it, prepared ahead by threads or processes."""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from ASCONDenoiseLib.errors import InputError
from ASCONTrainingLib.data.training_set import Key, TrainingSet

AHEAD = 2
"""Batches that are prepared in advance, or as many as there are workers."""

Pair = tuple[torch.Tensor, torch.Tensor]
"""(LDCT, NDCT), (b, 1, h, w) each."""


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
    """A stage's batches for this process, on its device, from step `start` of `epoch` on, without end.

    Lesions and kernels are Python's work, of which threads do one thing at a time. That is enough beside a CPU's step;
    a GPU's would wait, so there the workers are processes, where the system can fork them (Linux).

    Args:
        stage: images and their order.
        epoch, start: where to begin.
        workers: threads or processes that prepare batches ahead; 0: each is made when it is asked for.
        device: where the batches go.
    """

    def __init__(self, stage: Stage, epoch: int, start: int, workers: int, device: torch.device):
        self.stage, self.device = stage, device
        self._keys = _keys(stage.batches, epoch, start)
        self._ahead: deque[Future[Pair]] = deque()
        self._most_ahead = max(AHEAD, workers)
        self._pool: Executor | None = None
        self._made = partial(_batch, stage.items)
        if workers and _forks(device):
            forked = multiprocessing.get_context("fork")
            self._pool = ProcessPoolExecutor(workers, forked, initializer=_begin_process, initargs=(stage.items,))
            self._made = _batch_in_process
        elif workers:
            self._pool = ThreadPoolExecutor(workers, "ascon-data")

    def next(self) -> Pair:
        """The next batch. Raises what reading raises, and OSError where a process that reads has ended."""
        if self._pool is None:
            pair = self._made(next(self._keys))
        else:
            try:
                while len(self._ahead) <= self._most_ahead:
                    self._ahead.append(self._pool.submit(self._made, next(self._keys)))
                pair = self._ahead.popleft().result()
            except BrokenExecutor as error:
                raise OSError(
                    "A process that prepares batches was ended from outside, for want of memory as a rule: set fewer "
                    "workers."
                ) from error
        ldct, ndct = map(self._moved, pair)
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


def _forks(device: torch.device) -> bool:
    return device.type == "cuda" and sys.platform == "linux"


def _batch(items: TrainingSet, keys: list[Key]) -> Pair:
    ldct, ndct = (torch.stack(images) for images in zip(*map(items.__getitem__, keys), strict=True))
    return ldct, ndct


_items_of_process: TrainingSet
"""In a worker process: what it reads from."""


def _begin_process(items: TrainingSet) -> None:
    global _items_of_process
    _items_of_process = items
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the training, which ends its workers
    torch.set_num_threads(1)


def _batch_in_process(keys: list[Key]) -> Pair:
    return _batch(_items_of_process, keys)


def _keys(batches: Batches, epoch: int, start: int) -> Iterator[list[Key]]:
    """The keys of each batch from one on, epoch after epoch."""
    while True:
        batches.epoch, batches.start = epoch, start
        yield from batches
        epoch, start = epoch + 1, 0
