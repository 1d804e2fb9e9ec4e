"""The record of a denoised volume: which model made it, and how."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ASCONDenoiseLib.io.results import made_by
from ASCONDenoiseLib.io.volume import Volume

if TYPE_CHECKING:
    from ASCONDenoiseLib.imaging.strength import Target
    from ASCONDenoiseLib.models.card import ModelCard
    from ASCONDenoiseLib.models.inference import Result


def denoising_record(
    card: ModelCard,
    result: Result,
    source: Volume,
    source_name: str,
    warnings: Sequence[str] = (),
    target: Target | None = None,
) -> dict[str, Any]:
    """How a denoised volume came about.

    Args:
        card: of the model.
        result: of the inference.
        source: what was denoised; its notes go before those of the result.
        source_name: of its file or folder.
        warnings: of `suitability`.
        target: what the strength was chosen for, if it was.
    """
    wanted: dict[str, Any] = {} if target is None else {"strength_target": target.name}
    if target is not None and target.dose is not None:
        wanted["dose"] = target.dose
    return made_by("denoise", source, source_name) | {
        "model": card.name,
        "model_version": card.version,
        "model_sha256": card.sha256,
        "device": result.device,
        "precision": result.precision,
        "strength": result.strength,
        **wanted,
        "seconds": round(result.seconds, 2),
        "notes": [*source.notes, *result.notes],
        "warnings": list(warnings),
    }
