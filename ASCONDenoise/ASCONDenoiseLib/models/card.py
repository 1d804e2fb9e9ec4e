"""The card of a model: a JSON file beside the weights that says what the model is and what it may be used for."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ASCONDenoiseLib.checked_json import FieldError, from_json, parse_json, shown
from ASCONDenoiseLib.errors import InputError

TEXT = {"wanted": "text"}
TEXTS = {"wanted": "a list of texts"}
WINDOW = {"wanted": "two numbers, the lower one first"}
DIGITS = {"wanted": "64 hexadecimal digits"}
MILLIMETRES = {"wanted": "two numbers above 0 and up to 1000, the lower one first, or null"}
SHIFTS = {"wanted": "HU by name of the tissue"}
FRACTIONS = {"wanted": "two numbers above 0 and up to 1, the lower one first, or null"}


@dataclass(frozen=True)
class Scope:
    """What a model has seen in training, where a volume can be compared with it. None or empty: not known.

    Attributes:
        slice_mm: Thickness of the thinnest and of the thickest slices.
        doses: Lowest and highest dose of the inputs, as fractions of the normal dose.
        kernels: For people to read: makers name theirs as they like, so `sharp_kernels` is what is compared.
        sharp_kernels: Whether there were kernels for lung or bone among them.
        sharp_kernel_shift_hu: What was measured on a kernel for lung or bone at full strength, where none was seen:
            tissue -> shift of its mean.
        body_parts: E.g. "chest", "abdomen"; what `suitability` looks for is "head" and "limbs".
    """

    slice_mm: tuple[float, float] | None = field(default=None, metadata=MILLIMETRES)
    doses: tuple[float, float] | None = field(default=None, metadata=FRACTIONS)
    kernels: tuple[str, ...] = field(default=(), metadata=TEXTS)
    sharp_kernels: bool | None = field(default=None, metadata={"wanted": "true, false or null"})
    sharp_kernel_shift_hu: dict[str, float] = field(default_factory=dict, metadata=SHIFTS)
    body_parts: tuple[str, ...] = field(default=(), metadata=TEXTS)

    def __post_init__(self) -> None:
        for name, ends, most, words in (
            ("slice_mm", self.slice_mm, 1000, MILLIMETRES),
            ("doses", self.doses, 1, FRACTIONS),
        ):
            if ends is not None and not 0 < ends[0] <= ends[1] <= most:
                raise FieldError("wrong", name, ends, words["wanted"])
        for hu in self.sharp_kernel_shift_hu.values():
            if type(hu) not in (int, float) or not math.isfinite(hu):
                raise FieldError("wrong", "sharp_kernel_shift_hu", self.sharp_kernel_shift_hu, SHIFTS["wanted"])


@dataclass(frozen=True)
class ModelCard:
    """What a model is, where it comes from and what it may be used for.

    Attributes:
        architecture: A key of `networks.ARCHITECTURES`.
        settings: Arguments of the architecture's constructor.
        window_hu: Lowest and highest HU of the unit range that the network was trained on.
        preset: Training preset of the method, e.g. "released".
        dose: Dose of the training inputs, and how it came about, e.g. "0.25, simulated".
        date: Day of training, ISO 8601.
        limits: What the model was not tried on, or is known to do badly.
        metrics: Measured results, by name; the names say on which data.
        sha256: SHA-256 of the weights file, lower-case hexadecimal; empty until `files.save_model` fills it in.
    """

    name: str = field(metadata=TEXT)
    version: str = field(metadata=TEXT)
    architecture: str = field(metadata=TEXT)
    settings: dict[str, Any]
    window_hu: tuple[float, float] = field(metadata=WINDOW)
    preset: str = field(metadata=TEXT)
    training_data: list[str] = field(metadata=TEXTS)
    dose: str = field(metadata=TEXT)
    date: str = field(metadata=TEXT)
    licence: str = field(metadata=TEXT)
    intended_use: str = field(metadata=TEXT)
    limits: list[str] = field(metadata=TEXTS)
    scope: Scope
    metrics: dict[str, Any]
    sha256: str = field(default="", metadata=DIGITS)

    def __post_init__(self) -> None:
        low, high = self.window_hu
        bounds = {f.name: bool(getattr(self, f.name)) for f in fields(self) if f.metadata == TEXT}
        bounds["window_hu"] = low < high
        bounds["sha256"] = len(self.sha256) in (0, 64) and set(self.sha256) <= set("0123456789abcdef")
        for described in fields(self):
            if not bounds.get(described.name, True):
                value = getattr(self, described.name)
                raise FieldError("wrong", described.name, value, described.metadata["wanted"])

    @property
    def scans(self) -> dict[str, list[str]]:
        """Fingerprints of the scans that the model has seen, by split: "train", "validation"; {} where none are listed.

        "unlisted" has the names of models that it began with and whose own cards list none.
        """
        training = self.metrics.get("training")
        scans = training.get("scans") if isinstance(training, dict) else None
        return {k: [*map(str, v)] for k, v in scans.items() if isinstance(v, list)} if isinstance(scans, dict) else {}

    def to_json(self) -> str:
        """The card as JSON text: sorted, indented."""
        return json.dumps(asdict(self), indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str = "The model card") -> ModelCard:
        """A card from JSON text; `source` opens the error's sentence.

        Raises:
            InputError: the text is no JSON object, or a field is missing, unknown or of the wrong type.
        """
        try:
            values = parse_json(text)
        except ValueError as error:
            raise InputError(f"{source} is not valid JSON ({error}). Get the model again.") from None
        if not isinstance(values, Mapping):
            raise InputError(f"{source} is not a JSON object. Get the model again.")
        try:
            card = from_json(cls, values)
            if not card.sha256:  # has a default, but only for cards that are not written yet
                raise FieldError("wrong" if "sha256" in values else "missing", "sha256", "", DIGITS["wanted"])
        except FieldError as error:
            raise InputError(f"{source} {_described(error)}") from None
        return card


def load_card(path: str | Path) -> ModelCard:
    """The card beside a weights file (its path, or the card's).

    Raises:
        InputError: the card is missing, unreadable or wrong.
    """
    card_path = Path(path).with_suffix(".json")
    try:
        text = card_path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(
            f"The model card {card_path} is missing; a model is NAME.safetensors with NAME.json beside it. "
            "Put the card there, or get the model again."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The model card {card_path} cannot be read ({error}). Get the model again.") from None
    return ModelCard.from_json(text, f"The model card {card_path}")


def _described(error: FieldError) -> str:
    names = ", ".join(sorted(error.names))
    if error.problem == "missing":
        return f"lacks {names}. Add what is missing, or get the model again."
    if error.problem == "unknown":
        return f"has fields that this version does not know: {names}. Remove them, or update ASCON."
    return f'has a wrong value for "{error.name}": {shown(error.value)}. It should be {error.wanted}.'
