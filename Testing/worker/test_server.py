"""The child process, driven as Slicer drives it: a real process, JSON lines, .npy files."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from dicom_fixtures import make_ct_series, some_voxels
from model_fixtures import a_card

from ASCONDenoiseLib import __version__
from ASCONDenoiseLib.imaging import metrics
from ASCONDenoiseLib.imaging.clustering import ClusterSettings
from ASCONDenoiseLib.imaging.image_quality import quality
from ASCONDenoiseLib.imaging.output_rule import blend
from ASCONDenoiseLib.io.dicom_reader import read_series
from ASCONDenoiseLib.models import files as models
from ASCONDenoiseLib.models import inference
from ASCONDenoiseLib.models.feature_clusters import EMBEDDING_STEPS, cluster_volume
from ASCONDenoiseLib.models.networks.esau_net import ESAUNet
from ASCONDenoiseLib.physics.dose import scan, simulate
from ASCONDenoiseLib.physics.phantoms import abdomen
from ASCONDenoiseLib.physics.settings import DoseSettings
from ASCONDenoiseLib.worker.server import parts

ROOT = Path(__file__).resolve().parents[2]
LAST = ("result", "error", "cancelled")

CHILD = """
import os, sys, time
from ASCONDenoiseLib.models import files as models
from ASCONDenoiseLib.worker import server as worker

def slow(hu=10, seconds=0.15, only_below=None):
    import torch
    from torch import nn
    class Slow(nn.Module):
        SIDE_MULTIPLE = 8
        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.ones(1))
        def forward(self, x):
            time.sleep(seconds)
            if x.min() == 0 and x.max() == 0:
                raise RuntimeError("CUDA error: an illegal memory access was encountered\\nand more")
            if x.min() == 1:
                return x / 0
            return x * self.gain + hu / 3000
    return Slow()

def loaded(worker, job):
    return {"torch": "torch" in sys.modules, "scipy": "scipy" in sys.modules}

def chatter(worker, job):
    print("a stray print")
    os.write(1, b"a stray write\\n")
    return {"stdin": sys.stdin.read() if sys.stdin else ""}

def stuck(worker, job):
    job.new_output((2, 3, 4), "int16")[...] = 1
    job.answer("started")
    time.sleep(60)

def deaf(worker, job):
    job.new_output((2, 3, 4), "int16")[...] = 1
    job.answer("started")
    time.sleep(0.3)
    return {}

def memory(worker, job):
    raise MemoryError

