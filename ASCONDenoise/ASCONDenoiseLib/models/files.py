"""Model files: weights in safetensors, a JSON card beside them. Verify, list, find, import, load, save.

A model is two files, NAME.safetensors and NAME.json. The card holds the SHA-256 of the weights, and nothing is loaded
before it matches. No pickle is ever opened: a pickle can run code. Only `load_network` and `save_model` need torch and
safetensors, so a program without them can list, verify and import models.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ASCONDenoiseLib.imaging.hounsfield import TRAINING_WINDOW_HU

if TYPE_CHECKING:
    from torch import nn

logger = logging.getLogger(__name__)

DEFAULT_MODEL = "ascon-esaunet-v0.2"
"""Name of the shipped model that is used where none is chosen."""

DEFAULT_MODEL_ALIAS = "ascon-default"

MAX_HEADER_BYTES = 100_000_000
"""Longest header that the safetensors format allows."""


class ModelError(ValueError):
    """A model file, its card or its name cannot be used; the text says why and what to do."""


def _network(file: str, name: str) -> Callable[..., nn.Module]:
    """The constructor of a network in networks/, which is imported (and torch with it) when it is called."""

    def build(**settings: Any) -> nn.Module:
        return getattr(import_module(f".networks.{file}", __package__), name)(**settings)

    return build


ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "esau_net": _network("esau_net", "ESAUNet"),
    "unet": _network("unet", "UNet"),
    "red_cnn": _network("red_cnn", "REDCNN"),
    "edcnn": _network("edcnn", "EDCNN"),
    "cncl": _network("cncl", "CNCLUNet"),
    "du_gan": _network("du_gan", "DUGANGenerator"),
    "wgan_vgg": _network("wgan_vgg", "WGANVGGGenerator"),
}
"""Architecture as the card names it -> its constructor, which imports torch; the card's settings are its arguments."""


@dataclass(frozen=True)
class Scope:
    """What a model has seen in training, where a volume can be compared with it. None or empty: not known."""

    slice_mm: tuple[float, float] | None = None
    """Thinnest and thickest slices."""
    doses: tuple[float, float] | None = None
    """Lowest and highest dose of the inputs, as fractions of the normal dose."""
    kernels: tuple[str, ...] = ()
    """For people to read: makers name theirs as they like, so `sharp_kernels` is what is compared."""
    sharp_kernels: bool | None = None
    """Whether there were kernels for lung or bone among them."""
    body_parts: tuple[str, ...] = ()
    """E.g. "chest", "abdomen"; what `suitability` looks for is "head" and "limbs"."""


@dataclass(frozen=True)
class ModelCard:
    """What a model is, where it comes from and what it may be used for."""

    name: str
    version: str
    architecture: str
    """A key of ARCHITECTURES."""
    settings: dict[str, Any]
    """Arguments of the architecture's constructor."""
    window_hu: tuple[float, float]
    """Lowest and highest HU of the unit range that the network was trained on."""
    preset: str
    """Training preset of the method, e.g. "released"."""
    training_data: list[str]
    dose: str
    """Dose of the training inputs, and how it came about, e.g. "0.25, simulated"."""
    date: str
    """Day of training, ISO 8601."""
    licence: str
    intended_use: str
    limits: list[str]
    """What the model was not tried on, or is known to do badly."""
    scope: Scope
    metrics: dict[str, Any]
    """Measured results, by name; the names say on which data."""
    sha256: str = ""
    """SHA-256 of the weights file, lower-case hexadecimal; filled in by `save_model`."""

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

        Raises ModelError where the text is no JSON object, or a field is missing, unknown or of the wrong type.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ModelError(f"{source} is not valid JSON ({error}). Get the model again.") from None
        if not isinstance(values, dict):
            raise ModelError(f"{source} is not a JSON object. Get the model again.")
        if missing := sorted(_EXPECTED.keys() - values.keys()):
            raise ModelError(f"{source} lacks {', '.join(missing)}. Add what is missing, or get the model again.")
        _check_values(values, _EXPECTED, source)
        scope = {f"scope.{name}": value for name, value in values["scope"].items()}
        _check_values(scope, _EXPECTED_OF_SCOPE, source)
        tuples = {name: _as_tuple(value) for name, value in values["scope"].items()}
        return cls(**{**values, "window_hu": _as_tuple(values["window_hu"]), "scope": Scope(**tuples)})


