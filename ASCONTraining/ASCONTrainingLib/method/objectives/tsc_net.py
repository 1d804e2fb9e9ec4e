"""TSC-Net's losses: a teacher that knows normal-dose images, and contrastive regularisation (Fu et al., arXiv, 2021).

The abstract has the parts: teacher T and student S of one architecture, T learns NDCT -> NDCT, S learns LDCT -> NDCT
and imitates T's features, and S(LDCT) is pulled to the NDCT and pushed from the LDCT. Weights, layers and times are
decided here; the regularisation is that of AECR-Net (Wu et al., CVPR 2021), with its layers of VGG-19 and its weights.
T learns for the first fifth of the training and stays as it is from there on. As long, S is a copy of it, so that there
is something to validate from the start.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.models.networks.tsc_net import TSCNet
from ASCONTrainingLib.method.denoiser_output import MixedPrecision
from ASCONTrainingLib.method.layer_outputs import outputs_of
from ASCONTrainingLib.method.losses import total_loss
from ASCONTrainingLib.method.objective import TrainingContext, frozen, to_floats
from ASCONTrainingLib.method.perceptual import VGG19, load_vgg19

TEACHING = 0.2
"""Fraction of the training in which the teacher learns."""
IMITATION_WEIGHT, CONTRAST_WEIGHT = 0.1, 0.1
VGG_WEIGHTS = {1: 1 / 32, 6: 1 / 16, 11: 1 / 8, 20: 1 / 4, 29: 1.0}
"""Layer of VGG-19 (relu1_1, relu2_1, ..., relu5_1) -> its weight in the contrastive regularisation."""
FLOOR = 1e-7
"""Added to the distance from the LDCT."""

Maps = Callable[[torch.Tensor], list[torch.Tensor]]
"""Features of images (B, 1, H, W), a map for each layer."""


def make(context: TrainingContext) -> TSCNetObjective:
    """The objective with the VGG-19 of loss.vgg_weights. Raises InputError without such a file or such a network."""
    student = student_of(context)
    if context.config.loss.vgg_weights is None:
        raise InputError(
            "TSC-Net compares images in VGG-19, whose weights ASCON does not ship: name a file with them in "
            "loss.vgg_weights, or set objective to tsc_net_latent, which compares them in the teacher."
        )
    vgg = load_vgg19(context.config.loss.vgg_weights).to(context.device)
    return TSCNetObjective(context, student, copy.deepcopy(student), vgg_maps(vgg), tuple(VGG_WEIGHTS.values()))


def student_of(context: TrainingContext) -> TSCNet:
    """The network that learns. Raises InputError where it is another than TSC-Net's."""
    if not isinstance(context.unwrapped, TSCNet):
        raise InputError(f"The objective {context.config.objective} trains its own network: set network to tsc_net.")
    return context.unwrapped


def vgg_maps(vgg: VGG19) -> Maps:
    """The maps of VGG_WEIGHTS."""
    layers = [vgg.features[number] for number in VGG_WEIGHTS]

    def maps(images: torch.Tensor) -> list[torch.Tensor]:
        with outputs_of(layers) as seen:
            vgg(images)
        return seen

    return maps


class TSCNetObjective:
    """One step: the teacher learns, and the student becomes its copy; later the student learns from it.

    Args:
        context: the student and the tools to train it.
        student: the network itself.
        teacher: its twin.
        maps: the features in which images are pulled together and pushed apart.
        weights: of each map.
    """

    def __init__(
        self, context: TrainingContext, student: TSCNet, teacher: TSCNet, maps: Maps, weights: Sequence[float]
    ):
        self.context, self.student, self.teacher = context, student, teacher
        self.maps, self.weights = maps, weights
        self.wrapped = context.wrap(MixedPrecision(teacher))
        settings = context.config.optimizer
        self.optimizer: torch.optim.Optimizer = torch.optim.Adam(
            teacher.parameters(), settings.learning_rate, settings.betas
        )
        self.parts: dict[str, nn.Module | torch.optim.Optimizer] = {
            "teacher": teacher,
            "teacher_optimizer": self.optimizer,
        }

    def step(self, ldct: torch.Tensor, ndct: torch.Tensor, generator: torch.Generator) -> dict[str, float]:
        """As `Objective.step`; while the teacher learns, "loss" is its own.

        "l1", "imitation" and "contrast" are parts of the student's loss before their weights.
        """
        if self.context.fraction_done() < TEACHING:
            return self._teach(ndct)
        with outputs_of(self.student.guides) as own:
            denoised = self.context.denoise(ldct)
        with torch.no_grad(), self.context.autocast(), outputs_of(self.teacher.guides) as taught:
            self.teacher(ndct)
        l1 = F.l1_loss(denoised, ndct)
        imitated = total_loss(F.mse_loss(a.float(), b.float()) for a, b in zip(own, taught, strict=True))
        contrast = self._contrast(denoised, ndct, ldct)
        loss = l1 + IMITATION_WEIGHT * imitated + CONTRAST_WEIGHT * contrast
        (norm,) = self.context.descend(loss, "denoiser", self.context.optimizer)
        parts = {"loss": loss, "l1": l1, "imitation": imitated, "contrast": contrast, "gradient_norm": norm}
        return to_floats(parts)

    def _teach(self, ndct: torch.Tensor) -> dict[str, float]:
        """The teacher learns to give back the NDCT, and the student is what it is."""
        with self.context.autocast():
            given_back: torch.Tensor = self.wrapped(ndct)
        loss = F.l1_loss(given_back.float(), ndct)
        (norm,) = self.context.descend(loss, "teacher", self.optimizer)
        self.student.load_state_dict(self.teacher.state_dict())
        return to_floats({"loss": loss, "gradient_norm": norm})

    def _contrast(self, denoised: torch.Tensor, ndct: torch.Tensor, ldct: torch.Tensor) -> torch.Tensor:
        with torch.no_grad(), self.context.autocast():
            others = self.maps(ndct), self.maps(ldct)
        with frozen(self.teacher), self.context.autocast():
            own = self.maps(denoised)
        return contrastive_regularization(own, *others, self.weights)


def contrastive_regularization(
    denoised: Sequence[torch.Tensor],
    ndct: Sequence[torch.Tensor],
    ldct: Sequence[torch.Tensor],
    weights: Sequence[float],
) -> torch.Tensor:
    """sum_i w_i |V_i(denoised) - V_i(NDCT)|_1 / (|V_i(denoised) - V_i(LDCT)|_1 + 1e-7), a scalar.

    Args:
        denoised: V_i, features of the denoised image in layer i, of any shape.
        ndct: the same of the NDCT.
        ldct: the same of the LDCT.
        weights: w_i.
    """
    terms = zip(denoised, ndct, ldct, weights, strict=True)
    return total_loss(
        weight * F.l1_loss(own.float(), pulled.float()) / (F.l1_loss(own.float(), pushed.float()) + FLOOR)
        for own, pulled, pushed, weight in terms
    )
