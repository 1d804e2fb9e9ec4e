"""The job that denoises a whole scan from its files to files: `models.scan`, with the model kept warm."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ASCONDenoiseLib.checked_json import FieldError
from ASCONDenoiseLib.io.results import SeriesFolder, destination
from ASCONDenoiseLib.models.card import ModelCard
from ASCONDenoiseLib.models.scan import DenoisedScan, ScanSettings, denoise_scan
from ASCONDenoiseLib.worker.job import TEXT, Job
from ASCONDenoiseLib.worker.warm_model import WarmModel

if TYPE_CHECKING:
    from torch import nn

STRENGTH = {"wanted": "a number from 0 to 1"}


@dataclass(frozen=True, kw_only=True)
class SeriesRequest:
    """A scan to denoise.

    Attributes:
        input: DICOM folder or volume file.
        output: a new folder for a DICOM series, or a volume file.
        series_uid: which series of a folder, where there are several.
        model: a name or path (None: the default).
        strength: 0 to 1.
        device: as in `devices.pick_device`.
        precision: one of `mixed_precision.PRECISIONS`.
        repeatable: the UIDs of a DICOM result follow from those of the source, the model and the strength.
    """

    input: Path = field(metadata=TEXT)
    output: Path = field(metadata=TEXT)
    series_uid: str | None = None
    model: str | None = field(default=None, metadata=TEXT)
    strength: float = field(default=1.0, metadata=STRENGTH)
    device: str = "auto"
    precision: str = "auto"
    repeatable: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise FieldError("wrong", "strength", self.strength, STRENGTH["wanted"])


def denoise_series(job: Job, request: SeriesRequest, warm: WarmModel) -> dict[str, Any]:
    """Returns the record of the result, and how many files were written."""
    scan = denoised(job, request, warm)
    return {"record": scan.record, "files": len(scan.files)}


def denoised(job: Job, request: SeriesRequest, warm: WarmModel) -> DenoisedScan:
    """Does the work of `denoise_series`; what was written is removed unless the job ends well."""

    def load(_slices: int, _device: str) -> tuple[nn.Module, ModelCard, str]:
        _, card, network = warm.load(job, request.model)
        job.answer("started")
        return network, card, ""

    output = destination(request.output)
    if isinstance(output, SeriesFolder):
        output = SeriesFolder(output.path, request.repeatable)
    job.unfinished = output.path
    with job.timed("work"):
        scan = denoise_scan(
            request.input,
            output,
            load,
            ScanSettings(request.strength, request.device, request.precision),
            series_uid=request.series_uid,
            progress=job.progress,
            cancelled=job.cancelled,
        )
    job.outputs += [output.path] if isinstance(output, SeriesFolder) else scan.files
    return scan
