"""The child process that does the work: JSON lines in on stdin, JSON lines out on stdout, the model kept warm.

    PythonSlicer -m ASCONDenoiseLib.worker [--idle-minutes 10]     (PYTHONPATH holds the folder of ASCONDenoiseLib)

One JSON object a line, ASCII, both ways. stdout carries nothing else: what libraries print goes to stderr, with the
log, which names nothing about a patient. Voxels travel as .npy files (`numpy.load(path, mmap_mode="r")`), (S, H, W) in
HU; geometry stays where it is.

The first line out is {"event": "ready", "protocol": 1, "version": ..., "pid": ...}; torch is not yet imported by then.
`pid` is that of the Python that works, below Slicer's launcher.

JOBS have an `id` (any number or text, unlike those under way) and a `command`. They are done one at a time, in order.
Numbers may be null or left out where a default is given.

  denoise   input, output, model=null (name or path; null: default), device="auto", strength=1, padding_hu=null,
            batch=null, first=[] (slices to do before the others, e.g. those on show)
  cluster   input, output (labels, uint8), points_output (.npz), spacing_mm=[x,y,z], model=null, device="auto",
            padding_hu=null, batch=null, clusters=8, points=2000, seed=0      also needs scikit-learn
  blend     input, denoised, output, strength          no torch needed
  measure   input, denoised, spacing_mm=[x,y,z], reference=null     no torch needed
  simulate  input, output, spacing_mm, dose=0.25, padding_hu=null, device="auto", seed=1, photons=null,
            kernel=null (photons and kernel: null measures them in the scan)
  phantom   output, kind="abdomen" ("chest"), shape=[24,256,256], spacing_mm=[1.4,1.4,3.0], seed=1000000
            an int16 scan of a computed patient at normal dose
  export    input, files=[DICOM files of the source, in any order], ijk_to_ras=4x4, folder (new or empty), description
            (how it was made): a derived DICOM series     no torch needed
  warm      model=null, device="auto"                  imports torch, loads the model, runs it once on a tiny image
  devices, models, info

ANSWERS to a job, each with its id; the last is one of result, cancelled and error:
  {"event": "stage", "stage": "torch" | "model"}       what takes long before it starts; left out where it is warm
  {"event": "stage", "stage": "embedding"}             cluster: all slices are done, t-SNE begins
  {"event": "started", "device": "cuda:0 NVIDIA H100"}   device: jobs that use torch
  {"event": "progress", "done": 3, "total": 300, "seconds_left": 4.2}   at most ten a second; seconds_left may be null
  {"event": "first_done", "slices": [150]}             denoise: these are in the output now, and may be shown
  {"event": "result", "times": {"total": ..., "torch"?: , "model"?: , "work": ...}, ...}, and of
    denoise   device, precision, strength, seconds, notes: [sentence], model: {"name", "version", "sha256", "path"}
    cluster   clusters: [`anatomy.Cluster` as a dict], separation: `clustering.Separation` as a dict or null,
              fit_slices, device, precision, seconds, notes, model; points_output holds ijk, labels, hu and xy of
              `anatomy.Points`. Its progress counts slices of both passes, and a few more for t-SNE.
    blend     strength
    measure   quality: `image_quality.Quality` as a dict; metrics: [{"name": "LDCT" | "denoised", "scale", "window_hu",
              "mean": {"psnr_db", "ssim", "rmse", "rmse_hu"}, "sd": likewise}], empty without a reference; notes;
              slices: how many of the `total` were measured, at most 48, evenly spaced. null: infinite or not defined.
    simulate  dose, photons (their mean), kernel: {"cutoff_per_mm", "order"}, device, notes
    phantom   spacing_mm, photons, kernel: the last two are what `simulate` wants for this phantom
    export    folder, files (how many)
    warm      device, model
    devices   torch (version, or null where it is missing), auto (what "auto" is), devices: [{"name": "cuda:0",
              "title": "NVIDIA H100 (80 GB)"}], always with "cpu"
    models    models: [{"name", "path", "shipped", "card": {...}}], default (a path, or null where it is missing)
    info      version, python, numpy, torch (version or null), pid, model (the warm one's path, or null)
  {"event": "cancelled"}, {"event": "error", "message": sentences for the user}

COMMANDS that are no jobs, and get no answer of their own:
  {"command": "cancel", "job": 1}   reaches a running job before its next batch or slice, a waiting one at its turn;
                                    without "job", every job. A job that is over stays as it was answered.
  {"command": "quit"}               as closing stdin
A line that makes no sense gets {"id": its id or null, "event": "error", "message": ...}.

THE END. The process ends within a second when stdin closes, in the middle of a job too, and after some idle minutes.
The latter is said by {"event": "ending", "reason": "idle"}. After a fault that may have damaged it (a CUDA error), the
job's error is followed by {"event": "ending", "reason": "fault"}. A job that was sent while it ended has no answer:
start another worker and send it again. `output` is there, complete, when the result is; it is removed on cancel and
error and at the end. Only a killed worker leaves it behind, so the sender makes and removes the folder of these files.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import json
import logging
import math
import os
import queue
import shutil
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from ASCONDenoiseLib import __version__
from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.models.card import ModelCard
from ASCONDenoiseLib.models.files import find_model, list_models, load_network, models_folder, verify
from ASCONDenoiseLib.physics.settings import PHANTOM_PHOTONS, DoseSettings, phantom_settings

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ASCONDenoiseLib.io.volume import DicomSeries, Geometry

logger = logging.getLogger(__name__)

PROTOCOL = 1
IDLE_MINUTES = 10.0

REPORT_EVERY_S = 0.1
GRACE_S = 0.5
"""How long a running job may take to notice that stdin was closed before the process ends without it."""

PHANTOM_SEED = 1_000_000
"""A patient that no training has seen: its seeds are small numbers."""

REQUIRED = object()


class JobError(RuntimeError):
    """A job cannot be done; the text is for the user."""


class Cancelled(RuntimeError):  # noqa: N818 - what the user asked for, not an error
    """The job was cancelled, or stdin was closed."""


class Job:
    """One request, what it has made so far, and the line to the one who asked."""

    def __init__(self, request: dict[str, Any], answer: Callable[..., None]):
        self.id = request["id"]
        self.command = request["command"]
        self.outputs: list[Path] = []
        self.times: dict[str, float] = {}
        self.answer = lambda event, **facts: answer(event, id=self.id, **facts)
        self._request = request
        self._cancel = threading.Event()
        self._first_report: tuple[float, int] | None = None
        self._last_report = -math.inf

    def cancel(self) -> None:
        self._cancel.set()

    def cancelled(self) -> bool:
        return self._cancel.is_set()

    def check(self) -> None:
        """Raises Cancelled where the job is."""
        if self.cancelled():
            raise Cancelled

    def progress(self, done: int, total: int) -> None:
        """Reports; raises Cancelled where the job is."""
        self.check()
        now = time.monotonic()
        if self._first_report is None:
            self._first_report = now, done
        if now - self._last_report < REPORT_EVERY_S and done < total:
            return
        self._last_report = now
        since, before = self._first_report  # the first slice pays for what happens once
        left = (now - since) / (done - before) * (total - done) if done > before else None
        self.answer("progress", done=done, total=total, seconds_left=left)

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Adds the seconds of a block to `times`."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.times[name] = self.times.get(name, 0.0) + time.monotonic() - started

    # What the request says; each raises JobError where that is missing or makes no sense.

    def text(self, name: str, default: Any = REQUIRED) -> Any:
        return self._value(name, default, "a text", lambda value: isinstance(value, str) and value != "")

    def number(self, name: str, default: Any = REQUIRED) -> Any:
        return self._value(name, default, "a number", _is_number)

    def whole(self, name: str, default: Any = REQUIRED) -> Any:
        return self._value(name, default, "a whole number", _is_whole)

    def wholes(self, name: str, default: Any = REQUIRED) -> Any:
        return self._value(name, default, "a list of whole numbers", lambda v: _is_list(v) and all(map(_is_whole, v)))

    def texts(self, name: str) -> list[str]:
        return self._value(name, REQUIRED, "texts", lambda v: _is_list(v) and all(isinstance(item, str) for item in v))

    def matrix(self, name: str) -> np.ndarray:
        """4x4."""

        def fits(value: Any) -> bool:
            rows = value if _is_list(value) and len(value) == 4 and all(map(_is_list, value)) else []
            return [len(row) for row in rows] == [4] * 4 and all(_is_number(v) for row in rows for v in row)

        return np.array(self._value(name, REQUIRED, "4 rows of 4 numbers", fits), float)

    def three(self, name: str, default: Any = REQUIRED) -> Any:
        """Three positive numbers."""

        def fits(value: Any) -> bool:
            return _is_list(value) and len(value) == 3 and all(_is_number(v) and v > 0 for v in value)

        return self._value(name, default, "three positive numbers", fits)

    def _value(self, name: str, default: Any, kind: str, fits: Callable[[Any], bool]) -> Any:
        value = self._request.get(name)
        if value is None and default is not REQUIRED:
            return default
        if not fits(value):
            raise JobError(f'The job "{self.command}" needs {kind} for "{name}"; got {value!r}.')
        return value

    def voxels(self, name: str) -> np.ndarray:
        """The volume (S, H, W) in the .npy file that the request names, memory-mapped and read-only."""
        path = Path(self.text(name))
        try:
            voxels = np.load(path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError:
            raise JobError(f"The voxels {path} are gone. Start again.") from None
        except (OSError, ValueError, EOFError) as error:
            raise JobError(f"The voxels {path} cannot be read ({error}). Start again.") from None
        if voxels.ndim != 3 or 0 in voxels.shape or voxels.dtype.kind not in "iuf":
            raise JobError(f"{path} holds {voxels.dtype} of shape {voxels.shape}, not a CT volume of numbers.")
        return voxels

    def new_output(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """A new memory-mapped .npy file; it is removed unless the job ends well."""
        path = Path(self.text("output"))
        needed = math.prod(shape) * np.dtype(dtype).itemsize
        try:
            free = shutil.disk_usage(path.parent).free
            if free < needed:  # a mapped file that outgrows the disk kills the process
                raise JobError(
                    f"The folder {path.parent} has {free / 1e6:.0f} MB free, and {needed / 1e6:.0f} MB are needed. "
                    "Make room, or choose another temporary folder in Slicer's settings."
                )
            self.outputs.append(path)
            return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
        except OSError as error:
            reason = error.strerror or "unknown reason"
            raise JobError(f"{path} cannot be written ({reason}). See that its folder is there, then retry.") from None

    def remove_outputs(self) -> None:
        for path in self.outputs:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            with contextlib.suppress(OSError):  # Windows keeps a file that is still mapped
                path.unlink(missing_ok=True)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


class Worker:
    """Reads requests in a thread of its own and does the jobs in the main thread."""

    def __init__(self, requests: BinaryIO, answers: BinaryIO, idle_s: float):
        self._requests = requests
        self._answers = answers
        self._idle_s = idle_s
        self._waiting: queue.Queue[Job | None] = queue.Queue()  # None: look whether the end has come
        self._live: dict[Any, Job] = {}  # waiting or running, by id
        self._lock = threading.Lock()  # of _live
        self._writing = threading.Lock()
        self._ending = threading.Event()
        self._finished = threading.Event()
        self._warm: tuple[Path, ModelCard, nn.Module] | None = None

    def run(self) -> None:
        """Works until stdin closes, `quit`, idleness or a fault."""
        self.answer("ready", protocol=PROTOCOL, version=__version__, pid=os.getpid())
        threading.Thread(target=self._read, daemon=True).start()
        while not self._ending.is_set():
            try:
                job = self._waiting.get(timeout=self._idle_s)
            except queue.Empty:
                self.answer("ending", reason="idle")
                break
            if job is not None and not self._do(job):
                self.answer("ending", reason="fault")
                break
        self._finished.set()

    def end(self) -> None:
        """Cancels everything and ends the process, after GRACE_S at the latest. Not for the main thread."""
        self._ending.set()
        with self._lock:
            live = list(self._live.values())
        for job in live:
            job.cancel()
        self._waiting.put(None)
        if not self._finished.wait(GRACE_S):
            for job in live:
                job.remove_outputs()
        os._exit(0)

    def answer(self, event: str, **facts: Any) -> None:
        """Writes one line. Where nobody reads any more, stdin is closed too, which ends the process."""
        data = json.dumps(_finite({"event": event, **facts}), allow_nan=False).encode() + b"\n"
        with self._writing, contextlib.suppress(OSError):
            self._answers.write(data)
            self._answers.flush()

    # ---- the reading thread

    def _read(self) -> None:
        try:
            for line in self._requests:
                if line.strip():
                    self._take(line)
        finally:  # whatever has happened, a worker that hears nothing must not live on
            self.end()

    def _take(self, line: bytes) -> None:
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            request = None
        if not isinstance(request, dict):
            return self._refuse(None, "A request to the worker is one JSON object on a line; this was not.")
        command, job_id = request.get("command"), request.get("id")
        if command == "quit":
            self.end()
        elif command == "cancel":
            self._cancel(request.get("job"))
        elif not isinstance(command, str) or command not in JOBS:
            self._refuse(job_id, f"The worker knows no command {command!r}. Is it of another version? Restart Slicer.")
        elif not isinstance(job_id, int | str):
            self._refuse(None, f'The job "{command}" has no id that is a number or a text.')
        else:
            job = Job(request, self.answer)
            with self._lock:
                known = self._live.setdefault(job_id, job) is not job
            if known:
                return self._refuse(None, f"There is a job {job_id!r} under way already.")
            self._waiting.put(job)
        return None

    def _refuse(self, job_id: Any, message: str) -> None:
        self.answer("error", id=job_id if isinstance(job_id, int | str) else None, message=message)

    def _cancel(self, job_id: Any) -> None:
        with self._lock:
            jobs = [job for job in self._live.values() if job_id is None or job.id == job_id]
        for job in jobs:
            job.cancel()

    # ---- the main thread

    def _do(self, job: Job) -> bool:
        """Does one job and answers it; False where the process had better not go on."""
        sound, event, facts = True, "error", {}
        started = time.monotonic()
        try:
            job.check()
            facts = JOBS[job.command](self, job)
            job.check()
            event = "result"
            job.times["total"] = time.monotonic() - started
            facts["times"] = {name: round(seconds, 4) for name, seconds in job.times.items()}
        except Exception as error:
            if job.cancelled():  # whatever else went wrong by then
                event, facts = "cancelled", {}
            else:
                message, sound = _sentence(error)
                event, facts = "error", {"message": message}
                if not sound:
                    logger.exception("The job %s failed.", job.command)
        if event != "result":  # only here has the error let go of the mapped files
            job.remove_outputs()
        with self._lock:
            del self._live[job.id]
        job.answer(event, **facts)
        return sound

    def torch(self, job: Job) -> Any:
        """Imports torch, which takes seconds the first time."""
        if "torch" not in sys.modules:
            job.answer("stage", stage="torch")
            with job.timed("torch"):
                import torch
        import torch

        job.check()
        return torch

    def network(self, job: Job) -> tuple[Path, ModelCard, nn.Module]:
        """The model that the job asks for: the warm one where its files are still the same."""
        path = find_model(job.text("model", None)).resolve()
        card = verify(path)
        if self._warm is None or self._warm[:2] != (path, card):
            self.torch(job)
            job.answer("stage", stage="model")
            self._warm = None  # frees the old one first
            with job.timed("model"):
                network, card = load_network(path)
            self._warm = path, card, network
            job.check()
        return self._warm

    @property
    def warm_model(self) -> str | None:
        return str(self._warm[0]) if self._warm else None


def _sentence(error: Exception) -> tuple[str, bool]:
    """What to tell the user about an error, and whether the process is sound after it."""
    if isinstance(error, MemoryError):
        return "There is not enough memory. Close other programs, or use a machine with more memory.", True
    if isinstance(error, ModuleNotFoundError):
        name = {"sklearn": "scikit-learn", "skimage": "scikit-image"}.get(error.name, error.name)
        return f"The Python package {name} is missing. Install ASCON's packages from its panel, then retry.", True
    if isinstance(error, ImportError):
        return f"A Python package cannot be loaded ({_first_line(error)}). Reinstall it, then restart Slicer.", True
    if isinstance(error, JobError | ValueError):  # those of the other files are sentences
        return str(error), True
    return f"The work failed unexpectedly ({type(error).__name__}: {_first_line(error)}). Retry, on the CPU say.", False


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or ["no reason given"])[0].rstrip(".")


def _finite(value: Any) -> Any:
    """JSON has no infinity: None."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value


