"""A training set on disk: its index, its arrays, and the fingerprints by which models know the scans they have seen.

A set is a folder with index.json and for each volume three arrays, which are memory-mapped:
NAME.ndct.npy and NAME.ldct.npy, (S, H, W) int16 HU, and NAME.background.npy, (S, ceil(H / 8), ceil(W / 8)) uint8, as
`background.background_cells` makes it. `prepare.py` and `simulated.py` make such folders.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ASCONDenoiseLib.checked_json import from_json, parse_json
from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.io.atomic import atomic_file
from ASCONTrainingLib.data.background import CELL
from ASCONTrainingLib.data.splits import SPLITS, check_no_patient_twice

ARRAYS = ("ndct", "ldct", "background")
"""What is stored of each volume."""

INDEX = "index.json"

FORMAT = 1


@dataclass(frozen=True)
class PreparedVolume:
    """One volume of a set.

    Attributes:
        name: of its files.
        patient: whose it is.
        split: "train", "validation" or "test".
        shape: slices, rows, columns.
        spacing_mm: (x, y, z); z is that of the series, also where some of its slices had no partner.
        dose: of a simulated LDCT, as a fraction of the normal dose; None for measured pairs.
        source: where the NDCT came from, relative to the folder that was prepared.
        unmatched: slices of the NDCT and of the LDCT series without a partner, left out.
    """

    name: str
    patient: str
    split: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    dose: float | None
    source: str
    unmatched: tuple[int, int] = (0, 0)

    @property
    def slices(self) -> int:
        return self.shape[0]

    @property
    def is_phantom(self) -> bool:
        return self.source.startswith("phantom of ")


@dataclass(frozen=True)
class Index:
    """What index.json says.

    Attributes:
        kind: "mayo2016", "mayo2020", "paired" or "simulate".
        settings: what the set was made with; a preparation goes on only where these are the same.
        max_background: for each split, the fraction of background from which on a patch or slice is left out.
        planned: number of volumes of the whole set.
        volumes: those that are done.
    """

    kind: str
    settings: dict[str, Any]
    max_background: dict[str, float]
    planned: int
    volumes: tuple[PreparedVolume, ...] = ()

    @property
    def simulated(self) -> bool:
        return self.kind == "simulate"

    def of(self, split: str) -> list[PreparedVolume]:
        return [volume for volume in self.volumes if volume.split == split]

    def __str__(self) -> str:
        """Patients and slices of each split, as one line."""
        parts = []
        for split in SPLITS:
            volumes = self.of(split)
            patients, slices = len({v.patient for v in volumes}), sum(v.slices for v in volumes)
            parts.append(f"{split} {counted(patients, 'patient')} with {counted(slices, 'slice')}")
        return ", ".join(parts)


def counted(n: int, what: str) -> str:
    """1 slice, 2 slices"""
    return f"{n} {what}{'' if n == 1 else 's'}"


def read_index(folder: str | Path) -> Index:
    """Read and check the index of a set.

    Raises:
        InputError: no set, another format, an unknown split, a name twice, or a patient in two splits.
    """
    path = Path(folder) / INDEX
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"{folder} holds no index.json, so it is no prepared set: make one with `ascon prepare`."
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is damaged or protected: prepare the set again.") from error
    try:
        if content.pop("format") != FORMAT:
            raise ValueError
        for entry in (content, *content["volumes"]):
            entry.pop("simulated" if entry is content else "slices")  # for other readers
        index = from_json(Index, content)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise InputError(f"{path} is of another version of ASCON: prepare the set again, in a new folder.") from None
    names = Counter(volume.name for volume in index.volumes)
    unknown = {volume.split for volume in index.volumes} - set(SPLITS)
    if unknown or max(names.values(), default=1) > 1 or set(index.max_background) != set(SPLITS):
        raise InputError(f"{path} is inconsistent (a name twice, or an unknown split): prepare the set again.")
    check_no_patient_twice({split: [volume.patient for volume in index.of(split)] for split in SPLITS}, path)
    return index


def write_index(index: Index, folder: Path) -> None:
    """Replace index.json in one step. Raises WriteError."""
    content = {"format": FORMAT, "kind": index.kind, "simulated": index.simulated} | asdict(index)
    content["volumes"] = [asdict(volume) | {"slices": volume.slices} for volume in index.volumes]
    with atomic_file(folder / INDEX, fsync=True) as path:
        path.write_text(json.dumps(content, indent=1), encoding="utf-8")


def array_path(folder: Path, name: str, what: str) -> Path:
    """The file of one of ARRAYS of the volume `name`."""
    return Path(folder) / f"{name}.{what}.npy"


def open_array(folder: Path, volume: PreparedVolume, what: str) -> np.ndarray:
    """Open the memory map of one of ARRAYS. Raises InputError where the file is lost, truncated or another one."""
    s, h, w = volume.shape
    background = what == "background"
    shape, dtype = ((s, -(-h // CELL), -(-w // CELL)), np.dtype("u1")) if background else ((s, h, w), np.dtype("i2"))
    path = array_path(folder, volume.name, what)
    try:
        opened = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} is missing or damaged: run the same `ascon prepare` again.") from error
    if opened.shape != shape or opened.dtype != dtype:
        raise InputError(
            f"{path} holds {opened.shape} {opened.dtype}, the index says {shape} {dtype}: prepare it again."
        )
    return opened


def scan_fingerprints(folder: Path, volumes: Sequence[PreparedVolume]) -> dict[str, str]:
    """Fingerprint -> name of each scan among `volumes`; phantoms are nobody's, and are left out.

    A fingerprint is 16 hexadecimal digits of the SHA-256 of the NDCT's middle slice, shape and int16 values. Cards list
    those of the scans that a model has seen. They tell whether a scan is among them to who has that scan, and nothing
    to others: a name can be guessed, voxels cannot. What they do not see is another scan of the same patient, another
    reconstruction of the same scan, and a volume of other slices of it.

    Raises InputError where a file is lost.
    """
    names = {}
    for volume in volumes:
        if not volume.is_phantom:
            middle = open_array(folder, volume, "ndct")[volume.slices // 2]
            content = "{}x{}:".format(*middle.shape).encode() + middle.astype("<i2").tobytes()
            names[hashlib.sha256(content).hexdigest()[:16]] = volume.name
    return names
