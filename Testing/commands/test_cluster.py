"""`ascon cluster`: a folder with label map, tables, plot and page."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from command_fixtures import GEOMETRY, Shift, run_json
from folder_contents import files_in
from model_fixtures import a_card

from ASCONDenoiseLib.commands import cli
from ASCONDenoiseLib.io.image_files import write_image
from ASCONDenoiseLib.io.reading import read_volume
from ASCONDenoiseLib.io.volume import Geometry, Volume
from ASCONDenoiseLib.models.card import load_card
from ASCONDenoiseLib.models.files import save_model
from ASCONDenoiseLib.models.networks import ARCHITECTURES


class Sign(Shift):
    """Its features: above or below 0 HU, and the image; its output: the image 20 HU lower."""

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([(x > 1 / 3).float(), 0.001 * x], dim=1)

    def last(self, features: torch.Tensor) -> torch.Tensor:
        return 1000 * features[:, 1:] - 20 / 3000

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.features(x))


@pytest.fixture
def a_body(tmp_path, the_models, monkeypatch) -> Path:
    """Muscle in fat in air, 3 slices of 30 x 36; and two models "sign" that find them."""
    monkeypatch.setitem(ARCHITECTURES, "sign", Sign)
    for name in ("sign", "sign-too"):
        save_model(Sign(), a_card(architecture="sign"), the_models / f"{name}.safetensors")
    hu = np.full((3, 30, 36), -1000)
    hu[:, 4:26, 4:32] = -100
    hu[:, 9:21, 10:26] = 60
    hu += np.random.default_rng(0).integers(-9, 10, hu.shape)
    write_image(Volume(hu.astype(np.int16), GEOMETRY), tmp_path / "body.nrrd")
    return tmp_path / "body.nrrd"


CLUSTER_FILES = {
    "labels.nrrd",
    "labels.nrrd.json",
    "clusters.csv",
    "clusters.png",
    "t-sne.csv",
    "t-sne.png",
    "t-sne.svg",
}


def test_cluster_writes_label_map_tables_plot_and_page(a_body, tmp_path, the_models, capsys):
    out = tmp_path / "anatomy"
    options = ["--model", "sign", "--clusters", "2", "--points", "120", "--seed", "4"]
    assert cli.main(["cluster", str(a_body), str(out), *options]) == 0
    text, err = capsys.readouterr()
    assert err == "" and "fat" in text and "soft tissue" in text and "silhouette" in text
    assert f"Page  {out / 'report.html'}" in text
    assert set(files_in(out)) == CLUSTER_FILES | {"report.html", "results.json"}
    voxels, labels = read_volume(a_body).voxels, read_volume(out / "labels.nrrd")
    assert labels.voxels.dtype == np.uint8
    np.testing.assert_allclose(labels.geometry.spacing_mm, GEOMETRY.spacing_mm, rtol=1e-12)
    np.testing.assert_allclose(labels.geometry.direction, GEOMETRY.direction, atol=1e-12)
    assert (labels.voxels[voxels > 40] == 2).all() and (labels.voxels[:, 8, 8:24] == 1).all()
    assert not labels.voxels[:, 0].any()
    record = json.loads((out / "labels.nrrd.json").read_text())
    assert record["model_sha256"] == load_card(the_models / "sign.safetensors").sha256
    assert record["settings"] == {"clusters": 2, "points": 120, "seed": 4} and record["device"] == "cpu"
    with (out / "clusters.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["reading"] for row in rows] == ["fat", "soft tissue"]
    for row in rows:
        here = labels.voxels == int(row["label"])
        assert float(row["volume_ml"]) == pytest.approx(here.sum() * 0.7 * 0.8 * 2.5 / 1000)
        assert float(row["mean_before_hu"]) == pytest.approx(voxels[here].mean())
        assert float(row["mean_after_hu"]) == pytest.approx(voxels[here].mean() - 20, abs=0.1)


def test_points_in_the_table_of_the_plot_lie_where_slicer_has_them(a_body, tmp_path):
    import SimpleITK as sitk

    assert cli.main(["cluster", str(a_body), str(tmp_path / "out"), "--model", "sign", "--points", "100"]) == 0
    image, labels = sitk.ReadImage(str(a_body)), read_volume(tmp_path / "out" / "labels.nrrd").voxels
    with (tmp_path / "out" / "t-sne.csv").open(newline="") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    assert len(rows) == 100
    for row in rows:
        i, j, k = int(row["i"]), int(row["j"]), int(row["k"])
        x, y, z = image.TransformIndexToPhysicalPoint((i, j, k))
        assert (row["r_mm"], row["a_mm"], row["s_mm"]) == pytest.approx((-x, -y, z), abs=1e-3)
        assert row["cluster"] == labels[k, j, i] > 0 and row["hu"] == image[i, j, k]
    svg = (tmp_path / "out" / "t-sne.svg").read_text()
    assert svg.count("<circle") == 100 and ElementTree.fromstring(svg).tag.endswith("svg")


def test_cluster_compares_two_models_on_one_page(a_body, tmp_path, capsys):
    options = ["--compare", "sign", "sign-too", "--points", "100", "--clusters", "2", "--slice", "3"]
    code, lines = run_json(capsys, "cluster", a_body, tmp_path / "out", *options, "--format", "nii.gz")
    assert code == 0
    done = [line["done"] for line in lines[:-1]]
    assert done == sorted(done) and done[-1] == lines[0]["total"] == 2 * (3 + 3 + 4)
    assert lines[-1]["event"] == "result" and len(lines[-1]["models"]) == 2
    first, second = (tmp_path / "out" / name for name in ("sign", "sign-too"))
    own = {name.replace("nrrd", "nii.gz") for name in CLUSTER_FILES}
    assert set(files_in(first)) == set(files_in(second)) == own
    for name in ("labels.nii.gz", "t-sne.csv", "t-sne.png"):  # the same weights, the same voxels: the same result
        assert files_in(first)[name] == files_in(second)[name]
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 1 + 2 * 2 and not re.search(r'(src|href)="(?!data:)', page)
    assert "slice 3" in page.lower() and "Davies-Bouldin" in page


def test_cluster_replaces_its_own_folder_and_no_other(a_body, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["cluster", str(a_body), str(out), "--model", "sign", "--points", "100"]
    assert cli.main([*command, "--clusters", "3"]) == 0
    before = files_in(out)
    assert cli.main(command) == 0
    assert files_in(out) != before and sorted(files_in(out)) == sorted(before)
    (out / "thoughts.txt").write_text("precious")
    before = files_in(out)
    assert cli.main(command) == 2
    assert "thoughts.txt" in capsys.readouterr().err and files_in(out) == before


def test_what_cluster_can_refuse_it_refuses_before_the_network_runs(a_body, tmp_path, monkeypatch, capsys):
    from ASCONDenoiseLib.models import feature_clusters

    monkeypatch.setattr(feature_clusters, "cluster_volume", lambda *_, **__: pytest.fail("the network ran"))
    sheared = Geometry((1.0, 1.0, 3.0), direction=(1.0, 0.0, 0.0, 0.0, 0.96, -0.28, 0.0, 0.0, 1.0))
    write_image(Volume(read_volume(a_body).voxels, sheared), tmp_path / "sheared.nrrd")
    full = shutil.disk_usage(tmp_path)._replace(free=10)
    command = ["cluster", str(tmp_path / "sheared.nrrd"), str(tmp_path / "out"), "--model", "sign"]
    assert cli.main([*command, "--format", "nii.gz"]) == 2
    assert "sheared" in capsys.readouterr().err
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    assert cli.main(command) == 1
    assert "does not fit on its disk" in capsys.readouterr().err


def test_cluster_tells_the_same_warnings_everywhere(a_body, tmp_path, capsys):
    sagittal = Geometry((1.0, 1.0, 3.0), direction=(0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0))
    write_image(Volume(read_volume(a_body).voxels, sagittal), tmp_path / "cut.nrrd")
    command = ["cluster", tmp_path / "cut.nrrd", tmp_path / "out", "--model", "sign", "--clusters", "2"]
    assert cli.main([*map(str, command), "--points", "120", "--json"]) == 0
    out, err = capsys.readouterr()
    (warning,) = json.loads(out.splitlines()[-1])["warnings"]
    assert "sagittal" in warning and warning in err and warning in (tmp_path / "out" / "report.html").read_text()
    assert json.loads((tmp_path / "out" / "labels.nrrd.json").read_text())["warnings"] == [warning]
