"""The processes of one training: this one alone, or those that torchrun has started, one for each GPU."""

from __future__ import annotations

import os
from datetime import timedelta

import torch
from torch import distributed, nn

from ASCONDenoiseLib.models.devices import pick_device

PATIENCE = timedelta(hours=3)
"""How long the others wait for the first process, which alone validates."""


class Processes:
    """This process among all of a training, and its device. One object per training; `leave` at its end.

    Started by torchrun, the GPU is the one of the process's local rank.

    Attributes:
        count: number of processes.
        rank: number of this one.
        device: of this one.
    """

    def __init__(self, device: str = "auto"):
        """`device` is "auto", "cpu", "cuda" and so on. Raises InputError where it is not there."""
        self.count = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0")) if self.count > 1 else 0
        if self.count == 1:
            self.device = pick_device(device)
            return
        if device == "cuda" or (device == "auto" and torch.cuda.is_available()):
            device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        self.device = pick_device("cpu" if device == "auto" else device)
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        backend = "nccl" if self.device.type == "cuda" else "gloo"
        distributed.init_process_group(backend, timeout=PATIENCE)

    @property
    def first(self) -> bool:
        """Whether this process writes the files and speaks to the user."""
        return self.rank == 0

    def wrap(self, network: nn.Module) -> nn.Module:
        """Make the gradients of a network means over all processes, by PyTorch's DistributedDataParallel.

        On GPUs BatchNorm then sees the batches of all of them; on the CPU, where PyTorch cannot do that, each its own.
        """
        if self.count == 1:
            return network
        if self.device.type == "cuda":
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        ids = [self.device.index] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(network, device_ids=ids, broadcast_buffers=False)

    def largest(self, *values: float) -> list[float]:
        """Each value's largest over all processes, so that all of them decide alike."""
        return self._reduced(values, distributed.ReduceOp.MAX)

    def mean(self, *values: float) -> list[float]:
        """Each value's mean over all processes."""
        return [total / self.count for total in self._reduced(values, distributed.ReduceOp.SUM)]

    def _reduced(self, values: tuple[float, ...], operation: distributed.ReduceOp.RedOpType) -> list[float]:
        if self.count == 1:
            return list(values)
        together = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.all_reduce(together, operation)
        return [float(value) for value in together.tolist()]

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.count > 1:
            distributed.barrier()

    def leave(self) -> None:
        """End the exchange between the processes."""
        if self.count > 1 and distributed.is_initialized():
            distributed.destroy_process_group()
