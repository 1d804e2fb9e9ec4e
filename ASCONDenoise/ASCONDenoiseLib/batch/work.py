"""One scan of a batch: what a process of a cluster does. Its result is a row of the table, whatever happens."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ASCONDenoiseLib.errors import AsconError, InputError
from ASCONDenoiseLib.io.atomic import remove_partial
from ASCONDenoiseLib.io.results import VolumeFile, destination
from ASCONDenoiseLib.models.scan import DenoisedScan
from ASCONDenoiseLib.worker.job import Job
from ASCONDenoiseLib.worker.series import SeriesRequest, denoised
from ASCONDenoiseLib.worker.warm_model import WarmModel

DONE, THERE, REFUSED, FAILED, LEFT_ALONE = "done", "was there", "refused", "failed", "left alone"

_warm = WarmModel()
"""Of this process: the second scan does not pay for the loading of the model."""

_one_at_a_time = threading.Lock()
"""A worker of somebody's cluster may have several threads. The network takes all cores or the whole GPU anyway."""


@dataclass(frozen=True)
class Row:
    """What became of a scan.

    Attributes:
        source: as it lies below the folder that was given.
        state: one of the above.
        result: where it is.
        reason: of all states but done.
        seconds: of the network.
        noise_before_hu, noise_after_hu: in the same places of soft tissue; None where there were none.
        shifts_hu: tissue -> mean shift.
        warnings: sentences.
        thumbnail: a PNG.
    """

    source: str
    state: str
    result: str = ""
    reason: str = ""
    model: str = ""
    strength: float | None = None
    device: str = ""
    slices: int = 0
    seconds: float | None = None
    noise_before_hu: float | None = None
    noise_after_hu: float | None = None
    shifts_hu: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    thumbnail: str = ""


def denoise_one(source: str, request: dict[str, Any], thumbnail: str) -> Row:
    """Denoise a scan.

    Args:
        source: for the table.
        request: of `worker.series.SeriesRequest`.
        thumbnail: the PNG to draw.
    """
    job = Job({"id": 0, "command": "denoise_series", **request}, lambda *_, **__: None)
    place = Path(request["output"])
    try:
        remove_unfinished(place, Path(thumbnail))  # of a worker that died
        if os.path.lexists(place):  # it was free when the batch began
            return Row(source, THERE, str(place), "A worker that died had written it.", strength=request["strength"])
        place.parent.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time:
            scan = denoised(job, job.request(SeriesRequest), _warm)
        return _row(source, scan, str(place), Path(thumbnail))
    except InputError as error:
        return Row(source, REFUSED, reason=str(error))
    except Exception as error:
        text = str(error) if isinstance(error, AsconError) else f"{type(error).__name__}: {error}"
        return Row(source, FAILED, reason=text)


def remove_unfinished(place: Path, thumbnail: Path) -> None:
    """Remove what a process that was killed has left of a scan that it had not ended.

    Args:
        place: of the result, free when the batch began.
        thumbnail: its picture.
    """
    result = destination(place)
    for path in (place, thumbnail, *([result.record_path] if isinstance(result, VolumeFile) else [])):
        remove_partial(path)
    if isinstance(result, VolumeFile) and not result.record_path.exists():
        place.unlink(missing_ok=True)  # the record would have come next


def _row(source: str, scan: DenoisedScan, result: str, thumbnail: Path) -> Row:
    record, warnings = scan.record, [*scan.record["notes"], *scan.record["warnings"]]
    measured: dict[str, Any] = {}
    try:
        one = slice(scan.volume.slices)  # a phase of a sequence stands for all
        before, after, spacing_mm = scan.volume.voxels[one], scan.voxels[one], scan.volume.geometry.spacing_mm
        measured = _measured(before, after, spacing_mm)
        _draw(before, after, spacing_mm, thumbnail)
        measured["thumbnail"] = str(thumbnail)
    except Exception as error:  # the result is there all the same
        warnings.append(f"It could not be measured or drawn ({error}).")
    return Row(
        source,
        DONE,
        result,
        model=f"{record['model']} {record['model_version']}",
        strength=record["strength"],
        device=record["device"],
        slices=record["slices"],
        seconds=record["seconds"],
        warnings=tuple(warnings),
        **measured,
    )


def _measured(before: np.ndarray, after: np.ndarray, spacing_mm: tuple[float, float, float]) -> dict[str, Any]:
    """Noise and shifts for a row."""
    from ASCONDenoiseLib.imaging.image_quality import quality

    found = quality(before, after, spacing_mm)
    return {
        "noise_before_hu": found.noise_before.sd_hu if found.noise_before else None,
        "noise_after_hu": found.noise_after.sd_hu if found.noise_after else None,
        "shifts_hu": {one.tissue: one.shift_hu for one in found.hu_shift},
    }


def _draw(before: np.ndarray, after: np.ndarray, spacing_mm: tuple[float, ...], png: Path) -> None:
    """The middle slice before, after, and the difference, small."""
    from PIL import Image

    from ASCONDenoiseLib.io.atomic import atomic_file
    from ASCONDenoiseLib.reports.pictures import Panel, side_by_side_png

    middle = len(before) // 2
    difference_hu = after[middle].astype(np.float32) - before[middle]
    panels = [Panel("before", before[middle]), Panel("after", after[middle])]
    panels.append(Panel("difference", difference_hu, difference=True))
    png.parent.mkdir(parents=True, exist_ok=True)
    side_by_side_png(panels, png, spacing_mm=spacing_mm)
    with Image.open(png) as picture:
        picture.load()
    picture.thumbnail((640, 640))
    with atomic_file(png) as file:
        picture.save(file, "PNG", optimize=True)
