"""The command: what it prints and writes, its exit codes, and that what goes wrong costs nothing."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pydicom
import pytest
import torch
from dicom_fixtures import make_ct_series, oblique_direction
from model_fixtures import a_card
from torch import nn

import ASCONDenoiseLib
from ASCONDenoiseLib.commands import cli
from ASCONDenoiseLib.io.image_files import write_volume
from ASCONDenoiseLib.io.reading import read_volume
from ASCONDenoiseLib.io.volume import Geometry, Volume
from ASCONDenoiseLib.models import files
from ASCONDenoiseLib.models.card import Scope, load_card
from ASCONDenoiseLib.models.files import DEFAULT_MODEL, find_model, load_network, save_model
from ASCONDenoiseLib.models.networks import ARCHITECTURES
from ASCONDenoiseLib.models.networks.esau_net import ESAUNet
from ASCONDenoiseLib.physics import dose
from ASCONDenoiseLib.physics.settings import DoseSettings

LIBS = [str(Path(__file__).resolve().parents[2] / module) for module in ("ASCONDenoise", "ASCONTraining")]
GEOMETRY = Geometry((0.7, 0.8, 2.5), (-100.0, -90.5, 30.25), oblique_direction())


class Shift(nn.Module):
    """Adds a stored number of HU to the image: the output of `denoise` is known exactly."""

    def __init__(self):
        super().__init__()
        self.hu = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.hu / 3000


@pytest.fixture(autouse=True)
def the_models(tmp_path_factory, monkeypatch) -> Path:
    """A user's folder with the model "shift-30", and nothing shipped."""
    folder, shipped = tmp_path_factory.mktemp("models"), tmp_path_factory.mktemp("shipped")
    monkeypatch.setenv("ASCON_MODELS", str(folder))
    monkeypatch.setattr(files, "models_folder", lambda: shipped)
    monkeypatch.setitem(ARCHITECTURES, "shift", Shift)
    network = Shift()
    network.hu.data.fill_(-30)
    save_model(
        network,
        a_card(architecture="shift", scope=Scope(slice_mm=(1.0, 3.0)), metrics={"PSNR, dB": 40.5}),
        folder / "shift-30.safetensors",
    )
    return folder


@pytest.fixture
def a_volume() -> Volume:
    """Odd size, oblique; padding, metal and everything between."""
    voxels = np.random.default_rng(0).integers(-900, 1900, (3, 21, 18)).astype(np.int16)
    voxels[0, :2] = -1024
    voxels[1, :2] = 3071
    return Volume(voxels, GEOMETRY)


@pytest.fixture
def a_file(tmp_path, a_volume) -> Path:
    write_volume(a_volume, tmp_path / "scan.nrrd")
    return tmp_path / "scan.nrrd"


@pytest.fixture
def a_series(tmp_path) -> Path:
    make_ct_series(tmp_path / "series", shape=(4, 12, 16))
    return tmp_path / "series"


def shifted(voxels: np.ndarray, hu: int) -> np.ndarray:
    """What the model "shift-30" makes of it, by the output rule."""
    clipped = voxels.clip(-1000, 2000)
    difference = np.where((voxels <= -1024) | (voxels >= 2000), 0, hu)
    assert (clipped == voxels)[difference != 0].all() or voxels.min() < -1000
    return voxels + difference.astype(np.int16)


