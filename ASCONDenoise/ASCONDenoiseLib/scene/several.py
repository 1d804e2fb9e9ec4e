"""Several volumes, one after the other: what fails stops nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ASCONDenoiseLib.errors import AsconError, Cancelled
from ASCONDenoiseLib.scene.operations import Operation


@dataclass
class Several:
    """What became of several volumes.

    Attributes:
        outputs: volume nodes that were made, in the order of the work.
        failures: name of a volume, and a sentence that says why there is no result.
    """

    outputs: list[Any] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)


def one_by_one(volumes: Sequence[Any], denoise: Callable[[Any], Operation], begins: Callable[[int], None]) -> Operation:
    """Denoises volumes; returns Several. What was made before it is cancelled stays.

    Args:
        volumes: volume nodes.
        denoise: starts `operations.denoise` for one of them; an AsconError where that cannot be.
        begins: called with the place of a volume, from 0, before its turn.
    """
    several = Several()
    names = [volume.GetName() for volume in volumes]  # one that is removed meanwhile still has it
    for number, (name, volume) in enumerate(zip(names, volumes, strict=True)):
        begins(number)
        try:
            if volume.GetScene() is None:
                raise AsconError(_REMOVED)
            run = yield from denoise(volume)
            run.remove_files()  # its strength stays
            several.outputs.append(run.output)
        except Cancelled:
            raise
        except Exception as error:
            if volume.GetScene() is None:
                several.failures.append((name, _REMOVED))
            elif isinstance(error, AsconError):
                several.failures.append((name, str(error)))
            else:
                several.failures.append((name, f"{type(error).__name__}: {error}"))
    return several


_REMOVED = "It was removed from the scene."
