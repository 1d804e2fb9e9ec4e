"""What single layers give while a network runs: features for losses, without a second way through the network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def outputs_of(layers: Sequence[nn.Module]) -> Iterator[list[torch.Tensor]]:
    """Inside, each run of one of `layers` puts its output into the list, in the order in which they run."""
    seen: list[torch.Tensor] = []

    def keep(layer: nn.Module, given: object, output: torch.Tensor) -> None:
        seen.append(output)

    hooks = [layer.register_forward_hook(keep) for layer in layers]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