def files_in(folder: Path) -> dict[str, str]:
    """Every file below a folder, hidden ones too, with the SHA-256 of its content."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def run_json(capsys, *arguments) -> tuple[int, list[dict]]:
    code = cli.main([*map(str, arguments), "--json"])
    out, err = capsys.readouterr()
    assert err == ""
    return code, [json.loads(line) for line in out.splitlines()]


# ---- denoise


@pytest.mark.parametrize("name", ["out.nrrd", "out.nii.gz", "out.mha"])
def test_denoise_writes_what_the_output_rule_says_and_a_record(a_file, a_volume, tmp_path, the_models, capsys, name):
    out = tmp_path / name
    assert cli.main(["denoise", str(a_file), str(out), "--model", "shift-30", "--strength", "0.5"]) == 0
    written = read_volume(out)
    np.testing.assert_array_equal(written.voxels, shifted(a_volume.voxels, -15))
    assert written.voxels.dtype == np.int16
    np.testing.assert_allclose(written.geometry.direction, GEOMETRY.direction, atol=1e-6)
    sha256 = hashlib.sha256((the_models / "shift-30.safetensors").read_bytes()).hexdigest()
    record = json.loads((tmp_path / f"{name}.json").read_text())
    assert record["model"] == "A test model" and record["model_version"] == "0.1"
    assert record["model_sha256"] == sha256
    assert (record["device"], record["precision"], record["strength"]) == ("cpu", "fp32", 0.5)
    assert record["ascon_version"] == ASCONDenoiseLib.__version__ and record["source"] == "scan.nrrd"
    assert record["file"] == name and record["file_sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    line, err = capsys.readouterr()
    assert line.count("\n") == 1 and err == ""
    for fact in ("A test model 0.1", sha256[:12], "device cpu", "precision fp32", "strength 0.5", "3 slices in"):
        assert fact in line
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["scan.nrrd", name, f"{name}.json"])


def test_denoise_of_dicom_writes_a_derived_series(a_series, tmp_path):
    assert cli.main(["denoise", str(a_series), str(tmp_path / "out"), "--model", "shift-30"]) == 0
    before, after = read_volume(a_series), read_volume(tmp_path / "out")
    np.testing.assert_array_equal(after.voxels, np.where(before.voxels <= -1024, before.voxels, after.voxels))
    inside = (before.voxels >= -970) & (before.voxels < 2000)
    np.testing.assert_array_equal(after.voxels[inside], before.voxels[inside] - 30)
    assert after.geometry == before.geometry
    header = pydicom.dcmread(tmp_path / "out" / "0001.dcm")
    card = load_card(find_model("shift-30"))
    for fact in ("A test model 0.1", card.sha256[:12], "device cpu", "precision fp32", "strength 1"):
        assert fact in header.DerivationDescription
    assert header.ContributingEquipmentSequence[-1].SoftwareVersions == ASCONDenoiseLib.__version__


def test_denoise_chooses_a_series(tmp_path, capsys):
    for uid, description in (("1.2.3", "first"), ("1.2.4", "second")):
        make_ct_series(tmp_path / "both" / uid, series_uid=uid, series_description=description, shape=(2, 12, 10))
    command = ["denoise", str(tmp_path / "both"), str(tmp_path / "out.nrrd"), "--model", "shift-30"]
    assert cli.main(command) == 2
    message = capsys.readouterr().err
    assert "1.2.3" in message and "1.2.4" in message and "second" in message
    assert cli.main([*command, "--series", "1.2.4"]) == 0
    assert json.loads((tmp_path / "out.nrrd.json").read_text())["source_series_uid"] == "1.2.4"


def test_strength_0_is_bit_identical(a_file, a_volume, tmp_path, capsys):
    out = tmp_path / "out.nrrd"
    assert cli.main(["denoise", str(a_file), str(out), "--model", "shift-30", "--strength", "0"]) == 0
    np.testing.assert_array_equal(read_volume(out).voxels, a_volume.voxels)
    assert "unchanged" in capsys.readouterr().out


def test_quiet_says_nothing(a_file, tmp_path, capsys):
    assert cli.main(["denoise", str(a_file), str(tmp_path / "out.nrrd"), "--model", "shift-30", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_denoise_in_json(a_file, tmp_path, capsys):
    code, lines = run_json(capsys, "denoise", a_file, tmp_path / "out.nrrd", "--model", "shift-30", "--batch", 2)
    assert code == 0
    assert lines[:-1] == [{"event": "progress", "done": k, "total": 3} for k in (1, 2, 3)]
    assert lines[-1]["event"] == "result" and lines[-1]["command"] == "denoise"
    assert lines[-1]["output"] == str(tmp_path / "out.nrrd") and lines[-1]["notes"] == []


def test_an_existing_file_is_overwritten_only_by_force(a_file, tmp_path, capsys):
    out = tmp_path / "out.nrrd"
    out.write_text("precious")
    command = ["denoise", str(a_file), str(out), "--model", "shift-30"]
    assert cli.main(command) == 2
    assert "--force" in capsys.readouterr().err and out.read_text() == "precious"
    assert cli.main([*command, "--force"]) == 0
    assert read_volume(out).voxels.shape == (3, 21, 18)
    out.unlink()  # its record is in the way as well: another volume's, for all we know
    assert cli.main(command) == 2
    assert "out.nrrd.json exists" in capsys.readouterr().err


# ---- simulate


@pytest.fixture
def a_cylinder(tmp_path) -> Path:
    """Water in air, 64 x 64, in the middle of the image."""
    y, x = np.mgrid[-32:32, -32:32] + 0.5
    voxels = np.where(np.hypot(x, y) < 25, 0, -1000).astype(np.int16)
    write_volume(Volume(np.stack([voxels, voxels]), Geometry((2.0, 2.0, 3.0))), tmp_path / "water.nrrd")
    return tmp_path / "water.nrrd"


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ("--kernel soft --photons 2e5 --seed 3", {"kernel": "soft", "photons": 2e5, "seed": 3}),
        (
            "--kernel sharp --photons 1e6 --geometry parallel --electronic-noise 20 --bowtie-edge 0.5 "
            "--current-modulation 0.5",
            {
                "kernel": "sharp",
                "photons": 1e6,
                "geometry": "parallel",
                "electronic_noise": 20.0,
                "bowtie_edge": 0.5,
                "current_modulation": 0.5,
            },
        ),
    ],
)
def test_simulate_hands_every_option_on(a_cylinder, tmp_path, capsys, options, settings):
    code, lines = run_json(capsys, "simulate", a_cylinder, tmp_path / "low.nrrd", "--dose", "0.1", *options.split())
    assert code == 0
    assert lines[0] == {"event": "progress", "done": 2, "total": 2}
    volume = read_volume(a_cylinder)
    expected = dose.simulate(volume.voxels, (2.0, 2.0, 3.0), DoseSettings(dose=0.1, **settings)).voxels
    low = read_volume(tmp_path / "low.nrrd")
    np.testing.assert_array_equal(low.voxels, expected)
    assert (low.voxels != volume.voxels).mean() > 0.5
    assert low.geometry == volume.geometry
    record = json.loads((tmp_path / "low.nrrd.json").read_text())
    assert record["settings"] == json.loads(json.dumps(asdict(DoseSettings(dose=0.1, **settings))))
    assert record["photons"] == [settings["photons"]] * 2


def test_simulate_at_the_whole_dose_changes_nothing(a_cylinder, tmp_path, capsys):
    command = ["simulate", str(a_cylinder), str(tmp_path / "same.nrrd"), "--dose", "1"]
    assert cli.main([*command, "--photons", "1e6", "--kernel", "soft"]) == 0
    np.testing.assert_array_equal(read_volume(tmp_path / "same.nrrd").voxels, read_volume(a_cylinder).voxels)
    assert "1,000,000 photons per ray at normal dose (as given)" in re.sub(r"[\d,]+ to ", "", capsys.readouterr().out)


# ---- evaluate


@pytest.fixture
def a_pair(tmp_path) -> tuple[Path, Path]:
    """A reference within the abdomen window, and the same 30 HU above, still within it."""
    reference = np.random.default_rng(1).integers(-100, 150, (3, 16, 16)).astype(np.int16)
    for name, voxels in (("a.nrrd", reference), ("b.nrrd", reference + np.int16(30))):
        write_volume(Volume(voxels, GEOMETRY), tmp_path / name)
    return tmp_path / "a.nrrd", tmp_path / "b.nrrd"


def test_evaluate_prints_window_range_and_the_right_numbers(a_pair, capsys):
    a, b = a_pair
    assert cli.main(["evaluate", "--reference", str(a), "--test", str(b), "--test", str(a)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    paper, abdomen = out.split("\n\n")
    assert "window [-1000, 2000] HU, data range 1" in paper
    assert "window [-160, 240] HU, data range 400 HU" in abdomen
    row = next(line for line in paper.splitlines() if line.startswith("b.nrrd")).split()
    assert row[1:4] == ["40.00", "±", "0.00"]  # 20 log10(3000 / 30)
    assert row[-3:] == ["30.00", "±", "0.00"]
    row = next(line for line in abdomen.splitlines() if line.startswith("b.nrrd")).split()
    assert row[1] == "22.50"  # 20 log10(400 / 30)
    assert "inf" in next(line for line in paper.splitlines() if line.startswith("a.nrrd"))


def test_evaluate_in_json_and_another_window(a_pair, capsys):
    a, b = a_pair
    code, lines = run_json(capsys, "evaluate", "--reference", a, "--test", b, "--window", "bone")
    assert code == 0
    assert [line["done"] for line in lines[:-1]] == [1, 2]
    paper, bone = lines[-1]["comparisons"]
    assert (paper["scale"], bone["scale"], bone["window_hu"]) == ("paper", "bone", [-450, 1050])
    assert bone["mean"]["psnr_db"] == pytest.approx(20 * np.log10(1500 / 30))
    assert [row["rmse_hu"] for row in paper["slices"]] == pytest.approx([30, 30, 30])


def test_evaluate_per_slice_and_unclipped(a_pair, tmp_path, capsys):
    a, _ = a_pair
    metal = read_volume(a)
    metal.voxels[1, 0, 0] = 30000
    write_volume(metal, tmp_path / "c.nrrd")
    command = ["evaluate", "--reference", str(a), "--test", str(tmp_path / "c.nrrd"), "--per-slice"]
    rmse = {}
    for option in ("clipped", "--unclipped"):
        assert cli.main([*command, option] if option.startswith("-") else command) == 0
        paper = capsys.readouterr().out.split("\n\n")[0]
        rows = [line for line in paper.splitlines() if line.startswith("c.nrrd, slice")]
        assert len(rows) == 3
        rmse[option] = float(rows[1].split()[-1])
    original = float(read_volume(a).voxels[1, 0, 0])
    assert rmse["clipped"] == pytest.approx((2000 - original) / 16, abs=0.01)  # one of 256 pixels
    assert rmse["--unclipped"] == pytest.approx((30000 - original) / 16, abs=0.01)


def test_evaluate_remarks_on_volumes_that_lie_elsewhere(a_pair, tmp_path, capsys):
    a, b = a_pair
    write_volume(Volume(read_volume(b).voxels, Geometry()), tmp_path / "c.nrrd")
    assert cli.main(["evaluate", "--reference", str(a), "--test", str(tmp_path / "c.nrrd")]) == 0
    assert "lies elsewhere" in capsys.readouterr().err


# ---- cluster


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
    write_volume(Volume(hu.astype(np.int16), GEOMETRY), tmp_path / "body.nrrd")
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


# ---- models and info


def test_models_list_import_verify_show(the_models, tmp_path, capsys):
    sha256 = hashlib.sha256((the_models / "shift-30.safetensors").read_bytes()).hexdigest()
    for suffix in (".safetensors", ".json"):
        shutil.copy(the_models / f"shift-30{suffix}", tmp_path / f"mine{suffix}")
    assert cli.main(["models", "import", str(tmp_path / "mine.safetensors")]) == 0
    assert "mine" in capsys.readouterr().out
    assert (the_models / "mine.safetensors").read_bytes() == (tmp_path / "mine.safetensors").read_bytes()
    assert cli.main(["models", "list"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows[1:]] == ["mine", "shift-30"]
    assert all(row[-1] == sha256[:12] for row in rows[1:])
    assert cli.main(["models", "verify"]) == 0
    assert capsys.readouterr().out.count("correct") == 3  # one for each, and all
    assert cli.main(["models", "show", "mine"]) == 0
    shown = capsys.readouterr().out
    facts = ("A test model", "-1000, 2000", "at all", "knows nothing", "slices of 1 to 3 mm", "PSNR, dB: 40.5")
    for fact in (sha256, *facts):
        assert fact in shown
    code, lines = run_json(capsys, "models", "list")
    assert code == 0 and [model["name"] for model in lines[-1]["models"]] == ["mine", "shift-30"]
    assert lines[-1]["models"][0]["card"]["sha256"] == sha256


def test_the_default_model_is_marked_and_used(the_models, a_file, a_volume, tmp_path, capsys):
    for suffix in (".safetensors", ".json"):
        shutil.copy(the_models / f"shift-30{suffix}", files.models_folder() / f"{DEFAULT_MODEL}{suffix}")
    assert cli.main(["models", "list"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows if row.endswith("default")] == [DEFAULT_MODEL]
    assert cli.main(["denoise", str(a_file), str(tmp_path / "out.nrrd")]) == 0
    np.testing.assert_array_equal(read_volume(tmp_path / "out.nrrd").voxels, shifted(a_volume.voxels, -30))


def test_models_verify_names_all_that_are_wrong(the_models, capsys):
    (the_models / "cut.safetensors").write_bytes((the_models / "shift-30.safetensors").read_bytes()[:-4])
    (the_models / "pickled.safetensors").write_bytes(b"PK\x03\x04 and so on")
    assert cli.main(["models", "verify"]) == 2
    out, err = capsys.readouterr()
    assert "shift-30" in out and "cut.safetensors is cut short" in err and "is a pickle" in err


def test_info(capsys):
    code, lines = run_json(capsys, "info")
    info = lines[-1]
    assert code == 0
    assert (info["ascon"], info["torch"], info["numpy"]) == (
        ASCONDenoiseLib.__version__,
        torch.__version__,
        np.__version__,
    )
    assert info["devices"][-1] == "cpu" and info["threads"].startswith(f"{torch.get_num_threads()} of ")
    assert info["default model"].startswith("none: ")
    assert cli.main(["info"]) == 0
    assert f"torch          {torch.__version__}" in capsys.readouterr().out


# ---- bad input


BAD_INPUT = {
    "no command": ("", "COMMAND"),
    "unknown command": ("frobnicate", "invalid choice: 'frobnicate'"),
    "unknown option": ("denoise scan.nrrd out.nrrd --strenght 1", "--strenght"),
    "abbreviated option": ("denoise scan.nrrd out.nrrd --stren 1", "--stren"),
    "no output": ("denoise scan.nrrd", "OUT"),
    "input missing": ("denoise nowhere.nrrd out.nrrd --model shift-30", "nowhere.nrrd does not exist"),
    "input empty": ("denoise empty.nrrd out.nrrd --model shift-30", "empty.nrrd is empty"),
    "input truncated": ("denoise cut.nrrd out.nrrd --model shift-30", "cut.nrrd cannot be read"),
    "input is no volume": ("denoise notes.txt out.nrrd --model shift-30", "notes.txt is no DICOM file"),
    "input folder without DICOM": ("denoise papers out.nrrd --model shift-30", "papers holds no DICOM images"),
    "output is the input": ("denoise scan.nrrd scan.nrrd --model shift-30", "both input and output"),
    "output is the input, by force": ("denoise scan.nrrd ./papers/../scan.nrrd --force", "both input and output"),
    "output exists": ("denoise scan.nrrd old.nrrd --model shift-30", "old.nrrd exists already"),
    "output's folder missing": ("denoise scan.nrrd a/b.nrrd --model shift-30", "The folder a does not exist"),
    "output is a folder": ("denoise scan.nrrd folder.nrrd --model shift-30", "folder.nrrd is a folder"),
    "output format": ("denoise scan.nrrd out.nhdr --model shift-30", "out.nhdr cannot be written"),
    "output one DICOM file": ("denoise series out.dcm --model shift-30", "out.dcm cannot be written"),
    "folder for a volume file": ("denoise scan.nrrd out --model shift-30", "scan.nrrd is not DICOM"),
    "output folder not empty": ("denoise series papers --model shift-30", "not an empty folder"),
    "output folder is the input": ("denoise series series --model shift-30", "not an empty folder"),
    "unknown series": ("denoise series out --series 9.9 --model shift-30", "series 9.9"),
    "unknown model": ("denoise scan.nrrd out.nrrd --model nobody", 'named "nobody"'),
    "no default model": ("denoise scan.nrrd out.nrrd", "default model"),
    "model is a pickle": ("denoise scan.nrrd out.nrrd --model model.pt", "is a pickle"),
    "strength 2": ("denoise scan.nrrd out.nrrd --strength 2", "strength is a number from 0 to 1; got 2"),
    "strength nan": ("denoise scan.nrrd out.nrrd --strength nan", "got nan"),
    "strength full": ("denoise scan.nrrd out.nrrd --strength full", "got full"),
    "batch 0": ("denoise scan.nrrd out.nrrd --batch 0", "got 0"),
    "unknown device": ("denoise scan.nrrd out.nrrd --model shift-30 --device abacus", 'no device called "abacus"'),
    "absent device": ("denoise scan.nrrd out.nrrd --model shift-30 --device cuda:99", "CUDA"),
    "log in a missing folder": ("denoise scan.nrrd out.nrrd --model shift-30 --log a/b.log", "a/b.log"),
    "log is the scan": ("denoise scan.nrrd out.nrrd --model shift-30 --log scan.nrrd", "not a log of ascon"),
    "no dose": ("simulate scan.nrrd out.nrrd", "--dose"),
    "dose 0": ("simulate scan.nrrd out.nrrd --dose 0", "dose must be above 0"),
    "dose 2": ("simulate scan.nrrd out.nrrd --dose 2", "at most 1"),
    "dose inf": ("simulate scan.nrrd out.nrrd --dose inf", "got inf"),
    "photons": ("simulate scan.nrrd out.nrrd --dose 0.5 --photons -1", "photons"),
    "kernel": ("simulate scan.nrrd out.nrrd --dose 0.5 --kernel B30", "invalid choice: 'B30'"),
    "nothing to measure noise in": ("simulate scan.nrrd out.nrrd --dose 0.5", "noise cannot be measured"),
    "no noise to measure": ("simulate plastic.nrrd out.nrrd --dose 0.5", "noise cannot be measured"),
    "simulated series": ("simulate series out --dose 0.5", "out names no file"),
    "other shapes": ("evaluate --reference scan.nrrd --test small.nrrd", "small.nrrd cannot be compared"),
    "too small for SSIM": ("evaluate --reference small.nrrd --test small.nrrd", "11 x 11"),
    "no reference": ("evaluate --test scan.nrrd", "--reference"),
    "window": ("evaluate --reference scan.nrrd --test scan.nrrd --window liver", "invalid choice: 'liver'"),
    "models without command": ("models", "COMMAND"),
    "model to import missing": ("models import nowhere.safetensors", "nowhere.safetensors"),
    "pickle to import": ("models import model.pt", "is a pickle"),
    "model to show": ("models show nobody", 'named "nobody"'),
    "cluster without features": ("cluster scan.nrrd out --model shift-30", "has no features"),
    "cluster into a file's place": ("cluster scan.nrrd old.nrrd --model shift-30", "old.nrrd is a file"),
    "cluster into someone's folder": ("cluster scan.nrrd papers --model shift-30", "choose another folder"),
    "one cluster": ("cluster scan.nrrd out --model shift-30 --clusters 1", "Choose 2 to 12 clusters"),
    "cluster with one model to compare": ("cluster scan.nrrd out --compare shift-30", "expected 2 arguments"),
    "cluster with a model and two": ("cluster scan.nrrd out --model a --compare a b", "not allowed with"),
    "cluster shows a slice that is not there": ("cluster scan.nrrd out --model shift-30 --slice 9", "1 to 3"),
    "demo into someone's folder": ("demo --model shift-30 --out papers", "choose another folder"),
    "demo of nothing": ("demo --model shift-30 --input nowhere.nrrd", "nowhere.nrrd does not exist"),
    "demo of a tiny scan": ("demo --model shift-30 --input small.nrrd", "5 x 4 pixels"),
    "demo's dose": ("demo --model shift-30 --input scan.nrrd --dose 3", "dose must be"),
}


@pytest.fixture
def a_workplace(tmp_path, a_file, a_series, monkeypatch) -> Path:
    """Good and bad files, in the working folder."""
    (tmp_path / "empty.nrrd").touch()
    (tmp_path / "cut.nrrd").write_bytes(a_file.read_bytes()[:-200])
    (tmp_path / "notes.txt").write_text("no CT")
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "notes.txt").write_text("no CT")
    (tmp_path / "old.nrrd").write_text("precious")
    (tmp_path / "folder.nrrd").mkdir()
    torch.save({}, tmp_path / "model.pt")
    write_volume(Volume(np.zeros((2, 5, 4), np.int16), Geometry()), tmp_path / "small.nrrd")
    write_volume(Volume(np.full((1, 99, 99), 40, np.int16), Geometry()), tmp_path / "plastic.nrrd")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_costs_a_sentence(a_workplace, the_models, capsys, case):
    command, words = BAD_INPUT[case]
    before = files_in(a_workplace), files_in(the_models)
    assert cli.main(command.split()) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("ascon: ") and words in err
    assert "Traceback" not in err and len(err) < 500
    assert err.rstrip().endswith((".", ")", "`", "image", "images"))
    assert (files_in(a_workplace), files_in(the_models)) == before


def test_errors_in_json(a_workplace, capsys):
    for command, words in (BAD_INPUT["input missing"], BAD_INPUT["unknown option"], BAD_INPUT["dose 0"]):
        code, lines = run_json(capsys, *command.split())
        assert code == 2
        assert lines == [{"event": "error", "message": lines[-1]["message"], "exit_code": 2}]
        assert words in lines[-1]["message"]


# ---- failures, interruptions, the log


def raises(error: BaseException):
    def function(*args, **kwargs):
        raise error

    return function


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ZeroDivisionError("division by zero"), "Unexpected error, ZeroDivisionError: division by zero"),
        (
            ValueError("array must not contain infs\nor NaNs"),
            "Unexpected error, ValueError: array must not contain infs",
        ),
        (MemoryError(), "There is not enough memory"),
        (OSError(28, "No space left on device", "disk"), "disk: No space left on device."),
    ],
)
def test_a_failure_is_a_line_and_exit_code_1(a_file, tmp_path, monkeypatch, capsys, error, words):
    monkeypatch.setattr(files, "load_network", raises(error))
    command = ["denoise", str(a_file), str(tmp_path / "out.nrrd"), "--model", "shift-30"]
    assert cli.main(command) == 1
    err = capsys.readouterr().err
    assert words in err and "Traceback" not in err and err.count("\n") == 1
    assert cli.main([*command, "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err
    assert sorted(files_in(tmp_path)) == ["scan.nrrd"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
@pytest.mark.parametrize("where", ["read", "file", "digest", "rename"])
def test_whatever_stops_the_writing_of_a_file_leaves_nothing(a_file, tmp_path, monkeypatch, capsys, where, error):
    """Ctrl-C or a full disk, with an old result in place."""
    out = tmp_path / "out.nrrd"
    out.write_text("precious")
    before = files_in(tmp_path)
    if where == "read":
        monkeypatch.setattr("ASCONDenoiseLib.io.reading.read_volume", raises(error))
    elif where == "file":
        import SimpleITK as sitk

        def half_a_file(image, name, **options):
            Path(name).write_bytes(b"half")
            raise error

        monkeypatch.setattr(sitk, "WriteImage", half_a_file)
    elif where == "digest":
        monkeypatch.setattr(hashlib, "file_digest", raises(error))
    else:
        rename = os.replace

        def not_onto_the_result(source, target):
            if Path(target) == out:
                raise error
            rename(source, target)

        monkeypatch.setattr(os, "replace", not_onto_the_result)
    code = cli.main(["denoise", str(a_file), str(out), "--model", "shift-30", "--force"])
    message = capsys.readouterr().err
    monkeypatch.undo()
    assert code == (130 if isinstance(error, KeyboardInterrupt) else 1)
    assert ("Interrupted" if code == 130 else "o space left" if where == "read" else "could not be written") in message
    assert files_in(tmp_path) == before


def test_an_interrupted_series_leaves_nothing(a_series, tmp_path, monkeypatch, capsys):
    write, written = pydicom.dcmwrite, []

    def third_time_interrupted(path, *args, **kwargs):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path)
        write(path, *args, **kwargs)

    before = files_in(tmp_path)
    monkeypatch.setattr(pydicom, "dcmwrite", third_time_interrupted)
    assert cli.main(["denoise", str(a_series), str(tmp_path / "out"), "--model", "shift-30"]) == 130
    assert len(written) == 2 and files_in(tmp_path) == before and not (tmp_path / "out").exists()


def test_the_log(a_file, tmp_path, monkeypatch, capsys):
    log = tmp_path / "runs.log"
    command = ["denoise", str(a_file), str(tmp_path / "out.nrrd"), "--model", "shift-30", "--log", str(log)]
    assert cli.main(command) == 0
    assert cli.main(command) == 2  # exists already
    monkeypatch.setattr(files, "load_network", raises(ZeroDivisionError("oh")))
    assert cli.main([*command, "--force"]) == 1
    assert "Traceback" not in capsys.readouterr().err
    text = log.read_text()
    entries = [
        line
        for line in text.splitlines()
        if re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (INFO|ERROR) ascon: ", line)
    ]
    assert [line.split("ascon: ")[1].split(" ")[0] for line in entries[:3]] == ["ascon", "model", "wrote"]
    assert load_card(find_model("shift-30")).sha256 in text
    assert "exists already" in text and "ZeroDivisionError: oh" in text and 'cli.py", line' in text


def test_the_log_holds_nothing_of_other_libraries(tmp_path, monkeypatch, a_file):
    import logging

    def noisy(*args):
        logging.getLogger("pydicom").warning("PatientName DOE^JANE is odd")
        logging.getLogger("ASCONDenoiseLib.models.inference").warning("batch halved")
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "load_network", noisy)
    log = tmp_path / "a.log"
    command = ["denoise", str(a_file), str(tmp_path / "out.nrrd"), "--model", "shift-30", "--log", str(log)]
    assert cli.main(command) == 130
    assert "DOE" not in log.read_text() and "batch halved" in log.read_text() and "interrupted" in log.read_text()


# ---- commands of other packages


def install(folder: Path, monkeypatch, code: str, name: str = "extra") -> None:
    """A distribution with an entry point for `name`, as pip would leave it."""
    info = folder / f"{name}_plugin-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[ascon.commands]\n{name} = {name}_plugin:add\n")
    (folder / f"{name}_plugin.py").write_text(code)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, f"{name}_plugin", raising=False)


def test_another_package_adds_a_command(tmp_path, monkeypatch, capsys):
    install(
        tmp_path,
        monkeypatch,
        """
