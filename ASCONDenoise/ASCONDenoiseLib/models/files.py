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
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.imaging.hounsfield import TRAINING_WINDOW_HU
from ASCONDenoiseLib.io.atomic import atomic_file
from ASCONDenoiseLib.models.card import ModelCard, load_card
from ASCONDenoiseLib.models.networks import ARCHITECTURES, build

if TYPE_CHECKING:
    from torch import nn

logger = logging.getLogger(__name__)

DEFAULT_MODEL = "ascon-esaunet-v0.3"
"""Name of the shipped model that is used where none is chosen."""

DEFAULT_MODEL_ALIAS = "ascon-default"

FAST_MODEL = "ascon-fast"
"""Name of the shipped model for computers without a GPU."""

BEST, FAST = "best", "fast"
"""What may be asked for instead of a name: the default model, and the fast one or, where it is missing, the default."""

AUTOMATIC_FAST = True
"""Whether the automatic choice may take the fast model: only while `ascon safety` finds it within all bounds."""

MANY_SLICES = 60
"""From so many slices on, the automatic choice takes the fast model where there is no GPU: in an eighth of the time."""

MAX_HEADER_BYTES = 100_000_000
"""Longest header that the safetensors format allows."""


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
            except InputError as error:
                logger.warning("%s", error)
    return models


def find_model(name_or_path: str | Path | None = None) -> Path:
    """Weights file of a model, given its path, its name (the file's, without .safetensors), BEST or FAST.

    None is the default model; `choose_model` knows better for a volume.

    Raises:
        InputError: there is none.
    """
    if str(name_or_path) == FAST and fast_model() is not None:
        return models_folder() / f"{FAST_MODEL}.safetensors"
    if name_or_path is None or str(name_or_path) in (DEFAULT_MODEL_ALIAS, BEST, FAST):
        path = models_folder() / f"{DEFAULT_MODEL}.safetensors"
        if not path.is_file():
            raise InputError(f"The default model {path} is missing. Reinstall ASCON, or name a model file.")
        return path
    path = Path(name_or_path)
    if path.is_file():
        return path
    for folder in (models_folder(), user_folder()):
        candidate = folder / f"{path.name}.safetensors"
        if path.name == str(path) and candidate.is_file():
            return candidate
    raise InputError(
        f'There is no model file or model named "{name_or_path}". '
        "`ascon models list` shows the models; `ascon models import FILE` adds one."
    )


def fast_model() -> Path | None:
    """Weights file of the shipped fast model; None where there is none."""
    path = models_folder() / f"{FAST_MODEL}.safetensors"
    return path if path.is_file() else None


def choose_model(name: str | Path | None, slices: int, on_gpu: Callable[[], bool]) -> tuple[Path, str]:
    """Weights file of the model for a volume, and a sentence for the user where another than the default was taken.

    Args:
        name: as in `find_model`; None is the default, or, with AUTOMATIC_FAST, the fast model for many slices without a
            GPU.
        slices: of the volume.
        on_gpu: whether the network is going to run on a GPU; asked where it matters only, since it needs torch.

    Raises:
        InputError: there is no such model.
    """
    path = find_model(name)
    if name == FAST and fast_model() is None:
        return path, f"There is no fast model ({FAST_MODEL}) here: {path.stem} was taken."
    fast = fast_model()
    if AUTOMATIC_FAST and name is None and fast is not None and slices >= MANY_SLICES and not on_gpu():
        return fast, (
            f"The fast model was taken, since the volume has {slices} slices and there is no GPU. The other one takes "
            "several times as long: choose it by name, or as best."
        )
    return path, ""


def verify(path: str | Path) -> ModelCard:
    """Checks a model's files without loading the weights: format, completeness, card, SHA-256. Returns the card.

    Raises:
        InputError: the first thing that is wrong.
    """
    card, _ = _verified(Path(path))
    return card


