"""The volumes that models are measured on: LDCT and NDCT of a prepared set, and whether a model has seen them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.imaging.noise import Spacing
from ASCONDenoiseLib.models.card import ModelCard
from ASCONTrainingLib.data.set_index import scan_fingerprints
from ASCONTrainingLib.data.training_set import EvaluationSet

if TYPE_CHECKING:
    from torch import nn

Denoise = Callable[[np.ndarray], np.ndarray]
"""From LDCT (S, H, W) to its output; slices are looked at whole."""


@dataclass(frozen=True)
class VolumePair:
    """Slices of one volume.

    Attributes:
        name: of the volume.
        ndct_hu, ldct_hu: (S, H, W) in HU.
        spacing_mm: (x, y, z).
        patient: whose it is.
        indices: numbers of the slices in the volume.
    """

    name: str
    ndct_hu: np.ndarray
    ldct_hu: np.ndarray
    spacing_mm: Spacing
    patient: str = ""
    indices: tuple[int, ...] = ()


def volume_pairs(slices: EvaluationSet) -> Iterator[VolumePair]:
    """Yield the slices of a split volume by volume; volumes of which none is in the set are left out."""
    for number, volume in enumerate(slices.index.of(slices.split)):
        pairs = [slices[i] for i in range(len(slices)) if slices.table[i][0] == number]
        if pairs:
            ndct, ldct = np.stack([pair.ndct_hu for pair in pairs]), np.stack([pair.ldct_hu for pair in pairs])
            indices = tuple(pair.index for pair in pairs)
            yield VolumePair(volume.name, ndct, ldct, volume.spacing_mm, volume.patient, indices)


def denoiser(network: nn.Module, device: str) -> Denoise:
    """A network as a function from LDCT (S, H, W) to its output, as the product makes it."""
    from ASCONDenoiseLib.models import inference

    return lambda ldct: inference.denoise(ldct, network, device=device).voxels


def check_unseen(cards: Mapping[str, ModelCard], slices: EvaluationSet, allow_seen: bool) -> list[str]:
    """Look for scans that a model has seen.

    `set_index.scan_fingerprints` says what this does not see: another scan of a patient that a model was trained on.

    Args:
        cards: name of the model -> its card.
        slices: what the models are to be measured on.
        allow_seen: warn of scans that a model was trained on, instead of refusing them.

    Returns:
        Warnings.

    Raises:
        InputError: a model was trained on one of the scans, as its card has it.
    """
    return warnings_about(cards, scan_fingerprints(slices.folder, slices.index.of(slices.split)), allow_seen)


def warnings_about(cards: Mapping[str, ModelCard], scans: Mapping[str, str], allow_seen: bool) -> list[str]:
    """The same for `scans`, fingerprint -> name. Phantoms are nobody's scans: without scans there are no warnings."""
    warnings = []
    for name, card in cards.items() if scans else ():
        seen = card.scans
        if not seen:
            warnings.append(f"The card of {name} does not list the scans it was trained on: make sure it saw none.")
        if seen.get("unlisted"):
            earlier = ", ".join(seen["unlisted"])
            warnings.append(f"{name} began with {earlier}, whose card does not list its scans: make sure it saw none.")
        for split, verb in (("train", "was trained on"), ("validation", "was chosen by")):
            common = [scans[fingerprint] for fingerprint in seen.get(split, ()) if fingerprint in scans]
            if not common:
                continue
            which = ", ".join(common[:3]) + (", ..." if len(common) > 3 else "")
            sentence = f"The model {name} {verb} {len(common)} of these {len(scans)} scans ({which})."
            if split == "train" and not allow_seen:
                raise InputError(f"{sentence} Its numbers would be too good: take scans that no model has seen.")
            warnings.append(f"{sentence} Its numbers may be too good.")
    return warnings