# ------------------------------------------------------------------------------------------------------------- the jobs


def _denoise(worker: Worker, job: Job) -> dict[str, Any]:
    voxels = job.voxels("input")
    strength, padding_hu, batch = job.number("strength", 1.0), job.number("padding_hu", None), job.whole("batch", None)
    first = sorted({s for s in job.wholes("first", []) if 0 <= s < len(voxels)})
    path, card, network = worker.network(job)
    worker.torch(job)
    from ASCONDenoiseLib.models import inference

    device = inference.pick_device(job.text("device", "auto"))
    job.answer("started", device=_device_title(device))
    _check_finite(voxels)
    out = job.new_output(voxels.shape, voxels.dtype)
    done, results = 0, []
    with job.timed("work"):
        for part in parts(len(voxels), first):
            try:
                result = inference.denoise(
                    voxels[part],
                    network,
                    strength=strength,
                    device=str(device),
                    batch=batch,
                    padding_hu=padding_hu,
                    progress=lambda n, _, done=done: job.progress(done + n, len(voxels)),
                    cancelled=job.cancelled,
                    out=out[part],
                )
            except inference.InferenceError as error:
                where = f" Slices are counted from slice {part.start + 1}." if part.start else ""
                raise JobError(f"{error}{where}") from None
            results.append(result)
            done += part.stop - part.start
            if done == len(first):
                job.answer("first_done", slices=first)
    _free_gpu_memory()
    return {
        "device": ", then ".join(dict.fromkeys(result.device for result in results)),
        "precision": results[0].precision,
        "strength": strength,
        "seconds": sum(result.seconds for result in results),
        "notes": list(dict.fromkeys(note for result in results for note in result.notes)),
        "model": _model_facts(path, card),
    }


