"""Training sets whose LDCT is simulated, from normal-dose volumes and from phantoms."""

from __future__ import annotations

import functools
import logging
import math
import zlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.imaging.hounsfield import Padding
from ASCONTrainingLib.data import noise_levels
from ASCONTrainingLib.data.augmentation import log_uniform
from ASCONTrainingLib.data.discovery import SourceVolume, dicom_series, image_files, path_parts
from ASCONTrainingLib.data.pairing import PairedVolume, to_int16
from ASCONTrainingLib.data.set_index import Index
from ASCONTrainingLib.data.set_writer import Log, Progress, VolumePlan, write_set
from ASCONTrainingLib.data.splits import SPLITS, automatic_split, check_patient_ids, read_split, split_of_patients

if TYPE_CHECKING:
    from ASCONDenoiseLib.physics.settings import Kernel

logger = logging.getLogger(__name__)

SCANNER_BLUR_MM = 0.4
"""Sigma of what focal spot and detector blur before any kernel."""


def prepare_simulated(
    src: str | Path | None,
    out: str | Path,
    *,
    dose: float | tuple[float, float] = 0.25,
    noises: int = 1,
    levels_by: str | None = None,
    phantoms: int = 0,
    phantom_shape: tuple[int, int, int] = (8, 512, 512),
    leave_out: Sequence[str] = (),
    split: str | Path | None = None,
    seed: int = 0,
    device: str = "cpu",
    log: Log = logger.info,
    progress: Progress | None = None,
    simulate: Callable[..., Any] | None = None,
    scan: Callable[..., np.ndarray] | None = None,
    calibrate: Callable[..., Any] | None = None,
) -> Index:
    """Make a set from normal-dose volumes, whose LDCT is simulated; photons and kernel are those of each scan.

    Volumes that cannot be read or whose noise cannot be measured are left out and logged: one of a thousand is no
    reason to stop.

    Args:
        src: folder of DICOM series and volume files, at any depth; the first part of a path names the patient.
            None: phantoms only.
        out, log, progress: as of `prepare.prepare_mayo2016`.
        dose: fraction of the normal dose, below 1; two of them for a random one of each volume (uniform logarithm).
        noises: how often each training scan is in the set, each time with other noise (and another dose, where that is
            random): a training that sees a scan hundreds of times learns its noise by heart.
        levels_by: a model, name or file, that tells anatomy from noise: each training scan is there at other levels of
            noise besides (`noise_levels`).
        phantoms: phantoms besides: those of PHANTOMS in turn, with random pixels, slices, kernels and photons. They
            train, or, where there is nothing else, are split like patients.
        phantom_shape: slices, rows, columns of a phantom.
        leave_out: volumes or patients of `src`, by name, that are no good as targets.
        split: JSON file in place of a split by chance.
        seed: of all that is random.
        device: where the simulation computes.
        simulate, scan, calibrate: in place of those of ASCONDenoiseLib.physics.

    Raises:
        InputError: nothing to simulate from or to leave out, a dose that cannot be, or a set made otherwise in `out`.
        WriteError: the disk is full or protected; what was done before is kept.
    """
    from ASCONDenoiseLib.physics import calibration
    from ASCONDenoiseLib.physics import dose as physics

    doses = (dose, dose) if isinstance(dose, (int, float)) else dose
    if len(doses) != 2 or not 0 < doses[0] <= doses[1] < 1:
        raise InputError(f"The dose must be above 0 and below 1, or two such numbers in ascending order; got {dose}.")
    if noises < 1:
        raise InputError(f"Each scan is in the set once or more; got {noises} noises.")
    if phantoms < 0 or (src is None and phantoms == 0):
        raise InputError("There is nothing to simulate from: give a folder of normal-dose volumes, or phantoms.")
    if src is None and levels_by is not None:
        raise InputError("Other levels of noise are made of scans: give a folder of normal-dose volumes.")
    denoiser = None if levels_by is None else _Denoiser.of(levels_by, device)
    simulator = _Simulator(
        simulate or physics.simulate,
        scan or physics.scan,
        calibrate or calibration.calibrate,
        doses,
        seed,
        device,
        phantom_shape,
        log,
        denoiser,
    )
    anatomy_of = functools.lru_cache(maxsize=1)(simulator.anatomy)  # the levels of a scan are made one after the other

    def level(volume: SourceVolume, copy: int) -> Callable[[PairedVolume], PairedVolume]:
        return lambda pair: noise_levels.at_level(pair, anatomy_of(volume), copy)

    patients = {} if src is None else _without(Path(src), _normal_dose_volumes(Path(src), log), leave_out)
    names = [f"phantom{number}" for number in range(phantoms)]
    chosen = read_split(split) if split else automatic_split(patients or names, seed)
    plans = []
    if src is not None:
        src = Path(src)
        split_of = split_of_patients(src, chosen, patients, log)
        check_patient_ids(src, {p: [v.patient_id for v in members] for p, members in patients.items()}, split_of, log)
        plans = [
            simulator.plan("-".join(path_parts(src, volume)) + again, patient, split_of[patient], volume)
            for patient in sorted(split_of)
            for volume in patients[patient]
            for again in ["", *(f"-noise{n}" for n in range(2, noises + 1) if split_of[patient] == "train")]
        ]
        plans += [
            simulator.plan(
                "-".join(path_parts(src, volume)) + f"-level{copy + 1}", patient, "train", volume, level(volume, copy)
            )
            for patient in sorted(split_of)
            for volume in patients[patient]
            for copy in range(len(noise_levels.LEVELS) if denoiser and split_of[patient] == "train" else 0)
        ]
    for number, name in enumerate(names):
        split_name = next((s for s in SPLITS if name in chosen[s]), "train")
        plans.append(simulator.phantom_plan(name, split_name, number))
    settings = {"split": chosen, "dose": list(doses), "seed": seed}
    if noises > 1:
        settings["noises"] = noises
    if denoiser is not None:
        settings["levels_by"] = denoiser.model
    if leave_out:
        settings["leave_out"] = sorted(leave_out)
    return write_set(plans, out, "simulate", settings, log=log, progress=progress, skip_unusable=True)