_EXPECTED = {field.name: "text" for field in fields(ModelCard)} | {
    "settings": "an object",
    "metrics": "an object",
    "scope": "an object",
    "training_data": "a list of texts",
    "limits": "a list of texts",
    "window_hu": "two numbers, the lower one first",
    "sha256": "64 hexadecimal digits",
}
"""Field of a card -> what it should be, in words that `_fits` knows."""

_EXPECTED_OF_SCOPE = {
    "scope.slice_mm": "two numbers above 0 and up to 1000, the lower one first, or null",
    "scope.doses": "two numbers above 0 and up to 1, the lower one first, or null",
    "scope.kernels": "a list of texts",
    "scope.sharp_kernels": "true, false or null",
    "scope.body_parts": "a list of texts",
}


def _check_values(values: dict[str, Any], expected: dict[str, str], source: str) -> None:
    """Raises ModelError at what is unknown or not as expected."""
    if unknown := sorted(values.keys() - expected.keys()):
        raise ModelError(
            f"{source} has fields that this version does not know: {', '.join(unknown)}. Remove them, or update ASCON."
        )
    for name, value in values.items():
        if not _fits(expected[name], value):
            raise ModelError(f'{source} has a wrong value for "{name}": {value!r}. It should be {expected[name]}.')


def _fits(expected: str, value: object) -> bool:
    match expected:
        case "text":
            return isinstance(value, str) and value != ""
        case "an object":
            return isinstance(value, dict)
        case "a list of texts":
            return isinstance(value, list) and all(isinstance(item, str) for item in value)
        case "64 hexadecimal digits":
            return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")
        case "true, false or null":
            return value is None or isinstance(value, bool)
        case "two numbers, the lower one first":
            return _are_two_numbers(value) and value[0] < value[1]
        case "two numbers above 0 and up to 1, the lower one first, or null":
            return value is None or _are_two_numbers(value) and 0 < value[0] <= value[1] <= 1
        case _:  # slices in mm
            return value is None or _are_two_numbers(value) and 0 < value[0] <= value[1] <= 1000


def _are_two_numbers(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(number) in (int, float) for number in value)


def _as_tuple(value: Any) -> Any:
    """A list of JSON as a tuple, its numbers as floats; anything else as it is."""
    if not isinstance(value, list):
        return value
    return tuple(float(item) if isinstance(item, int) else item for item in value)


def models_folder() -> Path:
    """Folder of the models that come with ASCON: in the Slicer module's Resources; in a wheel, inside the package."""
    package = Path(__file__).resolve().parents[1]
    in_package = package / "Resources" / "Models"
    return in_package if in_package.is_dir() else package.parent / "Resources" / "Models"


def user_folder() -> Path:
    """Folder of imported models: ASCON_MODELS where that is set, else the platform's place for a user's data."""
    if chosen := os.environ.get("ASCON_MODELS"):
        return Path(chosen)
    if sys.platform == "win32":
        data = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        data = Path.home() / "Library" / "Application Support"
    else:
        data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return data / "ASCON" / "models"


def list_models() -> list[tuple[ModelCard, Path]]:
    """(card, weights file) of each shipped model, then of each imported one; by name.

    Reads the cards only: `verify` checks the weights. A model whose card cannot be read is left out, with a warning.
    """
    models = []
    for folder in (models_folder(), user_folder()):
        for path in sorted(folder.glob("*.safetensors")):
            try:
                models.append((load_card(path), path))
            except ModelError as error:
                logger.warning("%s", error)
    return models