def _cluster(worker: Worker, job: Job) -> dict[str, Any]:
    from ASCONDenoiseLib.imaging.clustering import ClusterSettings

    voxels, spacing_mm = job.voxels("input"), tuple(job.three("spacing_mm"))
    settings = ClusterSettings(job.whole("clusters", 8), job.whole("points", 2000), job.whole("seed", 0))
    padding_hu, batch, points_path = job.number("padding_hu", None), job.whole("batch", None), job.text("points_output")
    path, card, network = worker.network(job)
    if not hasattr(network, "features"):
        raise JobError(f"{card.name} ({card.architecture}) has no features to look at. Choose another model.")
    worker.torch(job)
    import sklearn  # noqa: F401 - better missed now than after the network's work

    from ASCONDenoiseLib.models import inference
    from ASCONDenoiseLib.models.feature_clusters import EMBEDDING_STEPS, cluster_volume

    device = inference.pick_device(job.text("device", "auto"))
    job.answer("started", device=_device_title(device))
    _check_finite(voxels)
    labels = job.new_output(voxels.shape, np.dtype(np.uint8))

    def progress(done: int, total: int) -> None:
        job.progress(done, total)
        if done == total - EMBEDDING_STEPS:
            job.answer("stage", stage="embedding")

    with job.timed("work"):
        try:
            found = cluster_volume(
                voxels,
                network,
                settings,
                spacing_mm=spacing_mm,
                device=str(device),
                batch=batch,
                padding_hu=padding_hu,
                progress=progress,
                cancelled=job.cancelled,
                labels=labels,
            )
        except inference.InferenceError as error:
            raise JobError(str(error)) from None
        job.outputs.append(Path(points_path))
        with open(points_path, "wb") as file:
            np.savez(file, **vars(found.points))
    _free_gpu_memory()
    return {
        "clusters": [asdict(cluster) for cluster in found.clusters],
        "separation": asdict(found.separation) if found.separation else None,
        "fit_slices": found.fit_slices,
        "device": found.device,
        "precision": found.precision,
        "seconds": found.seconds,
        "notes": list(found.notes),
        "model": _model_facts(path, card),
    }


