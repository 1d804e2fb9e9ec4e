"""What a command says of the volume that it was given: what reading had to accept, and whether it suits the work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ASCONDenoiseLib.commands.console import Console

if TYPE_CHECKING:
    from ASCONDenoiseLib.io.volume import Volume
    from ASCONDenoiseLib.models.card import ModelCard


def say_warnings(console: Console, volume: Volume, name: str, *cards: ModelCard) -> list[str]:
    """Say the volume's notes and `suitability.warnings_of`; return the latter, each once, for a record.

    Args:
        console: where to.
        volume: as it was read.
        name: of its file or folder.
        cards: of the models that are to be used; without one, what every model expects is looked at.
    """
    from ASCONDenoiseLib.models.suitability import warnings_of

    judged = [sentence for card in cards or (None,) for sentence in warnings_of(volume, name, card)]
    warnings = list(dict.fromkeys(judged))
    for sentence in (*volume.notes, *warnings):
        console.warn(sentence)
    return warnings
