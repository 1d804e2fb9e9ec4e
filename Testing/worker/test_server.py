"""The child process, driven as Slicer drives it: how it starts, listens, cancels and ends."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from child_process import LAST, ROOT, Child, a_slow_model, saved
from dicom_fixtures import some_voxels

from ASCONDenoiseLib.worker.job import Job
from ASCONDenoiseLib.worker.server import Server

# ---- starting and talking


def test_nothing_heavy_is_imported_before_it_is_needed(a_fresh_worker):
    loaded = a_fresh_worker.result("loaded")
    assert not loaded["torch"] and not loaded["scipy"]


def test_the_module_can_be_run_as_slicer_runs_it(tmp_path):
    run = subprocess.run(
        [sys.executable, "-m", "ASCONDenoiseLib.worker", "--idle-minutes", "1"],
        input=b'{"id": "a", "command": "devices"}\n',
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "ASCONDenoise")},
        cwd=tmp_path,
        timeout=30,
    )
    assert run.returncode == 0 and run.stderr == b""
    assert json.loads(run.stdout.splitlines()[0])["event"] == "ready"  # stdin is closed: the job may be too late


def test_what_libraries_print_goes_to_stderr(tmp_path):
    child = Child(tmp_path)
    assert child.next()["event"] == "ready"
    assert child.result("chatter")["stdin"] == ""
    assert child.result("ping")["id"] == 2
    child.close()
    assert child.errors.read_text() == "a stray print\na stray write\n"


@pytest.mark.parametrize("fails", [False, True])
def test_memory_is_given_back_after_jobs_that_fail_too(monkeypatch, fails):
    """And a GPU that cannot even do that does not end the process."""
    freed, answers = [], io.BytesIO()

    def free_reserved_memory():
        freed.append(True)
        if fails:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setitem(
        sys.modules, "ASCONDenoiseLib.models.devices", SimpleNamespace(free_reserved_memory=free_reserved_memory)
    )
    server = Server(io.BytesIO(), answers, 1.0)
    for number, request in enumerate([{"command": "denoise"}, {"command": "phantom", "output": "x"}], 1):
        job = Job(request | {"id": number}, server.answer)
        server._live[job.id] = job
        assert server._do(job) and len(freed) == number
    assert [json.loads(line)["event"] for line in answers.getvalue().splitlines()] == ["error"] * 2


@pytest.mark.parametrize(
    ("line", "job", "words"),
    [
        (b"not JSON", None, "one JSON object"),
        (b"[1, 2]", None, "one JSON object"),
        (b"\xff\xfe\x00{", None, "one JSON object"),
        (b"[" * 100_000, None, "one JSON object"),
        (b'{"id": 900}', 900, "no command None"),
        (b'{"id": 901, "command": "make coffee"}', 901, "no command 'make coffee'"),
        (b'{"id": 902, "command": ["denoise"]}', 902, "no command"),
        (b'{"command": "devices"}', None, '"devices" has no id'),
        (b'{"id": {"a": 1}, "command": "devices"}', None, '"devices" has no id'),
        (b'{"id": 903, "command": "denoise"}', 903, '"denoise" needs a text for "input"; got None'),
    ],
)
def test_lines_that_make_no_sense_get_an_answer_and_change_nothing(a_worker, line, job, words):
    a_worker.write(line)
    answer = a_worker.next()
    assert (answer["event"], answer["id"]) == ("error", job)
    assert words in answer["message"]
    assert a_worker.result("ping")["times"]


# ---- cancelling


def test_cancel_stops_before_the_next_batch_and_leaves_nothing(a_worker, tmp_path, monkeypatch):
    path = a_slow_model(tmp_path, monkeypatch)
    request = {"input": saved(tmp_path, some_voxels((50, 8, 8))), "model": path, "device": "cpu"}
    job = a_worker.send("denoise", output=str(tmp_path / "out.npy"), **request)
    a_worker.until("progress")
    started = time.monotonic()
    a_worker.write(json.dumps({"id": 77777, "command": "cancel", "job": job}).encode())
    last = a_worker.until(*LAST)[-1]
    assert last == {"id": job, "event": "cancelled"}
    assert time.monotonic() - started < 0.15 + 0.2
    assert not (tmp_path / "out.npy").exists()
    again = a_worker.result(
        "denoise", output=str(tmp_path / "again.npy"), **request | {"input": saved(tmp_path, some_voxels((1, 8, 8)))}
    )
    assert again["id"] == job + 1


def test_waiting_jobs_can_be_cancelled_alone(a_worker, tmp_path, monkeypatch):
    path = a_slow_model(tmp_path, monkeypatch)
    request = {"input": saved(tmp_path, some_voxels((5, 8, 8))), "model": path, "device": "cpu"}
    jobs = [a_worker.send("denoise", output=str(tmp_path / f"{i}.npy"), **request) for i in range(3)]
    a_worker.write(json.dumps({"command": "cancel", "job": jobs[1]}).encode())
    last = [line for _ in jobs for line in a_worker.until(*LAST)][-1:]
    assert last[0]["id"] == jobs[2]
    assert sorted(file.name for file in tmp_path.glob("?.npy")) == ["0.npy", "2.npy"]

    jobs = [a_worker.send("denoise", output=str(tmp_path / f"{i}.npy"), **request) for i in (5, 6)]
    a_worker.until("progress")
    for job in jobs:
        a_worker.write(json.dumps({"command": "cancel", "job": job}).encode())
    assert [a_worker.until(*LAST)[-1] for _ in jobs] == [{"event": "cancelled", "id": job} for job in jobs]
    assert sorted(file.name for file in tmp_path.glob("?.npy")) == ["0.npy", "2.npy"]


def test_cancelling_what_is_over_or_never_was_does_nothing(a_worker):
    done = a_worker.result("ping")["id"]
    for job in (done, 123456, "x", [1]):
        a_worker.write(json.dumps({"command": "cancel", "job": job}).encode())
    assert a_worker.result("ping")["id"] == done + 1


def test_a_cancel_that_comes_too_late_still_leaves_nothing(a_fresh_worker, tmp_path):
    job = a_fresh_worker.send("deaf", output=str(tmp_path / "out.npy"))
    a_fresh_worker.until("started")
    a_fresh_worker.write(json.dumps({"command": "cancel", "job": job}).encode())
    assert a_fresh_worker.until(*LAST)[-1] == {"event": "cancelled", "id": job}
    assert not (tmp_path / "out.npy").exists()


def test_two_jobs_of_one_id_are_refused(a_worker, tmp_path, monkeypatch):
    path = a_slow_model(tmp_path, monkeypatch)
    job = a_worker.send(
        "denoise", input=saved(tmp_path, some_voxels((4, 8, 8))), output=str(tmp_path / "out.npy"), model=path
    )
    a_worker.write(json.dumps({"id": job, "command": "ping"}).encode())
    said = a_worker.until(*LAST)
    assert said[-1] == {"event": "error", "id": None, "message": f"There is a job {job} under way already."}
    assert a_worker.until(*LAST)[-1]["event"] == "result"


# ---- ends


def test_closed_stdin_ends_it_at_once_in_the_middle_of_a_job(a_fresh_worker, tmp_path):
    """The job neither looks for a cancel nor ends for a minute, as a batch on a slow machine might."""
    a_fresh_worker.send("stuck", output=str(tmp_path / "out.npy"))
    a_fresh_worker.until("started")
    assert (tmp_path / "out.npy").exists()
    started = time.monotonic()
    a_fresh_worker.process.stdin.close()
    assert a_fresh_worker.ended() == 0
    assert time.monotonic() - started < 1.5
    assert not (tmp_path / "out.npy").exists()
    assert a_fresh_worker.next() is None


def test_a_folder_that_is_being_written_when_stdin_closes_is_not_left_behind(a_fresh_worker, tmp_path):
    before = sorted(tmp_path.iterdir())
    a_fresh_worker.send("halfway", output=str(tmp_path / "series"))
    a_fresh_worker.until("started")
    assert len(list(tmp_path.iterdir())) == len(before) + 1
    a_fresh_worker.process.stdin.close()
    assert a_fresh_worker.ended() == 0
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.skipif(os.name == "nt", reason="POSIX")
def test_sigterm_ends_it_likewise(a_fresh_worker, tmp_path):
    a_fresh_worker.send("stuck", output=str(tmp_path / "out.npy"))
    a_fresh_worker.until("started")
    a_fresh_worker.process.send_signal(signal.SIGINT)  # a Ctrl-C in Slicer's terminal is not for it
    time.sleep(0.2)
    assert a_fresh_worker.process.poll() is None
    a_fresh_worker.process.terminate()
    assert a_fresh_worker.ended() == 0
    assert not (tmp_path / "out.npy").exists()


def test_a_job_that_looks_ends_by_itself_when_stdin_closes(tmp_path, monkeypatch, a_scan):
    child = Child(tmp_path)
    path = a_slow_model(tmp_path, monkeypatch)
    child.send("denoise", input=saved(tmp_path, some_voxels((50, 8, 8))), output=str(tmp_path / "out.npy"), model=path)
    child.until("progress")
    started = time.monotonic()
    child.process.stdin.close()
    assert child.ended() == 0 and time.monotonic() - started < 1
    assert not (tmp_path / "out.npy").exists()
    assert all(" ASCONDenoiseLib.models.cpu: " in line for line in child.errors.read_text().splitlines())
    child.close()


def test_a_killed_worker_is_seen_by_the_end_of_its_answers(a_fresh_worker, tmp_path):
    a_fresh_worker.send("stuck", output=str(tmp_path / "out.npy"))
    a_fresh_worker.until("started")
    a_fresh_worker.process.kill()
    assert a_fresh_worker.next(5) is None
    assert a_fresh_worker.ended() != 0


def test_answers_that_nobody_reads_do_no_harm(tmp_path):
    with (tmp_path / "stderr.txt").open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "ASCONDenoiseLib.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, "PYTHONPATH": str(ROOT / "ASCONDenoise")},
        )
        process.stdout.readline()
        process.stdout.close()
        process.stdin.write(b'{"id": 1, "command": "blend"}\n{"id": 2, "command": "blend"}\n')
        process.stdin.flush()
        time.sleep(0.3)
        assert process.poll() is None
        process.stdin.close()
        assert process.wait(5) == 0
    assert (tmp_path / "stderr.txt").read_text() == ""


def test_it_ends_when_idle_and_says_so(tmp_path):
    child = Child(tmp_path, "--idle-minutes", "0.01")
    started = time.monotonic()
    assert child.next()["event"] == "ready"
    time.sleep(0.4)
    assert child.result("ping")["id"] == 1  # starts the clock anew
    assert child.next(5) == {"event": "ending", "reason": "idle"}
    assert time.monotonic() - started > 0.4 + 0.6
    assert child.next(5) is None and child.ended() == 0
    child.close()


def test_after_a_fault_of_the_device_it_ends_so_that_the_next_click_starts_clean(tmp_path, monkeypatch):
    child = Child(tmp_path)
    path = a_slow_model(tmp_path, monkeypatch, 0)
    assert child.next()["event"] == "ready"
    voxels = np.full((2, 8, 8), -1000, np.int16)
    message = child.error("denoise", input=saved(tmp_path, voxels), output=str(tmp_path / "out.npy"), model=path)
    assert "CUDA error: an illegal memory access was encountered" in message and "and more" not in message
    assert child.next() == {"event": "ending", "reason": "fault"}
    assert child.ended() == 0 and not (tmp_path / "out.npy").exists()
    assert "Traceback" in child.errors.read_text()
    child.close()


def test_too_little_memory_is_said_and_survived(a_fresh_worker):
    assert "not enough memory" in a_fresh_worker.error("memory")
    assert a_fresh_worker.result("ping")["id"] == 2