def parts(count: int, first: list[int]) -> list[slice]:
    """The slices 0 to count - 1 in runs: those in `first` (sorted), then the others."""
    others = [s for s in range(count) if s not in set(first)]
    runs: list[slice] = []
    for indices in (first, others):
        start = len(runs)
        for s in indices:
            if len(runs) > start and runs[-1].stop == s:
                runs[-1] = slice(runs[-1].start, s + 1)
            else:
                runs.append(slice(s, s + 1))
    return runs


def _check_finite(voxels: np.ndarray) -> None:
    if voxels.dtype.kind == "f":
        for i, image in enumerate(voxels):
            if not np.isfinite(image).all():
                raise JobError(f"Slice {i + 1} of the volume has voxels that are not finite numbers; repair it first.")


def _blend(worker: Worker, job: Job) -> dict[str, Any]:
    from ASCONDenoiseLib.imaging.output_rule import blend, check_strength

    voxels, denoised, strength = job.voxels("input"), job.voxels("denoised"), job.number("strength")
    check_strength(strength)
    _check_alike(voxels, denoised)
    job.answer("started")
    out = job.new_output(voxels.shape, voxels.dtype)
    with job.timed("work"):
        for i in range(len(voxels)):
            blend(voxels[i], denoised[i], strength, out=out[i])
            job.progress(i + 1, len(voxels))
    return {"strength": strength}


