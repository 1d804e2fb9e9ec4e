"""Several processes train as one."""

from __future__ import annotations

import socket
import subprocess

import pytest
import torch
from trainer_fixtures import (
    child,
    child_environment,
    rows,
)

from ASCONTrainingLib.trainer.run_folder import load_checkpoint

PATIENCE_S = 900
"""Far beyond what they take, on any machine."""


def torchrun(count: int, command: list[str]) -> None:
    """Run `count` processes with gloo, as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(count):
        settings = {"WORLD_SIZE": count, "RANK": rank, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1"}
        environment = child_environment(**settings, MASTER_PORT=port, OMP_NUM_THREADS=1)
        started.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    try:
        errors = [process.communicate(timeout=PATIENCE_S)[1] for process in started]
    finally:
        for process in started:
            process.kill()  # where one hangs; else nothing is left to kill
    assert not any(process.returncode for process in started), errors


def test_two_processes_are_one_with_the_same_global_batch(a_set, tmp_path):
    """The denoiser alone: its losses are means over images, and gradients means over processes."""
    one, two = tmp_path / "one", tmp_path / "two"
    torchrun(2, child("child_train.py", a_set, two))
    subprocess.run(child("child_train.py", a_set, one), env=child_environment(), check=True)
    losses = [[row["loss"] for row in rows(run, "learning_rate")] for run in (one, two)]
    assert len(losses[0]) == 6 and losses[1] == pytest.approx(losses[0], rel=1e-5)
    states = [load_checkpoint(run / "last.pt") for run in (one, two)]
    for part in ("network", "average"):
        for name, weight in states[0][part].items():
            assert torch.allclose(states[1][part][name], weight, rtol=1e-4, atol=1e-6), f"{part} {name}"
    validated = [[row["validation"]["psnr_db"] for row in rows(run, "validation")] for run in (one, two)]
    assert validated[1] == pytest.approx(validated[0], abs=1e-3)


@pytest.mark.slow
def test_mac_net_stays_the_same_in_two_processes(a_set, tmp_path):
    """Not that of one process (each BatchNorm sees its half on the CPU), but one and the same in both."""
    torchrun(2, child("child_train_mac_net.py", a_set, tmp_path))
    hashes = [[(tmp_path / f"{rank}-{step}").read_text() for step in (1, 2, 3)] for rank in (0, 1)]
    assert hashes[0] == hashes[1] and len(set(hashes[0])) == 3