models.ARCHITECTURES["slow"] = slow
worker.JOBS |= {"loaded": loaded, "chatter": chatter, "stuck": stuck, "deaf": deaf, "memory": memory}
"""


class Child:
    """A worker process and what it has said."""

    def __init__(self, folder: Path, code: str = "", *arguments: str):
        code = f"{CHILD}\n{code}\nworker.main()"
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "ASCONDenoise"), "ASCON_MODELS": str(folder / "user")}
        self.errors = folder / "stderr.txt"
        self.log = self.errors.open("wb")
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            env=environment,
            cwd=folder,
        )
        self.lines: queue.Queue[dict | None] = queue.Queue()
        self.jobs = 0
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.put(json.loads(line))
        self.lines.put(None)

    def write(self, line: bytes) -> None:
        self.process.stdin.write(line + b"\n")
        self.process.stdin.flush()

    def send(self, command: str, **values: Any) -> int:
        self.jobs += 1
        self.write(json.dumps({"id": self.jobs, "command": command, **values}).encode())
        return self.jobs

    def next(self, seconds: float = 30) -> dict | None:
        """The next line; None at the end of the process."""
        return self.lines.get(timeout=seconds)

    def until(self, *events: str, seconds: float = 30) -> list[dict]:
        """Everything up to the first of these events."""
        said = []
        while not said or said[-1]["event"] not in events:
            line = self.next(seconds)
            assert line is not None, f"the process ended after {said}: {self.errors.read_text()}"
            said.append(line)
        return said

    def do(self, command: str, **values: Any) -> dict:
        """The last answer to a job."""
        job = self.send(command, **values)
        answer = self.until(*LAST)[-1]
        assert answer["id"] == job
        return answer

    def result(self, command: str, **values: Any) -> dict:
        answer = self.do(command, **values)
        assert answer["event"] == "result", answer
        return answer

    def error(self, command: str, **values: Any) -> str:
        answer = self.do(command, **values)
        assert answer["event"] == "error", answer
        assert set(answer) == {"id", "event", "message"}
        return answer["message"]

    def ended(self, seconds: float = 5) -> int:
        return self.process.wait(seconds)

    def close(self) -> None:
        self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.log.close()


@pytest.fixture(scope="module")
def a_worker(tmp_path_factory) -> Iterator[Child]:
    """One for all tests that leave it as it was; torch gets warm in it."""
    child = Child(tmp_path_factory.mktemp("worker"))
    assert child.next() == {"event": "ready", "protocol": 1, "version": __version__, "pid": child.process.pid}
    yield child
    child.close()


@pytest.fixture
def a_fresh_worker(tmp_path) -> Iterator[Child]:
    """One whose end is the test; started in a millisecond, since nothing heavy is imported."""
    child = Child(tmp_path)
    assert child.next()["event"] == "ready"
    yield child
    child.close()


@pytest.fixture(scope="module")
def a_model(tmp_path_factory) -> tuple[str, torch.nn.Module]:
    """Path of an ESAU-Net with random weights, and the network."""
    torch.manual_seed(0)
    network = ESAUNet().eval()
    path = tmp_path_factory.mktemp("model") / "random.safetensors"
    models.save_model(network, a_card(name="Test", version="0.7"), path)
    return str(path), models.load_network(path)[0]


class OneParameter(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones(1))


def a_slow_model(folder: Path, monkeypatch, seconds: float = 0.15, name: str = "slow") -> str:
    """Adds 10 HU, and takes its time."""
    monkeypatch.setitem(models.ARCHITECTURES, "slow", lambda **_: OneParameter())
    path = folder / f"{name}.safetensors"
    models.save_model(OneParameter(), a_card(architecture="slow", settings={"seconds": seconds}), path)
    return str(path)


def saved(folder: Path, voxels: np.ndarray, name: str = "in") -> str:
    path = folder / f"{name}.npy"
    np.save(path, voxels)
    return str(path)


@pytest.fixture
def a_scan() -> np.ndarray:
    """Soft tissue with padding and metal, 5 slices of 16 x 16."""
    rng = np.random.default_rng(3)
    voxels = rng.normal(40, 30, (5, 16, 16)).round().astype(np.int16)
    voxels[:, :2] = -512
    voxels[:, 5, 5] = 3000
    return voxels


# ---- starting and talking


def test_nothing_heavy_is_imported_before_it_is_needed(a_fresh_worker):
    loaded = a_fresh_worker.result("loaded")
    assert not loaded["torch"] and not loaded["scipy"]


def test_the_module_can_be_run_as_slicer_runs_it(tmp_path):
    run = subprocess.run(
        [sys.executable, "-m", "ASCONDenoiseLib.worker", "--idle-minutes", "1"],
        input=b'{"id": "a", "command": "info"}\n',
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "ASCONDenoise")},
        cwd=tmp_path,
        timeout=30,
    )
    assert run.returncode == 0 and run.stderr == b""
    assert json.loads(run.stdout.splitlines()[0])["event"] == "ready"  # stdin is closed: the job may be too late


def test_info_and_models_and_devices(a_worker, a_model):
    info = a_worker.result("info")
    assert (info["version"], info["numpy"]) == (__version__, np.__version__)
    assert info["pid"] == a_worker.process.pid and info["torch"].startswith(torch.__version__.split("+")[0])
    card = json.loads(Path(a_model[0]).with_suffix(".json").read_text())
    user = a_worker.errors.parent / "user"
    user.mkdir()
    for suffix in (".safetensors", ".json"):
        (user / f"mine{suffix}").write_bytes(Path(a_model[0]).with_suffix(suffix).read_bytes())
    mine = next(model for model in a_worker.result("models")["models"] if model["name"] == "mine")
    assert mine["path"] == str(user / "mine.safetensors") and not mine["shipped"] and mine["card"] == card
    devices = a_worker.result("devices")
    assert devices["devices"][0] == {"name": "cpu", "title": "CPU"} and devices["torch"] == torch.__version__
    assert devices["auto"] == str(inference.pick_device("auto"))


def test_every_device_has_its_name(monkeypatch):
    """Two GPUs, of which the second is the larger, and Apple's; here there may be none."""
    from ASCONDenoiseLib.worker import server as worker

    gpus = [SimpleNamespace(name="NVIDIA RTX A2000", total_memory=6e9), SimpleNamespace(name="H100", total_memory=80e9)]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(gpus))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: gpus[i])
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(inference, "pick_device", lambda name: torch.device("cuda:1"))
    found = worker._devices(SimpleNamespace(torch=lambda job: torch), None)
    assert found["auto"] == "cuda:1"
    assert {device["name"]: device["title"] for device in found["devices"]} == {
        "cpu": "CPU",
        "cuda:0": "NVIDIA RTX A2000 (6 GB)",
        "cuda:1": "H100 (80 GB)",
        "mps": "Apple GPU (MPS)",
    }


