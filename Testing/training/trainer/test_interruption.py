"""Ctrl-C, SIGTERM and SIGKILL: what is kept, and how a training goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import types

import pytest
from trainer_fixtures import (
    CPU,
    child,
    child_environment,
    differences,
    rows,
)
from training_fixtures import tiny_config

from ASCONDenoiseLib.errors import Failure
from ASCONTrainingLib.data.batches import BatchLoader
from ASCONTrainingLib.trainer import interruption, validation
from ASCONTrainingLib.trainer.run_folder import load_checkpoint
from ASCONTrainingLib.trainer.trainer import fit


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX's")
def test_kill_in_the_middle_of_a_save_costs_one_epoch_at_most(a_set, tmp_path):
    """The file is half on the disk when the process dies; the one before it is whole, and resume starts there."""
    config = tiny_config(validate_every=9)
    fit(config, a_set, tmp_path / "straight", device=CPU)
    ended = subprocess.run(
        child("child_killed_while_saving.py", a_set, tmp_path / "killed"),
        env=child_environment(),
        capture_output=True,
        text=True,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    (partial,) = (tmp_path / "killed").glob(".last.*.partial.pt")
    with pytest.raises(Failure, match="cannot be read"):
        load_checkpoint(partial)  # it was really in the middle
    assert load_checkpoint(tmp_path / "killed" / "last.pt")["step"] == 3
    fit(config, a_set, tmp_path / "killed", device=CPU, resume=True)
    assert not differences(*(load_checkpoint(tmp_path / run / "last.pt") for run in ("straight", "killed")))
    assert not partial.exists()


def test_sigterm_saves_too(a_set, tmp_path):
    """As a cluster's scheduler sends it."""
    with pytest.raises(KeyboardInterrupt):
        fit(
            tiny_config(),
            a_set,
            tmp_path / "run",
            device=CPU,
            progress=lambda now: os.kill(os.getpid(), signal.SIGTERM) if now.step == 1 else None,
        )
    assert load_checkpoint(tmp_path / "run" / "last.pt")["step"] == 2
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL  # as before


def test_sigterm_that_ends_the_processes_that_read_as_well_is_no_failure(a_set, tmp_path, monkeypatch):
    """As `timeout` sends it, to the whole group."""

    def ended(self):
        os.kill(os.getpid(), signal.SIGTERM)
        raise OSError("The processes that prepare batches have failed.")

    monkeypatch.setattr(BatchLoader, "next", ended)
    with pytest.raises(KeyboardInterrupt):
        fit(tiny_config(), a_set, tmp_path / "run", device=CPU)
    assert load_checkpoint(tmp_path / "run" / "last.pt")["step"] == 0


def test_interrupt_during_validation_is_obeyed_and_the_validation_made_up_for(a_set, tmp_path, monkeypatch):
    config = tiny_config()
    fit(config, a_set, tmp_path / "straight", device=CPU)
    compare = validation.compare

    def interrupted(*args, **options):
        os.kill(os.getpid(), signal.SIGINT)
        return compare(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(validation, "compare", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fit(config, a_set, tmp_path / "run", device=CPU)
    assert not rows(tmp_path / "run", "validation")
    fit(config, a_set, tmp_path / "run", device=CPU, resume=True)
    assert [row["step"] for row in rows(tmp_path / "run", "validation")] == [3, 6]
    assert not differences(*(load_checkpoint(tmp_path / run / "best.pt") for run in ("straight", "run")))


def test_signals_in_quick_succession_are_one(monkeypatch):
    """torchrun passes on the Ctrl-C that its processes have got already; a later one is meant."""
    clock = types.SimpleNamespace(now=100.0)
    monkeypatch.setattr(interruption.time, "monotonic", lambda: clock.now)
    with interruption.signals_noted() as interrupted:
        assert not interrupted.is_set()
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupted.is_set()
        clock.now += 10
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_training_in_a_thread_cannot_catch_signals_and_does_without(a_set, tmp_path):
    done = []
    thread = threading.Thread(target=lambda: done.append(fit(tiny_config(), a_set, tmp_path / "run", device=CPU)))
    thread.start()
    thread.join()
    assert done[0].model.exists()
