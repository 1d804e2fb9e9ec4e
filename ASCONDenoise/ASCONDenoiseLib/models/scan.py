"""A whole scan, from where it lies to where its denoised form goes: the one road of command, node and batches.

All that can be refused is refused before the network runs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ASCONDenoiseLib.errors import Failure
from ASCONDenoiseLib.imaging.output_rule import blend
from ASCONDenoiseLib.imaging.strength import DEFAULT_STRENGTH, Target, noise_by_strength
from ASCONDenoiseLib.io.reading import read_volume
from ASCONDenoiseLib.io.results import SeriesFolder, VolumeFile, describe, file_sha256
from ASCONDenoiseLib.io.volume import Volume, like
from ASCONDenoiseLib.models.card import ModelCard

if TYPE_CHECKING:
    from torch import nn

    from ASCONDenoiseLib.models.inference import Result

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScanSettings:
    """How a scan is denoised; as `inference.denoise` has it.

    Attributes:
        strength: 0 to 1, or what it is for.
        device: as in `devices.pick_device`.
        precision: one of `mixed_precision.PRECISIONS`.
        batch: slices at once; None: what fits.
    """

    strength: float | Target = DEFAULT_STRENGTH
    device: str = "auto"
    precision: str = "auto"
    batch: int | None = None


@dataclass(frozen=True)
class DenoisedScan:
    """What was done.

    Attributes:
        volume: as it was read.
        voxels: (S, H, W), denoised.
        record: `record.denoising_record`.
        files: that were written.
    """

    volume: Volume
    voxels: np.ndarray
    record: dict[str, Any]
    files: list[Path]


def denoise_scan(
    source: Path,
    output: VolumeFile | SeriesFolder,
    load: Callable[[int, str], tuple[nn.Module, ModelCard, str]],
    settings: ScanSettings,
    *,
    series_uid: str | None = None,
    force: bool = False,
    warn: Callable[[str], None] = lambda _: None,
    progress: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> DenoisedScan:
    """Reads a scan, denoises it and writes the result with its record.

    Args:
        source: as `read_volume` takes it.
        output: where the result goes.
        load: called with the number of slices and the device once all else is known to be right; gives network, card
            and a sentence on the choice of the model, or "".
        settings: of the work.
        series_uid: which series of a DICOM folder, where there are several.
        force: replaces an existing file.
        warn: called with each sentence about the volume, before the network runs.
        progress: called with slices done, of all.
        cancelled: asked before each batch.

    Raises:
        InputError: source, output, model or device cannot be used.
        Failure: no memory, no space, a fault of the device.
        Cancelled: `cancelled` returned True.
    """
    name = source.resolve().name
    output.check(source, force=force)
    volume = read_volume(source, series_uid, sequence=True)
    output.check_volume(volume, name)
    from ASCONDenoiseLib.models.devices import pick_device
    from ASCONDenoiseLib.models.inference import denoise
    from ASCONDenoiseLib.models.record import denoising_record
    from ASCONDenoiseLib.models.suitability import warnings_of

    device = str(pick_device(settings.device))
    network, card, note = load(len(volume.voxels), device)
    logger.info("model %s %s, sha256 %s", card.name, card.version, card.sha256)
    warnings = warnings_of(volume, name, card)
    for sentence in (*volume.notes, *([note] if note else []), *warnings):
        warn(sentence)
    target = settings.strength if isinstance(settings.strength, Target) else None
    result = denoise(
        volume.voxels,
        network,
        strength=1.0 if isinstance(settings.strength, Target) else settings.strength,
        device=device,
        batch=settings.batch,
        precision=settings.precision,
        padding_hu=volume.padding_hu,
        progress=progress,
        cancelled=cancelled,
    )
    if note:
        result = replace(result, notes=(note, *result.notes))
    if target is not None:
        result = for_target(result, volume.voxels, volume.geometry.spacing_mm, target)
    record = denoising_record(card, result, volume, name, warnings, target) | _digest_of(source)
    files = output.write(like(volume, result.voxels), record, force=force)
    logger.info("wrote %s: %s", output.path, describe(record))
    return DenoisedScan(volume, result.voxels, record, files)


def for_target(result: Result, voxels_hu: np.ndarray, spacing_mm: tuple[float, float, float], target: Target) -> Result:
    """A result of strength 1 as weak as its target wants it, with a note on the noise before and after.

    Args:
        result: of `inference.denoise`; its voxels are overwritten.
        voxels_hu: (S, H, W), what was denoised.
        spacing_mm: (x, y, z).
        target: of the strength.
    """
    noise = noise_by_strength(voxels_hu, result.voxels, spacing_mm)
    strength, note = target.strength(noise)
    if strength < 1:
        blend(voxels_hu, result.voxels, strength, out=result.voxels)
    notes = [note] if note else []
    if noise is not None:
        notes.append(f"noise of {noise.at(0):.1f} HU became {noise.at(strength):.1f} HU at {100 * strength:.0f} %")
    return replace(result, strength=strength, notes=(*result.notes, *notes))


def _digest_of(source: Path) -> dict[str, str]:
    """What a record says of a source that is one file, so that its result is known again whatever its name."""
    if not source.is_file():
        return {}
    try:
        return {"source_sha256": file_sha256(source)}
    except OSError as error:
        raise Failure(f"{source} could be read before and cannot now: {error.strerror}.") from error
