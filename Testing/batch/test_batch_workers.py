"""`ascon batch` as a process of its own: workers that die, Ctrl-C, and a cluster that exists."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command_fixtures import GEOMETRY, child_environment
from folder_contents import files_in
from node_fixtures import SHIFT_HU, a_tiny_model, free_port, wait_for

from ASCONDenoiseLib.batch.table import CSV
from ASCONDenoiseLib.io.image_files import write_image
from ASCONDenoiseLib.io.reading import read_volume
from ASCONDenoiseLib.io.volume import Volume

psutil = pytest.importorskip("psutil", reason="the extra batch is not there")
pytest.importorskip("distributed", reason="the extra batch is not there")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == "nt", reason="signals and groups of processes")]

SCANS = 4
Start = Callable[..., subprocess.Popen[str]]


def some_hu(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(-900, 1900, (3, 32, 32)).astype(np.int16)


@pytest.fixture
def a_batch(tmp_path):
    """Starts a batch of SCANS files on one worker; what is left of its processes at the end is killed."""
    (tmp_path / "archive").mkdir()
    (tmp_path / "flags").mkdir()
    for number in range(SCANS):
        write_image(Volume(some_hu(number), GEOMETRY), tmp_path / "archive" / f"scan{number}.nrrd")
    a_tiny_model(tmp_path / "tiny.safetensors")
    started: list[subprocess.Popen[str]] = []

    def start(seconds: float = 0, dies: str = "", times: int = 1, scheduler: str = "") -> subprocess.Popen[str]:
        here = Path(__file__).parent
        environment = child_environment()
        environment["PYTHONPATH"] += os.pathsep + str(here)
        environment |= {"FLAGS": str(tmp_path / "flags"), "SECONDS": f"{seconds}", "DIES": dies, "TIMES": f"{times}"}
        command = [sys.executable, str(here / "slow_work.py"), "archive", "out", "--model", "tiny.safetensors"]
        child = subprocess.Popen(
            [*command, *(["--scheduler", scheduler] if scheduler else ["--workers", "1"])],
            text=True,
            stderr=subprocess.PIPE,
            env=environment,
            cwd=tmp_path,
            start_new_session=True,
        )
        started.append(child)
        return child

    yield start
    for child in started:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.communicate()


def states(out: Path) -> list[str]:
    with (out / CSV).open(newline="") as file:
        return [row["state"] for row in csv.DictReader(file)]


def half_written(out: Path) -> list[str]:
    names = list(files_in(out))
    alone = [name for name in names if name.endswith(".nrrd") and f"{name}.json" not in names]
    return [name for name in names if ".partial" in name] + alone


def ctrl_c(child: subprocess.Popen[str]) -> None:
    """As a terminal does: its workers get it, too."""
    os.killpg(child.pid, signal.SIGINT)


def test_a_worker_that_dies_costs_a_retry_of_its_scan(a_batch: Start, tmp_path):
    child = a_batch(dies="scan2.nrrd")
    _, errors = child.communicate(timeout=300)
    assert child.returncode == 0, errors
    assert (tmp_path / "flags" / "death0").exists()
    assert states(tmp_path / "out") == ["done"] * SCANS and not half_written(tmp_path / "out")
    assert np.array_equal(read_volume(tmp_path / "out" / "scan2.nrrd").voxels, some_hu(2) + SHIFT_HU)


def test_a_scan_that_kills_every_worker_fails_and_stops_nothing(a_batch: Start, tmp_path):
    child = a_batch(dies="scan1.nrrd", times=99)
    _, errors = child.communicate(timeout=400)
    assert child.returncode == 1 and "1 of 4 scans were not denoised" in errors
    assert states(tmp_path / "out") == ["done", "failed", "done", "done"]
    assert len(list((tmp_path / "flags").glob("death*"))) == 3
    assert (tmp_path / "flags" / "scan0").read_text() == "x"  # done before: the deaths cost it nothing


def test_ctrl_c_lets_what_runs_end_and_the_next_run_goes_on(a_batch: Start, tmp_path):
    child = a_batch(seconds=2)
    wait_for(lambda: (tmp_path / "flags" / "scan1").exists())
    ctrl_c(child)
    _, errors = child.communicate(timeout=300)
    assert child.returncode == 130 and "what is running is finished" in errors and "2 of 4 scans" in errors
    assert states(tmp_path / "out") == ["done"] * 2 and not half_written(tmp_path / "out")
    assert not (tmp_path / "flags" / "scan2").exists()
    child = a_batch()
    _, errors = child.communicate(timeout=300)
    assert child.returncode == 0, errors
    assert states(tmp_path / "out") == ["was there"] * 2 + ["done"] * 2


def test_a_second_ctrl_c_ends_at_once_with_nothing_half_written(a_batch: Start, tmp_path):
    child = a_batch(seconds=1000)
    wait_for(lambda: (tmp_path / "flags" / "scan0").exists())
    partial = tmp_path / "out" / ".scan0.12345678.partial.nrrd"
    partial.touch()
    processes = psutil.Process(child.pid).children(recursive=True)
    assert processes
    ctrl_c(child)
    assert "what is running is finished" in child.stderr.readline()
    ctrl_c(child)
    _, errors = child.communicate(timeout=100)
    assert child.returncode == 130 and "nothing is half written" in errors
    assert not half_written(tmp_path / "out") and states(tmp_path / "out") == []
    wait_for(lambda: not [one for one in processes if one.is_running()], seconds=20)


@pytest.fixture
def a_scheduler(tmp_path):
    """`dask scheduler`, with a worker of two threads in a folder of its own: address, and the two processes."""
    (tmp_path / "elsewhere").mkdir()
    started: list[subprocess.Popen[str]] = []

    def dask(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "dask", *arguments]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        environment = child_environment() | {"FLAGS": str(tmp_path / "flags"), "DIES": ""}
        environment["PYTHONPATH"] += os.pathsep + str(Path(__file__).parent)
        environment["SECONDS"] = "3"  # of each scan
        child = subprocess.Popen(
            command, env=environment, cwd=tmp_path / "elsewhere", text=True, start_new_session=True, **quiet
        )
        started.append(child)
        return child

    address = f"tcp://127.0.0.1:{free_port()}"
    dask("scheduler", "--host", "127.0.0.1", "--port", address.rpartition(":")[2], "--no-dashboard")
    dask("worker", address, "--nthreads", "2", "--no-dashboard")
    yield address, *started
    for child in started:
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()


def test_a_cluster_that_exists_is_joined_with_relative_paths(a_batch: Start, a_scheduler, tmp_path):
    child = a_batch(scheduler=a_scheduler[0])
    _, errors = child.communicate(timeout=400)
    assert child.returncode == 0, errors
    assert states(tmp_path / "out") == ["done"] * SCANS
    for number in range(SCANS):
        denoised = read_volume(tmp_path / "out" / f"scan{number}.nrrd").voxels
        assert np.array_equal(denoised, some_hu(number) + SHIFT_HU)
    assert all(process.poll() is None for process in a_scheduler[1:])  # it belongs to somebody else
    assert not list((tmp_path / "elsewhere").rglob("*.nrrd"))


def test_a_scheduler_that_ends_in_the_middle_is_a_sentence(a_batch: Start, a_scheduler, tmp_path):
    child = a_batch(scheduler=a_scheduler[0])
    wait_for(lambda: (tmp_path / "flags" / "scan0").exists())
    os.killpg(a_scheduler[1].pid, signal.SIGKILL)
    _, errors = child.communicate(timeout=200)
    assert child.returncode == 1 and "The Dask scheduler is gone" in errors
    assert states(tmp_path / "out") == []