def test_what_libraries_print_goes_to_stderr(tmp_path):
    child = Child(tmp_path)
    assert child.next()["event"] == "ready"
    assert child.result("chatter")["stdin"] == ""
    assert child.result("info")["id"] == 2
    child.close()
    assert child.errors.read_text() == "a stray print\na stray write\n"


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
        (b'{"command": "info"}', None, '"info" has no id'),
        (b'{"id": {"a": 1}, "command": "info"}', None, '"info" has no id'),
        (b'{"id": 903, "command": "denoise"}', 903, '"denoise" needs a text for "input"; got None'),
    ],
)
def test_lines_that_make_no_sense_get_an_answer_and_change_nothing(a_worker, line, job, words):
    a_worker.write(line)
    answer = a_worker.next()
    assert (answer["event"], answer["id"]) == ("error", job)
    assert words in answer["message"]
    assert a_worker.result("info")["version"] == __version__


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"input": 5}, '"input"; got 5'),
        ({"strength": "much"}, "a number for \"strength\"; got 'much'"),
        ({"strength": float("nan")}, '"strength"'),
        ({"strength": True}, '"strength"'),
        ({"strength": 1.5}, "from 0 to 1; got 1.5"),
        ({"batch": 2.5}, "whole number"),
        ({"batch": 0}, "1 slice or more"),
        ({"first": 3}, "list of whole numbers"),
        ({"device": "toaster"}, 'no device called "toaster"'),
        ({"model": "unheard of"}, 'no model file or model named "unheard of"'),
        ({"input": "{folder}/none.npy"}, "are gone. Start again."),
        ({"input": "{folder}/text.npy"}, "cannot be read"),
        ({"input": "{folder}/flat.npy"}, "not a CT volume"),
        ({"input": "{folder}/objects.npy"}, "cannot be read"),
        ({"output": "{folder}/nowhere/out.npy"}, "nowhere"),
    ],
)
def test_bad_requests_are_answered_with_a_sentence_and_leave_no_output(
    a_worker, a_model, tmp_path, a_scan, values, words
):
    (tmp_path / "text.npy").write_text("no voxels")
    np.save(tmp_path / "flat.npy", np.zeros((4, 4)))
    np.save(tmp_path / "objects.npy", np.array([[[{"a": 1}]]], object), allow_pickle=True)
    before = sorted(tmp_path.iterdir())
    request = {"input": saved(tmp_path, a_scan), "output": str(tmp_path / "out.npy"), "model": a_model[0]}
    request |= {key: v.format(folder=tmp_path) if isinstance(v, str) else v for key, v in values.items()}
    message = a_worker.error("denoise", **request)
    assert words in message and message.endswith(".") and "Traceback" not in message
    assert sorted(tmp_path.iterdir()) == sorted([*before, tmp_path / "in.npy"])


def test_a_full_disk_is_noticed_before_the_work(tmp_path, a_scan):
    child = Child(tmp_path, "import shutil; shutil.disk_usage = lambda path: type('', (), {'free': 1000})")
    assert child.next()["event"] == "ready"
    path = saved(tmp_path, np.zeros((4, 512, 512), np.int16))
    message = child.error("blend", input=path, denoised=path, output=str(tmp_path / "out.npy"), strength=0.5)
    assert "0 MB free, and 2 MB are needed" in message
    assert not (tmp_path / "out.npy").exists()
    child.close()


# ---- denoising


@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_denoising_gives_what_the_inference_gives(a_worker, a_model, tmp_path, a_scan, dtype):
    path, network = a_model
    voxels = a_scan.astype(dtype)
    answer = a_worker.result(
        "denoise",
        input=saved(tmp_path, voxels),
        output=str(tmp_path / "out.npy"),
        model=path,
        device="cpu",
        strength=0.7,
        padding_hu=-512,
        first=[3, 1],
    )
    direct = inference.denoise(voxels, network, strength=0.7, device="cpu", padding_hu=-512)
    expected, result = direct.voxels, np.load(tmp_path / "out.npy")
    assert result.dtype == voxels.dtype and (result != voxels).any()
    np.testing.assert_allclose(result, expected, atol=0.01 if dtype == "float32" else 1)
    assert np.mean(result == expected) > 0.95  # the child may have another number of threads
    assert (result[:, :2] == -512).all() and (result[:, 5, 5] == 3000).all()
    assert (answer["device"], answer["precision"], answer["strength"]) == ("cpu", direct.precision, 0.7)
    card = models.load_card(path)
    assert answer["model"] == {"name": "Test", "version": "0.7", "sha256": card.sha256, "path": path}
    assert answer["notes"] == [] and answer["seconds"] <= answer["times"]["total"]
    assert a_worker.result("info")["model"] == path


def test_the_second_click_pays_neither_for_torch_nor_for_the_model(a_model, tmp_path, a_scan):
    child = Child(tmp_path)
    request = {"input": saved(tmp_path, a_scan), "output": str(tmp_path / "out.npy"), "model": a_model[0]}
    assert child.next()["event"] == "ready"
    said = []
    for _ in range(2):
        child.send("denoise", **request)
        said.append(child.until(*LAST))
    child.close()
    first, second = ([line.get("stage", line["event"]) for line in lines] for lines in said)
    assert first[:3] == ["torch", "model", "started"]
    assert second[0] == "started" and "model" not in second
    times = [lines[-1]["times"] for lines in said]
    assert set(times[0]) == {"torch", "model", "work", "total"} and set(times[1]) == {"work", "total"}
    assert times[1]["total"] < times[0]["total"] / 3
    assert times[0]["total"] >= times[0]["torch"] + times[0]["model"] + times[0]["work"]
    assert child.errors.read_text() == ""


