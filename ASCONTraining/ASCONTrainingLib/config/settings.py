"""Every setting of a training, with its unit and its place in the paper; reading them from JSON and the command line.

"Paper" is Chen et al., MICCAI 2023, section 3.1 unless said otherwise; "released" is its authors' implementation, where
it differs. Losses are means over queries and pixels in all presets: with the sums of the paper's equations 4 and 5, 512
queries would drown the pixel loss.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ASCONDenoiseLib.checked_json import FieldError, from_json, parse_json, shown
from ASCONDenoiseLib.errors import InputError

PRECISIONS = ("fp32", "bf16", "fp16")

FORMER_SETTINGS = ("fit_gain",)
"""Settings that there are no more: a run that was begun without them goes on."""

MAC_OPTIMIZERS = ("sgd", "adamw")
WEIGHT_FILES = ("vgg_weights", "resnet_weights", "vit_weights")
"""Settings of the losses that name a file."""

DU_GAN_WEIGHTS = ("defaults", "script")

OBJECTIVE_NAMES = tuple(
    "ascon edcnn cncl du_gan wgan_vgg patch_dml tsc_net tsc_net_latent alden alden_own_features".split()
)
"""Files of `method.objectives`, which need torch: here names can be checked without it."""


@dataclass(frozen=True)
class MACConfig:
    """MAC-Net: queries, neighbours, negatives, and which of its parts are used (paper, section 2.3).

    Attributes:
        global_queries: patches, |N_pos^g|: positions in F_g, one set for the whole batch.
        local_queries: pixels, |N_pos^l|: positions in F_l, one set for the whole batch.
        negatives: pixels for each local query, |N_neg|.
        window: pixels, odd: side of the square round a local query that candidates for negatives come from.
        candidates: number drawn at random from the window, of which the most similar are taken; None: all of it.
        neighbours: number, of the 8 round a patch, of the most similar that are averaged with it (eq. 3).
        temperature: tau of the local InfoNCE loss (eq. 5); not given in the paper.
        momentum: of the target's exponential moving average, per step.
        filter_background: take queries from the body only, the paper's binary function.
        background: unit range: NDCT at and below this is background (0.05 = -850 HU).
        use_global: L_global (Table 2).
        use_local: L_local (Table 2).
        neighbour_matching: without it, a patch stands alone (Table S2).
        hard_negatives: without it, negatives are drawn at random from the candidates (Table S2).
        alternate: alternate learning; without it, denoiser and MAC-Net learn in one step (Table S2).
        optimizer: of MAC-Net: sgd, plain, as released (the paper names none), or adamw, with the denoiser's betas and
            decay, which is in neither.
    """

    global_queries: int = 32
    local_queries: int = 512
    negatives: int = 24
    window: int = 7
    candidates: int | None = None
    neighbours: int = 4
    temperature: float = 1.0
    momentum: float = 0.99
    filter_background: bool = False
    background: float = 0.05
    use_global: bool = True
    use_local: bool = True
    neighbour_matching: bool = True
    hard_negatives: bool = True
    alternate: bool = True
    optimizer: str = "sgd"

    def __post_init__(self) -> None:
        _at_least("mac", self, 1, "global_queries", "local_queries", "negatives", "neighbours")
        _require(self.neighbours <= 8, "mac.neighbours", self.neighbours, "at most 8")
        _require(self.window >= 3 and self.window % 2 == 1, "mac.window", self.window, "odd and 3 or more")
        _require(self.temperature > 0, "mac.temperature", self.temperature, "above 0")
        _require(0 <= self.momentum <= 1, "mac.momentum", self.momentum, "between 0 and 1")
        there = self.window**2 - 1 if self.candidates is None else min(self.candidates, self.window**2 - 1)
        _require(self.negatives <= there, "mac.negatives", self.negatives, f"at most the {there} candidates")
        _require(self.optimizer in MAC_OPTIMIZERS, "mac.optimizer", self.optimizer, " or ".join(MAC_OPTIMIZERS))
        _require(self.use_global or self.use_local, "mac", "use_global and use_local false", "null for no MAC-Net")


@dataclass(frozen=True)
class LossConfig:
    """Weights of the losses, and what they compare. Images are in unit range: a noise of 20 HU is an MSE of 4e-5.

    `product_output` and what follows it are not in the paper. The network is trained for G(clipped LDCT) = clipped NDCT
    there, and air, whose noise the window cuts at -1000 HU, is then brighter in the product than in the NDCT.

    Attributes:
        mse_weight: released: 10 x 10 in the denoiser's loss.
        ssim_weight: of 1 - SSIM.
        perceptual_weight: of the VGG loss; only for its row of Table 2.
        vgg_weights: file with the VGG-19 weights that the perceptual loss needs; none is shipped.
        resnet_weights: file with the ResNet-50 weights of EDCNN's loss; none is shipped.
        vit_weights: file with the weights of ALDEN's vision transformer, DINOv2; none is shipped.
        du_gan: weights of DU-GAN's losses: the defaults of its authors' code, or the values in their published script.
        mac_weight: of L_global + L_local in the denoiser's loss (step 4).
        mac_net_loss_weight: of L_global + L_local in MAC-Net's own loss (step 2).
        product_output: compare y = x + G(c) - c, what the product makes of G, with the NDCT, both unclipped.
        local_mean_weight: of the MSE of 16x16 means, which keeps regions from shifting by a few HU.
        local_mean_sides: pixels, sides of the regions; each weighs (side / 16)^2 times as much as one of 16.
        noise_weighted: squared errors count by the noise of their LDCT, for doses that differ widely.
        local_mean_from: fraction of the training after which it counts; from the start it slows learning.
        response_weight: of the contrast and sharpness lost by lesions that are added on top.
        response_noise_weight: of the noise left that a lesion's matched filter sees, within the response.
        response_from: fraction of the training after which it counts.
        teachers: models, names or files, that the network learns from beside the NDCT (`method.teachers`): one, or that
            of the least error and that which keeps lesions.
        teachers_share: of the first teacher's image in what is learnt from; the rest is the NDCT.
    """

    mse_weight: float = 100.0
    ssim_weight: float = 10.0
    perceptual_weight: float = 0.0
    vgg_weights: str | None = None
    resnet_weights: str | None = None
    vit_weights: str | None = None
    du_gan: str = "defaults"
    mac_weight: float = 0.05
    mac_net_loss_weight: float = 0.5
    product_output: bool = False
    noise_weighted: bool = False
    local_mean_weight: float = 0.0
    local_mean_sides: tuple[int, ...] = (16,)
    local_mean_from: float = 0.0
    response_weight: float = 0.0
    response_noise_weight: float = 0.0
    response_from: float = 0.0
    teachers: tuple[str, ...] = ()
    teachers_share: float = 1.0

    def __post_init__(self) -> None:
        names = ("mse_weight", "ssim_weight", "perceptual_weight", "mac_weight", "mac_net_loss_weight")
        _at_least("loss", self, 0, *names, "local_mean_weight", "response_weight", "response_noise_weight")
        fine = all(side >= 1 for side in self.local_mean_sides)
        _require(fine, "loss.local_mean_sides", self.local_mean_sides, "whole numbers of 1 or more")
        for name in ("local_mean_from", "response_from"):
            fraction = getattr(self, name)
            _require(0 <= fraction < 1, f"loss.{name}", fraction, "from 0 to below 1")
        some = self.mse_weight + self.ssim_weight + self.perceptual_weight > 0
        _require(some, "loss", "no weight of MSE, SSIM or perceptual loss", "above 0 in one of them")
        _require(len(self.teachers) <= 2, "loss.teachers", self.teachers, "two models at most")
        _require(0 <= self.teachers_share <= 1, "loss.teachers_share", self.teachers_share, "between 0 and 1")
        _require(self.du_gan in DU_GAN_WEIGHTS, "loss.du_gan", self.du_gan, " or ".join(DU_GAN_WEIGHTS))
        if self.perceptual_weight and self.vgg_weights is None:
            raise InputError(
                "The perceptual loss needs VGG-19 weights, which ASCON does not ship: name a file with them in "
                "loss.vgg_weights, or set loss.perceptual_weight to 0."
            )


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW for the denoiser and its schedule, which MAC-Net's optimiser follows (`MACConfig.optimizer`).

    Attributes:
        learning_rate: per step, at the start, after the warm-up.
        last_learning_rate: per step, at the end of the half cosine.
        betas: of AdamW.
        weight_decay: of AdamW.
        mac_learning_rate: MAC-Net's at the start, with the same cosine; None: the denoiser's.
        per_epoch: the schedule moves once an epoch (released), or else with every step.
        warm_up: fraction of the training in which the rate rises from 0; not in the paper.
        gradient_clip: largest norm of the denoiser's gradient; not in the paper.
    """

    learning_rate: float = 2e-4
    last_learning_rate: float = 1e-6
    betas: tuple[float, float] = (0.5, 0.999)
    weight_decay: float = 0.01
    mac_learning_rate: float | None = None
    per_epoch: bool = True
    warm_up: float = 0.0
    gradient_clip: float | None = None

    def __post_init__(self) -> None:
        _require(self.learning_rate > 0, "optimizer.learning_rate", self.learning_rate, "above 0")
        _at_least("optimizer", self, 0, "last_learning_rate", "weight_decay")
        _require(all(0 <= b < 1 for b in self.betas), "optimizer.betas", self.betas, "two numbers from 0 to below 1")
        _require(0 <= self.warm_up < 1, "optimizer.warm_up", self.warm_up, "from 0 to below 1")
        for name in ("mac_learning_rate", "gradient_clip"):
            value = getattr(self, name)
            _require(value is None or value > 0, f"optimizer.{name}", value, "above 0, or null")