def _normal_dose_volumes(src: Path, log: Log) -> dict[str, list[SourceVolume]]:
    """Volumes to simulate from, by patient; those that say they are low dose are no such."""
    everything = [*dicom_series(src), *image_files(src)]
    volumes = [volume for volume in everything if volume.dose_by_name != "low"]
    if not volumes:
        low = f" (but {len(everything)} at low dose)" if everything else ""
        raise InputError(
            f"{src} holds no normal-dose CT volume{low}: give a folder of DICOM series, .nrrd, .nii.gz or .mha files."
        )
    if len(volumes) < len(everything):
        log(f"{len(everything) - len(volumes)} volumes say that they are low dose and are left out.")
    patients: dict[str, list[SourceVolume]] = defaultdict(list)
    for volume in volumes:
        patients[path_parts(src, volume)[0]].append(volume)
    return patients


def _without(
    src: Path, patients: dict[str, list[SourceVolume]], leave_out: Sequence[str]
) -> dict[str, list[SourceVolume]]:
    """The volumes whose name, or whose patient's, is not to be left out."""
    unused, kept = set(leave_out), {}
    for patient, volumes in patients.items():
        names = {"-".join(path_parts(src, volume)): volume for volume in volumes}
        unused -= {patient, *names}
        here = [volume for name, volume in names.items() if name not in leave_out and patient not in leave_out]
        if here:
            kept[patient] = here
    if unused:
        there = ", ".join(sorted(patients)[:10]) + (", ..." if len(patients) > 10 else "")
        raise InputError(f"There is no {', '.join(sorted(unused))} to leave out in {src}: it holds {there}.")
    return kept


