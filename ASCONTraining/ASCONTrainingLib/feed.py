"""The batches of a training, in order, prepared ahead by threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from ASCONTrainingLib.datasets import Batches, Key, TrainingSet

AHEAD = 2
"""Batches that are prepared in advance."""


class Feed:
    """This process's batches from a step on, (LDCT, NDCT) on its device; threads prepare those that come next."""

    def __init__(self, items: TrainingSet, batches: Batches, step: int, workers: int, device: torch.device):
        self.items, self.device = items, device
        self._keys = _keys(batches, step)
        self._pool = ThreadPoolExecutor(workers, "ascon-data") if workers else None
        self._ahead: deque[list[Future]] = deque()

    def next(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(b, 1, h, w) each. Raises what reading raises."""
        if self._pool is None:
            pairs = [self.items[key] for key in next(self._keys)]
        else:
            while len(self._ahead) <= AHEAD:
                self._ahead.append([self._pool.submit(self.items.__getitem__, key) for key in next(self._keys)])
            pairs = [future.result() for future in self._ahead.popleft()]
        return tuple(self._moved(torch.stack(images)) for images in zip(*pairs, strict=True))

    def close(self) -> None:
        """Nothing more is read."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _moved(self, images: torch.Tensor) -> torch.Tensor:
        cuda = self.device.type == "cuda"
        # new memory: one channel is laid out both ways at once, and only these strides carry channels last on
        there = torch.empty(images.shape, device=self.device, memory_format=torch.channels_last)
        return there.copy_(images.pin_memory() if cuda else images, non_blocking=cuda)


def _keys(batches: Batches, step: int) -> Iterator[list[Key]]:
    """The keys of each batch from `step` of the training on, without end."""
    while True:
        batches.epoch, batches.start = divmod(step, batches.steps)
        for keys in batches:
            yield keys
            step += 1
