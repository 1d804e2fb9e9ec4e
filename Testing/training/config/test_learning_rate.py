"""The schedule of the learning rate against PyTorch's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ASCONTrainingLib.config.settings import OptimizerConfig, learning_rate


@pytest.mark.parametrize("steps", [7, 100])
def test_schedule_is_cosine_annealing(steps):
    """PyTorch's own, step by step, from the first rate to the last."""
    config = OptimizerConfig(learning_rate=1e-3, last_learning_rate=1e-5)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1e-3)
    oracle = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=1e-5)
    for step in range(steps + 1):
        assert learning_rate(config, step / steps) == pytest.approx(oracle.get_last_lr()[0], rel=1e-6)
        optimizer.step()
        oracle.step()


def test_warm_up_is_linear_and_meets_the_cosine():
    config = OptimizerConfig(learning_rate=1e-3, last_learning_rate=0.0, warm_up=0.1)
    assert learning_rate(config, 0.05) == pytest.approx(5e-4)
    assert 0 < learning_rate(config, 0.0) < 1e-5
    assert learning_rate(config, 0.0999999) == pytest.approx(learning_rate(config, 0.1), rel=1e-5)
    assert learning_rate(config, 0.55) == pytest.approx(5e-4)  # the middle of the cosine
    assert learning_rate(config, 0.55, start=2e-3) == pytest.approx(1e-3)