@dataclass(frozen=True)
class PhantomScans:
    """How phantoms of one kind are scanned; numbers are drawn between two, uniformly in their logarithm.

    Attributes:
        anatomy: a function of `physics.phantoms`.
        view_mm: side of the field of view.
        slice_mm: thickness, and distance, of slices.
        cutoffs_per_mm: of the kernel, whose order is between those of the soft and the sharp one.
        photons: per ray in air, whatever the thickness: noise of some 3 to 70 HU.
    """

    anatomy: str
    view_mm: tuple[float, float]
    slice_mm: tuple[float, float] = (0.6, 5.0)
    cutoffs_per_mm: tuple[float, float] = (0.36, 0.9)
    photons: tuple[float, float] = (2e5, 2e7)


KERNEL_ORDERS = (1.8, 3.0)
"""Of the kernels of phantoms: those of the soft and the sharp one of `physics.settings.KERNELS`."""

PHANTOMS = (
    PhantomScans("abdomen", (320.0, 450.0)),
    PhantomScans("chest", (320.0, 450.0)),
    PhantomScans("head", (205.0, 256.0)),  # pixels of 0.4 to 0.5 mm in 512x512
)


@dataclass(frozen=True)
class _Denoiser:
    """A model that tells anatomy from noise; `model` says which.

    Attributes:
        model: its name, version and SHA-256.
        denoised: (S, H, W) int16 HU, and what of it is padding -> the same shape and type.
    """

    model: str
    denoised: Callable[[np.ndarray, Padding], np.ndarray]

    @classmethod
    def of(cls, model: str, device: str) -> _Denoiser:
        from ASCONDenoiseLib.models.files import find_model, load_network
        from ASCONDenoiseLib.models.inference import denoise

        network, card = load_network(find_model(model))
        return cls(
            f"{card.name} {card.version}, {card.sha256}",
            lambda hu, padding_hu: denoise(hu, network, device=device, padding_hu=padding_hu).voxels,
        )


