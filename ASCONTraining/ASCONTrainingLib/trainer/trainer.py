"""A training from the first step to the model file: epochs, validation, checkpoints, resume, several processes.

The run folder holds config.json, log.jsonl (one JSON object per line), TensorBoard's events, previews/, the checkpoints
last.pt and best.pt, results.json, and at the end the model NAME.safetensors with its card NAME.json. All that is random
is a function of seed and step, so a training that resumes does bit for bit what it would have done (on the CPU; on CUDA
some kernels, bilinear upsampling's gradient above all, add in an order that varies).
"""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ASCONDenoiseLib import __version__
from ASCONDenoiseLib.errors import InputError, is_out_of_memory
from ASCONDenoiseLib.imaging import metrics
from ASCONDenoiseLib.imaging.hounsfield import TRAINING_WINDOW_HU
from ASCONDenoiseLib.models.card import ModelCard, Scope
from ASCONDenoiseLib.models.files import save_model
from ASCONDenoiseLib.models.networks import ARCHITECTURES
from ASCONTrainingLib.config.settings import TrainConfig
from ASCONTrainingLib.data.batches import Batches, BatchLoader, Stage
from ASCONTrainingLib.data.set_index import Index, read_index, scan_fingerprints
from ASCONTrainingLib.data.training_set import EvaluationSet, TrainingSet
from ASCONTrainingLib.method.mac_net import PATCH
from ASCONTrainingLib.method.objective import NotFiniteError
from ASCONTrainingLib.trainer import run_folder, validation
from ASCONTrainingLib.trainer.distributed import Processes
from ASCONTrainingLib.trainer.run_folder import LOG, CheckpointError, Clock, RunLog
from ASCONTrainingLib.trainer.training_state import Learner

LAST, BEST, CONFIG, RESULTS = "last.pt", "best.pt", "config.json", "results.json"

LOG_EVERY = 50
"""Steps between two lines of losses in the log."""
GRACE_S = 2.0
"""After a first signal, how long others are taken for the same one."""


class TrainingError(RuntimeError):
    """The training had to stop; the text says why, what is kept, and what to do."""


@dataclass(frozen=True)
class Progress:
    """Where a training stands after a step."""

    step: int
    steps: int
    share: float  # of the whole, 0..1; of the budget where it has one
    loss: float
    learning_rate: float
    images_per_s: float
    left_s: float


@dataclass(frozen=True)
class Trained:
    """A finished training: its model file, and LDCT and denoised slices against the NDCT (empty without any)."""

    model: Path
    card: ModelCard
    split: str
    comparisons: tuple[metrics.Comparison, ...]

    def table(self) -> str:
        """Like the paper's Table 1: PSNR, SSIM, RMSE, mean ± sd over the slices."""
        if not self.comparisons:
            return "Neither test nor validation patients: there is nothing to measure on."
        whose = {"test": "test patients", "validation": "validation patients (the set has no test patients)"}
        return f"{whose[self.split]}; {metrics.table(self.comparisons)}"