def test_warming_up_spares_the_first_click(a_worker, a_model, tmp_path, a_scan):
    warm = a_worker.result("warm", model=a_model[0], device="cpu")
    assert warm["device"] == "cpu" and warm["model"]["path"] == a_model[0]
    a_worker.send("denoise", input=saved(tmp_path, a_scan), output=str(tmp_path / "out.npy"), model=a_model[0])
    assert a_worker.next()["event"] == "started"
    assert a_worker.until(*LAST)[-1]["event"] == "result"


def test_progress_counts_all_slices_and_ends_with_the_last(a_worker, tmp_path, monkeypatch):
    path = a_slow_model(tmp_path, monkeypatch, 0.12)
    voxels = some_voxels((6, 8, 8))
    a_worker.send("denoise", input=saved(tmp_path, voxels), output=str(tmp_path / "out.npy"), model=path, device="cpu")
    said = a_worker.until(*LAST)
    done = [line["done"] for line in said if line["event"] == "progress"]
    assert done == [1, 2, 3, 4, 5, 6] and {line["total"] for line in said if "total" in line} == {6}
    left = [line["seconds_left"] for line in said if line["event"] == "progress"]
    assert left[0] is None and left[-1] == 0
    assert left[2] == pytest.approx(3 * 0.12, abs=0.3)  # 3 slices to go


def test_slices_on_show_are_done_first_and_can_be_shown_while_the_rest_is_done(a_worker, tmp_path, monkeypatch):
    path = a_slow_model(tmp_path, monkeypatch)
    voxels = some_voxels((8, 8, 8)).clip(-900, 1500)
    request = {"input": saved(tmp_path, voxels), "output": str(tmp_path / "out.npy"), "model": path, "device": "cpu"}
    a_worker.send("denoise", **request, first=[6, 2, 6, 99, -1])
    said = a_worker.until("first_done")
    assert said[-1]["slices"] == [2, 6]
    early = np.load(tmp_path / "out.npy", mmap_mode="r")
    np.testing.assert_array_equal(early[[2, 6]], voxels[[2, 6]] + 10)
    assert (early[[0, 7]] == 0).all()
    del early
    assert a_worker.until(*LAST)[-1]["event"] == "result"
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), voxels + 10)


@pytest.mark.parametrize(
    ("first", "runs"),
    [
        ([], [(0, 6)]),
        ([2], [(2, 3), (0, 2), (3, 6)]),
        ([2, 3, 5], [(2, 4), (5, 6), (0, 2), (4, 5)]),
        ([0], [(0, 1), (1, 6)]),
        ([0, 1, 2, 3, 4, 5], [(0, 6)]),
    ],
)
def test_the_order_of_slices_is_made_of_runs(first, runs):
    assert [(run.start, run.stop) for run in parts(6, first)] == runs


def test_the_slice_that_is_wrong_is_named_whatever_the_order(a_worker, tmp_path, monkeypatch):
    path = a_slow_model(tmp_path, monkeypatch, 0)
    voxels = some_voxels((5, 8, 8)).astype(np.float32)
    request = {"output": str(tmp_path / "out.npy"), "model": path, "first": [2], "device": "cpu"}
    voxels[3, 1, 1] = np.nan
    message = a_worker.error("denoise", input=saved(tmp_path, voxels), **request)
    assert "Slice 4 of the volume has voxels that are not finite" in message
    voxels[3] = 2000  # the network makes infinity of it
    message = a_worker.error("denoise", input=saved(tmp_path, voxels), **request)
    assert "output for slice 1 is not finite" in message and "Slices are counted from slice 4." in message
    assert not (tmp_path / "out.npy").exists()


# ---- the model


def test_a_model_that_goes_or_changes_while_it_is_warm_is_noticed(a_worker, tmp_path, monkeypatch):
    path = a_slow_model(tmp_path, monkeypatch, 0)
    request = {"input": saved(tmp_path, some_voxels((1, 8, 8))), "output": str(tmp_path / "out.npy"), "model": path}
    a_worker.result("denoise", **request)
    (tmp_path / "out.npy").unlink()
    good = Path(path).read_bytes()

    Path(path).write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert "is not the one its card describes" in a_worker.error("denoise", **request)
    Path(path).unlink()
    assert "no model file" in a_worker.error("denoise", **request)
    assert not (tmp_path / "out.npy").exists()

    Path(path).write_bytes(good)
    a_worker.send("denoise", **request)
    assert [line["event"] for line in a_worker.until(*LAST)][0] == "started"  # it is the warm one still
    changed = OneParameter()
    changed.gain.data *= 0.5
    sha256 = models.save_model(changed, a_card(architecture="slow", settings={"seconds": 0}), Path(path)).sha256
    a_worker.send("denoise", **request)
    said = a_worker.until(*LAST)
    assert said[0]["stage"] == "model" and said[-1]["model"]["sha256"] == sha256