@dataclass(frozen=True)
class TrainConfig:
    """One training.

    Attributes:
        preset: name of the preset that the settings began as.
        network: a key of ASCONDenoiseLib.models.networks.ARCHITECTURES.
        network_settings: arguments of that network, e.g. {"residual": true}; none is its published form.
        objective: one of OBJECTIVE_NAMES.
        initial: model, name or file, whose weights the denoiser begins with; None: random ones.
        mac: None trains the denoiser alone.
        loss: weights of the losses.
        optimizer: AdamW's settings and the learning rate's schedule.
        epochs: number of epochs.
        steps_per_epoch: None: as many as the set has batches.
        crops_per_epoch: images of an epoch, drawn anew for each, in place of `steps_per_epoch`.
        batch: images per step, of all processes together; released, not given in the paper.
        patch: pixels, side of the training images; None: whole slices.
        growth: later patches and batches: (fraction of the training that is done, patch, batch) each.
        augment: flip and turn by a multiple of 90 degrees, at random.
        doses: noise as of a dose between these two fractions of the normal dose, of simulated sets; not in the paper.
        noise_hu: of these doses, those at which the LDCT has noise of an SD between these; not in the paper.
        lesions: ellipses added to both images, at most so many for each 64x64 pixels; not in the paper.
        kernels: both images sharper (above 0) or smoother by a number between these; not in the paper.
        pixels_mm: patches as reconstructed with pixels between these; not in the paper.
        kernel_cutoffs: patches as reconstructed with a kernel whose cutoff lies between these, in cycles per pixel (of
            the patch); not in the paper.
        noise_cutoffs: the added noise alone, at the same SD, through a filter whose cutoff lies between these, in
            cycles per pixel: an augmentation that no scanner makes; not in the paper.
        unpaired: the NDCT of another patient beside each LDCT; validation stays paired.
        train_with_all: the validation patients train too, as in the paper; nothing is validated then.
        seed: of all that is random.
        precision: fp32 (released), or bf16 or fp16 for what does not hand on the image; losses are in fp32 always.
        ema: fraction kept per step of the averaged weights that are validated and saved; not in the paper.
        validate_every: epochs from one validation to the next.
        validation_slices: number, evenly spaced, of the slices of all validation patients; None: all.
        save_minutes: at most this long between two checkpoints; one is also written after each epoch.
        workers: threads, or beside a GPU processes (`batches.BatchLoader`), that read and augment ahead of the step; 0:
            none.
        minutes: a budget that ends the training early; the schedule then follows the fraction used.
    """

    preset: str = "released"
    network: str = "esau_net"
    network_settings: dict[str, Any] = field(default_factory=dict)
    objective: str = "ascon"
    initial: str | None = None
    mac: MACConfig | None = field(default_factory=MACConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    epochs: int = 100
    steps_per_epoch: int | None = None
    crops_per_epoch: int | None = None
    batch: int = 8
    patch: int | None = None
    growth: tuple[tuple[float, int, int], ...] = ()
    augment: bool = True
    doses: tuple[float, float] | None = None
    noise_hu: tuple[float, float] | None = None
    lesions: float = 0.0
    kernels: tuple[float, float] | None = None
    pixels_mm: tuple[float, float] | None = None
    kernel_cutoffs: tuple[float, float] | None = None
    noise_cutoffs: tuple[float, float] | None = None
    unpaired: bool = False
    train_with_all: bool = False
    seed: int = 0
    precision: str = "fp32"
    ema: float | None = None
    validate_every: int = 1
    validation_slices: int | None = 64
    save_minutes: float = 10.0
    workers: int = 4
    minutes: float | None = None

    def __post_init__(self) -> None:
        _at_least("", self, 1, "epochs", "batch", "validate_every")
        for name in ("steps_per_epoch", "crops_per_epoch", "validation_slices"):
            value = getattr(self, name)
            _require(value is None or value >= 1, name, value, "1 or more, or null")
        _at_least("", self, 0, "workers", "seed", "lesions")
        _require(self.patch is None or self.patch >= 16, "patch", self.patch, "16 pixels or more, or null")
        starts = [0.0, *(start for start, _, _ in self.growth), 1.0]
        sizes = all(patch >= 16 and batch >= 1 for _, patch, batch in self.growth)
        wanted = "(share, patch, batch) each, with shares that rise between 0 and 1"
        _require(_rises(starts) and sizes, "growth", self.growth, wanted)
        enough = _rises([math.ceil(start * self.epochs) for start in starts])
        _require(enough, "epochs", self.epochs, f"enough for an epoch in each stage of growth, {self.growth}")
        if self.crops_per_epoch is not None:
            most = max(batch for _, _, batch in self.stages)
            _require(self.crops_per_epoch >= most, "crops_per_epoch", self.crops_per_epoch, f"{most}, a batch, or more")
            _require(self.steps_per_epoch is None, "steps_per_epoch", self.steps_per_epoch, "null with crops_per_epoch")
        low, high = self.doses or (0.5, 0.5)
        _require(0 < low <= high <= 1, "doses", self.doses, "two numbers above 0 and up to 1, the lower first, or null")
        _require(low < 1, "doses", self.doses, "below 1, the normal dose, at the lower end")
        for name in ("noise_hu", "pixels_mm", "kernel_cutoffs", "noise_cutoffs"):
            low, high = getattr(self, name) or (1.0, 1.0)
            wanted = "two numbers above 0, the lower first, or null"
            _require(0 < low <= high < math.inf, name, getattr(self, name), wanted)
        _require(self.noise_hu is None or self.doses is not None, "noise_hu", self.noise_hu, "null without doses")
        for name in ("pixels_mm", "kernel_cutoffs", "noise_cutoffs"):
            value = getattr(self, name)
            _require(value is None or self.patch is not None, name, value, "null with whole slices (no patch)")
        _require(self.objective in OBJECTIVE_NAMES, "objective", self.objective, f"one of {', '.join(OBJECTIVE_NAMES)}")
        if self.objective != "ascon":
            _require(self.mac is None, "mac", "set", f"null with the objective {self.objective}")
            for setting in dataclasses.fields(LossConfig):  # of which it uses these alone
                value = getattr(self.loss, setting.name)
                unused = value == setting.default or setting.name in (*WEIGHT_FILES, "du_gan")
                _require(unused, f"loss.{setting.name}", value, f"left out: {self.objective} has losses of its own")
        low, high = self.kernels or (0.0, 0.0)
        _require(-1 < low <= high, "kernels", self.kernels, "two numbers above -1, the lower first, or null")
        _require(self.precision in PRECISIONS, "precision", self.precision, ", ".join(PRECISIONS))
        _require(self.ema is None or 0 < self.ema < 1, "ema", self.ema, "between 0 and 1, or null")
        _require(self.save_minutes > 0, "save_minutes", self.save_minutes, "above 0")
        _require(self.minutes is None or self.minutes > 0, "minutes", self.minutes, "above 0, or null")

    @property
    def stages(self) -> tuple[tuple[float, int | None, int], ...]:
        """(fraction of the training that is done before, patch, batch): the first ones and those of `growth`."""
        return ((0.0, self.patch, self.batch), *self.growth)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """The inverse of `to_dict`; what is left out has its default. Raises InputError for unknown or wrong values."""
        if not isinstance(values, Mapping):
            raise InputError(f"Settings are names and values; got {shown(values)}.")
        values = {name: value for name, value in values.items() if value or name not in FORMER_SETTINGS}
        try:
            return from_json(cls, values)
        except FieldError as error:
            if error.problem == "unknown":
                raise InputError(f"There is no setting {error.name}. There are {error.wanted}.") from None
            wanted = error.wanted.replace("an object", "settings")
            raise InputError(f"The setting {error.name} is {shown(error.value)}; it must be {wanted}.") from None

    def changed(self, settings: Mapping[str, Any]) -> TrainConfig:
        """A copy with other values, named like "batch" or "mac.use_local"; texts are read as JSON where they can be.

        Another network has its published form, unless its settings are among the values.

        Raises InputError for a name that does not exist or a value that it cannot have.
        """
        values = self.to_dict()
        if settings.get("network", self.network) != self.network:
            values["network_settings"] = {}
        for name, value in settings.items():
            *parents, last = name.split(".")
            place: Any = values
            for parent in parents:
                if place.get(parent, 0) is None:  # mac.use_local=false where there was no MAC-Net
                    place[parent] = {}
                place = place.get(parent)
                if not isinstance(place, dict):
                    raise InputError(f"There is no setting {name}.")
            place[last] = _parsed(value) if isinstance(value, str) else value
        return self.from_dict(values)


def learning_rate(config: OptimizerConfig, progress: float, start: float | None = None) -> float:
    """Linear warm-up, then a half cosine down to the last rate.

    Args:
        config: the schedule.
        progress: fraction of the training that is done, 0..1.
        start: rate after the warm-up; None: the denoiser's.
    """
    start = config.learning_rate if start is None else start
    if progress < config.warm_up:
        return start * max(progress, 1e-3 * config.warm_up) / config.warm_up
    cosine = 0.5 + 0.5 * math.cos(math.pi * min(1.0, (progress - config.warm_up) / (1 - config.warm_up)))
    return config.last_learning_rate + (start - config.last_learning_rate) * cosine


def _parsed(text: str) -> Any:
    """ "0.5" -> 0.5, "false" -> False, "null" -> None, "bf16" stays a text."""
    try:
        return parse_json(text)
    except ValueError:
        return text


def _rises(numbers: list[float]) -> bool:
    return all(earlier < later for earlier, later in itertools.pairwise(numbers))


def _require(fine: bool, name: str, value: object, allowed: str) -> None:
    if not fine:
        raise InputError(f"The setting {name} is {shown(value)}; it must be {allowed}.")


def _at_least(place: str, config: Any, least: float, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _require(value >= least, f"{place}.{name}".lstrip("."), value, f"{least} or more")
