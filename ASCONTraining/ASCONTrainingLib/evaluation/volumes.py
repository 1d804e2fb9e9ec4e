"""The volumes that models are measured on: LDCT and NDCT of a prepared set, and whether a model has seen them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.imaging.noise import Spacing
from ASCONDenoiseLib.models.card import ModelCard
from ASCONTrainingLib.data.set_index import scan_fingerprints
from ASCONTrainingLib.data.training_set import EvaluationSet

if TYPE_CHECKING:
    from torch import nn

Denoise = Callable[[np.ndarray, Spacing], np.ndarray]
"""From LDCT (S, H, W) and the distances (x, y, z) of its voxels to the output of the same shape."""


@dataclass(frozen=True)
class Candidate:
    """A denoiser that is to be measured.

    Attributes:
        run: the denoiser.
        card: of a model of ours; None for a method of somebody else's.
        note: what it is.
        timed: False where another row has run it already, so that its time would say nothing.
    """

    run: Denoise
    card: ModelCard | None = None
    note: str = ""
    timed: bool = True


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


def of_network(network: nn.Module, card: ModelCard, device: str = "auto") -> Candidate:
    """A network of ours with the output that the product makes of it; `device` as in inference.denoise."""
    from ASCONDenoiseLib.models import inference

    return Candidate(lambda ldct, _: inference.denoise(ldct, network, device=device).voxels, card, card.name)


REMEMBERED = 4
"""Outputs of full strength that are kept for the other strengths: those of one volume, with and without its probes."""


def at_strengths(candidates: Mapping[str, Candidate], percents: Sequence[float]) -> dict[str, Candidate]:
    """The candidates at each of some strengths; a network runs once for all of them, as in the panel.

    Args:
        candidates: name -> denoiser, at full strength.
        percents: 0 to 100.

    Returns:
        "NAME" at 100 %, "NAME, 75 %" at others; all strengths of one after the other. The first is timed.

    Raises:
        InputError: a strength is not in 0..100.
    """
    from ASCONDenoiseLib.imaging.output_rule import blend, check_strength

    for percent in percents:
        check_strength(percent / 100)

    def weaker(full: Denoise, strength: float) -> Denoise:
        return lambda ldct, spacing_mm: blend(ldct, full(ldct, spacing_mm).astype(ldct.dtype), strength)

    found = {}
    for name, candidate in candidates.items():
        full = _remembering(candidate.run)
        for number, percent in enumerate(dict.fromkeys(percents)):
            run = full if percent == 100 else weaker(full, percent / 100)
            title = name if percent == 100 else f"{name}, {percent:g} %"
            found[title] = replace(candidate, run=run, timed=number == 0)
    return found


def _remembering(run: Denoise) -> Denoise:
    """The same function, which runs once for each of the last inputs."""
    outputs: dict[bytes, np.ndarray] = {}

    def remembered(ldct: np.ndarray, spacing_mm: Spacing) -> np.ndarray:
        key = sha256(ldct.tobytes()).digest()
        if key not in outputs:
            while len(outputs) >= REMEMBERED:
                del outputs[next(iter(outputs))]
            outputs[key] = run(ldct, spacing_mm)
        return outputs[key]

    return remembered


def check_unseen(candidates: Mapping[str, Candidate], slices: EvaluationSet, allow_seen: bool) -> list[str]:
    """Look for scans that a model has seen.

    `set_index.scan_fingerprints` says what this does not see: another scan of a patient that a model was trained on.

    Args:
        candidates: name -> denoiser.
        slices: what the models are to be measured on.
        allow_seen: warn of scans that a model was trained on, instead of refusing them.

    Returns:
        Warnings.

    Raises:
        InputError: a model was trained on one of the scans, as its card has it.
    """
    cards = {name: candidate.card for name, candidate in candidates.items()}
    return warnings_about(cards, scan_fingerprints(slices.folder, slices.index.of(slices.split)), allow_seen)


def warnings_about(cards: Mapping[str, ModelCard | None], scans: Mapping[str, str], allow_seen: bool) -> list[str]:
    """The same for `scans`, fingerprint -> name. Phantoms are nobody's scans: without scans there are no warnings."""
    warnings = []
    for name, card in cards.items() if scans else ():
        if card is None:
            warnings.append(f"Nothing tells what {name} was made with: make sure it saw none of these scans.")
            continue
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