# ---- clusters


@pytest.fixture
def a_body() -> np.ndarray:
    """Soft tissue with fat and bone in air, noisy, 5 slices of 56 x 48."""
    hu = np.full((5, 56, 48), -1000.0)
    hu[:, 6:50, 6:42] = -100
    hu[:, 12:44, 10:38] = 45
    hu[:, 20:28, 16:24] = 600
    return np.rint(hu + np.random.default_rng(5).normal(0, 15, hu.shape)).astype(np.int16)


def cluster_request(folder: Path, voxels: np.ndarray, model: str, **more: Any) -> dict:
    files = {"output": str(folder / "labels.npy"), "points_output": str(folder / "points.npz")}
    scan = {"input": saved(folder, voxels), "spacing_mm": [1.5, 1.5, 3.0], "model": model, "device": "cpu"}
    return {**files, **scan, "clusters": 3, "points": 120, **more}


def test_clusters_are_those_of_the_function(a_worker, a_model, tmp_path, a_body):
    job = a_worker.send("cluster", **cluster_request(tmp_path, a_body, a_model[0], seed=4))
    said = a_worker.until(*LAST)
    answer = said[-1]
    assert (answer["id"], answer["event"]) == (job, "result"), answer
    settings = ClusterSettings(3, 120, 4)
    expected = cluster_volume(a_body, a_model[1], settings, spacing_mm=(1.5, 1.5, 3.0), device="cpu")
    np.testing.assert_array_equal(np.load(tmp_path / "labels.npy"), expected.labels)
    with np.load(tmp_path / "points.npz") as points:
        assert sorted(points) == ["hu", "ijk", "labels", "xy"]
        for name, values in vars(expected.points).items():
            np.testing.assert_array_equal(points[name], values)
    as_json = json.loads(json.dumps([asdict(cluster) for cluster in expected.clusters]))
    assert answer["clusters"] == as_json and len(as_json) == 3
    assert answer["separation"] == asdict(expected.separation)
    assert (answer["device"], answer["precision"]) == (expected.device, expected.precision)
    assert answer["model"]["name"] == models.load_card(Path(a_model[0])).name and answer["fit_slices"] == 4
    events = [line["event"] if line["event"] != "stage" else line["stage"] for line in said]
    progress = [line for line in said if line["event"] == "progress"]
    assert events.index("started") < events.index("progress") < events.index("embedding") < events.index("result")
    assert {line["total"] for line in progress} == {4 + 5 + EMBEDDING_STEPS} and progress[-1]["done"] == 13


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"clusters": 1}, "2 to 12 clusters; got 1"),
        ({"clusters": 2.5}, "whole number"),
        ({"points": 5}, "100 to 10000 points"),
        ({"spacing_mm": [1, 1]}, "three positive numbers"),
        ({"points_output": None}, '"points_output"'),
        ({"input": "air"}, "as many voxels of the body"),
        ({"model": "slow"}, "has no features to look at"),
    ],
)
def test_what_cannot_be_clustered_is_a_sentence(a_worker, a_model, tmp_path, monkeypatch, a_body, values, words):
    if values.get("input") == "air":
        values = {"input": saved(tmp_path, np.full_like(a_body, -1000), "air")}
    if values.get("model") == "slow":
        values = {"model": a_slow_model(tmp_path, monkeypatch)}
    message = a_worker.error("cluster", **cluster_request(tmp_path, a_body, a_model[0]) | values)
    assert words in message and message.endswith(".")
    assert not (tmp_path / "labels.npy").exists() and not (tmp_path / "points.npz").exists()


def test_without_scikit_learn_clustering_says_so_before_the_network_works(a_model, tmp_path, a_body):
    child = Child(tmp_path, "sys.modules.update(sklearn=None)")
    assert child.next()["event"] == "ready"
    child.send("cluster", **cluster_request(tmp_path, a_body, a_model[0]))
    said = child.until(*LAST)
    child.close()
    assert "The Python package scikit-learn is missing." in said[-1]["message"]
    assert not [line for line in said if line["event"] in ("started", "progress")]


@pytest.mark.parametrize("when", ["progress", "embedding"])
def test_clustering_is_cancelled_at_once_and_leaves_nothing(a_worker, a_model, tmp_path, a_body, when):
    many = np.concatenate([a_body] * 6)
    job = a_worker.send("cluster", **cluster_request(tmp_path, many, a_model[0], points=2000))
    while when not in (line := a_worker.next()).values():
        assert line["event"] not in LAST, line
    started = time.monotonic()
    a_worker.write(json.dumps({"command": "cancel", "job": job}).encode())
    assert a_worker.until(*LAST)[-1] == {"id": job, "event": "cancelled"}
    assert time.monotonic() - started < 0.5  # one slice, or t-SNE's poll
    assert not (tmp_path / "labels.npy").exists() and not (tmp_path / "points.npz").exists()
    assert a_worker.result("info")["version"] == __version__  # it does not wait for t-SNE's thread


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