from ASCONDenoiseLib.commands.cli import add_command

def add(subparsers):
    parser = add_command(subparsers, "extra", run, summary="do more", example="ascon extra 3")
    parser.add_argument("count", type=int)

def run(args, console):
    for done in range(args.count):
        console.progress(done + 1, args.count)
    console.answer(f"counted to {args.count}", counted=args.count)
""",
    )
    assert cli.main(["extra", "3"]) == 0
    assert capsys.readouterr().out == "counted to 3\n"
    code, lines = run_json(capsys, "extra", "2")
    assert code == 0 and lines[-1] == {"event": "result", "counted": 2} and len(lines) == 3
    assert cli.main(["extra", "many"]) == 2
    assert cli.main(["--help"]) == 0
    assert "do more" in capsys.readouterr().out


@pytest.mark.parametrize(
    "code",
    [
        "import a_package_that_is_not_there",
        "raise SystemExit(3)",
        "def add(subparsers): raise RuntimeError('no')",
        "def add(subparsers): subparsers.add_parser('denoise')",
        "add = None",
        "def add(subparsers, more): pass",
    ],
)
def test_a_broken_plug_in_costs_only_its_own_command(tmp_path, monkeypatch, capsys, code):
    install(tmp_path, monkeypatch, code)
    assert cli.main(["models", "list"]) == 0
    out, err = capsys.readouterr()
    assert "shift-30" in out and err.count("\n") <= 1
    if sys.version_info >= (3, 11) and "denoise" not in code:
        assert "the command extra is not available" in err


def test_a_plug_in_without_work_is_refused_with_a_sentence(tmp_path, monkeypatch, capsys):
    install(tmp_path, monkeypatch, "def add(subparsers): subparsers.add_parser('extra')")
    assert cli.main(["extra"]) == 2
    assert "another package" in capsys.readouterr().err


# ---- child processes


def start(*arguments, cwd: Path, **options) -> subprocess.Popen:
    """`ascon ...` in a child that heeds SIGINT even where its parents ignore it."""
    code = (
        f"import signal, sys; sys.path[:0] = {LIBS!r}; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from ASCONDenoiseLib.commands.cli import main; sys.exit(main())"
    )
    command = [sys.executable, "-c", code, *map(str, arguments)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen(command, cwd=cwd, text=True, **streams)


@pytest.fixture(scope="session")
def an_identity_esau_net(tmp_path_factory) -> Path:
    """The real architecture with weights that hand the image through: a child has no "shift"."""
    network = ESAUNet()
    for parameter in network.parameters():
        parameter.data.zero_()
    for layer in (network.stem, network.head, network.last):
        layer.weight.data[0, 0, 1, 1] = 1
    for block in (network.enc1, network.dec3):
        block.identity.weight.data[0, 0] = 1
    path = tmp_path_factory.mktemp("esau") / "identity.safetensors"
    save_model(network, a_card(), path, half=True)
    return path


def test_help_list_and_evaluate_know_no_torch(a_pair):
    a, b = a_pair
    code = f"""
