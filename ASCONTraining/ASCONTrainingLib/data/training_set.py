"""What trainings and evaluations read from a prepared set: pairs of LDCT and NDCT, as patches or as whole slices.

Everything random is a pure function of seed, epoch, turn and index: a training that resumes, or that is spread over
several processes, sees what an uninterrupted one in one process sees.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.imaging import hounsfield, scan_circle
from ASCONDenoiseLib.physics.dose import noise_factor
from ASCONDenoiseLib.physics.settings import Kernel
from ASCONTrainingLib.data import augmentation
from ASCONTrainingLib.data.background import BACKGROUND_HU, CELL, patch_table, slice_table
from ASCONTrainingLib.data.reconstruction import Reconstructions, measured_kernel
from ASCONTrainingLib.data.set_index import ARRAYS, counted, open_array, read_index
from ASCONTrainingLib.data.splits import SPLITS

Key = tuple[int, int, int]
"""(epoch, turn, index): one item as one epoch sees it; `turn` counts the times that a long epoch has been round."""


class _SplitArrays:
    """The arrays of one split of a set. Each process opens its own maps: pickled, they would travel as whole arrays.

    Attributes:
        volumes: of the splits.
        max_background: fraction of background from which on a patch or slice is left out.
    """

    def __init__(self, folder: str | Path, split: str, max_background: float | None, *others: str):
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
        self.volumes = [volume for name in (split, *others) for volume in self.index.of(name)]
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
            falls, is scaled like the rest. 1 is the NDCT itself.
        noise_hu: of these doses, only those that give the noise of the LDCT an SD between these, as far as there are
            such; it is measured in the crop.
        lesions: at most so many for each 64x64 pixels are added to both images.
        kernels: both images get the sharpness of another kernel, drawn between these two.
        reconstructions: both images get the pixels and the kernel of another reconstruction. Lesions are added before.
        unpaired: the NDCT is another patient's, from another place of another order of the same rows.
        with_validation: the patients of the split "validation" are taken too.
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
        noise_hu: tuple[float, float] | None = None,
        lesions: float = 0.0,
        kernels: tuple[float, float] | None = None,
        reconstructions: Reconstructions | None = None,
        unpaired: bool = False,
        with_validation: bool = False,
        clip: bool = True,
        seed: int = 0,
    ):
        others = ("validation",) if with_validation else ()
        self._arrays = arrays = _SplitArrays(folder, split, max_background, *others)
        self.index, self.split, self.patch = arrays.index, split, patch
        self.augment, self.doses, self.noise_hu, self.clip, self.seed = augment, doses, noise_hu, clip, seed
        self.lesions, self.kernels, self.reconstructions, self.unpaired = lesions, kernels, reconstructions, unpaired
        if doses and not self.index.simulated:
            raise InputError(f"{folder} holds measured pairs, whose dose is what it is: set doses to null.")
        if reconstructions and patch is None:
            raise InputError("Other pixels and kernels are for patches, not for whole slices: set patch.")
        if unpaired and len({volume.patient for volume in arrays.volumes}) < 2:
            raise InputError(
                f"{folder} has one patient to train on; unpaired training needs two: set unpaired to false."
            )
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
        patients = [volume.patient for volume in arrays.volumes]
        self._patients = np.array([patients.index(patient) for patient in patients])[self.table[:, 0]]
        self._kernels: dict[int, Kernel] = {}

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, key: Key | int) -> tuple[torch.Tensor, torch.Tensor]:
        epoch, turn, index = key if isinstance(key, tuple) else (0, 0, key)
        return self.item(index, epoch, turn)

    def item(self, index: int, epoch: int = 0, turn: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """(LDCT, NDCT) of row `index` of the table, as epoch and turn see it."""
        key = (self.seed, epoch, turn, index % len(self.table))
        ldct, ndct = self._pair(index, np.random.default_rng(key))
        if self.unpaired:
            ndct = self._pair(self.partner(index, epoch, turn), np.random.default_rng((*key, 1)))[1]
        return ldct, ndct

    def partner(self, index: int, epoch: int = 0, turn: int = 0) -> int:
        """The row of another patient whose NDCT comes with row `index` in unpaired training.

        It is the one at its place in a permutation of all rows, or the next one there that is another patient's.
        """
        order = np.random.default_rng((self.seed, epoch, turn)).permutation(len(self.table))
        patients = self._patients[order]
        others = np.flatnonzero(patients != self._patients[index])
        return int(order[others[np.searchsorted(others, index % len(order)) % len(others)]])

    def _pair(self, index: int, random: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        number, z, top, left = (int(n) for n in self.table[index])
        place, flip, turns = random.uniform(), random.integers(2), int(random.integers(4))
        volume = self._arrays.volumes[number]
        if self.reconstructions and self.patch:
            ndct, noise = self._reconstructed(self.reconstructions, self.patch, number, (z, top, left), random)
        else:
            side = slice(None) if self.patch is None else slice(top, top + self.patch)
            where = (z, side, slice(None) if self.patch is None else slice(left, left + self.patch))
            ndct, noise = self._ndct_and_noise(number, where)
        if self.doses and volume.dose is not None:
            noise = self._at_another_dose(ndct, noise, volume.dose, place)
        ldct = ndct + noise
        if self.kernels:
            sharpness = random.uniform(*self.kernels)
            ldct, ndct = (augmentation.with_kernel(image, sharpness) for image in (ldct, ndct))
        if self.lesions and not self.reconstructions:
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

    def _ndct_and_noise(self, number: int, where: tuple[int, slice, slice]) -> tuple[np.ndarray, np.ndarray]:
        """NDCT and LDCT - NDCT, HU, float32."""
        ldct, ndct = (self._arrays.array(number, what)[where].astype(np.float32) for what in ("ldct", "ndct"))
        return ndct, ldct - ndct

    def _reconstructed(
        self,
        reconstructions: Reconstructions,
        patch: int,
        number: int,
        corner: tuple[int, int, int],
        random: np.random.Generator,
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `_ndct_and_noise`, of a patch round the same middle, as another reconstruction shows it."""
        volume, (z, *first) = self._arrays.volumes[number], corner
        pixel_mm, most = math.sqrt(volume.spacing_mm[0] * volume.spacing_mm[1]), min(volume.shape[1:])
        own = self._kernel(number) if reconstructions.cutoffs else None
        plan = reconstructions.draw(patch, most, pixel_mm, own, random)
        side = plan.source_side
        starts = [
            min(max(0, start + (patch - side) // 2), there - side)
            for start, there in zip(first, volume.shape[1:], strict=True)
        ]
        rows, columns = (slice(start, start + side) for start in starts)
        ndct, noise = self._ndct_and_noise(number, (z, rows, columns))
        padding = (ndct <= hounsfield.PADDING_HU) & (noise == 0)
        if padding.any():  # no edge of the patient's: it becomes air, or what inference shows the network
            padded, mirrored = scan_circle.mirror(ndct, padding)
            ndct[padding] = hounsfield.TRAINING_WINDOW_HU[0]
            for image in (ndct, noise):
                image[tuple(padded.T)] = image[tuple(mirrored.T)]
        if self.lesions:
            ndct += augmentation.lesions(ndct, volume.spacing_mm, self.lesions, random)
        return plan.of(ndct, noise)

    def _kernel(self, number: int) -> Kernel:
        """That of a volume, measured when it is first asked for."""
        if number not in self._kernels:
            ndct, ldct = (self._arrays.array(number, what) for what in ("ndct", "ldct"))
            x, y, _ = self._arrays.volumes[number].spacing_mm
            self._kernels[number] = measured_kernel(ndct, ldct, math.sqrt(x * y))
        return self._kernels[number]

    def _at_another_dose(self, ndct: np.ndarray, noise: np.ndarray, dose: float, place: float) -> np.ndarray:
        """The noise as of a dose that is drawn by `place`, 0..1."""
        low, high = self.doses or (dose, dose)
        if self.noise_hu:
            body = ndct > BACKGROUND_HU
            variance = float(noise[body].var() if body.any() else noise.var()) / (1 / dose - 1)  # of the NDCT's own
            least, most = self.noise_hu
            low, high = np.clip((variance / most**2, variance / least**2), low, high)
        return np.float32(noise_factor(dose, low * (high / low) ** place)) * noise

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