def test_waiting_jobs_can_be_cancelled_alone_or_all(a_worker, tmp_path, monkeypatch):
    path = a_slow_model(tmp_path, monkeypatch)
    request = {"input": saved(tmp_path, some_voxels((5, 8, 8))), "model": path, "device": "cpu"}
    jobs = [a_worker.send("denoise", output=str(tmp_path / f"{i}.npy"), **request) for i in range(3)]
    a_worker.write(json.dumps({"command": "cancel", "job": jobs[1]}).encode())
    last = [line for _ in jobs for line in a_worker.until(*LAST)][-1:]
    assert last[0]["id"] == jobs[2]
    assert sorted(file.name for file in tmp_path.glob("?.npy")) == ["0.npy", "2.npy"]

    jobs = [a_worker.send("denoise", output=str(tmp_path / f"{i}.npy"), **request) for i in (5, 6)]
    a_worker.until("progress")
    a_worker.write(b'{"command": "cancel"}')
    assert [a_worker.until(*LAST)[-1] for _ in jobs] == [{"event": "cancelled", "id": job} for job in jobs]
    assert sorted(file.name for file in tmp_path.glob("?.npy")) == ["0.npy", "2.npy"]


def test_cancelling_what_is_over_or_never_was_does_nothing(a_worker):
    done = a_worker.result("info")["id"]
    for job in (done, 123456, "x", [1]):
        a_worker.write(json.dumps({"command": "cancel", "job": job}).encode())
    assert a_worker.result("info")["id"] == done + 1


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
    a_worker.write(json.dumps({"id": job, "command": "info"}).encode())
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


@pytest.mark.parametrize(
    "word", ["quit", pytest.param("SIGTERM", marks=pytest.mark.skipif(os.name == "nt", reason="POSIX"))]
)
def test_quit_and_sigterm_end_it_likewise(a_fresh_worker, tmp_path, word):
    a_fresh_worker.send("stuck", output=str(tmp_path / "out.npy"))
    a_fresh_worker.until("started")
    if word == "quit":
        a_fresh_worker.write(b'{"command": "quit"}')
    else:
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
    assert child.errors.read_text() == ""
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
        process.stdin.write(b'{"id": 1, "command": "info"}\n{"id": 2, "command": "info"}\n')
        process.stdin.flush()
        time.sleep(0.3)
        assert process.poll() is None
        process.stdin.close()
        assert process.wait(5) == 0
    assert (tmp_path / "stderr.txt").read_text() == ""


def test_it_ends_when_idle_and_says_so(tmp_path):
    child = Child(tmp_path, "", "--idle-minutes", "0.01")
    started = time.monotonic()
    assert child.next()["event"] == "ready"
    time.sleep(0.4)
    assert child.result("info")["id"] == 1  # starts the clock anew
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
    assert a_fresh_worker.result("info")["id"] == 2


# ---- without torch


@pytest.fixture(scope="module")
def a_worker_without_torch(tmp_path_factory) -> Iterator[Child]:
    missing = "sys.modules.update(torch=None, safetensors=None)"
    child = Child(tmp_path_factory.mktemp("without"), missing)
    assert child.next()["event"] == "ready"
    yield child
    child.close()


def test_without_torch_denoising_says_what_is_missing(a_worker_without_torch, a_model, tmp_path, a_scan):
    request = {"input": saved(tmp_path, a_scan), "output": str(tmp_path / "out.npy"), "model": a_model[0]}
    for command in ("denoise", "warm"):
        message = a_worker_without_torch.error(command, **request)
        assert message == "The Python package torch is missing. Install ASCON's packages from its panel, then retry."
    assert not (tmp_path / "out.npy").exists()
    devices = a_worker_without_torch.result("devices")
    assert (devices["torch"], devices["auto"]) == (None, "cpu")
    assert devices["devices"] == [{"name": "cpu", "title": "CPU"}]


def test_without_torch_blending_and_measuring_work(a_worker_without_torch, tmp_path, a_scan):
    request = {"input": saved(tmp_path, a_scan), "denoised": saved(tmp_path, a_scan + np.int16(20), "denoised")}
    output = tmp_path / "out.npy"
    answer = a_worker_without_torch.result("blend", **request, output=str(output), strength=0.25)
    np.testing.assert_array_equal(np.load(output), a_scan + 5)
    assert answer["strength"] == 0.25
    assert a_worker_without_torch.result("measure", **request, spacing_mm=[1, 1, 1])["slices"] == 5
    assert isinstance(a_worker_without_torch.result("models")["models"], list)


# ---- blending, measuring