import sys; sys.path[:0] = {LIBS!r}
from ASCONDenoiseLib.commands.cli import main
for command in (["--help"], ["denoise", "--help"], ["models", "list"],
                ["evaluate", "--reference", {str(a)!r}, "--test", {str(b)!r}]):
    assert main(command) == 0
    if command[0] != "evaluate":
        assert "SimpleITK" not in sys.modules and "scipy" not in sys.modules
print(*sys.modules)
"""
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "usage: ascon denoise" in loaded and "PSNR" in loaded
    names = loaded.splitlines()[-1].split()
    assert "ASCONDenoiseLib.imaging.metrics" in names and "torch" not in names


def test_the_package_is_the_command(tmp_path):
    """`python -m ASCONDenoiseLib`, for Slicer's Python."""
    command = [sys.executable, "-m", "ASCONDenoiseLib"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(LIBS)}
    for arguments, code in (["--version"], 0), (["denoise", "nowhere"], 2):
        child = subprocess.run([*command, *arguments], capture_output=True, text=True, cwd=tmp_path, env=environment)
        assert child.returncode == code
        assert (f"ascon {ASCONDenoiseLib.__version__}" if code == 0 else "OUT. See `ascon denoise --help`") in (
            child.stdout + child.stderr
        )


def test_help_is_quick(tmp_path):
    seconds = []
    for _ in range(3):
        started = time.monotonic()
        child = start("--help", cwd=tmp_path)
        assert "denoise" in child.communicate()[0] and child.returncode == 0
        seconds.append(time.monotonic() - started)
    assert min(seconds) < 0.5


