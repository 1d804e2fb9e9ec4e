"""In which order a training sees its set, and the batches of it, prepared ahead by threads or processes."""

from __future__ import annotations

import signal
import sys
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ASCONDenoiseLib.errors import InputError
from ASCONTrainingLib.data.training_set import Key, TrainingSet

AHEAD = 2
"""Batches that are prepared in advance; by processes, so many for each."""

Pair = tuple[torch.Tensor, torch.Tensor]
"""(LDCT, NDCT), (1, h, w) each; of a batch (b, 1, h, w)."""


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

    Lesions and kernels are made in Python, which runs one thread at a time. That is enough beside a CPU's step; a GPU
    would wait, so there the workers are processes, where the system can fork them (Linux).

    Args:
        stage: images and their order.
        epoch, start: where to begin.
        workers: threads or processes that prepare batches ahead; 0: each is made when it is asked for.
        device: where the batches go.
    """

    def __init__(self, stage: Stage, epoch: int, start: int, workers: int, device: torch.device):
        self.stage, self.device = stage, device
        self._keys = _keys(stage.batches, epoch, start)
        self._pool = self._processes = None
        self._ahead: deque[list[Future[Pair]]] = deque()
        if workers and _forks(device):
            loader = DataLoader(
                _Tried(stage.items),
                batch_sampler=self._keys,
                num_workers=workers,
                prefetch_factor=AHEAD,
                collate_fn=_together,
                pin_memory=device.type == "cuda",
                multiprocessing_context="fork",
            )
            self._processes = _begun(loader)
        elif workers:
            self._pool = ThreadPoolExecutor(workers, "ascon-data")

    def next(self) -> Pair:
        """The next batch. Raises what reading raises, and OSError where a process that reads has ended."""
        if self._processes is not None:
            pair = _next_of(self._processes)
        elif self._pool is None:
            pair = _stacked([self.stage.items[key] for key in next(self._keys)])
        else:
            while len(self._ahead) <= AHEAD:
                keys = next(self._keys)
                self._ahead.append([self._pool.submit(self.stage.items.__getitem__, key) for key in keys])
            pair = _stacked([future.result() for future in self._ahead.popleft()])
        ldct, ndct = map(self._moved, pair)
        return ldct, ndct

    def close(self) -> None:
        """Nothing more is read."""
        self._processes = None  # which ends them
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _moved(self, images: torch.Tensor) -> torch.Tensor:
        cuda = self.device.type == "cuda"
        # new memory: one channel is laid out both ways at once, and only these strides carry channels last on
        there = torch.empty(images.shape, device=self.device, memory_format=torch.channels_last)
        return there.copy_(images.pin_memory() if cuda else images, non_blocking=cuda)


def _forks(device: torch.device) -> bool:
    return device.type == "cuda" and sys.platform == "linux"


def _begun(loader: DataLoader[Pair | Exception]) -> Iterator[Pair | Exception]:
    """The processes' batches. A process that ends is noticed when a batch is asked for, not by a signal in between."""
    before = signal.getsignal(signal.SIGCHLD)
    batches = iter(loader)
    if before is not None and threading.current_thread() is threading.main_thread():  # None: not Python's to put back
        signal.signal(signal.SIGCHLD, before)
    return batches


class _Tried(Dataset[Pair | Exception]):
    """A set's pairs, or what reading one raised: a DataLoader would put its traceback into the error's text."""

    def __init__(self, items: TrainingSet):
        self.items = items

    def __getitem__(self, key: Key) -> Pair | Exception:
        try:
            return self.items[key]
        except (OSError, ValueError) as error:
            return error


def _together(pairs: list[Pair | Exception]) -> Pair | Exception:
    """The batch, or the first error."""
    read = []
    for pair in pairs:
        if isinstance(pair, Exception):
            return pair
        read.append(pair)
    return _stacked(read)


def _stacked(pairs: list[Pair]) -> Pair:
    ldct, ndct = (torch.stack(images) for images in zip(*pairs, strict=True))
    return ldct, ndct


def _next_of(batches: Iterator[Pair | Exception]) -> Pair:
    try:
        pair = next(batches)
    except (RuntimeError, OSError, EOFError) as error:  # not what reading raised: that comes as a value
        reason = (str(error) or "no answer").strip().splitlines()[-1]
        raise OSError(
            f"The processes that prepare batches have failed ({reason}). For want of memory as a rule, of shared "
            "memory (/dev/shm; docker's --shm-size) above all: set fewer workers."
        ) from error
    if isinstance(pair, Exception):
        raise pair
    return pair


def _keys(batches: Batches, epoch: int, start: int) -> Iterator[list[Key]]:
    """The keys of each batch from one on, epoch after epoch."""
    while True:
        batches.epoch, batches.start = epoch, start
        yield from batches
        epoch, start = epoch + 1, 0