def _measure(worker: Worker, job: Job) -> dict[str, Any]:
    from ASCONDenoiseLib.imaging.image_quality import MAX_SLICES, quality

    volumes = {"LDCT": job.voxels("input"), "denoised": job.voxels("denoised")}
    if job.text("reference", None) is not None:
        volumes["NDCT"] = job.voxels("reference")
    _check_alike(*volumes.values())
    spacing_mm = tuple(job.three("spacing_mm"))
    job.answer("started")
    total = len(volumes["LDCT"])
    chosen = np.unique(np.linspace(0, total - 1, min(total, MAX_SLICES)).round().astype(int))
    volumes = {name: voxels[chosen] for name, voxels in volumes.items()}
    with job.timed("work"):
        numbers, notes = _metrics(job, volumes) if "NDCT" in volumes else ([], [])
        found = quality(volumes["LDCT"], volumes["denoised"], spacing_mm, volumes.get("NDCT"))
    return {
        "quality": found.to_dict(),
        "metrics": numbers,
        "slices": len(chosen),
        "total": total,
        "notes": [*notes, *found.notes],
    }


def _metrics(job: Job, volumes: dict[str, np.ndarray]) -> tuple[list[dict[str, Any]], list[str]]:
    """PSNR, SSIM and RMSE against the NDCT, in the units of the paper; notes where they cannot be had."""
    from ASCONDenoiseLib.imaging import metrics

    reference = volumes["NDCT"]
    if min(reference.shape[1:]) < 11:
        return [], ["No PSNR, SSIM and RMSE: the slices are smaller than SSIM's window of 11 x 11 pixels."]
    numbers = []
    for which, name in enumerate(("LDCT", "denoised")):
        rows = []
        try:
            for i, (a, b) in enumerate(zip(reference, volumes[name], strict=True)):
                rows += metrics.compare(a[None], b[None], metrics.PAPER).rows
                job.progress(which * len(reference) + i + 1, 2 * len(reference))
        except ModuleNotFoundError:
            return [], ["No PSNR, SSIM and RMSE: the Python package scikit-image is missing."]
        rows = tuple(replace(row, index=i) for i, row in enumerate(rows))
        comparison = metrics.Comparison(name, metrics.PAPER, True, rows).to_dict()
        del comparison["slices"]
        numbers.append(comparison)
    return numbers, []