def fit(
    config: TrainConfig,
    data: Path,
    run: Path,
    *,
    resume: bool = False,
    device: str = "auto",
    name: str | None = None,
    progress: Callable[[Progress], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> Trained | None:
    """Train on the prepared set `data`, in the folder `run`. Returns None in all processes but the first.

    Started by torchrun, every process calls it with the same arguments.

    Args:
        resume: go on from `run`'s last checkpoint, where there is one.
        device: "auto", "cpu", "cuda", ...; see ASCONDenoiseLib.models.devices.pick_device.
        name: of the model file; by default the one it was begun with, "ascon-" and the preset's name at first.
        progress: called after each step, `say` with a sentence now and then; in the first process only.

    Raises:
        InputError: the settings or the set cannot be used; nothing was written.
        TrainingError, CheckpointError: stopped on the way; last.pt holds what was reached.
        KeyboardInterrupt: Ctrl-C or SIGTERM, after the step was finished and saved.
    """
    processes = Processes(device)
    try:
        with _interruptible() as interrupted:
            return _Run(config, Path(data), Path(run), name, processes, interrupted, progress, say).go(resume)
    finally:
        processes.leave()


# -------------------------------------------------------------------------------------------------------------- the run


class _Run:
    """One training in its folder."""

    def __init__(
        self,
        config: TrainConfig,
        data: Path,
        folder: Path,
        name: str | None,
        processes: Processes,
        interrupted: threading.Event,
        progress: Callable[[Progress], None] | None,
        say: Callable[[str], None] | None,
    ):
        self.config, self.data, self.folder, self.processes = config, data, folder, processes
        self.name, self.interrupted = name, interrupted
        silent = not processes.first
        self.progress = None if silent else progress
        self.say = (lambda text: None) if silent or say is None else say
        self.index, self.stages = open_set(config, data, processes)
        self.slices = whole_slices(data, self.index) if processes.first else {}
        self.scans = {split: [*scan_fingerprints(data, self.index.of(split))] for split in ("train", "validation")}
        self.ldct: metrics.Comparison | None = None  # of the validation slices, measured once
        self.learner = Learner(config, processes)
        self.steps = planned_steps(config, self.stages)
        self.feed: BatchLoader | None = None
        self.saved_step, self.left_s = 0, math.inf

    def go(self, resume: bool) -> Trained | None:
        self._begin(resume)
        log = RunLog(self.folder, self.learner.step, self.processes.first, self.say)
        try:
            self._train(log)
            self.processes.wait()
            return self._finish(log) if self.processes.first else None
        except CheckpointError as error:
            raise CheckpointError(f"{error} {self._kept()}") from error
        finally:
            if self.feed is not None:
                self.feed.close()
            log.close()

    def _begin(self, resume: bool) -> None:
        """Where the checkpoint stands, or a new folder."""
        last = self.folder / LAST
        if last.exists() and not resume:
            raise InputError(f"{self.folder} holds a training already: go on with --resume, or name a new folder.")
        if last.exists():
            state = run_folder.load(last)
            self.learner.load(state)
            if state["items"] != self._items() or state["scans"] != self.scans:
                raise InputError(
                    f"{self.data} gives {_listed(self._items())} training images, but {self.folder} was begun with "
                    f"{_listed(state['items'])}, or with others: continue with the same set."
                )
            self.name = self.name or state["name"]
            self.saved_step = self.learner.step
            self.say(f"continuing after step {self.learner.step} of {self.steps}")
        elif resume:
            self.say(f"{self.folder} holds no checkpoint: beginning anew")
        self.name = self.name or f"ascon-{self.config.preset}"
        if self.config.initial is not None and not last.exists():
            self.learner.begin_with(self.config.initial)
        self.say(self._plan())
        self.processes.wait()  # nobody overwrites what another still has to read
        if self.processes.first:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"{self.folder} cannot be made ({error.strerror}): name another folder.") from None
            settings = {"config": self.config.to_dict(), "data": str(self.data.absolute()), "name": self.name}
            run_folder.write_whole(self.folder / CONFIG, _json(settings | {"ascon": __version__}))
            if not last.exists():
                self._save()  # so that there is something to return to from the first step on

    def _plan(self) -> str:
        """What will be trained, on what, for how long."""
        config = self.config
        mac = " with MAC-Net" if config.mac is not None else ""
        objective = "" if config.objective == "ascon" else f" with the objective {config.objective}"
        sizes = [(batch, f"images of {patch}x{patch}" if patch else "slices") for _, patch, batch in config.stages]
        images = ", then ".join(f"{batch} {what}" for batch, what in sizes)
        budget = f", {config.minutes:g} minutes at most" if config.minutes else ""
        return (
            f"training {config.network}{mac}{objective} on {self.processes.device}: {self.steps} steps of {images}"
            f"{budget}; losses are in {self.folder / LOG}"
        )

    def _items(self) -> list[int]:
        """Training images of each stage."""
        return [len(stage.items) for stage in self.stages]

    @property
    def stage(self) -> Stage:
        """That of the epoch under way."""
        return self.stages[self.learner.stage]

    def _train(self, log: RunLog) -> None:
        """Steps, until all are done or the budget is used."""
        learner, config = self.learner, self.config
        clock = Clock(learner.used_s, learner.step)
        share = self._share()
        first_share, saved_s, sums, count = share, learner.used_s, {}, 0
        if self._validate_if_due(share, log):  # not yet done where the training stopped at the end of an epoch
            self._save()
        while share < 1:
            if learner.epoch_step == 0:
                learner.stage = stage_at(self.stages, share)
            losses = self._step(share)
            stop, learner.used_s = self.processes.largest(float(self.interrupted.is_set()), clock.used_s)
            share = self._share()
            sums, count = {name: sums.get(name, 0.0) + value for name, value in losses.items()}, count + 1
            self.left_s = clock.session_s / max(share - first_share, 1e-9) * (1 - share)
            if self.progress is not None:
                rate = clock.images_per_s(learner.step, self.stage.batches.batch)
                self.progress(
                    Progress(learner.step, self.steps, share, losses["loss"], learner.learning_rate, rate, self.left_s)
                )
            ended = learner.epoch_step == 0 or share >= 1
            if ended or learner.step % LOG_EVERY == 0:
                means = self.processes.mean(*(value / count for value in sums.values()))
                self._log_losses(log, dict(zip(sums, means, strict=True)), clock)
                sums, count = {}, 0
            if stop:
                self._stop(together=True)
            self._validate_if_due(share, log)
            if ended or learner.used_s - saved_s >= 60 * config.save_minutes:
                self._save()
                saved_s = learner.used_s
                clock.mark(learner.step)  # the rate is that of steps alone
        if learner.epoch < config.epochs:
            self.say(f"{config.minutes:g} minutes are used: ended after step {learner.step} of {self.steps}")

    def _stop(self, *, together: bool) -> None:
        """Ends an interrupted training, with all that it has learnt; the others end when the first has saved."""
        self._save()
        self.say(f"stopped after step {self.learner.step} of {self.steps}; {self.folder / LAST} holds it")
        if together:
            self.processes.wait()
        raise KeyboardInterrupt

    def _stop_if_interrupted(self, *_: int) -> None:
        """For what the first process does alone, image by image."""
        if self.interrupted.is_set():
            self._stop(together=False)

    def _share(self) -> float:
        """Of the training that is done, 0..1: of its steps or of its budget, whichever is used up first."""
        learner, budget_s = self.learner, 60 * self.config.minutes if self.config.minutes else math.inf
        epochs = learner.epoch + learner.epoch_step / self.stage.batches.steps
        return min(1.0, max(epochs / self.config.epochs, learner.used_s / budget_s))

    def _step(self, share: float) -> dict[str, float]:
        """One step; what can go wrong in it becomes a sentence that says what is kept."""
        learner = self.learner
        try:
            ldct, ndct = self._fed().next()
        except (OSError, ValueError) as error:
            self._save()
            raise TrainingError(f"The training data cannot be read any more. {_text(error)} {self._kept()}") from error
        try:
            losses = learner.learn(ldct, ndct, share)
        except NotFiniteError as error:
            batch = self.folder / f"failed-batch-{self.processes.rank}.pt"
            run_folder.save({"step": learner.step, "ldct": ldct.cpu(), "ndct": ndct.cpu()}, batch)
            raise TrainingError(
                f"{error} That was step {learner.step + 1}; its batch is in {batch}. {self._kept()} If it ends here "
                "again, begin anew with a lower learning rate, a gradient clip or the precision fp32."
            ) from error
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise TrainingError(f"{too_large(ldct)} {self._kept()}") from error
        learner.epoch_step += 1
        if learner.epoch_step == self.stage.batches.steps:
            learner.epoch, learner.epoch_step = learner.epoch + 1, 0
        return losses

    def _fed(self) -> BatchLoader:
        """The feed of this stage, from where the training stands."""
        if self.feed is None or self.feed.stage is not self.stage:
            if self.feed is not None:
                self.feed.close()
            learner, device = self.learner, self.processes.device
            self.feed = BatchLoader(self.stage, learner.epoch, learner.epoch_step, self.config.workers, device)
        return self.feed

    def _kept(self) -> str:
        return f"{self.folder / LAST} holds step {self.saved_step}, from where --resume goes on."

    def _save(self, *more: str) -> None:
        """The last checkpoint, and `more` files like it, by the first process."""
        if not self.processes.first:
            return
        state = self.learner.state() | {"items": self._items(), "scans": self.scans, "name": self.name}
        run_folder.save(state, *(self.folder / name for name in (*more, LAST)))
        self.saved_step = self.learner.step

    def _log_losses(self, log: RunLog, losses: dict[str, float], clock: Clock) -> None:
        step = self.learner.step
        rate = clock.images_per_s(step, self.stage.batches.batch)
        rates = {"learning_rate": self.learner.learning_rate, "images_per_s": rate}
        if self.processes.device.type == "cuda":
            rates["peak_gb"] = torch.cuda.max_memory_allocated(self.processes.device) / 1e9
        epoch = self.learner.epoch + (self.learner.epoch_step > 0)
        log.write({"step": step, "epoch": epoch, "used_s": round(self.learner.used_s, 1), **rates, **losses})
        log.scalars(rates | {f"loss/{name}": value for name, value in losses.items()}, step)
        clock.mark(step)

    def _validate_if_due(self, share: float, log: RunLog) -> bool:
        """After every so many epochs and at the end, by the first process; the others wait. Whether it was due."""
        learner, step = self.learner, self.learner.step
        due = learner.epoch_step == 0 and learner.epoch % self.config.validate_every == 0
        if step <= learner.validated_step or not (due or share >= 1):
            return False
        if "validation" in self.slices:
            self._validate(self.slices["validation"], log)
        learner.validated_step = step
        self.processes.wait()
        return True

    def _validate(self, slices: EvaluationSet, log: RunLog) -> None:
        """PSNR, SSIM and RMSE of whole slices; the best network so far is kept."""
        learner, limit = self.learner, self.config.validation_slices
        device, progress = str(self.processes.device), self._stop_if_interrupted
        if self.ldct is None:
            self.ldct = validation.compare(slices, limit=limit, name="LDCT", progress=progress)
        denoised = validation.compare(slices, learner.result, device=device, limit=limit, progress=progress)
        found = {name: denoised.mean_sd(name)[0] for name in metrics.METRICS}
        before = {f"ldct_{name}": self.ldct.mean_sd(name)[0] for name in metrics.METRICS}
        best = found["psnr_db"] > learner.best_psnr_db
        log.write({"step": learner.step, "validation": found | before, "best": best})
        log.scalars({f"validation/{name}": value for name, value in (found | before).items()}, learner.step)
        log.preview(validation.preview(learner.result, slices[len(slices) // 2], device=device), learner.step)
        left = f", {duration(self.left_s)} left" if 0 < self.left_s < math.inf else ""
        self.say(
            f"step {learner.step}/{self.steps}{left}: validation PSNR {found['psnr_db']:.2f} dB "
            f"(LDCT {before['ldct_psnr_db']:.2f}), SSIM {100 * found['ssim']:.2f} % ({100 * before['ldct_ssim']:.2f})"
            + ("" if best else "; it was better before")
        )
        if best:
            learner.best_psnr_db, learner.validated_step = found["psnr_db"], learner.step
            self._save(BEST)

    def _finish(self, log: RunLog) -> Trained:
        """The best network (the last one without validation patients) on the test patients, and as a model file."""
        network, device, gain = self._best_network(), str(self.processes.device), None
        if self.config.fit_gain:
            gain = self._fit_gain(network, device)
        split = "test" if "test" in self.slices else "validation"
        slices = self.slices.get(split)
        comparisons: tuple[metrics.Comparison, ...] = ()
        if slices is not None:
            self.say(f"measuring on {len(slices)} {split} slices")
            compare = partial(validation.compare, slices, progress=self._stop_if_interrupted)
            comparisons = (compare(name="LDCT"), compare(network, device=device, name=self.name))
        path = self.folder / f"{self.name}.safetensors"
        card = save_model(network, self._card(split, comparisons, gain), path)
        results = {"split": split, "comparisons": [c.to_dict() for c in comparisons], "gain": gain}
        run_folder.write_whole(self.folder / RESULTS, _json(results))
        means = {c.name: _mean_sd(c) for c in comparisons}
        log.write({"step": self.learner.step, "finished": split, **means})
        return Trained(path, card, split, comparisons)

    def _seen(self) -> dict[str, list[str]]:
        """What ModelCard.scans tells: of this model and of the one it began with."""
        before = self.learner.seen_before
        return {split: sorted({*self.scans.get(split, []), *before.get(split, [])}) for split in self.scans | before}

    def _fit_gain(self, network: nn.Module, device: str) -> float:
        """Scales the last layer by the factor that training slices ask for, and returns it."""
        slices = EvaluationSet(self.data, "train")
        gain = validation.fitted_gain(slices, network, device=device, progress=self._stop_if_interrupted)
        self.say(f"the gain of the last layer is set by {100 * (gain - 1):+.2f} %, as training slices ask for")
        with torch.no_grad():
            for parameter in network.last.parameters():
                parameter.mul_(gain)
        return gain

    def _best_network(self) -> nn.Module:
        """That of best.pt, or of last.pt where nothing was validated."""
        best = self.folder / BEST
        state = run_folder.load(best if best.exists() else self.folder / LAST)
        network = ARCHITECTURES[self.config.network]()
        network.load_state_dict(state["average" if self.config.ema else "network"])
        return network

    def _card(self, split: str, comparisons: tuple[metrics.Comparison, ...], gain: float | None) -> ModelCard:
        measured = {f"{split} slices, {c.name}": _mean_sd(c) for c in comparisons}
        training: dict[str, Any] = {"steps": self.learner.step, "hours": round(self.learner.used_s / 3600, 3)}
        training["scans"] = self._seen()
        if gain is not None:
            training["gain of the last layer, fitted on training slices"] = round(gain, 6)
        trained_on = self.index.of("train")
        phantoms = sum(volume.is_phantom for volume in trained_on)
        data = [f"{self.index.kind}: {self.index}"]
        if phantoms:
            data.append(f"of which {phantoms} phantoms train")
        if self.config.initial is not None:
            data.append(f"begun with the model {Path(self.config.initial).stem}")
        limits = ["Not tried on scanners, kernels, doses and body regions other than those of its training data."]
        if phantoms == len(trained_on):
            limits.insert(0, "Trained on phantoms only: of no use on patients.")
        return ModelCard(
            name=self.name,
            version="1.0",
            architecture=self.config.network,
            settings={},
            window_hu=TRAINING_WINDOW_HU,
            preset=self.config.preset,
            training_data=data,
            dose=_dose(self.index, self.config),
            date=time.strftime("%Y-%m-%d"),
            licence="not stated",
            intended_use="Research. Not for diagnosis.",
            limits=limits,
            scope=_scope(self.index, self.config),
            metrics=measured | {"training": training},
        )


def open_set(config: TrainConfig, data: Path, processes: Processes) -> tuple[Index, list[Stage]]:
    """The set and its stages, checked against what the networks can take. Raises InputError and InputError."""
    index = read_index(data)
    stages = []
    for begins, patch, batch in config.stages:
        items = TrainingSet(
            data,
            "train",
            patch,
            augment=config.augment,
            doses=config.doses,
            lesions=config.lesions,
            kernels=config.kernels,
            clip=not config.loss.product_output,
            seed=config.seed,
        )
        _check_sides(items[0][0].shape[-2:], config)
        batches = Batches(len(items), batch, config.seed, config.steps_per_epoch, processes.rank, processes.count)
        stages.append(Stage(begins, items, batches))
    return index, stages


def _check_sides(sides: tuple[int, int], config: TrainConfig) -> None:
    """MAC-Net compares patches of 16 pixels with their 8 neighbours: a smaller image than 4x4 of them has hardly one
    that has all, and what is left over at the border of a side that is no multiple would never be compared.
    """
    least, multiple = (4 * PATCH, PATCH) if config.mac is not None else (16, 8)
    if min(sides) < least or any(side % multiple for side in sides):
        whose = "with MAC-Net they" if config.mac is not None else "they"
        raise InputError(
            f"The training images are {sides[1]}x{sides[0]} pixels; {whose} need sides of {least} or more that are "
            f"multiples of {multiple}: set patch, to {max(least, 64)} for example."
        )


def stage_at(stages: list[Stage], share: float) -> int:
    """Number of the stage of an epoch that begins at `share` of the training."""
    return max(number for number, stage in enumerate(stages) if stage.begins <= share)


def planned_steps(config: TrainConfig, stages: list[Stage]) -> int:
    """Steps of all epochs; a budget may end the training earlier."""
    return sum(stages[stage_at(stages, e / config.epochs)].batches.steps for e in range(config.epochs))


def whole_slices(data: Path, index: Index) -> dict[str, EvaluationSet]:
    """The slices to measure on, of the splits that have patients; opened early, so that a lost file shows at once."""
    return {split: EvaluationSet(data, split) for split in ("validation", "test") if index.of(split)}


def _dose(index: Index, config: TrainConfig) -> str:
    if config.doses:
        return "{:g} to {:g}, simulated".format(*config.doses)
    doses = sorted({volume.dose for volume in index.of("train") if volume.dose is not None})
    if index.simulated and doses:
        return f"{doses[0]:g}{f' to {doses[-1]:g}' if len(doses) > 1 else ''}, simulated"
    return "quarter dose, as delivered" if index.kind.startswith("mayo") else "that of the low-dose series, as measured"


def _scope(index: Index, config: TrainConfig) -> Scope:
    """What the set says of the scans that train; phantoms are no scans, and nothing is known of kernels and bodies."""
    scans = [volume for volume in index.of("train") if not volume.is_phantom]
    if not scans:
        return Scope()
    doses = config.doses or [volume.dose for volume in scans if volume.dose is not None]
    return Scope(slice_mm=_ends([volume.spacing_mm[2] for volume in scans]), doses=_ends(doses))


def _ends(values: Sequence[float]) -> tuple[float, float] | None:
    """The lowest and the highest in four digits; None of none."""
    return (float(f"{min(values):.4g}"), float(f"{max(values):.4g}")) if values else None


def _mean_sd(comparison: metrics.Comparison) -> dict[str, list[float]]:
    """Metric -> [mean, sd], for JSON: what is not finite is left out."""
    return {m: [round(v, 6) for v in comparison.mean_sd(m) if math.isfinite(v)] for m in metrics.METRICS}


def duration(seconds: float) -> str:
    """Whole minutes above two minutes."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _listed(numbers: list[int]) -> str:
    return " and ".join(map(str, numbers))


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()


def _text(error: BaseException) -> str:
    """The sentence of an error of ours; of the system's, file and reason."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}."
    return str(error)


def too_large(images: torch.Tensor) -> str:
    """What to say where memory ran out with these images."""
    return (
        f"There is not enough memory for a batch of {len(images)} images of {images.shape[-1]}x{images.shape[-2]} on "
        f"{images.device}. Choose a smaller batch or patch."
    )


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Ctrl-C and SIGTERM set the event, so that no step is cut in half; a second one, later, interrupts at once.

    torchrun passes on the Ctrl-C that its processes got from the terminal already: within GRACE_S they count as one.
    """
    event, first_s = threading.Event(), 0.0

    def note(number: int, frame: object) -> None:
        nonlocal first_s
        if not event.is_set():
            first_s = time.monotonic()
            event.set()
        elif time.monotonic() - first_s > GRACE_S:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