@pytest.mark.parametrize("strength", [0, 0.37, 1])
def test_blending_is_that_of_the_function_bit_for_bit(a_worker, tmp_path, strength):
    voxels, denoised = some_voxels((3, 9, 7), 1), some_voxels((3, 9, 7), 2)
    output = tmp_path / "out.npy"
    a_worker.result(
        "blend",
        input=saved(tmp_path, voxels),
        denoised=saved(tmp_path, denoised, "denoised"),
        output=str(output),
        strength=strength,
    )
    np.testing.assert_array_equal(np.load(output), blend(voxels, denoised, strength))


def test_volumes_of_different_size_are_refused(a_worker, tmp_path):
    request = {
        "input": saved(tmp_path, some_voxels((3, 9, 7))),
        "denoised": saved(tmp_path, some_voxels((3, 9, 8)), "d"),
    }
    message = a_worker.error("blend", **request, output=str(tmp_path / "out.npy"), strength=0.5)
    assert "3 x 9 x 7, 3 x 9 x 8" in message
    assert "3 x 9 x 7, 3 x 9 x 8" in a_worker.error("measure", **request, spacing_mm=[1, 1, 1])
    assert not (tmp_path / "out.npy").exists()


@pytest.fixture(scope="module")
def three_volumes() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """LDCT, denoised, NDCT: 3 slices of soft tissue with an organ in it."""
    rng = np.random.default_rng(4)
    ndct = np.full((3, 64, 64), 40.0)
    ndct[:, 20:40, 20:40] = 70
    noise = rng.normal(0, 30, ndct.shape)
    return tuple((ndct + share * noise).round().astype(np.int16) for share in (1.0, 0.4, 0.1))


def test_numbers_are_those_of_image_quality_and_metrics(a_worker, tmp_path, three_volumes):
    ldct, denoised, ndct = three_volumes
    answer = a_worker.result(
        "measure",
        input=saved(tmp_path, ldct),
        denoised=saved(tmp_path, denoised, "denoised"),
        reference=saved(tmp_path, ndct, "ndct"),
        spacing_mm=[0.7, 0.7, 3],
    )
    expected = quality(ldct, denoised, (0.7, 0.7, 3), ndct).to_dict()
    assert answer["quality"] == json.loads(json.dumps(expected))
    assert 20 < answer["quality"]["noise_before"]["sd_hu"] < 40
    assert [numbers["name"] for numbers in answer["metrics"]] == ["LDCT", "denoised"]
    for numbers, volume in zip(answer["metrics"], (ldct, denoised), strict=True):
        compared = metrics.compare(ndct, volume, metrics.PAPER).to_dict()
        assert numbers["mean"] == compared["mean"] and numbers["sd"] == compared["sd"]
        assert numbers["scale"] == "paper" and "slices" not in numbers
    assert (answer["slices"], answer["total"]) == (3, 3)


def test_numbers_without_a_reference_of_many_slices(a_worker, tmp_path, three_volumes):
    ldct, denoised, _ = (np.tile(volume, (20, 1, 1)) for volume in three_volumes)
    answer = a_worker.result(
        "measure", input=saved(tmp_path, ldct), denoised=saved(tmp_path, denoised, "d"), spacing_mm=[0.7, 0.7, 3]
    )
    assert answer["metrics"] == [] and not answer["quality"]["has_reference"]
    assert (answer["slices"], answer["total"]) == (48, 60)


def test_numbers_that_json_lacks_are_null(a_worker, tmp_path, three_volumes):
    path = saved(tmp_path, three_volumes[0])
    answer = a_worker.result("measure", input=path, denoised=path, reference=path, spacing_mm=[0.7, 0.7, 3])
    assert answer["metrics"][0]["mean"]["psnr_db"] is None and answer["metrics"][0]["mean"]["rmse_hu"] == 0


def test_slices_too_small_for_ssim_have_the_other_numbers(a_worker, tmp_path):
    path = saved(tmp_path, some_voxels((2, 10, 40)))
    answer = a_worker.result("measure", input=path, denoised=path, reference=path, spacing_mm=[1, 1, 1])
    assert answer["metrics"] == [] and "smaller than SSIM's window" in answer["notes"][0]
    assert answer["quality"]["slices"] == 2


# ---- low dose, phantoms


def test_a_low_dose_is_that_of_the_simulation(a_worker, tmp_path):
    voxels = np.rint(abdomen(1, (2, 64, 64), (5.0, 5.0, 3.0)).voxels_hu).astype(np.int16)
    settings = {"dose": 0.25, "photons": 1e5, "kernel": "soft", "seed": 3}
    answer = a_worker.result(
        "simulate",
        input=saved(tmp_path, voxels),
        output=str(tmp_path / "out.npy"),
        spacing_mm=[5, 5, 3],
        device="cpu",
        padding_hu=-1000,
        **settings,
    )
    expected = simulate(voxels, (5.0, 5.0, 3.0), DoseSettings(**settings), padding_hu=-1000).voxels
    assert np.mean(np.load(tmp_path / "out.npy") == expected) > 0.99
    assert (np.load(tmp_path / "out.npy")[voxels == -1000] == -1000).all()
    assert (answer["dose"], answer["photons"], answer["notes"]) == (0.25, 1e5, [])