def find_model(name_or_path: str | Path | None = None) -> Path:
    """Weights file of a model, given its name (the file's, without .safetensors) or its path; None: the default model.

    Raises ModelError where there is none.
    """
    if name_or_path is None or str(name_or_path) == DEFAULT_MODEL_ALIAS:
        path = models_folder() / f"{DEFAULT_MODEL}.safetensors"
        if not path.is_file():
            raise ModelError(f"The default model {path} is missing. Reinstall ASCON, or name a model file.")
        return path
    path = Path(name_or_path)
    if path.is_file():
        return path
    for folder in (models_folder(), user_folder()):
        candidate = folder / f"{path.name}.safetensors"
        if path.name == str(path) and candidate.is_file():
            return candidate
    raise ModelError(
        f'There is no model file or model named "{name_or_path}". '
        "`ascon models list` shows the models; `ascon models import FILE` adds one."
    )


def load_card(path: str | Path) -> ModelCard:
    """The card beside a weights file (its path, or the card's).

    Raises ModelError where the card is missing, unreadable or wrong.
    """
    card_path = Path(path).with_suffix(".json")
    try:
        text = card_path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ModelError(
            f"The model card {card_path} is missing; a model is NAME.safetensors with NAME.json beside it. "
            "Put the card there, or get the model again."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"The model card {card_path} cannot be read ({error}). Get the model again.") from None
    return ModelCard.from_json(text, f"The model card {card_path}")


def verify(path: str | Path) -> ModelCard:
    """Checks a model's files without loading the weights: format, completeness, card, SHA-256. Returns the card.

    Raises ModelError at the first thing that is wrong.
    """
    card, _ = _verified(Path(path))
    return card


def import_model(path: str | Path) -> Path:
    """Copies a verified model into the user's folder and returns the copy's path; importing it again changes nothing.

    Raises ModelError where the model is wrong or where another model has its name.
    """
    path = Path(path)
    card, weights = _verified(path)
    name = path.with_suffix(".safetensors").name
    for folder in (models_folder(), user_folder()):
        existing = folder / name
        if existing.is_file() and _sha256(existing.read_bytes()) != card.sha256:
            raise ModelError(
                f"There is another model named {path.stem} in {folder}. Give the files that you import another name."
            )
    shipped = models_folder() / name
    if shipped.is_file():
        return shipped
    imported = user_folder() / name
    _write(imported, weights, card)
    return imported


def load_network(path: str | Path) -> tuple[nn.Module, ModelCard]:
    """The network of a verified model, in evaluation mode on the CPU with 32-bit weights, and its card.

    Raises ModelError where the model is wrong, or its weights do not fit its architecture.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = Path(path)
    card, data = _verified(path)
    if card.window_hu != TRAINING_WINDOW_HU:
        raise ModelError(
            f"The model {path.name} was trained on the window {card.window_hu} HU; this version of ASCON feeds every "
            f"network {TRAINING_WINDOW_HU} HU. Use a model that was trained on that."
        )
    network = _build(card, path)
    try:
        weights = load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise ModelError(f"The model file {path} is damaged ({error}). Get it again.") from None
    _check_weights(weights, network, path)
    network.load_state_dict(weights)  # copies into the network's 32-bit parameters, so 16-bit weights are cast up
    if not all(bool(torch.isfinite(w).all()) for w in weights.values()):
        raise ModelError(f"The model file {path} has weights that are not finite numbers. Get or train another model.")
    return network.eval(), card


def save_model(network: nn.Module, card: ModelCard, path: str | Path, *, half: bool = False) -> ModelCard:
    """Writes a network as PATH (.safetensors) with its card beside it; returns the card with the SHA-256 filled in.

    half: 16-bit floating-point weights, half the size (a relative error of 0.05 % at most in each weight).
    Both files appear at once in full: they are written beside, then renamed.

    Raises ModelError for another suffix, an architecture that ASCON could not load, or a weight too large for 16 bits.
    """
    import torch
    from safetensors.torch import save

    path = Path(path)
    if path.suffix != ".safetensors":
        raise ModelError(f"A model file is named NAME.safetensors; got {path.name}.")
    weights = {
        name: (w.half() if half and w.is_floating_point() else w).detach().cpu().clone().contiguous()
        for name, w in network.state_dict().items()
    }
    if not all(bool(torch.isfinite(w).all()) for w in weights.values()):
        remedy = "Save it with 32-bit weights." if half else "Training has diverged; save an earlier checkpoint."
        raise ModelError(f"The network has weights that are not finite{' in 16 bits' if half else ''}. {remedy}")
    _check_weights(weights, _build(card, path), path)
    data = save(weights, metadata={"format": "pt"})
    card = replace(card, sha256=_sha256(data))
    ModelCard.from_json(card.to_json(), f"The model card for {path.name}")  # what is written must be readable again
    _write(path, data, card)
    return card


def _verified(path: Path) -> tuple[ModelCard, bytes]:
    """Card and content of a model's weights file. The bytes that were checked are the bytes that get used."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ModelError(f"There is no model file {path}.") from None
    except OSError as error:
        raise ModelError(f"The model file {path} cannot be read ({error}).") from None
    _check_format(data, path)
    card = load_card(path)
    if (found := _sha256(data)) != card.sha256:
        raise ModelError(
            f"The model file {path} is not the one its card describes: its SHA-256 is {found}, the card says "
            f"{card.sha256}. It is damaged or was changed; get it again."
        )
    return card, data


