"""`ascon batch` over trees: what is found, done, done again, refused."""

from __future__ import annotations

import csv
import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from command_fixtures import GEOMETRY, run_json
from dicom_fixtures import edit_file, make_ct_series, make_enhanced_ct
from folder_contents import files_in

pytest.importorskip("distributed", reason="the extra batch is not there")

from node_fixtures import SHIFT_HU, a_tiny_model

from ASCONDenoiseLib.batch import cluster
from ASCONDenoiseLib.batch import run as run_file
from ASCONDenoiseLib.batch.done import Done, How
from ASCONDenoiseLib.batch.find import find_scans
from ASCONDenoiseLib.batch.run import BatchSettings, run_batch
from ASCONDenoiseLib.batch.table import CSV, HTML
from ASCONDenoiseLib.batch.work import DONE, Row, denoise_one, remove_unfinished
from ASCONDenoiseLib.io.image_files import write_image
from ASCONDenoiseLib.io.reading import read_volume
from ASCONDenoiseLib.io.volume import Volume


@pytest.fixture(scope="module")
def a_model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    a_tiny_model(path)
    return path


def some_hu(seed: int = 0, slices: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(-900, 1900, (slices, 32, 32)).astype(np.int16)


@pytest.fixture
def an_archive(tmp_path) -> Path:
    """Two series in one folder, one below, an enhanced file, two volume files, a gap, and what is none of it."""
    root = tmp_path / "archive"
    make_ct_series(root / "p1", voxels_hu=some_hu(1), series_uid="1.1", file_name="a{:04d}")
    make_ct_series(root / "p1", voxels_hu=some_hu(2), series_uid="1.2", file_name="b{:04d}.dcm")
    make_ct_series(root / "p2" / "ct", voxels_hu=some_hu(3), series_uid="1.3")
    make_enhanced_ct(root / "p3" / "enhanced.dcm", voxels_hu=some_hu(4))
    (root / "p4").mkdir()
    write_image(Volume(some_hu(5), GEOMETRY), root / "p4" / "scan.nii.gz")
    write_image(Volume(some_hu(6), GEOMETRY), root / "p4" / "scan.mha")
    make_ct_series(root / "p5", voxels_hu=some_hu(7, 5), series_uid="1.5")[2].unlink()
    make_ct_series(root / "p6", shape=(1, 8, 8), series_uid="1.6", modality="MR")
    make_ct_series(root / "p7", shape=(3, 32, 32), series_uid="1.7", series_description="ClariCT abdomen")
    (root / "p4" / "notes.txt").write_text("nothing")
    (root / "p4" / "damaged.nrrd").write_text("NRRD0004\n")
    return root


def the_rows(out: Path) -> dict[str, dict[str, str]]:
    with (out / CSV).open(newline="") as file:
        return {row["source"]: row for row in csv.DictReader(file)}


def test_every_ct_of_a_tree_is_denoised_and_what_is_bad_stops_nothing(an_archive, a_model, tmp_path, capsys):
    out = tmp_path / "out"
    before = files_in(an_archive)
    code, lines = run_json(capsys, "batch", an_archive, out, "--model", a_model, "--workers", 1)
    assert code == 1 and "2 of 9 scans were not denoised" in lines[-1]["message"]
    assert files_in(an_archive) == before
    rows = the_rows(out)
    states = {source: row["state"] for source, row in rows.items()}
    enhanced = next(source for source in states if source.startswith("p3/"))
    assert states == {
        "p1/1.1": "done",
        "p1/1.2": "done",
        "p2/ct/1.3": "done",
        enhanced: "done",
        "p4/damaged.nrrd": "refused",
        "p4/scan.mha": "done",
        "p4/scan.nii.gz": "done",
        "p5/1.5": "refused",
        "p7/1.7": "left alone",
    }
    assert "lacks 1 slice" in rows["p5/1.5"]["reason"] and "denoised already" in rows["p7/1.7"]["reason"]
    for source, place, seed in (
        ("p1/1.1", "p1/1.1", 1),
        ("p2/ct/1.3", "p2/ct/1.3", 3),
        ("p4/scan.nii.gz", "p4/scan.nii.gz", 5),
        (enhanced, enhanced, 4),
    ):
        assert np.array_equal(read_volume(out / place).voxels, some_hu(seed) + SHIFT_HU), source
        assert (out / place).exists() and Path(rows[source]["result"]) == (out / place).resolve()
    page = (out / HTML).read_text()
    assert "6 done" in page and page.count("<img") == 6 and len(list((out / "thumbnails").glob("*.png"))) == 6

    # again: nothing is done twice; a result under another name counts, one of another strength does not
    (out / "p1" / "1.1").rename(out / "p1" / "another name")
    scan = out / "p4" / "scan.mha"
    scan.rename(scan.with_name("other.mha"))
    record = json.loads((out / "p4" / "scan.mha.json").read_text())
    (out / "p4" / "scan.mha.json").unlink()
    (out / "p4" / "other.mha.json").write_text(json.dumps(record | {"file": "other.mha"}))
    results = {name: content for name, content in files_in(out).items() if "batch." not in name}
    code, lines = run_json(capsys, "batch", an_archive, out, "--model", a_model, "--workers", 1)
    assert {row["state"] for row in the_rows(out).values()} == {"was there", "refused", "left alone"}
    assert {name: content for name, content in files_in(out).items() if "batch." not in name} == results
    done = Done(out)
    first = next(one for one in find_scans(an_archive) if one.series_uid == "1.1")
    sha = json.loads((out / "p4" / "other.mha.json").read_text())["model_sha256"]
    assert done.result_of(first, How.of(sha, 1.0)) == out / "p1" / "another name"
    assert done.result_of(first, How.of(sha, 0.5)) is None
    assert done.result_of(first, How.of("0" * 64, 1.0)) is None


def test_a_source_that_has_changed_is_done_again(a_model, tmp_path):
    root, out = tmp_path / "archive", tmp_path / "out"
    write = lambda seed: write_image(Volume(some_hu(seed), GEOMETRY), root / "scan.nrrd")  # noqa: E731
    root.mkdir()
    settings = BatchSettings(model=str(a_model), workers=1)
    write(0)
    environment = dict(os.environ)
    assert [row.state for row in run_batch(root, out, settings)] == ["done"]
    assert dict(os.environ) == environment  # Dask's nannies write into it
    write(1)
    rows = run_batch(root, out, settings)
    assert [row.state for row in rows] == ["done"] and rows[0].result.endswith("scan-2.nrrd")
    assert np.array_equal(read_volume(out / "scan.nrrd").voxels, some_hu(0) + SHIFT_HU)
    assert np.array_equal(read_volume(out / "scan-2.nrrd").voxels, some_hu(1) + SHIFT_HU)


def test_rules_decide_as_those_of_the_node(an_archive, a_model, tmp_path):
    from ASCONDenoiseLib.node.config import read_rules

    edit_file(an_archive / "p2" / "ct" / "0001.dcm", ConvolutionKernel="B70f")
    rules = tmp_path / "rules.toml"
    rules.write_text(
        f'[[rules]]\nname = "sharp"\nkernel = "B70*"\nleave_alone = true\n'
        f'[[rules]]\nmodality = "CT"\nmodel = "{a_model.name}"\nstrength = 0.5\n'
    )
    (rules.parent / a_model.name).write_bytes(a_model.read_bytes())
    (rules.parent / f"{a_model.stem}.json").write_bytes(a_model.with_suffix(".json").read_bytes())
    rows = {
        row.source: row
        for row in run_batch(an_archive, tmp_path / "o", BatchSettings(rules=read_rules(rules), workers=1))
    }
    assert rows["p2/ct/1.3"].reason == "The rule sharp says so."
    assert rows["p4/scan.mha"].reason == "No rule fits it."  # it does not say that it is a CT
    assert np.array_equal(read_volume(tmp_path / "o" / "p1" / "1.1").voxels, some_hu(1) + SHIFT_HU // 2)


def test_ten_thousand_scans_are_scheduled_without_growing(monkeypatch):
    """The handing out alone, with a cluster that does nothing: never more in flight than there are workers."""

    class Future:
        def __init__(self, row):
            self.row = row

        def cancelled(self):
            return False

    class Client:
        most = now = 0

        def submit(self, _, source, *rest, **options):
            Client.now += 1
            Client.most = max(Client.most, Client.now)
            return Future(Row(source, DONE))

        def nthreads(self):
            return {"a": 1, "b": 1}

    class Completed:
        def __init__(self, futures, **options):
            assert options == {"with_results": True, "raise_errors": False}
            self.futures = list(futures)

        def update(self, futures):
            self.futures += futures

        def __iter__(self):
            while self.futures:
                Client.now -= 1
                future = self.futures.pop(0)
                yield future, future.row

    monkeypatch.setattr("distributed.as_completed", Completed)
    tasks = [(i, run_file._Task(f"{i}", {"output": "x"}, "")) for i in range(10_000)]
    rows = dict(run_file._work(Client(), tasks, threading.Event(), {}))
    assert sorted(rows) == list(range(10_000)) and Client.most == 2


def test_each_worker_has_its_share_of_the_cores_and_its_gpu(monkeypatch):
    monkeypatch.setattr(cluster, "_gpus", lambda: ["4", "7"])
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    of_two = [{"ASCON_THREADS": "8", "CUDA_VISIBLE_DEVICES": gpu} for gpu in "47"]
    assert cluster._environments(None, "auto") == of_two
    assert [one["CUDA_VISIBLE_DEVICES"] for one in cluster._environments(3, "auto")] == ["4", "7", "4"]
    assert cluster._environments(None, "cpu") == [{"ASCON_THREADS": "4"}] * 4
    monkeypatch.setattr(cluster, "_gpus", lambda: [])
    assert cluster._environments(None, "auto") == [{"ASCON_THREADS": "4"}] * 4


def test_what_a_killed_process_left_of_a_scan_goes_and_a_whole_result_stays(tmp_path):
    (tmp_path / "thumbnails").mkdir()
    png = tmp_path / "thumbnails" / "000000.png"
    whole = [tmp_path / "a.nrrd", tmp_path / "a.nrrd.json", tmp_path / ".other.12345678.partial.nrrd"]
    left = [tmp_path / ".a.12345678.partial.nrrd", tmp_path / ".a.nrrd.12345678.partial.json"]
    left += [png.with_name(".000000.12345678.partial.png"), tmp_path / "b.nrrd"]  # of b, the record was to come
    for path in (*whole, *left):
        path.touch()
    remove_unfinished(tmp_path / "a.nrrd", png)
    remove_unfinished(tmp_path / "b.nrrd", png)
    assert [path for path in (*whole, *left) if path.exists()] == whole


def test_a_scan_that_a_worker_wrote_before_it_died_is_not_done_again(a_model, tmp_path):
    write_image(Volume(some_hu(), GEOMETRY), tmp_path / "scan.nrrd")
    request = {"input": str(tmp_path / "scan.nrrd"), "output": str(tmp_path / "out.nrrd"), "model": str(a_model)}
    first, second = (denoise_one("scan", request | {"strength": 1.0}, str(tmp_path / "a.png")) for _ in range(2))
    assert (first.state, second.state, second.result) == ("done", "was there", str(tmp_path / "out.nrrd"))