def import_model(path: str | Path) -> Path:
    """Copies a verified model into the user's folder and returns the copy's path; importing it again changes nothing.

    Raises:
        InputError: the model is wrong, or another model has its name.
        WriteError: the copy cannot be written.
    """
    path = Path(path)
    card, weights = _verified(path)
    name = path.with_suffix(".safetensors").name
    for folder in (models_folder(), user_folder()):
        existing = folder / name
        if existing.is_file() and _sha256(existing.read_bytes()) != card.sha256:
            raise InputError(
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

    Raises:
        InputError: the model is wrong, or its weights do not fit its architecture.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = Path(path)
    card, data = _verified(path)
    if card.window_hu != TRAINING_WINDOW_HU:
        raise InputError(
            f"The model {path.name} was trained on the window {card.window_hu} HU; this version of ASCON feeds every "
            f"network {TRAINING_WINDOW_HU} HU. Use a model that was trained on that."
        )
    network = _build(card, path)
    try:
        weights = load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise InputError(f"The model file {path} is damaged ({error}). Get it again.") from None
    _check_weights(weights, network, path)
    network.load_state_dict(weights)  # copies into the network's 32-bit parameters, so 16-bit weights are cast up
    if not all(bool(torch.isfinite(w).all()) for w in weights.values()):
        raise InputError(f"The model file {path} has weights that are not finite numbers. Get or train another model.")
    return network.eval(), card


def save_model(network: nn.Module, card: ModelCard, path: str | Path, *, half: bool = False) -> ModelCard:
    """Writes a network with its card beside it, both complete or not at all.

    Args:
        network: its weights may be on any device.
        card: its `sha256` is filled in.
        path: NAME.safetensors.
        half: 16-bit floating-point weights, half the size (a relative error of 0.05 % at most in each weight).

    Returns:
        The card with the SHA-256.

    Raises:
        InputError: another suffix, an architecture that ASCON could not load, or a weight too large for 16 bits.
        WriteError: the files cannot be written.
    """
    import torch
    from safetensors.torch import save

    path = Path(path)
    if path.suffix != ".safetensors":
        raise InputError(f"A model file is named NAME.safetensors; got {path.name}.")
    weights = {
        name: (w.half() if half and w.is_floating_point() else w).detach().cpu().clone().contiguous()
        for name, w in network.state_dict().items()
    }
    if not all(bool(torch.isfinite(w).all()) for w in weights.values()):
        remedy = "Save it with 32-bit weights." if half else "Training has diverged; save an earlier checkpoint."
        raise InputError(f"The network has weights that are not finite{' in 16 bits' if half else ''}. {remedy}")
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
        raise InputError(f"There is no model file {path}.") from None
    except OSError as error:
        raise InputError(f"The model file {path} cannot be read ({error}).") from None
    _check_format(data, path)
    card = load_card(path)
    if (sha256 := _sha256(data)) != card.sha256:
        raise InputError(
            f"The model file {path} is not the one its card describes: its SHA-256 is {sha256}, the card says "
            f"{card.sha256}. It is damaged or was changed; get it again."
        )
    return card, data


def _check_format(data: bytes, path: Path) -> None:
    """safetensors: 8 bytes of header length (little endian), the header in JSON, then the tensors' bytes."""
    length = int.from_bytes(data[:8], "little")
    if data[8:9] != b"{" or length > MAX_HEADER_BYTES:
        if not data:
            raise InputError(f"The model file {path} is empty. Get it again.")
        zipped = data.startswith(b"PK")  # torch.save since 1.6
        pickled = data[:1] == b"\x80" and data[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")  # protocols 2 to 5
        if zipped or pickled:
            raise InputError(
                f"The model file {path} is a pickle (a .pt or .pth file). Such files can run code when they are "
                "opened, so only safetensors files are accepted; ask its author for one."
            )
        raise InputError(f"The model file {path} is not a safetensors file, the only format that is accepted.")
    try:
        header = json.loads(data[8 : 8 + length])
        end = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        if len(data) >= 8 + length:
            raise InputError(f"The model file {path} has a damaged header. Get it again.") from None
        end = 0
    if len(data) != 8 + length + end:
        how = "cut short" if len(data) < 8 + length + end else "longer than its header says"
        raise InputError(f"The model file {path} is {how} ({len(data)} bytes). Get it again.")


def _build(card: ModelCard, path: Path) -> nn.Module:
    if card.architecture not in ARCHITECTURES:
        raise InputError(
            f'The model {path.name} has the architecture "{card.architecture}", which this version of ASCON does not '
            f"know (it knows {', '.join(ARCHITECTURES)}). Update ASCON, or choose another model."
        )
    try:
        return build(card.architecture, card.settings)
    except InputError as error:
        raise InputError(f"The settings in the card of {path.name} do not fit {card.architecture}: {error}") from None


def _check_weights(weights: dict[str, Any], network: nn.Module, path: Path) -> None:
    """Raises InputError where names or shapes are not the network's."""
    expected = {name: tuple(w.shape) for name, w in network.state_dict().items()}
    given = {name: tuple(w.shape) for name, w in weights.items()}
    problems = [f"{name} is missing" for name in expected.keys() - given.keys()]
    problems += [f"{name} is unknown" for name in given.keys() - expected.keys()]
    problems += [
        f"{name} has shape {given[name]} instead of {expected[name]}"
        for name in expected.keys() & given.keys()
        if given[name] != expected[name]
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise InputError(
            f"The weights in {path.name} do not fit the architecture its card names: "
            f"{'; '.join(sorted(problems)[:3])}{more}. The card or the file is wrong."
        )


def _write(path: Path, weights: bytes, card: ModelCard) -> None:
    """Writes both files, so that they appear in full, the card first: without weights it is no model."""
    with atomic_file(path) as partial, atomic_file(path.with_suffix(".json")) as partial_card:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial_card.write_bytes(card.to_json().encode())
        partial.write_bytes(weights)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
