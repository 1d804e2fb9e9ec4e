"""What the tests of all training objectives share: a batch, a denoiser, and what one step should do to it."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import nn

from ASCONTrainingLib.config.settings import TrainConfig
from ASCONTrainingLib.method.objective import TrainingContext

RATE = 0.01


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def a_batch(side: int = 32, count: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    ldct, ndct = torch.rand(2, count, 1, side, side, generator=seeded(1)).unbind()
    return ldct, ndct


def a_denoiser() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.LeakyReLU(), nn.Conv2d(4, 1, 3, padding=1))


def a_context(
    network: nn.Module, patch: int | None = 64, rate: float = RATE, growth: tuple = (), **weight_files: str
) -> TrainingContext:
    """With plain SGD, so that one step tells the gradient."""
    config = TrainConfig(mac=None, patch=patch, growth=growth)
    loss = SimpleNamespace(**{"vgg_weights": None, "resnet_weights": None, "du_gan": "defaults"} | weight_files)
    config = SimpleNamespace(**{**vars(config), "loss": loss, "stages": config.stages})
    return TrainingContext(network, network, torch.optim.SGD(network.parameters(), rate), config)


def assert_moved_along(module: nn.Module, before: nn.Module, loss: torch.Tensor, rate: float = RATE) -> None:
    """`module` is `before` after one SGD step down the gradient of `loss`, computed with `before`."""
    learning = dict(before.named_parameters())
    gradients = torch.autograd.grad(loss, list(learning.values()), retain_graph=True)
    for (name, parameter), gradient in zip(module.named_parameters(), gradients, strict=True):
        wanted = learning[name] - rate * gradient
        assert torch.allclose(parameter, wanted, rtol=1e-4, atol=1e-6), name
    assert sum(g.abs().sum() for g in gradients) > 0


class TwoHeaded(nn.Module):
    """A small network that predicts content and noise, as CNCL's does in training."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.both = nn.Conv2d(1, 2, 3, padding=1)

    def complements(self, x):
        return self.both(x)

    def forward(self, x):
        return self.complements(x)