def _simulate(worker: Worker, job: Job) -> dict[str, Any]:
    voxels, spacing_mm = job.voxels("input"), tuple(job.three("spacing_mm"))
    values = {"dose": job.number("dose", 0.25), "seed": job.whole("seed", 1)}
    photons, kernel = job.number("photons", None), job.text("kernel", "scan")
    padding_hu = job.number("padding_hu", None)
    torch = worker.torch(job)
    from ASCONDenoiseLib.physics.dose import simulate_any_scan

    settings = DoseSettings(**values, photons=photons, kernel=kernel)
    device = _device_for_dose(job)
    job.answer("started", device=_device_title(device))
    notes = []

    def simulated() -> Any:
        return simulate_any_scan(
            voxels, spacing_mm, settings, device=device, padding_hu=padding_hu, progress=job.progress
        )

    with job.timed("work"):
        while True:
            try:
                simulation = simulated()
                break
            except torch.cuda.OutOfMemoryError:
                notes.append(f"out of memory on {_device_title(device)}: the CPU was used")
                device = torch.device("cpu")
        job.new_output(voxels.shape, voxels.dtype)[...] = simulation.voxels
    _free_gpu_memory()
    return {
        "dose": settings.dose,
        "photons": float(simulation.photons.mean()),
        "kernel": asdict(simulation.kernel),
        "device": _device_title(device),
        "notes": [*notes, *simulation.notes],
    }


