"""A training from the first step to the model file: epochs, validation, checkpoints, resume, several processes.

The run folder holds config.json, log.jsonl (one JSON object per line), TensorBoard's events, previews/, the checkpoints
last.pt and best.pt, results.json, and at the end the model NAME.safetensors with its card NAME.json. All that is random
is a function of seed and step, so a training that resumes does bit for bit what it would have done (on the CPU; on CUDA
some kernels, bilinear upsampling's gradient above all, add in an order that varies).
"""

from __future__ import annotations

import logging
import math
import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ASCONDenoiseLib import __version__
from ASCONDenoiseLib.errors import Failure, InputError, WriteError
from ASCONDenoiseLib.imaging import metrics
from ASCONDenoiseLib.models.card import ModelCard
from ASCONDenoiseLib.models.files import save_model
from ASCONDenoiseLib.models.networks import build
from ASCONDenoiseLib.reports.text_table import metrics_text
from ASCONTrainingLib.config.settings import TrainConfig
from ASCONTrainingLib.data.batches import BatchLoader, Stage
from ASCONTrainingLib.data.set_index import scan_fingerprints
from ASCONTrainingLib.data.training_set import EvaluationSet
from ASCONTrainingLib.method.objective import NotFiniteError
from ASCONTrainingLib.trainer import run_folder, validation
from ASCONTrainingLib.trainer.distributed import Processes
from ASCONTrainingLib.trainer.interruption import signals_noted
from ASCONTrainingLib.trainer.model_card import model_card, worse_than_input
from ASCONTrainingLib.trainer.progress import Clock, Progress, duration
from ASCONTrainingLib.trainer.run_folder import BEST, CONFIG, LAST, LOG, RESULTS, RunLog
from ASCONTrainingLib.trainer.stages import open_stages, planned_steps, stage_at
from ASCONTrainingLib.trainer.training_state import TrainingState, slow_mac_net

logger = logging.getLogger(__name__)

LOG_EVERY = 50
"""Steps between two lines of losses in the log."""


@dataclass(frozen=True)
class Trained:
    """A finished training.

    Attributes:
        model: its file.
        card: its card.
        split: what was measured on, "test", or "validation" in a set without test patients.
        comparisons: LDCT and denoised slices against the NDCT; empty without either.
        warnings: what speaks against the use of the model.
        best_psnr_db: of the validations; -inf where nothing was validated.
    """

    model: Path
    card: ModelCard
    split: str
    comparisons: tuple[metrics.Comparison, ...]
    warnings: tuple[str, ...] = ()
    best_psnr_db: float = -math.inf

    def table(self) -> str:
        """Like the paper's Table 1: PSNR, SSIM, RMSE, mean ± sd over the slices."""
        if not self.comparisons:
            return "Neither test nor validation patients: there is nothing to measure on."
        whose = {"test": "test patients", "validation": "validation patients (the set has no test patients)"}
        return f"{whose[self.split]}; {metrics_text(self.comparisons)}"


