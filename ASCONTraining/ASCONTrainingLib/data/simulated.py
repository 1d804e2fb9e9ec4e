"""Training sets whose LDCT is simulated, from normal-dose volumes and from phantoms."""

from __future__ import annotations

import logging
import zlib
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ASCONDenoiseLib.errors import InputError
from ASCONTrainingLib.data.discovery import SourceVolume, dicom_series, image_files, path_parts
from ASCONTrainingLib.data.pairing import PairedVolume, to_int16
from ASCONTrainingLib.data.set_index import Index
from ASCONTrainingLib.data.set_writer import Log, Progress, VolumePlan, write_set
from ASCONTrainingLib.data.splits import SPLITS, automatic_split, check_patient_ids, read_split, split_of_patients

if TYPE_CHECKING:
    from ASCONDenoiseLib.physics.settings import Kernel

logger = logging.getLogger(__name__)


def prepare_simulated(
    src: str | Path | None,
    out: str | Path,
    *,
    dose: float | tuple[float, float] = 0.25,
    phantoms: int = 0,
    phantom_shape: tuple[int, int, int] = (8, 512, 512),
    split: str | Path | None = None,
    seed: int = 0,
    device: str = "cpu",
    log: Log = logger.info,
    progress: Progress | None = None,
    simulate: Callable[..., Any] | None = None,
    scan: Callable[..., np.ndarray] | None = None,
) -> Index:
    """Make a set from normal-dose volumes, whose LDCT is simulated; photons and kernel are those of each scan.

    Volumes that cannot be read or whose noise cannot be measured are left out and logged: one of a thousand is no
    reason to stop.

    Args:
        src: folder of DICOM series and volume files, at any depth; the first part of a path names the patient.
            None: phantoms only.
        out, log, progress: as of `prepare.prepare_mayo2016`.
        dose: fraction of the normal dose, below 1; two of them for a random one of each volume (uniform logarithm).
        phantoms: phantoms besides: abdomens and chests in turn, scanned with random photons and kernels. They train,
            or, where there is nothing else, are split like patients.
        phantom_shape: slices, rows, columns of a phantom, 384 mm wide and 160 mm high.
        split: JSON file in place of a split by chance.
        seed: of all that is random.
        device: where the simulation computes.
        simulate, scan: in place of ASCONDenoiseLib.physics.dose's.

    Raises:
        InputError: nothing to simulate from, a dose that cannot be, or a set made otherwise in `out`.
        WriteError: the disk is full or protected; what was done before is kept.
    """
    from ASCONDenoiseLib.physics import dose as physics

    doses = (dose, dose) if isinstance(dose, (int, float)) else dose
    if len(doses) != 2 or not 0 < doses[0] <= doses[1] < 1:
        raise InputError(f"The dose must be above 0 and below 1, or two such numbers in ascending order; got {dose}.")
    if phantoms < 0 or (src is None and phantoms == 0):
        raise InputError("There is nothing to simulate from: give a folder of normal-dose volumes, or phantoms.")
    simulator = _Simulator(simulate or physics.simulate, scan or physics.scan, doses, seed, device, phantom_shape)
    patients = {} if src is None else _normal_dose_volumes(Path(src), log)
    names = [f"phantom{number}" for number in range(phantoms)]
    chosen = read_split(split) if split else automatic_split(patients or names, seed)
    plans = []
    if src is not None:
        src = Path(src)
        split_of = split_of_patients(src, chosen, patients, log)
        check_patient_ids(src, {p: [v.patient_id for v in members] for p, members in patients.items()}, split_of, log)
        plans = [
            simulator.plan("-".join(path_parts(src, volume)), patient, split_of[patient], volume)
            for patient in sorted(split_of)
            for volume in patients[patient]
        ]
    for number, name in enumerate(names):
        split_name = next((s for s in SPLITS if name in chosen[s]), "train")
        plans.append(simulator.phantom_plan(name, split_name, number))
    settings = {"split": chosen, "dose": list(doses), "seed": seed}
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


@dataclass(frozen=True)
class _Simulator:
    """Pairs from normal-dose volumes. All that is random hangs on the seed and the volume's name, not on its turn."""

    simulate: Callable[..., Any]
    scan: Callable[..., np.ndarray]
    doses: tuple[float, float]
    seed: int
    device: str
    phantom_shape: tuple[int, int, int]

    def plan(self, name: str, patient: str, split: str, source: SourceVolume) -> VolumePlan:
        def make() -> PairedVolume:
            volume = source.read()
            ndct, spacing_mm = to_int16(volume.voxels), volume.geometry.spacing_mm
            return self._pair(name, ndct, spacing_mm, volume.padding_hu, None, "scan")

        return VolumePlan(name, patient, split, source.where.as_posix(), self._dose(name), make)

    def phantom_plan(self, name: str, split: str, number: int) -> VolumePlan:
        def make() -> PairedVolume:
            from ASCONDenoiseLib.physics import phantoms
            from ASCONDenoiseLib.physics.settings import DoseSettings, Kernel

            random = np.random.default_rng((self.seed, number))
            s, h, w = self.phantom_shape
            anatomy = (phantoms.abdomen, phantoms.chest)[number % 2]
            phantom = anatomy(int(random.integers(2**31)), (s, h, w), (384 / w, 384 / h, 160 / s))
            photons = float(np.exp(random.uniform(np.log(2e5), np.log(1.5e6))))
            kernel = Kernel(random.uniform(0.38, 0.60), random.uniform(1.5, 2.4))
            settings = DoseSettings(photons=photons, kernel=kernel, seed=int(random.integers(2**31)))
            ndct = to_int16(self.scan(phantom.voxels_hu, phantom.spacing_mm, settings, device=self.device))
            return self._pair(name, ndct, phantom.spacing_mm, None, photons, kernel)

        source = f"phantom of {'x'.join(map(str, self.phantom_shape))} voxels"
        return VolumePlan(name, name, split, source, self._dose(name), make)

    def _pair(
        self,
        name: str,
        ndct: np.ndarray,
        spacing_mm: tuple[float, float, float],
        padding_hu: float | None,
        photons: float | None,
        kernel: str | Kernel,
    ) -> PairedVolume:
        from ASCONDenoiseLib.physics.settings import DoseSettings

        seed = int(self._random(name).integers(2**31))
        settings = DoseSettings(dose=self._dose(name), photons=photons, kernel=kernel, seed=seed)
        simulation = self.simulate(ndct, spacing_mm, settings, device=self.device, padding_hu=padding_hu)
        return PairedVolume(ndct, to_int16(simulation.voxels), spacing_mm)

    def _dose(self, name: str) -> float:
        low, high = self.doses
        position = self._random(name, 1).uniform()
        return low if low == high else float(low * (high / low) ** position)

    def _random(self, name: str, *purpose: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, zlib.crc32(name.encode()), *purpose))