def _phantom(worker: Worker, job: Job) -> dict[str, Any]:
    kind, seed = job.text("kind", "abdomen"), job.whole("seed", PHANTOM_SEED)
    shape, spacing_mm = job.three("shape", [24, 256, 256]), tuple(job.three("spacing_mm", [1.4, 1.4, 3.0]))
    if kind not in PHANTOM_PHOTONS or not all(map(_is_whole, shape)):
        raise JobError(f"There are phantoms of {' and '.join(PHANTOM_PHOTONS)}, in whole slices, rows and columns.")
    worker.torch(job)
    from ASCONDenoiseLib.physics.dose import scan
    from ASCONDenoiseLib.physics.phantoms import ANATOMY

    device = _device_for_dose(job)
    job.answer("started", device=_device_title(device))
    settings = phantom_settings(kind)
    with job.timed("work"):
        truth_hu = np.rint(ANATOMY[kind](seed, tuple(shape), spacing_mm).voxels_hu).astype(np.int16)
        job.check()
        job.new_output(truth_hu.shape, truth_hu.dtype)[...] = scan(truth_hu, spacing_mm, settings, device=device)
    _free_gpu_memory()
    return {"spacing_mm": list(spacing_mm), "photons": settings.photons, "kernel": settings.kernel}


def _export(worker: Worker, job: Job) -> dict[str, Any]:
    from ASCONDenoiseLib.io.dicom_writer import Derivation, check_new_folder, write_derived_series
    from ASCONDenoiseLib.io.volume import Volume

    geometry = _geometry(job.matrix("ijk_to_ras"))
    description = job.text("description")
    voxels = job.voxels("input")
    folder = check_new_folder(job.text("folder"))
    job.answer("started")
    with job.timed("work"):
        source = _source_series([Path(file) for file in job.texts("files")], geometry, len(voxels))
        staging = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.partial")
        job.outputs.append(staging)
        try:
            staging.mkdir()
            derivation = Derivation(description, software_version=__version__)
            files = write_derived_series(Volume(voxels, geometry), source, staging / "series", derivation)
            job.check()
            if folder.exists():
                folder.rmdir()  # empty, as checked
            os.replace(staging / "series", folder)
        except OSError as error:
            raise JobError(f"{folder} could not be written: check free space and permissions.") from error
        job.outputs.append(folder)  # a cancel that comes now takes it away again
        shutil.rmtree(staging, ignore_errors=True)
    return {"folder": str(folder), "files": len(files)}


def _geometry(ijk_to_ras: np.ndarray) -> Geometry:
    """Slicer's matrix of voxel to RAS as spacing, origin and direction in LPS."""
    from ASCONDenoiseLib.io.volume import Geometry

    ijk_to_lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ ijk_to_ras
    spacing_mm = np.linalg.norm(ijk_to_lps[:3, :3], axis=0)
    if not spacing_mm.all():
        raise JobError("The volume's axes have no length. Load it again.")
    direction = ijk_to_lps[:3, :3] / spacing_mm
    return Geometry(tuple(spacing_mm.tolist()), tuple(ijk_to_lps[:3, 3].tolist()), tuple(direction.ravel().tolist()))


def _source_series(files: list[Path], geometry: Geometry, slices: int) -> DicomSeries:
    """The DICOM files that a volume came from, in the order of its slices."""
    import pydicom

    from ASCONDenoiseLib.io.dicom_reader import read_series
    from ASCONDenoiseLib.io.volume import DicomSeries

    if not files:
        raise JobError(
            "The volume was not loaded from DICOM, so there is no header to derive one from. Save it as NRRD."
        )
    if gone := sum(not file.is_file() for file in files):
        raise JobError(
            f"{gone} of the {len(files)} DICOM files that the LDCT came from are gone. Import its series again."
        )
    normal = np.reshape(geometry.direction, (3, 3))[:, 2]
    if len(files) == 1 and slices > 1:  # multi-frame; its frames ascend along rows x columns
        volume = read_series(files[0])
        own = np.reshape(volume.geometry.direction, (3, 3))[:, 2]
        return volume.source if own @ normal > 0 else replace(volume.source, frames=volume.source.frames[::-1])
    places = []
    for file in dict.fromkeys(files):
        try:
            header = pydicom.dcmread(file, stop_before_pixels=True, force=True)
            place = float(np.asarray(header.ImagePositionPatient, float) @ normal)
        except (OSError, AttributeError, TypeError, ValueError, pydicom.errors.InvalidDicomError):
            raise JobError(f"{file} can no longer be read as a CT slice. Import its series again.") from None
        places.append((place, file, str(header.get("SeriesInstanceUID", ""))))
    places.sort(key=lambda place: place[0])
    return DicomSeries(places[0][2], "", tuple(file for _, file, _ in places), len(places))


