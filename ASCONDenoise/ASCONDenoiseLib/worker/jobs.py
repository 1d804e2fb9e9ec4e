"""The jobs of the worker, one function per command, and what a request for each of them says.

A request is a dataclass: its fields are those of the JSON object. Volumes (S, H, W) are .npy files, `spacing_mm` is
(x, y, z), `model` a name or path (None: as `files.choose_model` has it), `device` as in `devices.pick_device`. A
function takes the job, its request and the model that was used last, says that it has started once all is at hand, and
returns the result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ASCONDenoiseLib.checked_json import FieldError
from ASCONDenoiseLib.errors import InputError, is_out_of_memory
from ASCONDenoiseLib.imaging.strength import noise_by_strength
from ASCONDenoiseLib.models.card import ModelCard
from ASCONDenoiseLib.models.files import choose_model
from ASCONDenoiseLib.physics.settings import DoseSettings, phantom_settings
from ASCONDenoiseLib.worker import quality_jobs
from ASCONDenoiseLib.worker.export import ExportRequest, export
from ASCONDenoiseLib.worker.job import TEXT, Job, read_voxels
from ASCONDenoiseLib.worker.series import SeriesRequest, denoise_series
from ASCONDenoiseLib.worker.warm_model import WarmModel, import_torch

if TYPE_CHECKING:
    import torch

Facts = dict[str, Any]

PHANTOM_SEED = 1_000_000
"""A patient that no training has seen: its seeds are small numbers."""

SIMULATION_SEED = 1

SPACING = {"wanted": "three positive numbers"}
SHAPE = {"wanted": "three positive whole numbers"}


@dataclass(frozen=True, kw_only=True)
class Spaced:
    """A request that tells the distance of voxels."""

    spacing_mm: tuple[float, float, float] = field(metadata=SPACING)

    def __post_init__(self) -> None:
        if min(self.spacing_mm) <= 0:
            raise FieldError("wrong", "spacing_mm", self.spacing_mm, SPACING["wanted"])


@dataclass(frozen=True, kw_only=True)
class VolumeFacts(Spaced):
    """What is known of a volume, to tell whether it suits a model: as `suitability.warnings` has it."""

    direction: tuple[float, ...] = field(metadata={"wanted": "nine numbers"})
    description: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.direction) != 9:
            raise FieldError("wrong", "direction", self.direction, "nine numbers")


@dataclass(frozen=True, kw_only=True)
class DenoiseRequest:
    """A volume to denoise.

    Attributes:
        facts: of the volume; without them nothing is said of whether it suits the model.
    """

    input: Path = field(metadata=TEXT)
    output: Path = field(metadata=TEXT)
    model: str | None = field(default=None, metadata=TEXT)
    device: str = "auto"
    padding_hu: float | tuple[float, float] | None = field(
        default=None, metadata={"wanted": "a number, two numbers or null"}
    )
    facts: VolumeFacts | None = None

    def warnings(self, voxels: np.ndarray, card: ModelCard) -> list[str]:
        """Of `suitability`."""
        from ASCONDenoiseLib.models import suitability

        if self.facts is None:
            return []
        known = {name: str(fact) for name, fact in self.facts.description.items()}
        sample, spacing_mm = suitability.sample(voxels), self.facts.spacing_mm
        return suitability.warnings(sample, spacing_mm, known, card, direction=self.facts.direction)


def denoise(job: Job, request: DenoiseRequest, warm: WarmModel) -> Facts:
    """Returns device, precision, seconds, model (name, version, sha256, path), noise, and sentences for the user.

    The noise is `strength.NoiseByStrength.sd_hu`, null where it cannot be measured.

    Those are notes, of what happened, and warnings, of whether the volume suits the model.
    """
    voxels = read_voxels(request.input)
    chosen, note = choose_model(request.model, len(voxels), lambda: _on_gpu(job, request.device))
    path, card, network = warm.load(job, str(chosen))
    from ASCONDenoiseLib.models import inference

    device = _started(job, request.device)
    with job.timed("work"):
        result = inference.denoise(
            voxels,
            network,
            device=str(device),
            padding_hu=request.padding_hu,
            progress=job.progress,
            cancelled=job.cancelled,
            out=job.new_output(request.output, voxels.shape, voxels.dtype),
        )
    noise = None if request.facts is None else noise_by_strength(voxels, result.voxels, request.facts.spacing_mm)
    return {
        "device": result.device,
        "precision": result.precision,
        "seconds": result.seconds,
        "notes": [*([note] if note else []), *result.notes],
        "warnings": request.warnings(voxels, card),
        "model": _model_facts(path, card),
        "noise_by_strength": None if noise is None else [round(sd_hu, 3) for sd_hu in noise.sd_hu],
    }


@dataclass(frozen=True, kw_only=True)
class ClusterRequest(DenoiseRequest, Spaced):
    """A volume to cluster.

    Attributes:
        output: of the labels, uint8.
        points_output: .npz file of the fields of `feature_clusters.Points`.
        points: in the scatter plot.
    """

    points_output: Path = field(metadata=TEXT)
    clusters: int = 8
    points: int = 2000


def cluster(job: Job, request: ClusterRequest, warm: WarmModel) -> Facts:
    """Returns the facts of `feature_clusters.Anatomy` but for its arrays, and the model as `denoise` does.

    Progress counts slices of both passes, and a few more for t-SNE, whose begin is a stage, "embedding".
    """
    from ASCONDenoiseLib.imaging.clustering import ClusterSettings

    voxels = read_voxels(request.input)
    settings = ClusterSettings(request.clusters, request.points)
    path, card, network = warm.load(job, request.model)
    if not hasattr(network, "features"):
        raise InputError(f"{card.name} ({card.architecture}) has no features to look at. Choose another model.")
    import sklearn  # noqa: F401 - better missed now than after the network's work

    from ASCONDenoiseLib.models.feature_clusters import EMBEDDING_STEPS, cluster_volume

    device = _started(job, request.device)

    def progress(done: int, total: int) -> None:
        job.progress(done, total)
        if done == total - EMBEDDING_STEPS:
            job.answer("stage", stage="embedding")

    with job.timed("work"):
        anatomy = cluster_volume(
            voxels,
            network,
            settings,
            spacing_mm=request.spacing_mm,
            device=str(device),
            padding_hu=request.padding_hu,
            progress=progress,
            cancelled=job.cancelled,
            labels=job.new_output(request.output, voxels.shape, np.dtype(np.uint8)),
        )
        job.outputs.append(request.points_output)
        with request.points_output.open("wb") as file:
            np.savez(file, **vars(anatomy.points))
    return {
        "clusters": [asdict(cluster) for cluster in anatomy.clusters],
        "separation": asdict(anatomy.separation) if anatomy.separation else None,
        "fit_slices": anatomy.fit_slices,
        "device": anatomy.device,
        "precision": anatomy.precision,
        "seconds": anatomy.seconds,
        "notes": list(anatomy.notes),
        "warnings": request.warnings(voxels, card),
        "model": _model_facts(path, card),
    }


@dataclass(frozen=True, kw_only=True)
class BlendRequest:
    """A result of strength 1 to give another strength, 0 to 1."""

    input: Path = field(metadata=TEXT)
    denoised: Path = field(metadata=TEXT)
    output: Path = field(metadata=TEXT)
    strength: float


def blend(job: Job, request: BlendRequest, _: WarmModel) -> Facts:
    """Works without torch, and has nothing to return."""
    from ASCONDenoiseLib.imaging import output_rule

    voxels, denoised = read_voxels(request.input), read_voxels(request.denoised)
    output_rule.check_strength(request.strength)
    _check_alike(voxels, denoised)
    job.answer("started")
    out = job.new_output(request.output, voxels.shape, voxels.dtype)
    with job.timed("work"):
        for i in range(len(voxels)):
            output_rule.blend(voxels[i], denoised[i], request.strength, out=out[i])
            job.progress(i + 1, len(voxels))
    return {}


@dataclass(frozen=True, kw_only=True)
class MeasureRequest(Spaced):
    """A result to measure, against the NDCT where there is one."""

    input: Path = field(metadata=TEXT)
    denoised: Path = field(metadata=TEXT)
    reference: Path | None = field(default=None, metadata=TEXT)


def measure(job: Job, request: MeasureRequest, _: WarmModel) -> Facts:
    """Returns quality (`image_quality.Quality` as a dict), metrics, notes, and how many slices of the total are in it.

    The metrics are those of `metrics.Comparison.to_dict` but for its slices, of "LDCT" and "denoised"; without a
    reference there are none. It works without torch.
    """
    from ASCONDenoiseLib.imaging.image_quality import MAX_SLICES, quality

    volumes = {"LDCT": read_voxels(request.input), "denoised": read_voxels(request.denoised)}
    if request.reference is not None:
        volumes["NDCT"] = read_voxels(request.reference)
    _check_alike(*volumes.values())
    job.answer("started")
    total = len(volumes["LDCT"])
    chosen = np.unique(np.linspace(0, total - 1, min(total, MAX_SLICES)).round().astype(int))
    volumes = {name: voxels[chosen] for name, voxels in volumes.items()}
    with job.timed("work"):
        comparisons, notes = _compared(job, volumes) if "NDCT" in volumes else ([], [])
        measured = quality(volumes["LDCT"], volumes["denoised"], request.spacing_mm, volumes.get("NDCT"))
    return {
        "quality": measured.to_dict(),
        "metrics": comparisons,
        "slices": len(chosen),
        "total": total,
        "notes": [*notes, *measured.notes],
    }


def _compared(job: Job, volumes: dict[str, np.ndarray]) -> tuple[list[Facts], list[str]]:
    """PSNR, SSIM and RMSE against the NDCT, in the units of the paper; notes where they cannot be had."""
    from ASCONDenoiseLib.imaging import metrics

    reference = volumes["NDCT"]
    if min(reference.shape[1:]) < 11:
        return [], ["No PSNR, SSIM and RMSE: the slices are smaller than SSIM's window of 11 x 11 pixels."]
    comparisons = []
    for which, name in enumerate(("LDCT", "denoised")):
        rows: list[metrics.SliceMetrics] = []
        try:
            for i, (a, b) in enumerate(zip(reference, volumes[name], strict=True)):
                rows += metrics.compare(a[None], b[None], metrics.PAPER).rows
                job.progress(which * len(reference) + i + 1, 2 * len(reference))
        except ModuleNotFoundError:
            return [], ["No PSNR, SSIM and RMSE: the Python package scikit-image is missing."]
        numbered = tuple(replace(row, index=i) for i, row in enumerate(rows))
        comparison = metrics.Comparison(name, metrics.PAPER, True, numbered).to_dict()
        del comparison["slices"]
        comparisons.append(comparison)
    return comparisons, []


@dataclass(frozen=True, kw_only=True)
class SimulateRequest(Spaced):
    """A scan to simulate at a fraction of its dose; photons and kernel as in `DoseSettings`."""

    input: Path = field(metadata=TEXT)
    output: Path = field(metadata=TEXT)
    dose: float = 0.25
    photons: float | None = None
    kernel: str = "scan"


def simulate(job: Job, request: SimulateRequest, _: WarmModel) -> Facts:
    """Returns dose, photons (their mean), kernel, device and notes (sentences for the user)."""
    voxels = read_voxels(request.input)
    import_torch(job)
    import torch

    from ASCONDenoiseLib.models.devices import device_title
    from ASCONDenoiseLib.physics import dose

    settings = DoseSettings(request.dose, photons=request.photons, kernel=request.kernel, seed=SIMULATION_SEED)
    options: dict[str, Any] = {"assume_photons": True, "progress": job.progress}
    device, notes = _started(job, in_64_bits=True), []
    with job.timed("work"):
        try:
            simulation = dose.simulate(voxels, request.spacing_mm, settings, device=device, **options)
        except RuntimeError as error:
            if device.type == "cpu" or not is_out_of_memory(error):
                raise
            simulation = None
        if simulation is None:  # now the error no longer holds the GPU's tensors
            notes.append(f"out of memory on {device_title(device)}: the CPU was used")
            device = torch.device("cpu")
            simulation = dose.simulate(voxels, request.spacing_mm, settings, device=device, **options)
        job.new_output(request.output, voxels.shape, voxels.dtype)[...] = simulation.voxels
    return {
        "dose": settings.dose,
        "photons": float(simulation.photons.mean()),
        "kernel": asdict(simulation.kernel),
        "device": device_title(device),
        "notes": [*notes, *simulation.notes],
    }


@dataclass(frozen=True, kw_only=True)
class PhantomRequest(Spaced):
    """A phantom of so many slices, rows and columns to make."""

    output: Path = field(metadata=TEXT)
    shape: tuple[int, int, int] = field(metadata=SHAPE)

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.shape) <= 0:
            raise FieldError("wrong", "shape", self.shape, SHAPE["wanted"])


def phantom(job: Job, request: PhantomRequest, _: WarmModel) -> Facts:
    """Scans a computed abdomen at normal dose; returns spacing_mm, and photons and kernel for its `simulate`."""
    import_torch(job)
    from ASCONDenoiseLib.physics.dose import scan
    from ASCONDenoiseLib.physics.phantoms import abdomen

    device = _started(job, in_64_bits=True)
    settings = phantom_settings("abdomen")
    with job.timed("work"):
        truth_hu = np.rint(abdomen(PHANTOM_SEED, request.shape, request.spacing_mm).voxels_hu).astype(np.int16)
        job.check()
        out = job.new_output(request.output, truth_hu.shape, truth_hu.dtype)
        out[...] = scan(truth_hu, request.spacing_mm, settings, device=device)
    return {"spacing_mm": list(request.spacing_mm), "photons": settings.photons, "kernel": settings.kernel}


@dataclass(frozen=True)
class DevicesRequest:
    """Nothing is to be said."""


def devices(job: Job, request: DevicesRequest, _: WarmModel) -> Facts:
    """Returns the devices (name and title, "cpu" first), what "auto" stands for, and torch's version or null."""
    listed = [{"name": "cpu", "title": "CPU"}]
    try:
        import_torch(job)
    except ImportError:
        return {"torch": None, "auto": "cpu", "devices": listed}
    import torch

    from ASCONDenoiseLib.models.devices import pick_device

    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(i)
        title = f"{properties.name} ({properties.total_memory / 1e9:.0f} GB)"
        listed.append({"name": f"cuda:{i}", "title": title})
    if torch.backends.mps.is_available():
        listed.append({"name": "mps", "title": "Apple GPU (MPS)"})
    return {"torch": torch.__version__, "auto": str(pick_device("auto")), "devices": listed}


