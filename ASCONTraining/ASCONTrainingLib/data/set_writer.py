"""Writing a training set volume by volume: one that was begun with the same settings goes on, volumes are kept."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.io.atomic import atomic_file, remove_partial
from ASCONTrainingLib.data.background import background_cells
from ASCONTrainingLib.data.pairing import PairedVolume
from ASCONTrainingLib.data.set_index import (
    ARRAYS,
    INDEX,
    Index,
    PreparedVolume,
    array_path,
    open_array,
    read_index,
    write_index,
)

logger = logging.getLogger(__name__)

Log = Callable[[str], None]
Progress = Callable[[int, int], None]

MAX_BACKGROUND = {"train": 0.85, "validation": 0.85, "test": 0.85}
"""Fraction of background from which on the paper's notebook leaves out a slice (Mayo-2016, and Mayo-2020's test)."""


@dataclass(frozen=True)
class VolumePlan:
    """A volume to be made, and how.

    Attributes:
        name: what its files are to be called; of other characters than letters, digits and ._- they have none.
        patient, split, source, dose: as in PreparedVolume.
        make: makes the arrays.
    """

    name: str
    patient: str
    split: str
    source: str
    dose: float | None
    make: Callable[[], PairedVolume]

    @property
    def file_name(self) -> str:
        return re.sub(r"[^A-Za-z0-9._-]+", "_", self.name).strip("._") or "volume"


def write_set(
    plans: list[VolumePlan],
    out: str | Path,
    kind: str,
    settings: dict[str, Any],
    *,
    max_background: dict[str, float] = MAX_BACKGROUND,
    log: Log,
    progress: Progress | None,
    skip_unusable: bool = False,
) -> Index:
    """Make what is not there yet. A volume is whole before the index names it.

    Args:
        plans: the volumes.
        out: folder of the set.
        kind, settings, max_background: as in Index.
        log: gets a line for each volume.
        progress: called with (volumes done, volumes in all).
        skip_unusable: leave out and log what raises InputError.

    Raises:
        InputError: two volumes have one name, `out` holds another set or cannot be made, or no volume can be used.
        WriteError: the disk is full or protected; what was done before is kept.
    """
    out, names = Path(out), [plan.file_name for plan in plans]
    doubles = [name for name, n in Counter(names).items() if n > 1]
    if doubles:
        raise InputError(
            f"{len(doubles)} names stand for several volumes ({', '.join(doubles[:5])}): rename the others."
        )
    _make_folder(out)
    settings = json.loads(json.dumps(settings))  # as they will be read
    earlier = _earlier(out, kind, settings)
    done = {name: earlier[name] for name, plan in zip(names, plans, strict=True) if _is_done(plan, earlier, out)}
    for path in (out / INDEX, *(array_path(out, name, what) for name in names if name not in done for what in ARRAYS)):
        remove_partial(path)  # what a preparation that was killed has left of it
    left_out: dict[str, InputError] = {}

    def index() -> Index:
        volumes = tuple(done[name] for name in names if name in done)
        return Index(kind, settings, max_background, len(plans) - len(left_out), volumes)

    for number, (name, plan) in enumerate(zip(names, plans, strict=True)):
        if progress:
            progress(number, len(plans))
        if name in done:
            continue
        try:
            arrays = plan.make()
        except InputError as error:
            if not skip_unusable:
                raise
            left_out[name] = error
            log(f"{name} is left out: {error}")
            continue
        for warning in arrays.warnings:
            logger.warning("%s", warning)
        done[name] = _save(plan, arrays, out)
        log(_line(done[name]))
        write_index(index(), out)
    if not done:
        raise InputError(f"None of {len(plans)} volumes can be used. {next(reversed(left_out.values()))}")
    write_index(index(), out)
    if progress:
        progress(len(plans), len(plans))
    if left_out:
        log(f"{len(left_out)} of {len(plans)} volumes are left out.")
    log(f"{out}: {index()}")
    return index()


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"The folder {out} cannot be made ({error.strerror}): choose another.") from error


def _earlier(out: Path, kind: str, settings: dict[str, Any]) -> dict[str, PreparedVolume]:
    """The volumes of a set that was begun, by name. Raises InputError where it was made otherwise."""
    if not (out / INDEX).exists():
        return {}
    index = read_index(out)
    keys = [key for key in {**index.settings, **settings} if index.settings.get(key) != settings.get(key)]
    if index.kind != kind or keys:
        what = f"by {index.kind}, not {kind}" if index.kind != kind else f"with another {' and '.join(keys)}"
        raise InputError(
            f"{out} holds a set of {len(index.volumes)} volumes that was made {what}: choose another folder, or "
            "remove this one."
        )
    return {volume.name: volume for volume in index.volumes}


def _is_done(plan: VolumePlan, earlier: dict[str, PreparedVolume], out: Path) -> bool:
    volume = earlier.get(plan.file_name)
    if volume is None or any(getattr(volume, f) != getattr(plan, f) for f in ("patient", "split", "source", "dose")):
        return False
    try:
        for what in ARRAYS:
            open_array(out, volume, what)
    except InputError:
        return False
    return True


def _save(plan: VolumePlan, pair: PairedVolume, out: Path) -> PreparedVolume:
    arrays = {"ndct": pair.ndct, "ldct": pair.ldct, "background": background_cells(pair.ndct)}
    for what, array in arrays.items():
        with atomic_file(array_path(out, plan.file_name, what), fsync=True) as path, open(path, "wb") as file:
            np.save(file, array, allow_pickle=False)
    s, h, w = (int(n) for n in pair.ndct.shape)
    x, y, z = (float(mm) for mm in pair.spacing_mm)
    return PreparedVolume(
        plan.file_name, plan.patient, plan.split, (s, h, w), (x, y, z), plan.dose, plan.source, pair.unmatched
    )


def _line(volume: PreparedVolume) -> str:
    text = f"{volume.name}: {volume.slices} pairs, {volume.split}"
    text += f", dose {volume.dose:.3g}" if volume.dose is not None else ""
    if any(volume.unmatched):
        text += " ({} full-dose and {} low-dose slices have no partner)".format(*volume.unmatched)
    return text