def fit(
    config: TrainConfig,
    data: Path,
    run: Path,
    *,
    resume: bool = False,
    device: str = "auto",
    name: str | None = None,
    measure: bool = True,
    progress: Callable[[Progress], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> Trained | None:
    """Train a network. Started by torchrun, every process calls this with the same arguments.

    Args:
        config: all settings.
        data: folder of the prepared set.
        run: folder of the training.
        resume: go on from `run`'s last checkpoint, where there is one.
        device: "auto", "cpu", "cuda", ...; see ASCONDenoiseLib.models.devices.pick_device.
        name: of the model file; by default the one it was begun with, "ascon-" and the preset's name at first.
        measure: measure the model at the end; False: for a trial, which is to be judged by its validations.
        progress: called after each step; in the first process only.
        say: called with a sentence now and then; in the first process only.

    Returns:
        The finished training; None in all processes but the first.

    Raises:
        InputError: the settings or the set cannot be used; nothing was written.
        Failure: it stopped on the way; last.pt holds what was reached.
        KeyboardInterrupt: Ctrl-C or SIGTERM, after the step was finished and saved.
    """
    processes = Processes(device)
    try:
        with signals_noted() as interrupted:
            training = _Training(config, Path(data), Path(run), name, processes, interrupted, progress, say)
            return training.run(resume, measure)
    finally:
        processes.leave()


class _Training:
    """One training in its folder; methods are in the order in which they come."""

    log: RunLog
    clock: Clock

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
        self.name, self.interrupted = name or "", interrupted
        silent = not processes.first
        self.progress = None if silent else progress
        self.say = (lambda text: None) if silent or say is None else say
        self.index, self.stages = open_stages(config, data, processes)
        self.slices = validation.slices_of(data, self.index) if processes.first else {}
        self.scans = {split: [*scan_fingerprints(data, self.index.of(split))] for split in ("train", "validation")}
        if config.train_with_all:
            self.slices.pop("validation", None)
            self.scans = {"train": self.scans["train"] + self.scans["validation"], "validation": []}
        self.ldct: metrics.Comparison | None = None  # of the validation slices, measured once
        self.state = TrainingState(config, processes)
        self.steps = planned_steps(config, self.stages)
        self.loader: BatchLoader | None = None
        self.saved_step, self.left_s = 0, math.inf

    def run(self, resume: bool, measure: bool) -> Trained | None:
        """From the checkpoint or the first step to the model file."""
        self._begin(resume)
        self.log = RunLog(self.folder, self.state.step, self.processes.first, self.say)
        try:
            self._train()
            self.processes.wait()
            return self._finish(measure) if self.processes.first else None
        except WriteError as error:
            raise WriteError(f"{error} {self._kept()}") from error
        finally:
            if self.loader is not None:
                self.loader.close()
            self.log.close()

    # -------------------------------------------------------------------------------------------------------- the start

    def _begin(self, resume: bool) -> None:
        """Load the checkpoint, or begin a new folder."""
        last = self.folder / LAST
        resumed = last.exists()
        if resumed and not resume:
            raise InputError(f"{self.folder} holds a training already: go on with --resume, or name a new folder.")
        if resumed:
            self._resume(run_folder.load_checkpoint(last))
        elif resume:
            self.say(f"{self.folder} holds no checkpoint: beginning anew")
        self.name = self.name or f"ascon-{self.config.preset}"
        if self.config.initial is not None and not resumed:
            self.state.begin_with(self.config.initial)
        self.say(self._plan())
        if remark := slow_mac_net(self.config):
            self.say(remark)
        self.processes.wait()  # nobody overwrites what another still has to read
        if self.processes.first:
            run_folder.make_folder(self.folder)
            settings = {"config": self.config.to_dict(), "data": str(self.data.absolute()), "name": self.name}
            run_folder.write_json(self.folder / CONFIG, settings | {"ascon": __version__})
            if not resumed:
                self._save()  # so that there is something to return to from the first step on

    def _resume(self, checkpoint: dict[str, Any]) -> None:
        self.state.load_state_dict(checkpoint)
        if checkpoint["items"] != self._items() or checkpoint["scans"] != self.scans:
            now, before = (" and ".join(map(str, items)) for items in (self._items(), checkpoint["items"]))
            raise InputError(
                f"{self.data} gives {now} training images, but {self.folder} was begun with {before}, or with others: "
                "continue with the same set."
            )
        self.name = self.name or checkpoint["name"]
        self.saved_step = self.state.step
        self.say(f"continuing after step {self.state.step} of {self.steps}")

    def _plan(self) -> str:
        """What will be trained, on what, for how long."""
        config = self.config
        mac = " with MAC-Net" if config.mac is not None else ""
        objective = "" if config.objective == "ascon" else f" with the objective {config.objective}"
        sizes = [(batch, f"images of {patch}x{patch}" if patch else "slices") for _, patch, batch in config.stages]
        images = ", then ".join(f"{batch} {what}" for batch, what in sizes)
        budget = f", {config.minutes:g} minutes at most" if config.minutes else ""
        precision = self.state.precision
        precision += f" ({config.precision} would be slower here)" if precision != config.precision else ""
        return (
            f"training {config.network}{mac}{objective} on {self.processes.device} in {precision}: {self.steps} steps "
            f"of {images}"
            f"{budget}; losses are in {self.folder / LOG}"
        )

    def _items(self) -> list[int]:
        """Training images of each stage."""
        return [len(stage.items) for stage in self.stages]

    # ------------------------------------------------------------------------------------------------ epochs and steps

    def _train(self) -> None:
        """Epoch after epoch, until all are done or the budget is used."""
        self.clock, self.first_fraction = Clock(self.state.used_s, self.state.step), self._fraction_done()
        if self._validate_if_due():  # not yet done where the training stopped at the end of an epoch
            self._save()
        while self._fraction_done() < 1:
            self._epoch()
        if self.state.epoch < self.config.epochs:
            self.say(f"{self.config.minutes:g} minutes are used: ended after step {self.state.step} of {self.steps}")

    def _epoch(self) -> None:
        """The steps of an epoch, or what is left of them; the budget may end it early."""
        state, saved_s, since = self.state, self.state.used_s, defaultdict[str, list[float]](list)
        if state.epoch_step == 0:
            state.stage = stage_at(self.stages, self._fraction_done())
        ended = False
        while not ended:
            losses = self._step()
            interrupted, state.used_s = self.processes.largest(float(self.interrupted.is_set()), self.clock.used_s)
            self._tell_progress(losses)
            ended = state.epoch_step == 0 or self._fraction_done() >= 1
            for loss, value in losses.items():
                since[loss].append(value)
            if ended or state.step % LOG_EVERY == 0:
                means = self.processes.mean(*(sum(values) / len(values) for values in since.values()))
                self._log_losses(dict(zip(since, means, strict=True)))
                since.clear()
            if interrupted:
                self._stop(together=True)
            self._validate_if_due()
            if ended or state.used_s - saved_s >= 60 * self.config.save_minutes:
                self._save()
                saved_s = state.used_s
                self.clock.mark(state.step)  # the rate is that of steps alone

    @property
    def stage(self) -> Stage:
        """That of the epoch under way."""
        return self.stages[self.state.stage]

    def _fraction_done(self) -> float:
        """Of the training, 0..1: of its steps or of its budget, whichever is used up first."""
        state, budget_s = self.state, 60 * self.config.minutes if self.config.minutes else math.inf
        epochs = state.epoch + state.epoch_step / self.stage.batches.steps
        return min(1.0, max(epochs / self.config.epochs, state.used_s / budget_s))

    def _step(self) -> dict[str, float]:
        """One step; what can go wrong in it becomes a sentence that says what is kept."""
        state = self.state
        try:
            ldct, ndct = self._batches().next()
        except (OSError, ValueError) as error:
            self._stop_if_interrupted()  # the signal may have ended the processes that read
            self._save()
            reason = str(error)
            if isinstance(error, OSError) and error.filename is not None:
                reason = f"{error.filename}: {error.strerror}."
            raise Failure(f"The training data cannot be read any more. {reason} {self._kept()}") from error
        try:
            losses = state.train_step(ldct, ndct, self._fraction_done())
        except NotFiniteError as error:
            batch = self.folder / f"failed-batch-{self.processes.rank}.pt"
            run_folder.save_checkpoint({"step": state.step, "ldct": ldct.cpu(), "ndct": ndct.cpu()}, batch)
            raise NotFiniteError(
                f"{error} That was step {state.step + 1}; its batch is in {batch}. {self._kept()} If it ends here "
                "again, begin anew with a lower learning rate, a gradient clip or the precision fp32."
            ) from error
        except Failure as error:
            raise Failure(f"{error} {self._kept()}") from error
        state.epoch_step += 1
        if state.epoch_step == self.stage.batches.steps:
            state.epoch, state.epoch_step = state.epoch + 1, 0
        return losses

    def _batches(self) -> BatchLoader:
        """The batches of this stage, from the next step on."""
        if self.loader is None or self.loader.stage is not self.stage:
            if self.loader is not None:
                self.loader.close()
            state, device = self.state, self.processes.device
            self.loader = BatchLoader(self.stage, state.epoch, state.epoch_step, self.config.workers, device)
        return self.loader

    def _tell_progress(self, losses: dict[str, float]) -> None:
        state, fraction = self.state, self._fraction_done()
        self.left_s = self.clock.session_s / max(fraction - self.first_fraction, 1e-9) * (1 - fraction)
        if self.progress is not None:
            rate = self.clock.images_per_s(state.step, self.stage.batches.batch)
            self.progress(
                Progress(state.step, self.steps, fraction, losses["loss"], state.learning_rate, rate, self.left_s)
            )

    def _log_losses(self, losses: dict[str, float]) -> None:
        state = self.state
        rate = self.clock.images_per_s(state.step, self.stage.batches.batch)
        rates = {"learning_rate": state.learning_rate, "images_per_s": rate}
        if self.processes.device.type == "cuda":
            rates["peak_gb"] = torch.cuda.max_memory_allocated(self.processes.device) / 1e9
        epoch = state.epoch + (state.epoch_step > 0)
        self.log.write({"step": state.step, "epoch": epoch, "used_s": round(state.used_s, 1), **rates, **losses})
        self.log.scalars(rates | {f"loss/{name}": value for name, value in losses.items()}, state.step)
        self.clock.mark(state.step)

    # ---------------------------------------------------------------------------------------- checkpoints, interruption

    def _save(self, *more: str) -> None:
        """Write the last checkpoint, and `more` files like it, in the first process."""
        if self.processes.first:
            state = self.state.state_dict() | {"items": self._items(), "scans": self.scans, "name": self.name}
            run_folder.save_checkpoint(state, *(self.folder / name for name in (*more, LAST)))
            self.saved_step = self.state.step

    def _kept(self) -> str:
        return f"{self.folder / LAST} holds step {self.saved_step}, from where --resume goes on."

    def _stop(self, *, together: bool) -> None:
        """Save and end an interrupted training; the other processes end when the first has saved."""
        self._save()
        self.say(f"stopped after step {self.state.step} of {self.steps}; {self.folder / LAST} holds it")
        if together:
            self.processes.wait()
        raise KeyboardInterrupt

    def _stop_if_interrupted(self, *_: int) -> None:
        """For what the first process does alone, image by image."""
        if self.interrupted.is_set():
            self._stop(together=False)

    # ------------------------------------------------------------------------------------------------------- validation

    def _validate_if_due(self) -> bool:
        """After every so many epochs and at the end, in the first process; the others wait. Whether it was due."""
        state = self.state
        due = state.epoch_step == 0 and state.epoch % self.config.validate_every == 0
        if state.step <= state.validated_step or not (due or self._fraction_done() >= 1):
            return False
        if "validation" in self.slices:
            self._validate(self.slices["validation"])
        state.validated_step = state.step
        self.processes.wait()
        return True

    def _validate(self, slices: EvaluationSet) -> None:
        """PSNR, SSIM and RMSE of whole slices; the best network so far is kept."""
        state, limit = self.state, self.config.validation_slices
        device, progress = str(self.processes.device), self._stop_if_interrupted
        if self.ldct is None:
            self.ldct = validation.compare(slices, limit=limit, name="LDCT", progress=progress)
        denoised = validation.compare(slices, state.denoiser, device=device, limit=limit, progress=progress)
        means = {name: denoised.mean_sd(name)[0] for name in metrics.METRICS}
        before = {f"ldct_{name}": self.ldct.mean_sd(name)[0] for name in metrics.METRICS}
        best = means["psnr_db"] > state.best_psnr_db
        self.log.write({"step": state.step, "validation": means | before, "best": best})
        self.log.scalars({f"validation/{name}": value for name, value in (means | before).items()}, state.step)
        self.log.preview(validation.preview(state.denoiser, slices[len(slices) // 2], device=device), state.step)
        left = f", {duration(self.left_s)} left" if 0 < self.left_s < math.inf else ""
        self.say(
            f"step {state.step}/{self.steps}{left}: validation PSNR {means['psnr_db']:.2f} dB "
            f"(LDCT {before['ldct_psnr_db']:.2f}), SSIM {100 * means['ssim']:.2f} % ({100 * before['ldct_ssim']:.2f})"
            + ("" if best else "; it was better before")
        )
        if best:
            state.best_psnr_db, state.validated_step = means["psnr_db"], state.step
            self._save(BEST)

    # ---------------------------------------------------------------------------------------------------------- the end

    def _finish(self, measure: bool) -> Trained:
        """The best network (the last one without validation patients) on the test patients, and as a model file."""
        network, device = self._best_network(), str(self.processes.device)
        split = "test" if "test" in self.slices else "validation"
        slices = self.slices.get(split) if measure else None
        comparisons: tuple[metrics.Comparison, ...] = ()
        if slices is not None:
            self.say(f"measuring on {len(slices)} {split} slices")
            compare = partial(validation.compare, slices, progress=self._stop_if_interrupted)
            comparisons = (compare(name="LDCT"), compare(network, device=device, name=self.name))
        warnings = worse_than_input(comparisons, split)
        for warning in warnings:
            logger.warning("%s", warning)
        means = {comparison.name: _mean_sd(comparison) for comparison in comparisons}
        measured = {f"{split} slices, {name}": values for name, values in means.items()}
        card = model_card(self.name, self.config, self.index, measured | {"training": self._effort()}, warnings)
        path = self.folder / f"{self.name}.safetensors"
        card = save_model(network, card, path)
        results = {"split": split, "comparisons": [c.to_dict() for c in comparisons]}
        run_folder.write_json(self.folder / RESULTS, results | {"warnings": list(warnings)})
        self.log.write({"step": self.state.step, "finished": split, "warnings": list(warnings), **means})
        return Trained(path, card, split, comparisons, warnings, self.state.best_psnr_db)

    def _best_network(self) -> nn.Module:
        """That of best.pt, or of last.pt where nothing was validated."""
        best = self.folder / BEST
        state = run_folder.load_checkpoint(best if best.exists() else self.folder / LAST)
        network = build(self.config.network, self.config.network_settings)
        network.load_state_dict(state["average" if self.config.ema else "network"])
        return network

    def _effort(self) -> dict[str, Any]:
        """Steps, hours and scans of the training, those of the model it began with among them, for the card."""
        before = self.state.seen_before
        scans = {split: sorted({*self.scans.get(split, []), *before.get(split, [])}) for split in self.scans | before}
        return {"steps": self.state.step, "hours": round(self.state.used_s / 3600, 3), "scans": scans}


def _mean_sd(comparison: metrics.Comparison) -> dict[str, list[float]]:
    """Metric -> [mean, sd], for JSON: what is not finite is left out."""
    return {m: [round(v, 6) for v in comparison.mean_sd(m) if math.isfinite(v)] for m in metrics.METRICS}