def test_sigint_stops_the_work_and_leaves_nothing(an_identity_esau_net, tmp_path):
    voxels = np.zeros((3000, 64, 64), np.int16)
    voxels[:, :32] = -1000  # what is no CT is remarked upon
    write_volume(Volume(voxels, Geometry()), tmp_path / "long.nrrd")
    (tmp_path / "out.nrrd").write_text("precious")
    before = files_in(tmp_path)
    child = start(
        "denoise", "long.nrrd", "out.nrrd", "--force", "--json", "--model", an_identity_esau_net, cwd=tmp_path
    )
    try:
        first = json.loads(child.stdout.readline())
        assert first == {"event": "progress", "done": 1, "total": 3000}
        child.send_signal(signal.SIGINT)
        rest, err = child.communicate(timeout=30)
    finally:
        child.kill()
    lines = [json.loads(line) for line in rest.splitlines()]
    assert child.returncode == 130 and err == ""
    assert lines[-1]["event"] == "error" and lines[-1]["exit_code"] == 130
    assert all(line["done"] < 3000 for line in lines[:-1])
    assert files_in(tmp_path) == before


def test_a_child_denoises_and_says_so(an_identity_esau_net, a_file, a_volume, tmp_path):
    child = start("denoise", "scan.nrrd", "out.nrrd", "--model", an_identity_esau_net, cwd=tmp_path)
    out, err = child.communicate(timeout=60)
    assert (child.returncode, err) == (0, "")  # no progress bar: standard error is no terminal
    assert "A test model 0.1" in out
    np.testing.assert_array_equal(read_volume(tmp_path / "out.nrrd").voxels, a_volume.voxels)