JOBS: dict[str, tuple[type, Callable[[Job, Any, WarmModel], Facts]]] = {
    "denoise": (DenoiseRequest, denoise),
    "denoise_series": (SeriesRequest, denoise_series),
    "cluster": (ClusterRequest, cluster),
    "blend": (BlendRequest, blend),
    "measure": (MeasureRequest, measure),
    "regions": (quality_jobs.RegionsRequest, quality_jobs.regions),
    "inspect": (quality_jobs.InspectRequest, quality_jobs.inspect),
    "report": (quality_jobs.ReportRequest, quality_jobs.report),
    "simulate": (SimulateRequest, simulate),
    "phantom": (PhantomRequest, phantom),
    "export": (ExportRequest, export),
    "devices": (DevicesRequest, devices),
}
"""Command -> what its request says, and what is done."""


def _check_alike(*volumes: np.ndarray) -> None:
    if len({volume.shape for volume in volumes}) > 1:
        shapes = ", ".join(" x ".join(map(str, volume.shape)) for volume in volumes)
        raise InputError(f"The volumes to compare have different numbers of slices, rows and columns: {shapes}.")


def _model_facts(path: Path, card: ModelCard) -> dict[str, str]:
    return {"name": card.name, "version": card.version, "sha256": card.sha256, "path": str(path)}


def _on_gpu(job: Job, device: str) -> bool:
    import_torch(job)
    from ASCONDenoiseLib.models.devices import pick_device

    return pick_device(device).type != "cpu"


def _started(job: Job, device: str = "auto", *, in_64_bits: bool = False) -> torch.device:
    """Picks a device and says that the job has started on it; in 64 bits, which MPS lacks: CUDA or the CPU."""
    import torch

    from ASCONDenoiseLib.models.devices import device_title, pick_device

    picked = pick_device(device)
    if in_64_bits and picked.type != "cuda":
        picked = torch.device("cpu")
    job.answer("started", device=device_title(picked))
    return picked
