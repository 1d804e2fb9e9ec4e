"""The worker's jobs: each gives what the function behind it gives, or says what is wrong."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from child_process import LAST, Child, OneParameter, a_slow_model, saved
from dicom_fixtures import some_voxels
from model_fixtures import a_card

from ASCONDenoiseLib.imaging import metrics
from ASCONDenoiseLib.imaging.clustering import ClusterSettings
from ASCONDenoiseLib.imaging.image_quality import quality
from ASCONDenoiseLib.imaging.output_rule import blend
from ASCONDenoiseLib.models import devices, inference
from ASCONDenoiseLib.models.card import load_card
from ASCONDenoiseLib.models.feature_clusters import EMBEDDING_STEPS, cluster_volume
from ASCONDenoiseLib.models.files import save_model
from ASCONDenoiseLib.physics.dose import scan, simulate
from ASCONDenoiseLib.physics.phantoms import abdomen
from ASCONDenoiseLib.physics.settings import DoseSettings
from ASCONDenoiseLib.worker import jobs
from ASCONDenoiseLib.worker.job import Job
from ASCONDenoiseLib.worker.jobs import PHANTOM_SEED, SIMULATION_SEED
from ASCONDenoiseLib.worker.warm_model import WarmModel


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"input": 5}, '"input"; got 5'),
        ({"padding_hu": "much"}, "a number, two numbers or null for \"padding_hu\"; got 'much'"),
        ({"padding_hu": float("nan")}, '"padding_hu"'),
        ({"padding_hu": True}, '"padding_hu"'),
        ({"batch": 2}, 'knows no "batch"'),
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
    child = Child(tmp_path, "--full-disk")
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
        padding_hu=-512,
    )
    direct = inference.denoise(voxels, network, device="cpu", padding_hu=-512)
    expected, result = direct.voxels, np.load(tmp_path / "out.npy")
    assert result.dtype == voxels.dtype and (result != voxels).any()
    np.testing.assert_allclose(result, expected, atol=0.01 if dtype == "float32" else 1)
    assert np.mean(result == expected) > 0.95  # the child may have another number of threads
    assert (result[:, :2] == -512).all() and (result[:, 5, 5] == 3000).all()
    assert (answer["device"], answer["precision"]) == ("cpu", direct.precision)
    card = load_card(path)
    assert answer["model"] == {"name": "Test", "version": "0.7", "sha256": card.sha256, "path": path}
    assert answer["notes"] == [] and answer["seconds"] <= answer["times"]["total"]


def test_denoising_tells_whether_the_volume_suits_the_model(a_worker, a_model, tmp_path, a_scan):
    request = {"input": saved(tmp_path, a_scan), "output": str(tmp_path / "out.npy"), "model": a_model[0]}
    assert a_worker.result("denoise", **request)["warnings"] == []
    coronal = [1, 0, 0, 0, 0, 1, 0, -1, 0]
    facts = {"spacing_mm": [0.7, 0.7, 3], "direction": coronal, "description": {"name": "scan denoised"}}
    warnings = a_worker.result("denoise", **request, facts=facts)["warnings"]
    assert any("denoised already" in text for text in warnings) and any("coronal" in text for text in warnings)
    message = a_worker.error("denoise", **request, facts=facts | {"direction": [1, 0]})
    assert "nine numbers" in message


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
    lines = child.errors.read_text().splitlines()  # for Slicer's log: once, what torch computes with
    assert lines[0].startswith(f"INFO ASCONDenoiseLib.models.cpu: torch {torch.__version__}, BLAS ")
    assert [line.split()[0] for line in lines if " ASCONDenoiseLib.models.cpu: " in line] in (
        ["INFO"],
        ["INFO", "WARNING"],
    )
    assert all(" ASCONDenoiseLib.models.cpu: " in line for line in lines)


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


def test_the_slice_that_is_wrong_is_named(a_worker, tmp_path, monkeypatch):
    path = a_slow_model(tmp_path, monkeypatch, 0)
    voxels = some_voxels((5, 8, 8)).astype(np.float32)
    request = {"output": str(tmp_path / "out.npy"), "model": path, "device": "cpu"}
    voxels[3, 1, 1] = np.nan
    message = a_worker.error("denoise", input=saved(tmp_path, voxels), **request)
    assert "Slice 4 of the volume has voxels that are not finite" in message
    voxels[3] = 2000  # the network makes infinity of it
    message = a_worker.error("denoise", input=saved(tmp_path, voxels), **request)
    assert "output for slice 4 is not finite" in message
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
    sha256 = save_model(changed, a_card(architecture="slow", settings={"seconds": 0}), Path(path)).sha256
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
    job = a_worker.send("cluster", **cluster_request(tmp_path, a_body, a_model[0]))
    said = a_worker.until(*LAST)
    answer = said[-1]
    assert (answer["id"], answer["event"]) == (job, "result"), answer
    settings = ClusterSettings(3, 120)
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
    assert answer["model"]["name"] == load_card(Path(a_model[0])).name and answer["fit_slices"] == 4
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
    child = Child(tmp_path, "--lacks", "sklearn")
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
    assert a_worker.result("ping")["times"]  # it does not wait for t-SNE's thread


# ---- without torch


@pytest.fixture(scope="module")
def a_worker_without_torch(tmp_path_factory) -> Iterator[Child]:
    child = Child(tmp_path_factory.mktemp("without"), "--lacks", "torch", "--lacks", "safetensors")
    assert child.next()["event"] == "ready"
    yield child
    child.close()


def test_without_torch_denoising_says_what_is_missing(a_worker_without_torch, a_model, tmp_path, a_scan):
    request = {"input": saved(tmp_path, a_scan), "output": str(tmp_path / "out.npy"), "model": a_model[0]}
    message = a_worker_without_torch.error("denoise", **request)
    assert message == "The Python package torch is missing. Install ASCON's packages from its panel, then retry."
    assert not (tmp_path / "out.npy").exists()
    devices = a_worker_without_torch.result("devices")
    assert (devices["torch"], devices["auto"]) == (None, "cpu")
    assert devices["devices"] == [{"name": "cpu", "title": "CPU"}]


def test_without_torch_blending_and_measuring_work(a_worker_without_torch, tmp_path, a_scan):
    request = {"input": saved(tmp_path, a_scan), "denoised": saved(tmp_path, a_scan + np.int16(20), "denoised")}
    output = tmp_path / "out.npy"
    a_worker_without_torch.result("blend", **request, output=str(output), strength=0.25)
    np.testing.assert_array_equal(np.load(output), a_scan + 5)
    assert a_worker_without_torch.result("measure", **request, spacing_mm=[1, 1, 1])["slices"] == 5


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


@pytest.mark.parametrize(
    ("strength", "words"),
    [
        ("much", "a number for \"strength\"; got 'much'"),
        (None, 'a number for "strength"; got None'),
        (float("nan"), '"strength"'),
        (True, '"strength"'),
        (1.5, "from 0 to 1; got 1.5"),
    ],
)
def test_a_strength_that_makes_no_sense_is_refused(a_worker, tmp_path, strength, words):
    path = saved(tmp_path, some_voxels((3, 9, 7)))
    output = tmp_path / "out.npy"
    assert words in a_worker.error("blend", input=path, denoised=path, output=str(output), strength=strength)
    assert not output.exists()


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
    settings = {"dose": 0.25, "photons": 1e5, "kernel": "soft"}
    answer = a_worker.result(
        "simulate",
        input=saved(tmp_path, voxels),
        output=str(tmp_path / "out.npy"),
        spacing_mm=[5, 5, 3],
        **settings,
    )
    expected = simulate(voxels, (5.0, 5.0, 3.0), DoseSettings(**settings, seed=SIMULATION_SEED)).voxels
    assert np.mean(np.load(tmp_path / "out.npy") == expected) > 0.99
    assert (answer["dose"], answer["photons"], answer["notes"]) == (0.25, 1e5, [])


def test_a_scan_without_soft_tissue_gets_an_assumed_number_of_photons_and_a_note(a_worker, tmp_path):
    request = {"input": saved(tmp_path, np.full((1, 32, 32), -1000, np.int16)), "spacing_mm": [5, 5, 3]}
    answer = a_worker.result("simulate", **request, output=str(tmp_path / "out.npy"))
    assert answer["photons"] == 4e5 and "no flat soft tissue" in answer["notes"][0]
    assert "must be above 0" in a_worker.error("simulate", **request, output=str(tmp_path / "no.npy"), dose=0)
    assert not (tmp_path / "no.npy").exists()


def test_a_phantom_is_scanned_at_normal_dose(a_worker, tmp_path):
    request = {"shape": [2, 48, 48], "spacing_mm": [7, 7, 5]}
    answer = a_worker.result("phantom", output=str(tmp_path / "out.npy"), **request)
    truth = np.rint(abdomen(PHANTOM_SEED, (2, 48, 48), (7.0, 7.0, 5.0)).voxels_hu).astype(np.int16)
    settings = DoseSettings(photons=answer["photons"], kernel=answer["kernel"], seed=0)
    assert np.mean(np.load(tmp_path / "out.npy") == scan(truth, (7.0, 7.0, 5.0), settings)) > 0.99
    assert answer["spacing_mm"] == [7, 7, 5]
    for shape in ([2, 48], [2, 48, 0], [2, 48, 4.5]):
        message = a_worker.error("phantom", output=str(tmp_path / "no.npy"), **request | {"shape": shape})
        assert f'needs three positive whole numbers for "shape"; got {shape}' in message


def test_the_devices_of_this_machine(a_worker):
    answer = a_worker.result("devices")
    assert answer["devices"][0] == {"name": "cpu", "title": "CPU"} and answer["torch"] == torch.__version__
    assert answer["auto"] == str(devices.pick_device("auto"))


def test_every_device_has_its_name(monkeypatch):
    """Two GPUs, of which the second is the larger, and Apple's; here there may be none."""
    gpus = [SimpleNamespace(name="NVIDIA RTX A2000", total_memory=6e9), SimpleNamespace(name="H100", total_memory=80e9)]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(gpus))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: gpus[i])
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(devices, "pick_device", lambda name: torch.device("cuda:1"))
    job = Job({"id": 1, "command": "devices"}, lambda event, **facts: None)
    found = jobs.devices(job, jobs.DevicesRequest(), WarmModel())
    assert found["auto"] == "cuda:1"
    assert {device["name"]: device["title"] for device in found["devices"]} == {
        "cpu": "CPU",
        "cuda:0": "NVIDIA RTX A2000 (6 GB)",
        "cuda:1": "H100 (80 GB)",
        "mps": "Apple GPU (MPS)",
    }