def test_a_scan_without_soft_tissue_gets_an_assumed_number_of_photons_and_a_note(a_worker, tmp_path):
    request = {"input": saved(tmp_path, np.full((1, 32, 32), -1000, np.int16)), "spacing_mm": [5, 5, 3]}
    answer = a_worker.result("simulate", **request, output=str(tmp_path / "out.npy"))
    assert answer["photons"] == 4e5 and "no flat soft tissue" in answer["notes"][0]
    assert "must be above 0" in a_worker.error("simulate", **request, output=str(tmp_path / "no.npy"), dose=0)
    assert not (tmp_path / "no.npy").exists()


def test_a_phantom_is_scanned_at_normal_dose(a_worker, tmp_path):
    request = {"shape": [2, 48, 48], "spacing_mm": [7, 7, 5], "seed": 5, "device": "cpu"}
    answer = a_worker.result("phantom", output=str(tmp_path / "out.npy"), **request)
    truth = np.rint(abdomen(5, (2, 48, 48), (7.0, 7.0, 5.0)).voxels_hu).astype(np.int16)
    settings = DoseSettings(photons=answer["photons"], kernel=answer["kernel"], seed=0)
    assert np.mean(np.load(tmp_path / "out.npy") == scan(truth, (7.0, 7.0, 5.0), settings)) > 0.99
    assert answer["spacing_mm"] == [7, 7, 5]
    assert "abdomen and chest" in a_worker.error("phantom", output=str(tmp_path / "no.npy"), kind="knee")


# ---- DICOM


def ijk_to_ras(volume) -> list[list[float]]:
    matrix = np.eye(4)
    geometry = volume.geometry
    matrix[:3, :3] = np.reshape(geometry.direction, (3, 3)) * geometry.spacing_mm
    matrix[:3, 3] = geometry.origin_mm
    return (np.diag([-1.0, -1.0, 1.0, 1.0]) @ matrix).tolist()


@pytest.fixture
def a_series(tmp_path) -> tuple[list[Path], Any]:
    """Files of an oblique series and the volume that they make."""
    direction = (0.8, 0.0, 0.6, 0.0, 1.0, 0.0, -0.6, 0.0, 0.8)
    files = make_ct_series(tmp_path / "source", shape=(4, 12, 10), direction=direction)
    return files, read_series(tmp_path / "source")


def test_a_series_is_written_that_is_derived_from_the_source_slice_by_slice(a_worker, tmp_path, a_series):
    files, source = a_series
    voxels = source.voxels + np.int16(7)
    answer = a_worker.result(
        "export",
        input=saved(tmp_path, voxels),
        files=[str(file) for file in (files[2], files[0], files[3], files[1])],  # as a database might give them
        ijk_to_ras=ijk_to_ras(source),
        folder=str(tmp_path / "derived"),
        description="Denoised by a test",
    )
    assert (answer["folder"], answer["files"]) == (str(tmp_path / "derived"), 4)
    derived = read_series(tmp_path / "derived")
    np.testing.assert_array_equal(derived.voxels, voxels)
    assert derived.geometry.origin_mm == pytest.approx(source.geometry.origin_mm)
    from pydicom import dcmread

    for file, original in zip(sorted((tmp_path / "derived").iterdir()), files, strict=True):
        header, own = dcmread(file), dcmread(original)
        assert header.SourceImageSequence[0].ReferencedSOPInstanceUID == own.SOPInstanceUID
        assert header.ImagePositionPatient == own.ImagePositionPatient
        assert header.DerivationDescription == "Denoised by a test"
    assert not list(tmp_path.glob(".*"))


def test_a_series_is_complete_or_not_there(a_worker, tmp_path, a_series):
    files, source = a_series
    request = {
        "input": saved(tmp_path, source.voxels),
        "files": [str(file) for file in files],
        "ijk_to_ras": ijk_to_ras(source),
        "folder": str(tmp_path / "derived"),
        "description": "Denoised by a test",
    }
    shifted = np.array(request["ijk_to_ras"])
    shifted[2, 3] += 5
    for change, words in (
        ({"files": []}, "not loaded from DICOM"),
        ({"files": [*request["files"][:3], ""]}, "1 of the 4 DICOM files that the LDCT came from are gone"),
        ({"files": request["files"][:3]}, "4 slices, the source 3"),
        ({"ijk_to_ras": shifted.tolist()}, "ImagePositionPatient of slice 1"),
        ({"ijk_to_ras": [[1, 2], [3, 4]]}, "4 rows of 4 numbers"),
        ({"folder": str(tmp_path / "source")}, "not an empty folder"),
    ):
        assert words in a_worker.error("export", **request | change)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["in.npy", "source"]
    (tmp_path / "derived").mkdir()
    assert a_worker.result("export", **request)["files"] == 4