def _warm(worker: Worker, job: Job) -> dict[str, Any]:
    path, card, network = worker.network(job)
    worker.torch(job)
    from ASCONDenoiseLib.models import inference

    device = inference.pick_device(job.text("device", "auto"))
    with job.timed("work"):
        result = inference.denoise(np.zeros((1, 64, 64), np.int16), network, device=str(device))
    return {"device": result.device, "model": _model_facts(path, card)}


def _devices(worker: Worker, job: Job) -> dict[str, Any]:
    devices = [{"name": "cpu", "title": "CPU"}]
    try:
        torch = worker.torch(job)
    except ImportError:
        return {"torch": None, "auto": "cpu", "devices": devices}
    from ASCONDenoiseLib.models import inference

    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(i)
        title = f"{properties.name} ({properties.total_memory / 1e9:.0f} GB)"
        devices.append({"name": f"cuda:{i}", "title": title})
    if torch.backends.mps.is_available():
        devices.append({"name": "mps", "title": "Apple GPU (MPS)"})
    return {"torch": torch.__version__, "auto": str(inference.pick_device("auto")), "devices": devices}


def _models(worker: Worker, job: Job) -> dict[str, Any]:
    shipped = models_folder()
    found = [
        {"name": path.stem, "path": str(path), "shipped": path.parent == shipped, "card": asdict(card)}
        for card, path in list_models()
    ]
    try:
        default = str(find_model(None))
    except InputError:
        default = None
    return {"models": found, "default": default}


def _info(worker: Worker, job: Job) -> dict[str, Any]:
    from importlib import metadata

    try:
        torch_version = metadata.version("torch")
    except metadata.PackageNotFoundError:
        torch_version = None
    return {
        "version": __version__,
        "python": sys.version.split()[0],
        "numpy": np.__version__,
        "torch": torch_version,
        "pid": os.getpid(),
        "model": worker.warm_model,
    }


JOBS: dict[str, Callable[[Worker, Job], dict[str, Any]]] = {
    "denoise": _denoise,
    "cluster": _cluster,
    "blend": _blend,
    "measure": _measure,
    "simulate": _simulate,
    "phantom": _phantom,
    "export": _export,
    "warm": _warm,
    "devices": _devices,
    "models": _models,
    "info": _info,
}


def _check_alike(*volumes: np.ndarray) -> None:
    if len({volume.shape for volume in volumes}) > 1:
        shapes = ", ".join(" x ".join(map(str, volume.shape)) for volume in volumes)
        raise JobError(f"The volumes to compare have different numbers of slices, rows and columns: {shapes}.")


def _model_facts(path: Path, card: ModelCard) -> dict[str, str]:
    return {"name": card.name, "version": card.version, "sha256": card.sha256, "path": str(path)}


def _device_title(device: torch.device) -> str:
    import torch

    return f"{device} {torch.cuda.get_device_name(device)}" if device.type == "cuda" else str(device)


def _device_for_dose(job: Job) -> torch.device:
    """CUDA or the CPU: the simulation computes in 64 bits, which MPS lacks."""
    import torch

    from ASCONDenoiseLib.models.inference import pick_device

    device = pick_device(job.text("device", "auto"))
    return device if device.type == "cuda" else torch.device("cpu")


def _free_gpu_memory() -> None:
    """Gives back what torch keeps in reserve: Slicer draws with the same GPU."""
    import torch

    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _private_streams() -> tuple[BinaryIO, BinaryIO]:
    """Stdin and stdout under new numbers; what prints to stdout writes to stderr from now on, and stdin is empty.

    The latter also because Windows lets whoever asks about stdin wait for a pending read of it, as some libraries do
    when they are imported.
    """
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nowhere, 0)
    os.close(nowhere)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return requests, answers


def main() -> None:
    """Runs the worker on stdin and stdout; does not return."""
    parser = argparse.ArgumentParser(prog="ASCONDenoiseLib.worker", description="ASCON's child process.")
    parser.add_argument("--idle-minutes", type=float, default=IDLE_MINUTES, help="ends after so long without a job")
    arguments = parser.parse_args()
    requests, answers = _private_streams()
    faulthandler.enable()
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    worker = Worker(requests, answers, 60 * arguments.idle_minutes)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is meant for Slicer, which closes stdin when it goes
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=worker.end).start())
    worker.run()
    os._exit(0)  # no waiting for the reading thread, or for libraries that tidy up


if __name__ == "__main__":
    main()
