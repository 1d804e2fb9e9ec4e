"""Training sets on disk: pairs of LDCT and NDCT split by patient, what counts in them, and how it is served.

A set is a folder with index.json and for each volume three arrays, which are memory-mapped:
NAME.ndct.npy and NAME.ldct.npy, (S, H, W) int16 HU, and NAME.background.npy, (S, ceil(H / 8), ceil(W / 8)) uint8, the
pixels of the NDCT at BACKGROUND_HU or below in each cell of 8x8. `prepare.py` makes such folders.

Everything random is a pure function of seed, epoch, turn and index: a training that resumes, or that is spread over
several processes, sees what an uninterrupted one in one process sees.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ASCONDenoiseLib.imaging import hounsfield
from ASCONDenoiseLib.physics.dose import noise_factor
from ASCONTrainingLib.data import augmentation

SPLITS = ("train", "validation", "test")

BACKGROUND_HU = -500.0
"""Air and lung lie at this value or below; the paper's notebook leaves out what has too much of them."""

CELL = 8
"""Side of the cells in which background is counted, in pixels: patches lie on this grid."""

ARRAYS = ("ndct", "ldct", "background")
"""What is stored of each volume."""

FORMAT = 1

Key = tuple[int, int, int]
"""(epoch, turn, index): one item as one epoch sees it; `turn` counts the times that a long epoch has been round."""


class DataError(ValueError):
    """A data set cannot be made or used as it is; the text says why, where, with counts, and what to do."""


