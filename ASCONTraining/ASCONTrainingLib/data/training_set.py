"""What trainings and evaluations read from a prepared set: pairs of LDCT and NDCT, as patches or as whole slices.

Everything random is a pure function of seed, epoch, turn and index: a training that resumes, or that is spread over
several processes, sees what an uninterrupted one in one process sees.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.imaging import hounsfield
from ASCONDenoiseLib.physics.dose import noise_factor
from ASCONTrainingLib.data import augmentation
from ASCONTrainingLib.data.background import CELL, patch_table, slice_table
from ASCONTrainingLib.data.set_index import ARRAYS, counted, open_array, read_index
from ASCONTrainingLib.data.splits import SPLITS

Key = tuple[int, int, int]
"""(epoch, turn, index): one item as one epoch sees it; `turn` counts the times that a long epoch has been round."""


class _SplitArrays:
    """The arrays of one split of a set. Each process opens its own maps: pickled, they would travel as whole arrays.

    Attributes:
        volumes: of the split.
        max_background: fraction of background from which on a patch or slice is left out.
    """

    def __init__(self, folder: str | Path, split: str, max_background: float | None):
        if split not in SPLITS:
            raise InputError(f'There is no split "{split}": choose one of {", ".join(SPLITS)}.')
        self.folder = Path(folder)
        self.index = read_index(folder)
        done, planned = len(self.index.volumes), self.index.planned
        if done < planned:
            raise InputError(
                f"The preparation of {folder} stopped after {done} of {planned} volumes: run the same `ascon prepare` "
                "again, it goes on where it stopped."
            )
        self.volumes = self.index.of(split)
        if not self.volumes:
            raise InputError(f'{folder} has no patient in the split "{split}" ({self.index}): prepare another split.')
        self.max_background = self.index.max_background[split] if max_background is None else max_background
        self._maps: dict[tuple[int, str], np.ndarray] = {}
        for number in range(len(self.volumes)):
            for what in ARRAYS:
                self.array(number, what)

    @property
    def slices(self) -> int:
        return sum(volume.slices for volume in self.volumes)

    def array(self, number: int, what: str) -> np.ndarray:
        """The memory map of volume `number`."""
        if (number, what) not in self._maps:
            self._maps[number, what] = open_array(self.folder, self.volumes[number], what)
        return self._maps[number, what]

    def table(self, rows_of: Callable[[np.ndarray, tuple[int, int, int]], np.ndarray]) -> np.ndarray:
        """(N, 4) int32 rows (volume, slice, top, left), with `rows_of(cells, shape)` for each volume."""
        tables = []
        for number, volume in enumerate(self.volumes):
            rows = rows_of(np.asarray(self.array(number, "background")), volume.shape)
            tables.append(np.column_stack([np.full(len(rows), number, np.int32), rows]))
        return np.concatenate(tables)

    def slice_table(self) -> np.ndarray:
        return self.table(lambda cells, shape: slice_table(cells, shape, self.max_background))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_maps": {}}


class TrainingSet:
    """Patches or whole slices of one split, for a DataLoader: (LDCT, NDCT), each (1, h, w) float32 in unit range.

    Its keys are those of batches.Batches, or plain indices (epoch 0).

    Args:
        folder: the prepared set.
        split: "train", "validation" or "test".
        patch: side in pixels, a multiple of 8; None for whole slices, which then must all have one size.
        stride: distance of neighbouring patches; patch / 4 by default (256 and 64 in the paper).
        max_background: fraction of background from which on a patch is left out; by default that of the set.
        augment: random flip and turn by a multiple of 90 degrees (half turns only where an image is not square).
        doses: give the noise the variance of a dose drawn between these two, uniform in its logarithm; simulated sets
            only, whose noise is LDCT - NDCT and whose dose is known. Electronic noise, which grows faster as the dose
            falls, is scaled like the rest.
        lesions: at most so many for each 64x64 pixels are added to both images.
        kernels: both images get the sharpness of another kernel, drawn between these two.
        clip: values outside of the training window are clipped to it.
        seed: of all that is random.

    Raises:
        InputError: the set, the split or the patch leave nothing to train on, or a file is lost.
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
        self._arrays = arrays = _SplitArrays(folder, split, max_background)
        self.index, self.split, self.patch = arrays.index, split, patch
        self.augment, self.doses, self.clip, self.seed = augment, doses, clip, seed
        self.lesions, self.kernels = lesions, kernels
        if doses and not self.index.simulated:
            raise InputError(f"{folder} holds measured pairs, whose dose is what it is: set doses to null.")
        limit = arrays.max_background
        if patch is None:
            self._check_sizes(folder)
            self.table = arrays.slice_table()
        else:
            step = max(CELL, patch // 4 // CELL * CELL) if stride is None else stride
            if patch < CELL or patch % CELL or step < CELL or step % CELL:
                raise InputError(f"Patch and stride must be multiples of {CELL} pixels; got {patch} and {step}.")
            self.table = arrays.table(lambda cells, shape: patch_table(cells, shape, patch, step, limit))
        if not len(self.table):
            sizes = ", ".join(sorted({f"{v.shape[2]}x{v.shape[1]}" for v in arrays.volumes}))
            raise InputError(
                f'{folder} has {arrays.slices} slices of {sizes} in the split "{split}", but none of them has a '
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
        place, flip, turns = random.uniform(), random.integers(2), int(random.integers(4))
        side = slice(None) if self.patch is None else slice(top, top + self.patch)
        where = (z, side, slice(None) if self.patch is None else slice(left, left + self.patch))
        ldct, ndct = (self._arrays.array(number, what)[where].astype(np.float32) for what in ("ldct", "ndct"))
        volume = self._arrays.volumes[number]
        if self.doses and volume.dose is not None:
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
        sizes = Counter(f"{v.shape[2]}x{v.shape[1]}" for v in self._arrays.volumes)
        if len(sizes) > 1:
            listed = ", ".join(f"{size} in {counted(n, 'volume')}" for size, n in sizes.most_common())
            raise InputError(f"The slices of {folder} differ in size ({listed}): train on patches.")


@dataclass(frozen=True)
class SlicePair:
    """One whole slice.

    Attributes:
        volume: its name.
        patient: whose it is.
        index: number of the slice in the volume.
        ldct_hu, ndct_hu: (H, W) int16 HU.
    """

    volume: str
    patient: str
    index: int
    ldct_hu: np.ndarray
    ndct_hu: np.ndarray


class SlicePairs(Protocol):
    """Slice pairs by number, read when they are asked for: an EvaluationSet, or a list."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int, /) -> SlicePair: ...


class EvaluationSet:
    """The whole slices of one split in order, for validation and for the final table: len() and [i] -> SlicePair.

    Slices that are mostly background are left out, as in the paper. `every` n takes each n-th of the rest.
    Raises InputError as TrainingSet; sizes may differ.
    """

    def __init__(self, folder: str | Path, split: str, *, every: int = 1, max_background: float | None = None):
        self._arrays = arrays = _SplitArrays(folder, split, max_background)
        self.folder, self.index, self.split = arrays.folder, arrays.index, split
        table = arrays.slice_table()
        if not len(table):
            raise InputError(
                f'All {arrays.slices} slices of {folder} in the split "{split}" are {arrays.max_background:.0%} '
                "background or more: check that the values are HU."
            )
        self.table = table[::every]

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, i: int, /) -> SlicePair:
        number, z = (int(n) for n in self.table[i][:2])
        volume = self._arrays.volumes[number]
        ldct, ndct = (np.array(self._arrays.array(number, what)[z]) for what in ("ldct", "ndct"))
        return SlicePair(volume.name, volume.patient, z, ldct, ndct)
