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
    """This process among `count`, and its device. One object per training; `leave` at its end.

    device: "auto", "cpu", "cuda" and so on; started by torchrun, the GPU is the one of the process's local rank.
    Raises ValueError where the device is not there.
    """

    def __init__(self, device: str = "auto"):
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
        """The network whose gradients are means over all processes: PyTorch's DistributedDataParallel.

        On GPUs BatchNorm then sees the batches of all of them; on the CPU, where PyTorch cannot do that, each its own.
        """
        if self.count == 1:
            return network
        if self.device.type == "cuda":
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        ids = [self.device.index] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(network, device_ids=ids, broadcast_buffers=False)

    def largest(self, *values: float) -> list[float]:
        """Each value's largest over all processes, so that all of them decide alike."""
        if self.count == 1:
            return list(values)
        together = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.all_reduce(together, distributed.ReduceOp.MAX)
        return together.tolist()

    def mean(self, *values: float) -> list[float]:
        """Each value's mean over all processes."""
        if self.count == 1:
            return list(values)
        together = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.all_reduce(together)
        return (together / self.count).tolist()

    def wait(self) -> None:
        """Until all processes are here."""
        if self.count > 1:
            distributed.barrier()

    def leave(self) -> None:
        """The end of working together."""
        if self.count > 1 and distributed.is_initialized():
            distributed.destroy_process_group()