@dataclass(frozen=True)
class _Simulator:
    """Pairs from normal-dose volumes. All that is random hangs on the seed and the volume's name, not on its turn."""

    simulate: Callable[..., Any]
    scan: Callable[..., np.ndarray]
    calibrate: Callable[..., Any]
    doses: tuple[float, float]
    seed: int
    device: str
    phantom_shape: tuple[int, int, int]
    log: Log
    denoiser: _Denoiser | None = None
    calibrations: dict[SourceVolume, tuple[np.ndarray, Kernel]] = field(default_factory=dict)  # for all copies

    def plan(
        self,
        name: str,
        patient: str,
        split: str,
        source: SourceVolume,
        at_level: Callable[[PairedVolume], PairedVolume] | None = None,
    ) -> VolumePlan:
        def make() -> PairedVolume:
            volume = source.read()
            ndct, spacing_mm = to_int16(volume.voxels), volume.geometry.spacing_mm
            pair = self._pair(name, ndct, spacing_mm, volume.padding_hu, source=source)
            return pair if at_level is None else at_level(pair)

        return VolumePlan(name, patient, split, source.where.as_posix(), self._dose(name), make)

    def anatomy(self, source: SourceVolume) -> np.ndarray:
        """What of a scan is not noise, as the denoiser tells: (S, H, W) float32 HU."""
        assert self.denoiser is not None
        volume = source.read()
        ndct, padding_hu = to_int16(volume.voxels), volume.padding_hu
        total = np.zeros(ndct.shape, np.float32)
        for n in range(noise_levels.ANATOMY_NOISES):
            name, dose = f"{source.where.as_posix()} anatomy {n}", noise_levels.ANATOMY_DOSE
            noisy = self._pair(name, ndct, volume.geometry.spacing_mm, padding_hu, dose=dose, source=source).ldct
            total += self.denoiser.denoised(noisy, padding_hu)
        return total / np.float32(noise_levels.ANATOMY_NOISES)

    def phantom_plan(self, name: str, split: str, number: int) -> VolumePlan:
        def make() -> PairedVolume:
            from ASCONDenoiseLib.physics import phantoms
            from ASCONDenoiseLib.physics.settings import DoseSettings, Kernel

            random, scans = np.random.default_rng((self.seed, number)), PHANTOMS[number % len(PHANTOMS)]
            s, h, w = self.phantom_shape
            view_mm = log_uniform(scans.view_mm, random)
            spacing_mm = (view_mm / w, view_mm / h, log_uniform(scans.slice_mm, random))
            kernel = Kernel(log_uniform(scans.cutoffs_per_mm, random), random.uniform(*KERNEL_ORDERS))
            anatomy = getattr(phantoms, scans.anatomy)
            phantom = anatomy(int(random.integers(2**31)), (s, h, w), spacing_mm, psf_mm=psf_mm(kernel))
            photons = log_uniform(scans.photons, random)
            settings = DoseSettings(photons=photons, kernel=kernel, seed=int(random.integers(2**31)))
            ndct = to_int16(self.scan(phantom.voxels_hu, phantom.spacing_mm, settings, device=self.device))
            return self._pair(name, ndct, phantom.spacing_mm, None, photons=photons, kernel=kernel)

        source = f"phantom of {'x'.join(map(str, self.phantom_shape))} voxels"
        return VolumePlan(name, name, split, source, self._dose(name), make)

    def _pair(
        self,
        name: str,
        ndct: np.ndarray,
        spacing_mm: tuple[float, float, float],
        padding_hu: Padding,
        *,
        dose: float | None = None,
        photons: float | None = None,
        kernel: str | Kernel = "scan",
        source: SourceVolume | None = None,
    ) -> PairedVolume:
        """The NDCT, and its LDCT; without a `source` photons and kernel are known."""
        from ASCONDenoiseLib.physics.settings import DoseSettings

        seed = int(self._random(name).integers(2**31))
        dose = self._dose(name) if dose is None else dose
        settings = DoseSettings(dose=dose, photons=photons, kernel=kernel, seed=seed)
        known = None if source is None else self._calibration(source, ndct, spacing_mm)
        simulation = self.simulate(
            ndct, spacing_mm, settings, device=self.device, padding_hu=padding_hu, calibration=known
        )
        for note in simulation.notes:
            self.log(f"{name}: {note}")
        return PairedVolume(ndct, to_int16(simulation.voxels), spacing_mm)

    def _calibration(
        self, source: SourceVolume, ndct: np.ndarray, spacing_mm: tuple[float, float, float]
    ) -> tuple[np.ndarray, Kernel]:
        """Photons and kernel of a scan, which is measured once."""
        from ASCONDenoiseLib.physics.settings import DoseSettings

        if source not in self.calibrations:
            settings = DoseSettings(seed=int(self._random(source.where.as_posix()).integers(2**31)))
            self.calibrations[source] = self.calibrate(ndct, spacing_mm, settings, device=self.device)
        return self.calibrations[source]

    def _dose(self, name: str) -> float:
        low, high = self.doses
        position = self._random(name, 1).uniform()
        return low if low == high else float(low * (high / low) ** position)

    def _random(self, name: str, *purpose: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, zlib.crc32(name.encode()), *purpose))


def psf_mm(kernel: Kernel) -> float:
    """The sigma of a Gaussian that lets half through at the frequency where scanner and kernel together do."""
    frequency = np.linspace(0.0, 2.0, 4001)
    response = np.exp(
        -2 * (math.pi * SCANNER_BLUR_MM * frequency) ** 2 - (frequency / kernel.cutoff_per_mm) ** kernel.order
    )
    half_per_mm = float(np.interp(-0.5, -response, frequency))
    return math.sqrt(math.log(2) / 2) / (math.pi * half_per_mm)