def _check_format(data: bytes, path: Path) -> None:
    """safetensors: 8 bytes of header length (little endian), the header in JSON, then the tensors' bytes."""
    length = int.from_bytes(data[:8], "little")
    if data[8:9] != b"{" or length > MAX_HEADER_BYTES:
        if not data:
            raise ModelError(f"The model file {path} is empty. Get it again.")
        zipped = data.startswith(b"PK")  # torch.save since 1.6
        pickled = data[:1] == b"\x80" and data[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")  # protocols 2 to 5
        if zipped or pickled:
            raise ModelError(
                f"The model file {path} is a pickle (a .pt or .pth file). Such files can run code when they are "
                "opened, so only safetensors files are accepted; ask its author for one."
            )
        raise ModelError(f"The model file {path} is not a safetensors file, the only format that is accepted.")
    try:
        header = json.loads(data[8 : 8 + length])
        end = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        if len(data) >= 8 + length:
            raise ModelError(f"The model file {path} has a damaged header. Get it again.") from None
        end = 0
    if len(data) != 8 + length + end:
        how = "cut short" if len(data) < 8 + length + end else "longer than its header says"
        raise ModelError(f"The model file {path} is {how} ({len(data)} bytes). Get it again.")


def _build(card: ModelCard, path: Path) -> nn.Module:
    if card.architecture not in ARCHITECTURES:
        raise ModelError(
            f'The model {path.name} has the architecture "{card.architecture}", which this version of ASCON does not '
            f"know (it knows {', '.join(ARCHITECTURES)}). Update ASCON, or choose another model."
        )
    try:
        return ARCHITECTURES[card.architecture](**card.settings)
    except (TypeError, ValueError) as error:
        raise ModelError(f"The settings in the card of {path.name} do not fit {card.architecture}: {error}.") from None


def _check_weights(weights: dict[str, Any], network: nn.Module, path: Path) -> None:
    """Raises ModelError where names or shapes are not the network's."""
    expected = {name: tuple(w.shape) for name, w in network.state_dict().items()}
    found = {name: tuple(w.shape) for name, w in weights.items()}
    problems = [f"{name} is missing" for name in expected.keys() - found.keys()]
    problems += [f"{name} is unknown" for name in found.keys() - expected.keys()]
    problems += [
        f"{name} has shape {found[name]} instead of {expected[name]}"
        for name in expected.keys() & found.keys()
        if found[name] != expected[name]
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ModelError(
            f"The weights in {path.name} do not fit the architecture its card names: "
            f"{'; '.join(sorted(problems)[:3])}{more}. The card or the file is wrong."
        )


def _write(path: Path, weights: bytes, card: ModelCard) -> None:
    """Both files written beside as hidden files, then renamed, the card first: without weights it is no model."""
    contents = {path.with_suffix(".json"): card.to_json().encode(), path: weights}
    partial = {target: target.with_name(f".{target.name}.partial") for target in contents}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            for target, content in contents.items():
                partial[target].write_bytes(content)
            for target, written in partial.items():
                os.replace(written, target)
        finally:
            for written in partial.values():
                written.unlink(missing_ok=True)
    except OSError as error:
        raise ModelError(
            f"The model {path} cannot be written ({error}). Is the folder writable, the disk full?"
        ) from None


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