def test_a_reader_that_leaves_early_is_no_error(a_pair, tmp_path):
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "w") as closed:
        child = start("models", "list", cwd=tmp_path, stdout=closed)
        _, err = child.communicate(timeout=30)
    assert child.returncode == 1 and err == ""


def test_a_terminal_gets_a_progress_bar(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    console = cli.Console()
    console.progress(1, 2)
    time.sleep(0.15)  # tqdm draws ten times a second
    console.progress(2, 2)
    console.answer("done")
    out, err = capsys.readouterr()
    assert out == "done\n" and "2/2" in err and "slice" in err


def test_a_file_name_that_is_not_unicode_is_refused(tmp_path, capsys):
    """SimpleITK would abort the process."""
    odd = os.fsdecode(b"sc\xe4n.nrrd")
    assert cli.main(["denoise", str(tmp_path / odd), str(tmp_path / "out.nrrd"), "--model", "shift-30"]) == 2
    assert "not valid Unicode" in capsys.readouterr().err


def test_what_the_model_is_not_for_is_remarked_upon_and_done(an_identity_esau_net, tmp_path, capsys):
    network, card = load_network(an_identity_esau_net)
    model = tmp_path / "thick.safetensors"
    save_model(network, replace(card, scope=Scope(slice_mm=(2.5, 5.0))), model)
    voxels = np.full((2, 64, 64), 40, np.int16)
    voxels[:, :32] = -1000
    scan, out = tmp_path / "denoised.nrrd", tmp_path / "out.nrrd"
    write_volume(Volume(voxels, Geometry(spacing_mm=(0.7, 0.7, 0.625))), scan)
    assert cli.main(["denoise", str(scan), str(out), "--model", str(model)]) == 0
    remarks = capsys.readouterr().err
    assert "has been denoised already" in remarks and "thinner than those that the model has seen" in remarks
    assert out.exists()