@dataclass(frozen=True)
class PreparedVolume:
    """One volume of a set.

    Attributes:
        name: of its files.
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
        max_background: for each split, the share of background from which on a patch or slice is left out.
        planned: volumes of the whole set; `volumes` has those that are done.
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
            parts.append(f"{split} {_count(patients, 'patient')} with {_count(slices, 'slice')}")
        return ", ".join(parts)


def read_index(folder: str | Path) -> Index:
    """Read and check the index of a set.

    Raises:
        DataError: no set, another format, an unknown split, a name twice, or a patient in two splits.
    """
    path = Path(folder) / "index.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(
            f"{folder} holds no index.json, so it is no prepared set: make one with `ascon prepare`."
        ) from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is damaged or protected: prepare the set again.") from error
    try:
        if content.pop("format") != FORMAT:
            raise ValueError
        content.pop("simulated")
        volumes = tuple(_volume_from(entry) for entry in content.pop("volumes"))
        index = Index(volumes=volumes, **content)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise DataError(f"{path} is of another version of ASCON: prepare the set again, in a new folder.") from None
    _check(index, path)
    return index


def write_index(index: Index, folder: Path) -> None:
    """Replace index.json in one step."""
    content = {"format": FORMAT, "kind": index.kind, "simulated": index.simulated} | asdict(index)
    content["volumes"] = [asdict(volume) | {"slices": volume.slices} for volume in index.volumes]
    partial = folder / ".index.json.partial"
    with open(partial, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, folder / "index.json")


def check_patients(patients_of: dict[str, list[str]], where: str | Path) -> None:
    """Raise DataError where a patient is in two splits: its anatomy would leak from training into the result."""
    counts = Counter(patient for patients in patients_of.values() for patient in set(patients))
    doubles = sorted(patient for patient, n in counts.items() if n > 1)
    if doubles:
        named = ", ".join(doubles[:10]) + (", ..." if len(doubles) > 10 else "")
        raise DataError(
            f"{where} has {_count(len(doubles), 'patient')} in more than one split ({named}): each patient may be in "
            "one only."
        )


def _check(index: Index, path: Path) -> None:
    names = Counter(volume.name for volume in index.volumes)
    unknown = {volume.split for volume in index.volumes} - set(SPLITS)
    if unknown or max(names.values(), default=1) > 1 or set(index.max_background) != set(SPLITS):
        raise DataError(f"{path} is inconsistent (a name twice, or an unknown split): prepare the set again.")
    check_patients({split: [v.patient for v in index.of(split)] for split in SPLITS}, path)


def _volume_from(entry: dict[str, Any]) -> PreparedVolume:
    entry = {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items() if key != "slices"}
    return PreparedVolume(**entry)


def open_array(folder: Path, volume: PreparedVolume, what: str) -> np.ndarray:
    """Memory map of one of ARRAYS; DataError where the file is lost, truncated or another one."""
    s, h, w = volume.shape
    shape, dtype = ((s, -(-h // CELL), -(-w // CELL)), np.uint8) if what == "background" else ((s, h, w), np.int16)
    path = Path(folder) / f"{volume.name}.{what}.npy"
    try:
        opened = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} is missing or damaged: run the same `ascon prepare` again.") from error
    if opened.shape != shape or opened.dtype != dtype:
        raise DataError(
            f"{path} holds {opened.shape} {opened.dtype}, the index says {shape} {np.dtype(dtype)}: prepare it again."
        )
    return opened


def scan_fingerprints(folder: Path, volumes: Sequence[PreparedVolume]) -> dict[str, str]:
    """Fingerprint -> name of each scan among `volumes`; phantoms are nobody's, and are left out.

    A fingerprint is 16 hexadecimal digits of the SHA-256 of the NDCT's middle slice, shape and int16 values. Cards list
    those of the scans that a model has seen. They tell whether a scan is among them to who has that scan, and nothing
    to others: a name can be guessed, voxels cannot. What they do not see is another scan of the same patient, another
    reconstruction of the same scan, and a volume of other slices of it.

    Raises DataError where a file is lost.
    """
    found = {}
    for volume in volumes:
        if not volume.is_phantom:
            middle = open_array(folder, volume, "ndct")[volume.slices // 2]
            content = "{}x{}:".format(*middle.shape).encode() + middle.astype("<i2").tobytes()
            found[hashlib.sha256(content).hexdigest()[:16]] = volume.name
    return found


# ----------------------------------------------------------------------------------------------------------- background


def background_cells(ndct_hu: np.ndarray) -> np.ndarray:
    """(S, H, W) HU -> (S, ceil(H / 8), ceil(W / 8)) uint8: pixels at BACKGROUND_HU or below in each 8x8 cell."""
    s, h, w = ndct_hu.shape
    rows, columns = -(-h // CELL), -(-w // CELL)
    cells = np.empty((s, rows, columns), np.uint8)
    for slice_cells, image in zip(cells, ndct_hu, strict=True):
        air = np.zeros((rows * CELL, columns * CELL), bool)
        air[:h, :w] = image <= BACKGROUND_HU
        slice_cells[:] = air.reshape(rows, CELL, columns, CELL).sum((1, 3))
    return cells


def slice_table(cells: np.ndarray, shape: tuple[int, int, int], max_background: float) -> np.ndarray:
    """(N, 3) int32 rows (slice, 0, 0): the slices whose share of background is below `max_background`."""
    share = cells.sum((1, 2), dtype=np.int64) / (shape[1] * shape[2])
    kept = np.flatnonzero(share < max_background)
    return np.stack([kept, np.zeros_like(kept), np.zeros_like(kept)], axis=1).astype(np.int32)


def patch_table(
    cells: np.ndarray, shape: tuple[int, int, int], patch: int, stride: int, max_background: float
) -> np.ndarray:
    """(N, 3) int32 rows (slice, top, left): the square patches whose share of background is below `max_background`.

    Patches start every `stride` pixels, and the last of a row or column as near to the border as the grid of 8 allows.
    """
    tops, lefts = (_starts(side, patch, stride) for side in shape[1:])
    if not len(tops) or not len(lefts):
        return np.empty((0, 3), np.int32)
    total = np.zeros((cells.shape[0], cells.shape[1] + 1, cells.shape[2] + 1), np.int32)  # summed-area table
    total[:, 1:, 1:] = cells.cumsum(1, dtype=np.int32).cumsum(2)
    y0, x0 = tops[:, None] // CELL, lefts[None, :] // CELL
    y1, x1 = y0 + patch // CELL, x0 + patch // CELL
    share = (total[:, y1, x1] - total[:, y0, x1] - total[:, y1, x0] + total[:, y0, x0]) / patch**2
    z, row, column = np.nonzero(share < max_background)
    return np.stack([z, tops[row], lefts[column]], axis=1).astype(np.int32)


def _starts(side: int, patch: int, stride: int) -> np.ndarray:
    last = (side - patch) // CELL * CELL
    return np.unique([*range(0, last + 1, stride), last]) if last >= 0 else np.empty(0, int)


# ------------------------------------------------------------------------------------------------------- what is served


class _Pairs:
    """The arrays of one split of a set. Each process opens its own maps: pickled, they would travel as whole arrays."""

    def __init__(self, folder: str | Path, split: str):
        if split not in SPLITS:
            raise DataError(f'There is no split "{split}": choose one of {", ".join(SPLITS)}.')
        self.folder, self.split = Path(folder), split
        self.index = read_index(folder)
        done, planned = len(self.index.volumes), self.index.planned
        if done < planned:
            raise DataError(
                f"The preparation of {folder} stopped after {done} of {planned} volumes: run the same `ascon prepare` "
                "again, it goes on where it stopped."
            )
        self.volumes = self.index.of(split)
        if not self.volumes:
            raise DataError(f'{folder} has no patient in the split "{split}" ({self.index}): prepare another split.')
        self._maps: dict[tuple[int, str], np.ndarray] = {}
        for number in range(len(self.volumes)):
            for what in ARRAYS:
                self.array(number, what)

    def array(self, number: int, what: str) -> np.ndarray:
        """The memory map of volume `number`."""
        if (number, what) not in self._maps:
            self._maps[number, what] = open_array(self.folder, self.volumes[number], what)
        return self._maps[number, what]

    def table(self, rows_of) -> np.ndarray:
        """(N, 4) int32 rows (volume, slice, top, left), with `rows_of(cells, shape)` for each volume."""
        tables = []
        for number, volume in enumerate(self.volumes):
            rows = rows_of(np.asarray(self.array(number, "background")), volume.shape)
            tables.append(np.column_stack([np.full(len(rows), number, np.int32), rows]))
        return np.concatenate(tables)

    def limit(self, max_background: float | None) -> float:
        return self.index.max_background[self.split] if max_background is None else max_background

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_maps": {}}


class TrainingSet:
    """Patches or whole slices of one split, for a DataLoader: (LDCT, NDCT), each (1, h, w) float32 in unit range.

    Its keys are those of feed.Batches, or plain indices (epoch 0).

    Args:
        patch: side in pixels, a multiple of 8; None for whole slices, which then must all have one size.
        stride: distance of neighbouring patches; patch / 4 by default (256 and 64 in the paper).
        max_background: share of background from which on a patch is left out; by default what the set was made for.
        augment: random flip and turn by a multiple of 90 degrees (half turns only where an image is not square).
        doses: give the noise the variance of a dose drawn between these two, uniform in its logarithm; simulated sets
            only, whose noise is LDCT - NDCT and whose dose is known. Electronic noise, which grows faster as the dose
            falls, is scaled like the rest.
        lesions: at most so many for each 64x64 pixels are added to both images.
        kernels: both images get the sharpness of another kernel, drawn between these two.
        clip: values outside of the training window are clipped to it.
        seed: of all that is random.

    Raises:
        DataError: the set, the split or the patch leave nothing to train on, or a file is lost.
    """

    def __init__(
        self,
        folder: str | Path,
        split: str = "train",
        patch: int | None = None,
        *,
        stride: int | None = None,
        max_background: float | None = None,
        augment: bool = True,
        doses: tuple[float, float] | None = None,
        lesions: float = 0.0,
        kernels: tuple[float, float] | None = None,
        clip: bool = True,
        seed: int = 0,
    ):
        self._pairs = _Pairs(folder, split)
        self.index, self.split, self.patch = self._pairs.index, split, patch
        self.augment, self.doses, self.clip, self.seed = augment, doses, clip, seed
        self.lesions, self.kernels = lesions, kernels
        if doses and not self.index.simulated:
            raise DataError(f"{folder} holds measured pairs, whose dose is what it is: set doses to null.")
        limit = self._pairs.limit(max_background)
        if patch is None:
            self._check_sizes(folder)
            self.table = self._pairs.table(lambda cells, shape: slice_table(cells, shape, limit))
        else:
            stride = max(CELL, patch // 4 // CELL * CELL) if stride is None else stride
            if patch < CELL or patch % CELL or stride < CELL or stride % CELL:
                raise DataError(f"Patch and stride must be multiples of {CELL} pixels; got {patch} and {stride}.")
            self.table = self._pairs.table(lambda cells, shape: patch_table(cells, shape, patch, stride, limit))
        if not len(self.table):
            sizes = ", ".join(sorted({f"{v.shape[2]}x{v.shape[1]}" for v in self._pairs.volumes}))
            slices = sum(v.slices for v in self._pairs.volumes)
            raise DataError(
                f'{folder} has {slices} slices of {sizes} in the split "{split}", but none of them has a '
                f"{'slice' if patch is None else f'patch of {patch}x{patch}'} with less than {limit:.0%} background: "
                "choose a smaller patch, or check that the values are HU."
            )

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, key: Key | int) -> tuple[torch.Tensor, torch.Tensor]:
        epoch, turn, index = key if isinstance(key, tuple) else (0, 0, key)
        return self.item(index, epoch, turn)

    def item(self, index: int, epoch: int = 0, turn: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """(LDCT, NDCT) of row `index` of the table, as epoch and turn see it."""
        number, z, top, left = (int(n) for n in self.table[index])
        random = np.random.default_rng((self.seed, epoch, turn, index % len(self.table)))
        place, flip, turns = random.uniform(), random.integers(2), random.integers(4)
        side = slice(None) if self.patch is None else slice(top, top + self.patch)
        where = (z, side, slice(None) if self.patch is None else slice(left, left + self.patch))
        ldct, ndct = (self._pairs.array(number, what)[where].astype(np.float32) for what in ("ldct", "ndct"))
        volume = self._pairs.volumes[number]
        if self.doses:
            low, high = self.doses
            ldct = ndct + np.float32(noise_factor(volume.dose, low * (high / low) ** place)) * (ldct - ndct)
        if self.kernels:
            sharpness = random.uniform(*self.kernels)
            ldct, ndct = (augmentation.with_kernel(image, sharpness) for image in (ldct, ndct))
        if self.lesions:
            added = augmentation.lesions(ndct, volume.spacing_mm, self.lesions, random)
            ldct, ndct = ldct + added, ndct + added
        pair = []
        for image in (ldct, ndct):
            unit = hounsfield.to_unit(hounsfield.clip_to_window(image) if self.clip else image)
            if self.augment:
                square = image.shape[0] == image.shape[1]
                unit = np.rot90(unit[:, ::-1] if flip else unit, turns if square else turns // 2 * 2)
            pair.append(torch.from_numpy(np.ascontiguousarray(unit))[None])
        return pair[0], pair[1]

    def _check_sizes(self, folder: str | Path) -> None:
        sizes = Counter(f"{v.shape[2]}x{v.shape[1]}" for v in self._pairs.volumes)
        if len(sizes) > 1:
            listed = ", ".join(f"{size} in {_count(n, 'volume')}" for size, n in sizes.most_common())
            raise DataError(f"The slices of {folder} differ in size ({listed}): train on patches.")


@dataclass(frozen=True)
class SlicePair:
    """One whole slice: LDCT and NDCT (H, W) int16 HU, and slice `index` of which volume and patient it is."""

    volume: str
    patient: str
    index: int
    ldct_hu: np.ndarray
    ndct_hu: np.ndarray


class WholeSlices:
    """The slices of one split in order, for validation and for the final table: len() and [i] -> SlicePair.

    Slices that are mostly background are left out, as in the paper. `every` n takes each n-th of the rest.
    Raises DataError as TrainingSet; sizes may differ.
    """

    def __init__(self, folder: str | Path, split: str, *, every: int = 1, max_background: float | None = None):
        self._pairs = _Pairs(folder, split)
        self.index, self.split = self._pairs.index, split
        limit = self._pairs.limit(max_background)
        table = self._pairs.table(lambda cells, shape: slice_table(cells, shape, limit))
        if not len(table):
            slices = sum(v.slices for v in self._pairs.volumes)
            raise DataError(
                f'All {slices} slices of {folder} in the split "{split}" are {limit:.0%} background or more: check '
                "that the values are HU."
            )
        self.table = table[::every]

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, i: int) -> SlicePair:
        number, z = (int(n) for n in self.table[i][:2])
        volume = self._pairs.volumes[number]
        ldct, ndct = (np.array(self._pairs.array(number, what)[z]) for what in ("ldct", "ndct"))
        return SlicePair(volume.name, volume.patient, z, ldct, ndct)


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"
