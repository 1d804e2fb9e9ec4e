"""Every setting of a training, with its unit and its place in the paper; the presets; the rows of the ablations.

"Paper" is Chen et al., MICCAI 2023, section 3.1 unless said otherwise; "released" is its authors' implementation, where
it differs. Losses are means over queries and pixels in all presets: with the sums of the paper's equations 4 and 5, 512
queries would drown the pixel loss.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any


class ConfigError(ValueError):
    """A setting is unknown or has a value that cannot be; the text names it and says what it may be."""


def _require(fine: bool, name: str, value: object, allowed: str) -> None:
    if not fine:
        raise ConfigError(f"The setting {name} is {value!r}; it must be {allowed}.")


def _at_least(place: str, config: Any, least: float, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _require(value >= least, f"{place}.{name}".lstrip("."), value, f"{least} or more")


@dataclass(frozen=True)
class MACConfig:
    """MAC-Net: queries, neighbours, negatives, and which of its parts are used (paper, section 2.3)."""

    global_queries: int = 32  # patches, |N_pos^g|: positions in F_g, one set for the whole batch
    local_queries: int = 512  # pixels, |N_pos^l|: positions in F_l, one set for the whole batch
    negatives: int = 24  # pixels for each local query, |N_neg|
    window: int = 7  # pixels, odd: side of the square round a local query that candidates for negatives come from
    candidates: int | None = None  # drawn at random from the window, of which the most similar stay; None = all of it
    neighbours: int = 4  # of the 8 round a patch, the most similar, averaged with it (eq. 3)
    temperature: float = 1.0  # tau of the local InfoNCE loss (eq. 5); not given in the paper
    momentum: float = 0.99  # of the target's exponential moving average, per step
    filter_background: bool = False  # queries from the body only: the paper's binary function
    background: float = 0.05  # unit range: NDCT at and below this is background (0.05 = -850 HU)
    use_global: bool = True  # L_global (Table 2)
    use_local: bool = True  # L_local (Table 2)
    neighbour_matching: bool = True  # without: a patch stands alone (Table S2)
    hard_negatives: bool = True  # without: negatives at random from the candidates (Table S2)
    alternate: bool = True  # alternate learning; without: denoiser and MAC-Net in one step (Table S2)

    def __post_init__(self) -> None:
        _at_least("mac", self, 1, "global_queries", "local_queries", "negatives", "neighbours")
        _require(self.neighbours <= 8, "mac.neighbours", self.neighbours, "at most 8")
        _require(self.window >= 3 and self.window % 2 == 1, "mac.window", self.window, "odd and 3 or more")
        _require(self.temperature > 0, "mac.temperature", self.temperature, "above 0")
        _require(0 <= self.momentum <= 1, "mac.momentum", self.momentum, "between 0 and 1")
        there = self.window**2 - 1 if self.candidates is None else min(self.candidates, self.window**2 - 1)
        _require(self.negatives <= there, "mac.negatives", self.negatives, f"at most the {there} candidates")
        _require(self.use_global or self.use_local, "mac", "use_global and use_local false", "null for no MAC-Net")


@dataclass(frozen=True)
class LossConfig:
    """Weights of the losses, and what they compare. Images are in unit range: a noise of 20 HU is an MSE of 4e-5."""

    mse_weight: float = 100.0  # released: 10 x 10 in the denoiser's loss
    ssim_weight: float = 10.0  # of 1 - SSIM
    perceptual_weight: float = 0.0  # of the VGG loss; only for its row of Table 2
    vgg_weights: str | None = None  # file with the VGG-19 weights that the perceptual loss needs; none is shipped
    resnet_weights: str | None = None  # file with the ResNet-50 weights of EDCNN's loss; none is shipped
    mac_weight: float = 0.05  # of L_global + L_local in the denoiser's loss (step 4)
    mac_net_loss_weight: float = 0.5  # of L_global + L_local in MAC-Net's own loss (step 2)
    # None of these is in the paper. The network is trained for G(clipped LDCT) = clipped NDCT there, and air, whose
    # noise the window cuts at -1000 HU, is then brighter in the product than in the NDCT.
    product_output: bool = False  # compare y = x + G(c) - c, what the product makes of G, with the NDCT, both unclipped
    local_mean_weight: float = 0.0  # of the MSE of 16x16 means: keeps regions from shifting by a few HU
    local_mean_from: float = 0.0  # share of the training from which on it counts; from the start it slows learning
    response_weight: float = 0.0  # of the contrast and sharpness lost by lesions that are added on top
    response_from: float = 0.0  # share of the training from which on it counts

    def __post_init__(self) -> None:
        names = ("mse_weight", "ssim_weight", "perceptual_weight", "mac_weight", "mac_net_loss_weight")
        _at_least("loss", self, 0, *names, "local_mean_weight", "response_weight")
        for name in ("local_mean_from", "response_from"):
            share = getattr(self, name)
            _require(0 <= share < 1, f"loss.{name}", share, "from 0 to below 1")
        some = self.mse_weight + self.ssim_weight + self.perceptual_weight > 0
        _require(some, "loss", "no weight of MSE, SSIM or perceptual loss", "above 0 in one of them")
        if self.perceptual_weight and self.vgg_weights is None:
            raise ConfigError(
                "The perceptual loss needs VGG-19 weights, which ASCON does not ship: name a file with them in "
                "loss.vgg_weights, or set loss.perceptual_weight to 0."
            )


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW for the denoiser, plain SGD for MAC-Net (released; the paper names none), one schedule for both."""

    learning_rate: float = 2e-4  # at the start, after the warm-up
    last_learning_rate: float = 1e-6  # at the end of the half cosine
    betas: tuple[float, float] = (0.5, 0.999)
    weight_decay: float = 0.01
    mac_learning_rate: float | None = None  # None = the denoiser's; its schedule is the same cosine
    per_epoch: bool = True  # the schedule moves once an epoch (released) or with every step
    warm_up: float = 0.0  # share of the training in which the rate rises from 0; not in the paper
    gradient_clip: float | None = None  # largest norm of the denoiser's gradient; not in the paper

    def __post_init__(self) -> None:
        _require(self.learning_rate > 0, "optimizer.learning_rate", self.learning_rate, "above 0")
        _at_least("optimizer", self, 0, "last_learning_rate", "weight_decay")
        _require(all(0 <= b < 1 for b in self.betas), "optimizer.betas", self.betas, "two numbers from 0 to below 1")
        _require(0 <= self.warm_up < 1, "optimizer.warm_up", self.warm_up, "from 0 to below 1")
        rate = self.mac_learning_rate
        _require(rate is None or rate > 0, "optimizer.mac_learning_rate", rate, "above 0, or null")
        clip = self.gradient_clip
        _require(clip is None or clip > 0, "optimizer.gradient_clip", clip, "above 0, or null")


