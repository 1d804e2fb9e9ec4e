"""Teachers: what is learnt from in the place of the NDCT."""

import copy

import pytest
import torch
from model_fixtures import noise_with_a_spot
from torch import nn
from training_fixtures import Tiny, tiny_config

from ASCONDenoiseLib.models.networks.esau_pair import SIGNIFICANT_FROM, significance
from ASCONTrainingLib.config.settings import LossConfig
from ASCONTrainingLib.method.objective import TrainingContext
from ASCONTrainingLib.method.objectives.ascon import ASCONObjective
from ASCONTrainingLib.method.teachers import Teachers


class Added(nn.Module):
    """A denoiser that adds an image."""

    def __init__(self, image: torch.Tensor):
        super().__init__()
        self.register_buffer("image", image)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.image


def test_what_is_learnt_from():
    """One teacher's image by its share, the NDCT by the rest, and from a second what stands out in it."""
    ldct, ndct = torch.rand(2, 1, 1, 96, 96)
    one = Teachers([Added(torch.tensor(0.25))], share=0.75)(ldct, ndct)
    assert torch.allclose(one, 0.75 * (ldct + 0.25) + 0.25 * ndct, atol=1e-6)
    more = torch.from_numpy(noise_with_a_spot(6.0)[48:144, 48:144]).float()[None, None] / 100
    two = Teachers([Added(torch.tensor(0.25)), Added(0.25 + more)])(ldct, ndct)
    assert torch.allclose(two - (ldct + 0.25), significance(more, SIGNIFICANT_FROM) * more, atol=1e-6)
    gained = (two - (ldct + 0.25))[0, 0, 48, 48].item()
    assert gained == pytest.approx(more[0, 0, 48, 48].item(), rel=0.05)


def test_the_denoiser_learns_from_its_teacher_and_the_teacher_learns_nothing():
    """NDCTs are black here, so that only the teacher can be learnt from; what it is given is the LDCT."""
    torch.manual_seed(0)
    teacher = Tiny()
    student = copy.deepcopy(teacher)
    with torch.no_grad():
        student.last.weight.mul_(0.7)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    optimizer = torch.optim.AdamW(student.parameters(), 1e-2)
    config = tiny_config(loss=LossConfig(mse_weight=100.0, ssim_weight=0.0))
    context = TrainingContext(network=student, unwrapped=student, optimizer=optimizer, config=config)
    objective = ASCONObjective(context, teachers=Teachers([teacher]))
    generator = torch.Generator().manual_seed(0)
    ldct = torch.rand(2, 1, 32, 32)
    first, *_, last = (objective.step(ldct, torch.zeros_like(ldct), generator)["mse"] for _ in range(100))
    assert last < 0.01 * first
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert not any(p.requires_grad for p in teacher.parameters())
