"""The panel's work in pieces: nothing is left behind when it is cancelled, wherever it was."""

from __future__ import annotations

import numpy as np
import pytest
from scene_fixtures import a_volume

from ASCONDenoiseLib.scene import anatomy_nodes, operations
from ASCONDenoiseLib.scene.volumes import spacing_mm
from ASCONDenoiseLib.scene.voxels import image_array, volume_array

FACTS = {"device": "cpu", "precision": "fp32", "seconds": 1.0, "notes": [], "model": {"name": "M", "version": "1"}}


@pytest.fixture
def a_ct(a_scene):
    voxels = np.random.default_rng(0).integers(-1000, 1000, (5, 6, 7)).astype(np.int16)
    return a_volume(a_scene, voxels, "CT")


@pytest.fixture
def one_slice_a_piece(monkeypatch):
    """Of what is written for the worker; called with "copy": of what is copied from its result, too."""

    def set_budget(function: str = "write") -> None:
        monkeypatch.setattr(f"ASCONDenoiseLib.scene.voxels.{function}_in_pieces.__kwdefaults__", {"budget_s": 0.0})

    set_budget()
    return set_budget


def denoising(volume, parent, strength=1.0):
    return operations.denoise(
        volume,
        None,
        None,
        model="m",
        device="cpu",
        strength=lambda: strength,
        file_for_instance=None,
        parent=str(parent),
    )


def run_to_job(work):
    """Turns the work until it wants something of the worker; returns the job."""
    while not isinstance(piece := next(work), dict):
        pass
    return piece


def finish(work, answer):
    try:
        piece = work.send(answer)
        while True:
            assert not isinstance(piece, dict)
            piece = next(work)
    except StopIteration as end:
        return end.value


@pytest.mark.parametrize("strength", [1.0, 0.5, 0.0])
def test_denoise(a_scene, a_ct, tmp_path, strength):
    work = denoising(a_ct, tmp_path, strength)
    job = run_to_job(work)
    voxels = np.load(job["input"])
    full = (voxels // 2 + 3).astype(np.int16)
    np.save(job["output"], full)
    run = finish(work, FACTS)
    expected = np.rint(voxels + strength * (full.astype(float) - voxels)).astype(np.int16)
    np.testing.assert_array_equal(volume_array(run.output), expected)
    np.testing.assert_array_equal(volume_array(a_ct), voxels)
    assert run.output.GetName() == "CT denoised"
    assert run.output.GetAttribute("ASCON.Strength") == f"{strength:.4g}"
    assert run.folder.is_dir() and run.folder.stat().st_mode & 0o077 == 0
    run.remove_files()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("when", ["before it begins", "while copying", "while the worker works", "at the end"])
def test_cancelled_leaves_nothing(a_scene, a_ct, tmp_path, one_slice_a_piece, when):
    work = denoising(a_ct, tmp_path)
    if when == "while copying":
        next(work)
    elif when != "before it begins":
        job = run_to_job(work)
        if when == "at the end":
            np.save(job["output"], np.load(job["input"]))
            one_slice_a_piece("copy")
            work.send(FACTS)
    with pytest.raises(KeyboardInterrupt):
        work.throw(KeyboardInterrupt)
    assert not list(tmp_path.iterdir())
    assert a_scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 1


def test_new_folder_has_a_name_every_system_takes(tmp_path):
    first = operations.new_folder(str(tmp_path), 'a/b: "c"? ')
    assert first.parent == tmp_path and first.name == "a_b_ _c__"
    first.mkdir()
    assert operations.new_folder(str(tmp_path), 'a/b: "c"? ').name == "a_b_ _c__ 1"
    assert operations.new_folder(str(tmp_path), "...").name == "denoised"


def clustering(volume, parent, before=None):
    means = {"model": "m", "device": "cpu", "file_for_instance": None, "parent": str(parent)}
    return operations.anatomy(volume, before, clusters=2, points=100, **means)


def cluster_facts():
    names = ("volume_ml", "mean_before_hu", "sd_before_hu", "mean_after_hu", "sd_after_hu", "noise_removed_hu")
    numbers = dict.fromkeys(names, 1.0)
    clusters = [{"label": n, "reading": "fat", "colour": [255, 51 * n, 0], **numbers} for n in (1, 2)]
    return FACTS | {"clusters": clusters, "separation": None, "fit_slices": 4}


def answer_clusters(job, labels):
    np.save(job["output"], labels)
    ijk = np.argwhere(labels)[:, ::-1][:20]
    values = labels[tuple(ijk.T[::-1])]
    np.savez(job["points_output"], ijk=ijk, labels=values, hu=values.astype(np.int16), xy=ijk[:, :2].astype(np.float32))


def test_anatomy(a_scene, a_ct, tmp_path):
    work = clustering(a_ct, tmp_path)
    job = run_to_job(work)
    np.testing.assert_array_equal(np.load(job["input"]), volume_array(a_ct))
    assert (job["command"], job["clusters"], job["points"]) == ("cluster", 2, 100)
    assert job["spacing_mm"] == spacing_mm(a_ct)
    labels = np.random.default_rng(1).integers(0, 3, (5, 6, 7)).astype(np.uint8)
    answer_clusters(job, labels)
    segmentation = finish(work, cluster_facts())
    image = segmentation.GetSegmentation().GetNthSegment(1).GetRepresentation(anatomy_nodes.LABELMAP)
    np.testing.assert_array_equal(image_array(image), labels)
    assert not list(tmp_path.iterdir())
    work = clustering(a_ct, tmp_path, before=segmentation)
    answer_clusters(run_to_job(work), labels)
    assert finish(work, cluster_facts()) is segmentation


@pytest.mark.parametrize("when", ["before it begins", "while copying", "while the worker works", "at the end"])
def test_cancelled_anatomy_leaves_nothing(a_scene, a_ct, tmp_path, one_slice_a_piece, when):
    work = clustering(a_ct, tmp_path)
    before = a_scene.GetNumberOfNodes()
    if when == "while copying":
        next(work)
    elif when != "before it begins":
        job = run_to_job(work)
        if when == "at the end":
            answer_clusters(job, np.ones((5, 6, 7), np.uint8))
            one_slice_a_piece("copy")
            work.send(cluster_facts())
    with pytest.raises(KeyboardInterrupt):
        work.throw(KeyboardInterrupt)
    assert not list(tmp_path.iterdir())
    assert a_scene.GetNumberOfNodes() == before