@dataclass(frozen=True)
class TrainConfig:
    """One training. `mac` None trains the denoiser alone."""

    preset: str = "released"
    network: str = "esau_net"  # a key of ASCONDenoiseLib.models.files.ARCHITECTURES
    objective: str = "ascon"  # a key of learner.OBJECTIVES
    initial: str | None = None  # model, name or file, whose weights the denoiser begins with; None = random ones
    mac: MACConfig | None = field(default_factory=MACConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    epochs: int = 100
    steps_per_epoch: int | None = None  # None = as many as the set has batches
    batch: int = 8  # images per step, of all processes together; released, not given in the paper
    patch: int | None = None  # pixels, side of the training images; None = whole slices
    growth: tuple[tuple[float, int, int], ...] = ()  # later ones: (share of the training done, patch, batch) each
    augment: bool = True  # random flip and turn by a multiple of 90 degrees
    doses: tuple[float, float] | None = None  # noise as of a dose between these, of simulated sets; not in the paper
    lesions: float = 0.0  # ellipses added to both images, at most so many for each 64x64 pixels; not in the paper
    kernels: tuple[float, float] | None = None  # both images sharper (above 0) or smoother by this; not in the paper
    seed: int = 0
    precision: str = "bf16"  # fp32, bf16 or fp16, of all but the last layer and the losses; not given in the paper
    ema: float | None = None  # keep per step of the averaged weights that are validated and saved; not in the paper
    validate_every: int = 1  # epochs
    validation_slices: int | None = 64  # evenly spaced, of all validation patients; None = all
    save_minutes: float = 10.0  # at most this long between two checkpoints; one is also written after each epoch
    workers: int = 4  # threads that read and augment ahead of the step; 0 = none
    minutes: float | None = None  # a budget that ends the training early; the schedule then follows the share used
    fit_gain: bool = False  # at the end, scale the last layer so that the MSE on training slices is least

    def __post_init__(self) -> None:
        _at_least("", self, 1, "epochs", "batch", "validate_every")
        for name in ("steps_per_epoch", "validation_slices"):
            value = getattr(self, name)
            _require(value is None or value >= 1, name, value, "1 or more, or null")
        _at_least("", self, 0, "workers", "seed", "lesions")
        _require(self.patch is None or self.patch >= 16, "patch", self.patch, "16 pixels or more, or null")
        shares = [0.0, *(share for share, _, _ in self.growth), 1.0]
        rising = all(earlier < later for earlier, later in itertools.pairwise(shares))
        sizes = all(patch >= 16 and batch >= 1 for _, patch, batch in self.growth)
        wanted = "(share, patch, batch) each, with shares that rise between 0 and 1"
        _require(rising and sizes, "growth", self.growth, wanted)
        first_epochs = [math.ceil(share * self.epochs) for share in shares]
        apart = all(earlier < later for earlier, later in itertools.pairwise(first_epochs))
        _require(apart, "epochs", self.epochs, f"enough for an epoch in each stage of growth, {self.growth}")
        low, high = self.doses or (0.5, 0.5)
        _require(0 < low <= high < 1, "doses", self.doses, "two numbers between 0 and 1, the lower first, or null")
        if self.objective != "ascon":
            _require(self.mac is None, "mac", "set", f"null with the objective {self.objective}")
            for setting in dataclasses.fields(LossConfig):  # of which it uses the weights files alone
                value = getattr(self.loss, setting.name)
                unused = value == setting.default or setting.name in ("vgg_weights", "resnet_weights")
                _require(unused, f"loss.{setting.name}", value, f"left out: {self.objective} has losses of its own")
        low, high = self.kernels or (0.0, 0.0)
        _require(-1 < low <= high, "kernels", self.kernels, "two numbers above -1, the lower first, or null")
        _require(self.precision in PRECISIONS, "precision", self.precision, ", ".join(PRECISIONS))
        _require(self.ema is None or 0 < self.ema < 1, "ema", self.ema, "between 0 and 1, or null")
        _require(self.save_minutes > 0, "save_minutes", self.save_minutes, "above 0")
        _require(self.minutes is None or self.minutes > 0, "minutes", self.minutes, "above 0, or null")

    @property
    def stages(self) -> tuple[tuple[float, int | None, int], ...]:
        """(share of the training from which on, patch, batch), the first ones and those of `growth`."""
        return ((0.0, self.patch, self.batch), *self.growth)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """The inverse of `to_dict`; what is left out has its default.

        Raises ConfigError for unknown or wrong values.
        """
        return _from_dict(cls, values, "")

    def changed(self, settings: Mapping[str, Any]) -> TrainConfig:
        """A copy with other values, named like "batch" or "mac.use_local"; texts are read as JSON where they can be.

        Raises ConfigError for a name that does not exist or a value that it cannot have.
        """
        values = self.to_dict()
        for name, value in settings.items():
            *parents, last = name.split(".")
            place = values
            for parent in parents:
                if place.get(parent, 0) is None:  # mac.use_local=false where there was no MAC-Net
                    place[parent] = {}
                place = place.get(parent)
                if not isinstance(place, dict):
                    raise ConfigError(f"There is no setting {name}.")
            place[last] = _read(value)
        return self.from_dict(values)


PRECISIONS = ("fp32", "bf16", "fp16")

_PAPER_OPTIMIZER = OptimizerConfig(
    learning_rate=1e-4, last_learning_rate=1e-6, betas=(0.9, 0.99), weight_decay=1e-9, per_epoch=False
)
_PAPER_LOSS = LossConfig(mse_weight=10.0, ssim_weight=10.0, mac_weight=1.0, mac_net_loss_weight=1.0)  # section 2.4
_PAPER_MAC = MACConfig(
    local_queries=32,
    global_queries=512,
    window=13,  # candidates are nearer than 7 pixels (section 2.3)
    candidates=48,  # not given; as many as a 7x7 window holds
    filter_background=True,
)

# For models that ship: the whole objective on what the product makes of the network, for many doses and kernels, with
# lesions, with images that grow. For simulated sets.
_PRODUCT = TrainConfig(
    "product",
    loss=LossConfig(
        mse_weight=1000.0,
        ssim_weight=1.0,
        mac_weight=0.005,
        product_output=True,
        local_mean_weight=5e4,
        local_mean_from=0.6,
        response_weight=1.2,
        response_from=0.6,
    ),
    optimizer=OptimizerConfig(6e-4, 1e-6, (0.9, 0.99), 1e-9, per_epoch=False, warm_up=0.03, gradient_clip=1.0),
    steps_per_epoch=250,
    batch=16,
    patch=64,
    growth=((0.6, 128, 4), (0.85, 256, 1)),
    doses=(0.10, 0.50),
    lesions=3.0,
    kernels=(-0.5, 0.5),
    ema=0.998,
    validation_slices=16,
    fit_gain=True,
)


def _peer(name: str, rate: float, betas: tuple[float, float], **changes: Any) -> TrainConfig:
    """A method that the paper compares with: its own loss and optimiser (Adam), images and doses of `product`."""
    optimizer = replace(_PRODUCT.optimizer, learning_rate=rate, betas=betas, weight_decay=0.0)
    values = {"network": name, "mac": None, "loss": LossConfig(), "optimizer": optimizer, "fit_gain": False}
    return replace(_PRODUCT, preset=name, **values | changes)


_ONLY_MSE = LossConfig(mse_weight=1000.0, ssim_weight=0.0)

PRESETS: dict[str, TrainConfig] = {
    "paper-mayo2016": TrainConfig("paper-mayo2016", mac=_PAPER_MAC, loss=_PAPER_LOSS, optimizer=_PAPER_OPTIMIZER),
    "paper-mayo2020": TrainConfig(
        "paper-mayo2020",
        mac=replace(_PAPER_MAC, local_queries=16, global_queries=256),
        loss=_PAPER_LOSS,
        optimizer=_PAPER_OPTIMIZER,
        patch=256,
    ),
    "released": TrainConfig("released"),
    # The whole objective in minutes, on phantoms and two processor cores: it shows that everything works, no more.
    "smoke": TrainConfig(
        "smoke",
        mac=MACConfig(global_queries=8, local_queries=64),
        loss=LossConfig(mse_weight=1000.0, ssim_weight=1.0, mac_weight=0.005),
        optimizer=OptimizerConfig(6e-4, 1e-6, (0.9, 0.99), 1e-9, per_epoch=False, warm_up=0.05, gradient_clip=1.0),
        epochs=6,
        steps_per_epoch=80,
        batch=4,
        patch=64,
        ema=0.98,
        validation_slices=4,
        workers=0,
        minutes=6.0,
    ),
    "product": _PRODUCT,
    # The denoiser alone, without MAC-Net; the MSE weighs as much as 1 - SSIM does on CT noise.
    "pixel": TrainConfig(
        "pixel",
        mac=None,
        loss=LossConfig(mse_weight=1000.0, ssim_weight=1.0),
        optimizer=OptimizerConfig(6e-4, 1e-6, (0.9, 0.99), 1e-9, per_epoch=False, warm_up=0.03, gradient_clip=1.0),
        batch=16,
        patch=64,
        doses=(0.17, 0.38),
        ema=0.998,
    ),
    # The peers of Table 1; networks/ and objectives/ name their papers, where the learning rates are from.
    "unet": _peer("unet", _PRODUCT.optimizer.learning_rate, _PRODUCT.optimizer.betas, loss=_ONLY_MSE),
    "red_cnn": _peer("red_cnn", 1e-4, (0.9, 0.99), loss=_ONLY_MSE),
    "edcnn": _peer("edcnn", 1e-3, (0.9, 0.999), objective="edcnn"),
    "cncl": _peer("cncl", 2e-5, (0.5, 0.999), objective="cncl"),
    "du_gan": _peer("du_gan", 1e-4, (0.9, 0.999), objective="du_gan"),
    "wgan_vgg": _peer("wgan_vgg", 1e-5, (0.5, 0.9), objective="wgan_vgg", growth=()),  # needs loss.vgg_weights
}


def learning_rate(config: OptimizerConfig, progress: float, start: float | None = None) -> float:
    """Linear warm-up, then a half cosine from `start` (None: the denoiser's rate) to the last rate.

    progress: share of the training that is done, 0..1.
    """
    start = config.learning_rate if start is None else start
    if progress < config.warm_up:
        return start * max(progress, 1e-3 * config.warm_up) / config.warm_up
    cosine = 0.5 + 0.5 * math.cos(math.pi * min(1.0, (progress - config.warm_up) / (1 - config.warm_up)))
    return config.last_learning_rate + (start - config.last_learning_rate) * cosine


@dataclass(frozen=True)
class AblationRow:
    """One training of an ablation table. `config` None: it cannot be run, and `reason` says why."""

    name: str
    config: TrainConfig | None
    reason: str = ""


def table_2(base: TrainConfig, vgg_weights: str | None = None) -> list[AblationRow]:
    """The six rows of Table 2, losses added one after the other; `base` is a training with MAC-Net.

    What `base` has besides (local means, the answer to lesions), all rows have.
    vgg_weights: file for the row with the perceptual loss; None: that of `base`, if it names one.
    """
    _require(base.mac is not None, "mac", None, "set: an ablation starts from a training with MAC-Net")
    pixel = replace(base, mac=None, loss=replace(base.loss, ssim_weight=0.0, perceptual_weight=0.0, vgg_weights=None))
    pixel = pixel if pixel.loss.mse_weight else pixel.changed({"loss.mse_weight": LossConfig.mse_weight})
    both = replace(pixel, loss=replace(pixel.loss, ssim_weight=base.loss.ssim_weight or LossConfig.ssim_weight))
    perceptual = AblationRow("MSE + perceptual", None, "not run: no weights file")
    vgg_weights = vgg_weights or base.loss.vgg_weights
    if vgg_weights is not None:
        weights = replace(pixel.loss, perceptual_weight=PERCEPTUAL_WEIGHT, vgg_weights=vgg_weights)
        perceptual = AblationRow(perceptual.name, replace(pixel, loss=weights))
    global_, local = (replace(base.mac, use_global=g, use_local=not g) for g in (True, False))
    return [
        AblationRow("MSE", pixel),
        perceptual,
        AblationRow("MSE + SSIM", both),
        AblationRow("MSE + SSIM + global", replace(both, mac=global_)),
        AblationRow("MSE + SSIM + local", replace(both, mac=local)),
        AblationRow("MSE + SSIM + local + global", replace(both, mac=replace(global_, use_local=True))),
    ]


PERCEPTUAL_WEIGHT = 0.1
"""Of the VGG loss in its row of Table 2; not given in the paper."""


def table_s1(base: TrainConfig, networks: Mapping[str, object]) -> list[AblationRow]:
    """Table S1: MAC-Net on other denoisers, each without and with it; `networks` are those that exist."""
    _require(base.mac is not None, "mac", None, "set: an ablation starts from a training with MAC-Net")
    rows = []
    for network, name in (("red_cnn", "RED-CNN"), ("unet", "U-Net"), ("esau_net", "ESAU-Net")):
        for mac, suffix in ((None, ""), (base.mac, " + MAC-Net")):
            there = network in networks
            config = replace(base, network=network, mac=mac) if there else None
            reason = "" if there else f"not run: there is no network {network}"
            rows.append(AblationRow(name + suffix, config, reason))
    return rows


def table_s2(base: TrainConfig) -> list[AblationRow]:
    """Table S2: the whole method, and without one of its training strategies."""
    _require(base.mac is not None, "mac", None, "set: an ablation starts from a training with MAC-Net")
    strategies = {
        "without alternate learning": {"alternate": False},
        "without neighbouring positive matching": {"neighbour_matching": False},
        "without hard negatives": {"hard_negatives": False},
    }
    rows = [AblationRow(name, replace(base, mac=replace(base.mac, **off))) for name, off in strategies.items()]
    return [*rows, AblationRow("the whole method", base)]


# ---------------------------------------------------------------------------------------------------- from and to JSON


def _read(value: Any) -> Any:
    """ "0.5" -> 0.5, "false" -> False, "null" -> None, "bf16" stays a text."""
    if isinstance(value, str):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _from_dict(cls: type, values: Mapping[str, Any], place: str) -> Any:
    hints = typing.get_type_hints(cls)
    if unknown := sorted(values.keys() - hints.keys()):
        raise ConfigError(f"There is no setting {place}{unknown[0]}. There are {', '.join(place + h for h in hints)}.")
    return cls(**{name: _converted(value, hints[name], place + name) for name, value in values.items()})


def _converted(value: Any, hint: Any, name: str) -> Any:
    """`value` as `hint` wants it: an int, float, bool, text, None, a tuple of such or a dataclass of settings."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for option in options:
        if option is type(None) and value is None:
            return None
        if dataclasses.is_dataclass(option) and isinstance(value, Mapping):
            return _from_dict(option, value, f"{name}.")
        if typing.get_origin(option) is tuple and isinstance(value, list | tuple):
            kinds = typing.get_args(option)
            kinds = kinds[:1] * len(value) if kinds[-1] is ... else kinds
            if len(kinds) == len(value):
                return tuple(_converted(v, kind, name) for v, kind in zip(value, kinds, strict=True))
        if option is float and type(value) in (int, float) and math.isfinite(value):
            return float(value)
        if option in (int, bool, str) and type(value) is option:
            return value
    wanted = " or ".join(_NAMES.get(typing.get_origin(option) or option, "settings") for option in options)
    raise ConfigError(f"The setting {name} is {value!r}; it must be {wanted}.")


_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "null"}
_NAMES |= {tuple: "a list of the right length"}
