"""From deliveries to training sets: small trees that imitate Mayo-2016, Mayo-2020 and others, and what goes wrong."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pydicom
import pytest
from dicom_fixtures import make_ct_series
from training_fixtures import Tiny

from ASCONDenoiseLib.commands import cli
from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.io.image_files import write_volume
from ASCONDenoiseLib.io.volume import Geometry, Volume
from ASCONDenoiseLib.models.card import load_card
from ASCONDenoiseLib.models.networks import ARCHITECTURES
from ASCONDenoiseLib.physics.calibration import CalibrationError
from ASCONTrainingLib.commands import training as commands
from ASCONTrainingLib.data import prepare
from ASCONTrainingLib.data.discovery import (
    MAYO_2016,
    MAYO_2020,
    automatic_split,
    match_slices,
    pair_volumes,
    read_split,
)
from ASCONTrainingLib.data.prepare import prepare_mayo2016, prepare_mayo2020, prepare_paired, prepare_simulated
from ASCONTrainingLib.data.training_set import DataError, TrainingSet, WholeSlices, read_index

SHAPE = (5, 16, 24)


def some_pair(seed: int, shape=SHAPE) -> tuple[np.ndarray, np.ndarray]:
    """(ndct, ldct) int16 HU: no two slices are alike."""
    random = np.random.default_rng(seed)
    ndct = random.integers(-1000, 1500, shape).astype(np.int16)
    return ndct, ndct + random.integers(-20, 21, shape).astype(np.int16)


def arrays_of(out: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    return np.load(out / f"{name}.ndct.npy"), np.load(out / f"{name}.ldct.npy")


def assert_holds(out: Path, name: str, ndct: np.ndarray, ldct: np.ndarray) -> None:
    for got, expected in zip(arrays_of(out, name), (ndct, ldct), strict=True):
        assert got.dtype == np.int16 and np.array_equal(got, expected)


# Mayo-2016

DATES = {"full": "2015.12.22.18.09.40.840353", "quarter": "2015.12.22.18.10.55.420810"}


def as_in_the_challenge(kernel: str, thickness_mm: float, seed: int):
    """What its headers hold and lack: no patient, no description, numbers that do not follow the position."""
    numbers = np.random.default_rng(seed).permutation(100)

    def edit(dataset, k):
        dataset.PatientID = dataset.PatientName = "Anonymous"
        dataset.Manufacturer, dataset.ManufacturerModelName = "SIEMENS", "SOMATOM Definition AS+"
        dataset.ConvolutionKernel, dataset.SliceThickness = kernel, f"{thickness_mm}"
        dataset.InstanceNumber = int(numbers[k])
        del dataset.SeriesDescription

    return edit


def mayo_2016_series(folder: Path, patient: str, dose: str, voxels: np.ndarray, *, mm=1, kernel="B30f", **settings):
    """One series with the names, tags and rescale of its dose: reversed and signed at quarter dose."""
    short, sharp = {"full": "FD", "quarter": "QD"}[dose], "SHARP_" if kernel.startswith("D45") else ""
    full = dose == "full"
    settings = {"edit": as_in_the_challenge(kernel, mm, len(voxels)), "spacing_mm": (0.75, 0.75, 0.8 * mm)} | settings
    make_ct_series(
        folder,
        voxels_hu=voxels,
        file_name=f"{patient}_{short}_{mm}_{sharp}1.CT.0001.{{:04d}}.{DATES[dose]}.358074219.IMA",
        file_order=range(len(voxels)) if full else range(len(voxels))[::-1],
        signed=not full,
        intercept=-1024 if full else 0,
        bits_stored=12 if full else 16,
        **settings,
    )


def mayo_2016_tree(root: Path, patients=("L067", "L310", "L333"), reconstructions=((1, "B30f"),), shape=SHAPE) -> dict:
    """The unpacked archives; returns {(patient, mm, kernel): (ndct, ldct)}."""
    pairs = {}
    for mm, kernel in reconstructions:
        sharp = "_sharp" if kernel.startswith("D45") else ""
        base = root / "Training_Image_Data" / f"{mm}mm {kernel[:3]}"
        for patient in patients:
            seed = int(patient[1:]) * 10 + mm + len(sharp)
            pairs[patient, mm, kernel] = some_pair(seed, shape)
            for dose, voxels in zip(("full", "quarter"), pairs[patient, mm, kernel], strict=True):
                name = f"{dose}_{mm}mm{sharp}"
                mayo_2016_series(base / name / patient / name, patient, dose, voxels, mm=mm, kernel=kernel)
    projections = root / "Training_Projection_Data" / patients[0] / "DICOM-CT-PD_FD"
    projections.mkdir(parents=True)
    (projections / "L067_4L_100kv_fulldose.1.00001.dcm").write_bytes(b"no image of a slice, and never read")
    (root / "readme.txt").write_text("As delivered.")
    return pairs


def test_mayo_2016_as_delivered(tmp_path):
    pairs = mayo_2016_tree(tmp_path / "in", patients=("L067", "L310", "L333", "L999"))
    log, steps = [], []
    index = prepare_mayo2016(tmp_path / "in", tmp_path / "out", log=log.append, progress=lambda *n: steps.append(n))
    assert index == read_index(tmp_path / "out")
    assert [(v.name, v.patient, v.split, v.slices) for v in index.volumes] == [
        ("L067", "L067", "train", 5),
        ("L310", "L310", "validation", 5),
        ("L333", "L333", "test", 5),
    ]
    assert index.volumes[0].spacing_mm == pytest.approx((0.75, 0.75, 0.8)) and index.volumes[0].dose is None
    assert index.volumes[0].source == "Training_Image_Data/1mm B30/full_1mm/L067/full_1mm"
    assert index.settings == {"split": MAYO_2016, "reconstruction": "1 mm B30"} and not index.simulated
    for name in ("L067", "L310", "L333"):
        assert_holds(tmp_path / "out", name, *pairs[name, 1, "B30f"])
    assert steps == [(0, 3), (1, 3), (2, 3), (3, 3)]
    text = "\n".join(log)
    assert "7 of 10 patients of the split are not in" in text and "L506" in text
    assert "1 patients are in no split and left out: L999" in text
    assert "L333: 5 pairs, test" in text and "train 1 patient with 5 slices" in text


def test_mayo_2016_goes_into_training(tmp_path):
    pairs = mayo_2016_tree(tmp_path / "in")
    prepare_mayo2016(tmp_path / "in", tmp_path / "out")
    ldct, ndct = TrainingSet(tmp_path / "out", patch=16, augment=False).item(0)
    expected = pairs["L067", 1, "B30f"]
    for image, hu in ((ndct, expected[0]), (ldct, expected[1])):
        np.testing.assert_allclose(image[0], (hu[0, :, :16].clip(-1000, 2000) + 1000.0) / 3000, atol=1e-6)
    assert len(WholeSlices(tmp_path / "out", "test")) == 5


@pytest.mark.parametrize(
    ("kind", "preset", "train", "test"),
    [("mayo2016", "paper-mayo2016", "L067", "L333"), ("mayo2020", "paper-mayo2020", "L107", "L110")],
)
def test_a_delivery_is_prepared_and_trained_on_as_published(tmp_path, monkeypatch, kind, preset, train, test):
    """Both commands, with the paper's preset and its MAC-Net; a network of two convolutions, and one step."""
    monkeypatch.setitem(ARCHITECTURES, "tiny", Tiny)
    tree = {"mayo2016": mayo_2016_tree, "mayo2020": mayo_2020_tree}[kind]
    pairs = tree(tmp_path / "in", shape=(2, 64, 64))
    ndct, ldct = next(pair for key, pair in pairs.items() if test in (key, key[0]))
    out, run = str(tmp_path / "out"), str(tmp_path / "run")
    assert cli.main(["prepare", kind, str(tmp_path / "in"), out], plugins=[commands.add_commands]) == 0
    less = ["--set", "network=tiny", "--batch", "2", "--epochs", "1", "--workers", "0", "--patch", "64"]
    command = ["train", "--preset", preset, "--data", out, "--out", run, "--device", "cpu", *less]
    assert cli.main(command, plugins=[commands.add_commands]) == 0
    card = load_card(tmp_path / "run" / f"ascon-{preset}.json")
    assert (card.preset, card.dose) == (preset, "quarter dose, as delivered")
    assert card.metrics["training"]["steps"] == 1
    middle = next(pair for key, pair in pairs.items() if train in (key, key[0]))[0][1]
    fingerprint = hashlib.sha256(b"64x64:" + middle.astype("<i2").tobytes()).hexdigest()[:16]
    assert card.scans["train"] == [fingerprint] and train not in json.dumps(card.metrics)
    clipped = [image.clip(-1000, 2000).astype(float) / 3000 for image in (ldct, ndct)]
    psnr = [-10 * math.log10(np.mean((a - b) ** 2)) for a, b in zip(*clipped, strict=True)]
    assert card.metrics["test slices, LDCT"]["psnr_db"] == pytest.approx([np.mean(psnr), np.std(psnr)], abs=0.02)


def test_mayo_2016_of_the_first_delivery(tmp_path):
    """L067/full_1mm/*.IMA, with the folders of one patient given as source."""
    ndct, ldct = some_pair(1)
    mayo_2016_series(tmp_path / "L067" / "full_1mm", "L067", "full", ndct)
    mayo_2016_series(tmp_path / "L067" / "quarter_1mm", "L067", "quarter", ldct)
    prepare_mayo2016(tmp_path / "L067", tmp_path / "out")
    assert_holds(tmp_path / "out", "L067", ndct, ldct)


def test_mayo_2016_with_all_files_of_a_patient_in_one_folder(tmp_path):
    ndct, ldct = some_pair(2)
    mayo_2016_series(tmp_path / "in", "L333", "full", ndct)
    mayo_2016_series(tmp_path / "in", "L333", "quarter", ldct)
    prepare_mayo2016(tmp_path / "in", tmp_path / "out")
    assert_holds(tmp_path / "out", "L333", ndct, ldct)


FOUR = ((1, "B30f"), (1, "D45f"), (3, "B30f"), (3, "D45f"))


def test_mayo_2016_asks_which_reconstruction(tmp_path):
    mayo_2016_tree(tmp_path / "in", patients=("L067",), reconstructions=FOUR)
    with pytest.raises(DataError, match=r"1 mm B30 \(2 series\), 1 mm D45 \(2 series\), 3 mm B30 .*choose one"):
        prepare_mayo2016(tmp_path / "in", tmp_path / "out")
    with pytest.raises(DataError, match="choose one"):
        prepare_mayo2016(tmp_path / "in", tmp_path / "out", thickness_mm=3)
    with pytest.raises(DataError, match="holds no reconstruction of 5 mm B30: it holds 1 mm B30"):
        prepare_mayo2016(tmp_path / "in", tmp_path / "out", thickness_mm=5, kernel="B30")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("mm", "kernel"), FOUR)
def test_mayo_2016_takes_the_reconstruction_asked_for(tmp_path, mm, kernel):
    pairs = mayo_2016_tree(tmp_path / "in", patients=("L067",), reconstructions=FOUR)
    index = prepare_mayo2016(tmp_path / "in", tmp_path / "out", thickness_mm=mm, kernel=kernel[:3].lower())
    assert index.settings["reconstruction"] == f"{mm} mm {kernel[:3]}"
    assert_holds(tmp_path / "out", "L067", *pairs["L067", mm, kernel])


def test_mayo_2016_reads_the_reconstruction_from_names_where_headers_are_silent(tmp_path):
    pairs = {}
    for name in ("1mm", "3mm_sharp"):
        pairs[name] = some_pair(len(name))
        for dose, voxels in zip(("full", "quarter"), pairs[name], strict=True):

            def strip(dataset, k):
                del dataset.ConvolutionKernel, dataset.SliceThickness

            mayo_2016_series(tmp_path / f"in/L067/{dose}_{name}", "L067", dose, voxels, edit=strip)
    prepare_mayo2016(tmp_path / "in", tmp_path / "out", thickness_mm=3, kernel="D45")
    assert_holds(tmp_path / "out", "L067", *pairs["3mm_sharp"])


def test_slices_without_a_partner_are_left_out_and_counted(tmp_path):
    """The quarter-dose series starts two slices later and goes on for one more."""
    ndct, ldct = some_pair(4, (6, 16, 24))
    mayo_2016_series(tmp_path / "in/full_1mm/L067", "L067", "full", ndct[:5])
    mayo_2016_series(
        tmp_path / "in/quarter_1mm/L067", "L067", "quarter", ldct[2:], origin_mm=(-100.0, -90.5, 30.25 + 1.6)
    )
    log = []
    index = prepare_mayo2016(tmp_path / "in", tmp_path / "out", log=log.append)
    assert_holds(tmp_path / "out", "L067", ndct[2:5], ldct[2:5])
    assert index.volumes[0].unmatched == (2, 1)
    assert "L067: 3 pairs, train (2 full-dose and 1 low-dose slices have no partner)" in log


def test_fractions_of_hu_are_rounded(tmp_path):
    ndct, _ = some_pair(5)
    ldct = ndct + np.float32(0.75)
    make_ct_series(tmp_path / "in/L067/full_1mm", voxels_hu=ndct)
    make_ct_series(tmp_path / "in/L067/quarter_1mm", voxels_hu=ldct, slope=0.25)
    prepare_mayo2016(tmp_path / "in", tmp_path / "out")
    assert_holds(tmp_path / "out", "L067", ndct, ndct + 1)


def test_missing_dose_and_doubled_series_are_named_with_counts(tmp_path):
    mayo_2016_tree(tmp_path / "in")
    base = tmp_path / "in/Training_Image_Data/1mm B30"
    shutil.rmtree(base / "quarter_1mm/L310")
    shutil.copytree(base / "full_1mm/L333", tmp_path / "in/copy/full_1mm/L333")
    with pytest.raises(DataError) as error:
        prepare_mayo2016(tmp_path / "in", tmp_path / "out")
    assert "2 of 3 patients have not one series of each dose" in str(error.value)
    assert "L310 has 1 full-dose and 0 low-dose series;" in str(error.value)
    assert "L333 has 2 full-dose and 1 low-dose series (Training_Image_Data/1mm B30/full_1mm/L333" in str(error.value)


def test_no_pairs_is_said_with_counts_and_packed_archives(tmp_path):
    mayo_2016_series(tmp_path / "in/full_1mm/L067", "L067", "full", some_pair(1)[0])
    (tmp_path / "in" / "QD_1mm.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match="no pairs: 1 with full-dose and 0 with low-dose CT .* 1 zip archives: unpack"):
        prepare_mayo2016(tmp_path / "in", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no pairs: 0 with full-dose and 0 with low-dose"):
        prepare_mayo2016(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(DataError, match="is no folder"):
        prepare_mayo2016(tmp_path / "nowhere", tmp_path / "out")


def test_damaged_slice_is_named(tmp_path):
    mayo_2016_tree(tmp_path / "in")
    file = sorted((tmp_path / "in").rglob("L310_FD*.IMA"))[2]
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(InputError, match=file.name):
        prepare_mayo2016(tmp_path / "in", tmp_path / "out")
    assert [v.name for v in read_index(tmp_path / "out").volumes] == ["L067"]  # what was done before is kept


# Mayo-2020


def as_in_the_archive(patient: str):
    def edit(dataset, k):
        dataset.PatientID = dataset.PatientName = patient
        dataset.Manufacturer = "SIEMENS"
        dataset.ConvolutionKernel, dataset.SliceThickness = ["I30f", "3"], "3"
        dataset.InstanceNumber = 500 - k

    return edit


def mayo_2020_tree(root: Path, patients=("L107", "L193", "L110"), classic=False, shape=SHAPE) -> dict:
    """What the NBIA Data Retriever writes, descriptive folder names or UIDs; returns {patient: (ndct, ldct)}."""
    collection = root / "manifest-1648648375084" / "LDCT-and-Projection-data"
    pairs = {}
    for patient in patients:
        pairs[patient] = some_pair(int(patient[1:]), shape)
        for dose, voxels in zip(("Full", "Low"), pairs[patient], strict=True):
            names = ["12-23-2021-NA-NA-62464", f"1.000000-{dose} Dose Images-{2 * int(patient[1:])}9882"]
            names = ["1.2.840.1.17", f"1.2.840.1.{len(dose)}.{patient[1:]}"] if classic else names
            make_ct_series(
                collection.joinpath(patient, *names),
                voxels_hu=voxels,
                spacing_mm=(0.8, 0.8, 3.0),
                series_description=f"{dose} Dose Images",
                intercept=-1024 if dose == "Full" else -8192,
                file_name="1-{:03d}.dcm",
                file_order=np.random.default_rng(len(dose)).permutation(len(voxels)).tolist(),
                edit=as_in_the_archive(patient),
            )
        name = "1.2.840.1.99" if classic else "1.000000-Full dose projections-24362"
        make_ct_series(
            collection / patient / "08-21-2018-10971" / name,
            shape=(1, 4, 4),
            series_description="Full dose projections",
            file_name="1-{:05d}.dcm",
            edit=as_in_the_archive(patient),
        )
    (root / "manifest-1648648375084" / "metadata.csv").write_text("Series UID,Collection\n")
    (collection / "LICENSE").write_text("Limited access.")
    return pairs


@pytest.mark.parametrize("classic", [False, True])
def test_mayo_2020_as_delivered(tmp_path, classic):
    pairs = mayo_2020_tree(tmp_path / "in", classic=classic)
    collection = tmp_path / "in/manifest-1648648375084/LDCT-and-Projection-data"
    make_ct_series(  # GE: no low-dose images
        collection / "C002/12-23-2021-NA-NA-1/1.000000-Full Dose Images-7", series_description="Full Dose Images"
    )
    log = []
    index = prepare_mayo2020(tmp_path / "in", tmp_path / "out", log=log.append)
    assert [(v.name, v.split) for v in index.volumes] == [("L107", "train"), ("L110", "test"), ("L193", "validation")]
    assert index.max_background == {"train": 0.70, "validation": 0.85, "test": 0.85}
    for patient, pair in pairs.items():
        assert_holds(tmp_path / "out", patient, *pair)
    assert "1 patients are in no split and left out: C002" in log


def test_mayo_2020_in_two_releases_is_ambiguous(tmp_path):
    mayo_2020_tree(tmp_path / "in", patients=("L107",))
    study = next((tmp_path / "in").rglob("12-23-2021-NA-NA-62464"))
    shutil.copytree(study, study.parent / "08-21-2018-84608")
    with pytest.raises(DataError, match="1 of 1 patients .*L107 has 2 full-dose and 2 low-dose series"):
        prepare_mayo2020(tmp_path / "in", tmp_path / "out")


def test_delivery_of_other_patients_is_refused_with_counts(tmp_path):
    mayo_2020_tree(tmp_path / "in", patients=("L004", "L006"))
    with pytest.raises(DataError, match="None of the 2 patients .* one of the 20 of the split"):
        prepare_mayo2020(tmp_path / "in", tmp_path / "out")


# Splits


@pytest.mark.parametrize(
    ("split", "train", "test"),
    [
        (MAYO_2016, "L067 L096 L109 L143 L192 L286 L291 L310", "L333 L506"),
        (
            MAYO_2020,
            "L107 L114 L116 L125 L131 L134 L145 L150 L160 L170 L175 L178 L186 L187 L193 L203",
            "L110 L123 L148 L179",
        ),
    ],
)
def test_published_splits_are_those_of_the_paper(split, train, test):
    assert sorted(split["train"] + split["validation"]) == train.split()
    assert split["test"] == test.split()
    assert split["validation"]


def test_split_file_takes_the_place_of_the_published_one(tmp_path):
    mayo_2016_tree(tmp_path / "in")
    split = {"train": ["L333"], "validation": [], "test": ["L067"], "source": "ours"}
    (tmp_path / "split.json").write_text(json.dumps(split))
    index = prepare_mayo2016(tmp_path / "in", tmp_path / "out", split=tmp_path / "split.json")
    assert [(v.name, v.split) for v in index.volumes] == [("L067", "test"), ("L333", "train")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '{"train": ["A", "B", "C"], "validation": ["B"], "test": ["C"]}',
            r"2 patients in more than one split \(B, C\)",
        ),
        ('{"train": ["A"], "test": []}', "no split file"),
        ("not JSON", "no split file"),
        ('["A"]', "no split file"),
    ],
)
def test_wrong_split_file_is_refused(tmp_path, content, message):
    (tmp_path / "split.json").write_text(content)
    with pytest.raises(DataError, match=message):
        read_split(tmp_path / "split.json")


def test_a_set_may_be_for_measuring_alone(tmp_path):
    (tmp_path / "split.json").write_text('{"train": [], "validation": [], "test": ["A"]}')
    assert read_split(tmp_path / "split.json") == {"train": [], "validation": [], "test": ["A"]}


@pytest.mark.parametrize(
    ("n", "sizes"), [(1, (1, 0, 0)), (2, (1, 1, 0)), (3, (1, 1, 1)), (10, (8, 1, 1)), (40, (32, 4, 4))]
)
def test_automatic_split_shares_patients(n, sizes):
    patients = [f"case{i}" for i in range(n)]
    split = automatic_split(patients)
    assert tuple(map(len, split.values())) == sizes
    assert sorted(sum(split.values(), [])) == sorted(patients)
    assert automatic_split(patients[::-1]) == split
    assert n < 10 or automatic_split(patients, seed=1) != split


# Geometry


def a_volume(seed=0, shape=SHAPE, spacing_mm=(0.7, 0.8, 2.0), origin_mm=(-10.0, 5.0, 30.0), **settings) -> Volume:
    return Volume(some_pair(seed, shape)[0], Geometry(spacing_mm, origin_mm), **settings)


FLIPPED = Geometry((0.7, 0.8, 2.0), (-10.0, 5.0, 30.0), (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0))


@pytest.mark.parametrize(
    ("low", "message"),
    [
        (a_volume(1, shape=(4, 16, 16)), "size: 24 x 16 in 5 full-dose slices, 16 x 16 in 4 low-dose slices"),
        (a_volume(1, spacing_mm=(0.7, 0.7, 2.0)), "pixel spacing: 0.7 x 0.8 in 5"),
        (Volume(some_pair(1)[0], FLIPPED), "orientation"),
        (a_volume(1, origin_mm=(-9.0, 5.0, 30.0)), "place of the first pixel: -10 x 5 x 30"),
        (a_volume(1, description={"slice_thickness_mm": "3.0"}), "slice thickness: 1.0 in 5 .* 3.0 in 5"),
        (
            a_volume(1, origin_mm=(-10.0, 5.0, 31.0)),
            "no slice at the same place: 5 slices at 30 to 38 mm and 5 at 31 to 39",
        ),
        (a_volume(1, origin_mm=(-10.0, 5.0, 40.0)), "no slice at the same place"),
        (a_volume(0), "hold the same 5 images"),
    ],
)
def test_series_that_do_not_fit_are_refused_with_both_values(low, message):
    with pytest.raises(DataError, match=message):
        pair_volumes(a_volume(description={"slice_thickness_mm": "1.0"}), low, "A and B")


@pytest.mark.parametrize("seed", range(6))
def test_slices_are_matched_as_by_a_naive_search(seed):
    random = np.random.default_rng(seed)
    n_full, n_low = random.integers(5, 30, 2)
    full = Geometry((1, 1, 1.5), (0, 0, 100.0))
    low = Geometry((1, 1, random.choice([0.75, 1.5, 3.0])), (0, 0, 100.0 + 1.5 * random.integers(-4, 8) + 0.05))
    expected = [
        (a, b)
        for b in range(n_low)
        for a in range(n_full)
        if abs((100.0 + 1.5 * a) - (low.origin_mm[2] + low.spacing_mm[2] * b)) < 0.07
    ]
    found = match_slices(full, n_full, low, n_low)
    assert list(zip(*(indices.tolist() for indices in found), strict=True)) == expected and expected


def test_slices_are_matched_along_an_oblique_axis():
    turned = (1.0, 0, 0, 0, 0.6, -0.8, 0, 0.8, 0.6)
    axis = np.array([0, -0.8, 0.6])
    start = np.array([5.0, 6.0, 7.0])
    full, low = Geometry((1, 1, 2), tuple(start), turned), Geometry((1, 1, 2), tuple(start + 3 * 2 * axis), turned)
    in_full, in_low = match_slices(full, 5, low, 5)
    assert in_full.tolist() == [3, 4] and in_low.tolist() == [0, 1]


# Any pairs


@pytest.mark.parametrize(
    ("full", "low"),
    [
        ("full/{}.nii.gz", "low/{}.nii.gz"),
        ("{}/ndct.nrrd", "{}/ldct.nrrd"),
        ("{}_FD.mha", "{}_QD.mha"),
        ("{}/Normal Dose.nii", "{}/Low Dose.nii"),
    ],
)
def test_pairs_of_files_in_many_namings(tmp_path, full, low):
    pairs = {name: some_pair(i) for i, name in enumerate(("one", "two", "three"))}
    for name, pair in pairs.items():
        for pattern, voxels in zip((full, low), pair, strict=True):
            path = tmp_path / "in" / pattern.format(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_volume(Volume(voxels, Geometry((1, 1, 2), (0, 0, 5))), path)
    index = prepare_paired(tmp_path / "in", tmp_path / "out")
    assert {v.patient for v in index.volumes} == set(pairs)
    assert sorted(v.split for v in index.volumes) == ["test", "train", "validation"]
    for name, pair in pairs.items():
        assert_holds(tmp_path / "out", name, *pair)


def test_pairs_of_dicom_series_and_several_of_one_patient(tmp_path):
    pairs = {name: some_pair(i) for i, name in enumerate(("p/head", "p/chest", "q/chest"))}
    for name, pair in pairs.items():
        for dose, voxels in zip(("full", "low"), pair, strict=True):
            make_ct_series(tmp_path / "in" / dose / name, voxels_hu=voxels, series_description="Low dose protocol")
    make_ct_series(
        tmp_path / "in/full/q/chest",
        shape=(1, 8, 8),
        image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"),
        file_name="topogram{}.dcm",
    )
    index = prepare_paired(tmp_path / "in", tmp_path / "out")
    assert [(v.name, v.patient) for v in index.volumes] == [("p-chest", "p"), ("p-head", "p"), ("q", "q")]
    for name, pair in pairs.items():
        assert_holds(tmp_path / "out", "q" if name == "q/chest" else name.replace("/", "-"), *pair)


def test_pairs_that_names_do_not_tell_apart_are_refused_with_counts(tmp_path):
    for name in ("p/full/a", "p/full/b", "p/low/c", "q/full", "r/full", "r/low"):
        make_ct_series(tmp_path / "in" / name)
    message = "2 of 3 patients .*: p has 2 at full and 1 at low dose; q has 1 at full and 0 at low dose. Name"
    with pytest.raises(DataError, match=message):
        prepare_paired(tmp_path / "in", tmp_path / "out")


def test_no_word_for_the_dose_is_no_pair(tmp_path):
    make_ct_series(tmp_path / "in/p/b30")
    with pytest.raises(DataError, match="0 with full-dose and 0 with low-dose CT .* a word for the dose"):
        prepare_paired(tmp_path / "in", tmp_path / "out")


def test_stored_values_without_rescale_are_refused(tmp_path):
    for dose in ("full", "low"):
        (tmp_path / "in" / dose).mkdir(parents=True)
        write_volume(Volume(some_pair(1)[0] + np.int16(1024), Geometry()), tmp_path / "in" / dose / "p.nii.gz")
    with pytest.raises(DataError, match="p.nii.gz holds no value below 0"):
        prepare_paired(tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize("ids", [("one", "one", "two"), ("Anonymous",) * 2 + ("1",), ("same",) * 3, ("1", "2", "3")])
def test_one_patient_in_folders_of_two_splits_is_a_leak(tmp_path, ids):
    for folder, patient_id in zip("abc", ids, strict=True):

        def edit(dataset, k, patient_id=patient_id):
            dataset.PatientID = patient_id

        ndct, ldct = some_pair(ord(folder))
        make_ct_series(tmp_path / "in" / folder / "full", voxels_hu=ndct, edit=edit)
        make_ct_series(tmp_path / "in" / folder / "low", voxels_hu=ldct, edit=edit)
    if ids[0] == "one":
        with pytest.raises(DataError, match=r"1 patients whose images lie in folders of different splits \(as a and b"):
            prepare_paired(tmp_path / "in", tmp_path / "out")
    else:
        assert len(prepare_paired(tmp_path / "in", tmp_path / "out").volumes) == 3


# Simulation


def fake_simulate(calls):
    """In place of the physics: noise of one HU per unit of its seed modulo 50."""

    def simulate(voxels, spacing_mm, settings, *, device, padding_hu):
        calls.append(SimpleNamespace(settings=settings, spacing_mm=spacing_mm, device=device, padding_hu=padding_hu))
        return SimpleNamespace(voxels=voxels + np.int16(settings.seed % 50 + 1))

    return simulate


def normal_dose_tree(root: Path, names=("a", "b", "c")) -> dict[str, np.ndarray]:
    volumes = {}
    for name in names:
        volumes[name] = some_pair(ord(name))[0]
        if name in "bd":
            make_ct_series(root / name / "study" / "series", voxels_hu=volumes[name], padding=-1000)
        else:
            root.mkdir(exist_ok=True)
            write_volume(Volume(volumes[name], Geometry((0.7, 0.7, 3.0), (0, 0, 0))), root / f"{name}.nii.gz")
    return volumes


def test_simulated_pairs_from_files_and_dicom(tmp_path):
    volumes = normal_dose_tree(tmp_path / "in")
    make_ct_series(tmp_path / "in" / "c_low_dose", shape=(2, 8, 8))
    calls, log = [], []
    index = prepare_simulated(
        tmp_path / "in", tmp_path / "out", dose=0.25, simulate=fake_simulate(calls), device="cpu", log=log.append
    )
    assert [(v.name, v.patient, v.dose) for v in index.volumes] == [
        ("a", "a", 0.25),
        ("b-study-series", "b", 0.25),
        ("c", "c", 0.25),
    ]
    assert index.simulated and sorted(v.split for v in index.volumes) == ["test", "train", "validation"]
    for call, name, volume in zip(calls, volumes, index.volumes, strict=True):
        assert call.settings.dose == 0.25 and call.settings.photons is None and call.settings.kernel == "scan"
        assert_holds(tmp_path / "out", volume.name, volumes[name], volumes[name] + call.settings.seed % 50 + 1)
    assert len({call.settings.seed for call in calls}) == 3
    assert [call.padding_hu for call in calls] == [None, -2024.0, None]
    assert calls[0].spacing_mm == pytest.approx((0.7, 0.7, 3.0))
    assert "1 volumes say that they are low dose and are left out." in log


def test_normal_dose_series_are_told_by_their_description_in_a_tree_of_uids(tmp_path):
    pairs = mayo_2020_tree(tmp_path / "in", patients=("L004", "L006"), classic=True)
    log = []
    index = prepare_simulated(tmp_path / "in", tmp_path / "out", simulate=fake_simulate([]), log=log.append)
    for volume, (ndct, _) in zip(index.volumes, pairs.values(), strict=True):
        assert np.array_equal(arrays_of(tmp_path / "out", volume.name)[0], ndct)
    assert "2 volumes say that they are low dose and are left out." in log
    assert any("images of 2 patients, by their PatientID, lie in one folder" in line for line in log)


def test_random_dose_and_noise_hang_on_the_volume_not_on_its_turn(tmp_path):
    settings = {"dose": (0.1, 0.4), "seed": 3}
    outcomes = []
    for names in ("abcdef", "bdfg"):
        normal_dose_tree(tmp_path / names, names)
        calls = []
        index = prepare_simulated(
            tmp_path / names, tmp_path / f"out-{names}", simulate=fake_simulate(calls), **settings
        )
        outcomes.append({v.patient: (v.dose, c.settings.seed) for v, c in zip(index.volumes, calls, strict=True)})
        assert all(v.dose == c.settings.dose for v, c in zip(index.volumes, calls, strict=True))
    doses = [dose for dose, _ in outcomes[0].values()]
    assert len(set(doses)) == 6 and min(doses) >= 0.1 and max(doses) <= 0.4
    assert all(outcomes[0][name] == outcomes[1][name] for name in "bdf")


def test_phantoms_stand_in(tmp_path):
    scans = []

    def scan(voxels, spacing_mm, settings, *, device):
        scans.append((voxels, spacing_mm, settings))
        return np.rint(voxels)

    settings = {"phantoms": 3, "phantom_shape": (2, 32, 48), "simulate": fake_simulate([]), "scan": scan}
    index = prepare_simulated(None, tmp_path / "out", **settings)
    assert [v.patient for v in index.volumes] == ["phantom0", "phantom1", "phantom2"]
    assert sorted(v.split for v in index.volumes) == ["test", "train", "validation"]
    assert all(v.shape == (2, 32, 48) and v.spacing_mm == (8.0, 12.0, 80.0) for v in index.volumes)
    for volume, (voxels, _, _) in zip(index.volumes, scans, strict=True):
        assert np.array_equal(arrays_of(tmp_path / "out", volume.name)[0], np.rint(voxels))
    assert all(2e5 <= s.photons <= 1.5e6 and 0.38 <= s.kernel.cutoff_per_mm <= 0.6 for _, _, s in scans)
    assert len({s.photons for _, _, s in scans}) == len({s.seed for _, _, s in scans}) == 3


def test_phantoms_fill_up_and_train(tmp_path):
    normal_dose_tree(tmp_path / "in")
    settings = {"phantom_shape": (1, 32, 32), "simulate": fake_simulate([]), "scan": lambda v, *_, device: v}
    index = prepare_simulated(tmp_path / "in", tmp_path / "out", phantoms=1, **settings)
    assert [(v.name, v.split) for v in index.volumes[3:]] == [("phantom0", "train")]
    before = {v.name: (tmp_path / "out" / f"{v.name}.ldct.npy").stat().st_mtime_ns for v in index.volumes}
    index = prepare_simulated(tmp_path / "in", tmp_path / "out", phantoms=2, **settings)
    assert len(index.volumes) == 5
    after = {name: (tmp_path / "out" / f"{name}.ldct.npy").stat().st_mtime_ns for name in before}
    assert after == before


def test_a_phantom_goes_through_the_real_physics(tmp_path):
    index = prepare_simulated(None, tmp_path / "out", phantoms=1, phantom_shape=(1, 48, 48), dose=0.1)
    ndct, ldct = arrays_of(tmp_path / "out", "phantom0")
    noise = (ldct - ndct)[0, 16:32, 16:32].astype(float)
    assert 0.3 < noise.std() < 200 and abs(noise.mean()) < noise.std()
    assert index.volumes[0].split == "train"


def test_volumes_that_cannot_be_simulated_are_left_out_and_named(tmp_path):
    normal_dose_tree(tmp_path / "in", "abc")
    write_volume(Volume(np.full((1, 8, 8), -5, np.int16), Geometry()), tmp_path / "in/blank.mha")
    write_volume(Volume(np.full((1, 8, 8), 7, np.int16), Geometry()), tmp_path / "in/notHU.mha")
    (tmp_path / "in/broken.nrrd").write_bytes(b"NRRD")
    calls, log = [], []

    def simulate(voxels, *arguments, **settings):
        if voxels.shape[1] == 8:
            raise CalibrationError("Nothing to measure.")
        return fake_simulate(calls)(voxels, *arguments, **settings)

    index = prepare_simulated(tmp_path / "in", tmp_path / "out", simulate=simulate, log=log.append)
    assert {v.patient for v in index.volumes} == set("abc")
    text = "\n".join(log)
    assert "blank is left out: Nothing to measure." in text and "notHU is left out: " in text
    assert "broken is left out: " in text and "3 of 6 volumes are left out." in text
    WholeSlices(tmp_path / "out", index.volumes[0].split)  # whole all the same


def test_nothing_that_can_be_simulated_is_an_error(tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(DataError, match="holds no normal-dose CT volume"):
        prepare_simulated(tmp_path / "in", tmp_path / "out")
    (tmp_path / "in/broken.nrrd").write_bytes(b"NRRD")
    with pytest.raises(DataError, match="None of 1 volumes can be used. .*broken.nrrd cannot be read"):
        prepare_simulated(tmp_path / "in", tmp_path / "out")


@pytest.mark.skipif("ASCON_TEST_DATA" not in os.environ, reason="ASCON_TEST_DATA names no folder of real CT")
def test_real_series_are_found_and_read(tmp_path):
    folder = Path(os.environ["ASCON_TEST_DATA"]) / "dicom"
    index = prepare_simulated(folder, tmp_path / "out", simulate=fake_simulate([]))
    assert len(index.volumes) == len([path for path in folder.iterdir() if path.is_dir()])
    for volume in index.volumes:
        ndct = arrays_of(tmp_path / "out", volume.name)[0]
        for file in (folder / volume.source).glob("*.dcm"):
            dataset = pydicom.dcmread(file)
            hu = dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
            assert (ndct == np.rint(hu)).all((1, 2)).any()


@pytest.mark.parametrize("dose", [0, 1, 1.5, (0.5, 0.1), (0.1, 0.2, 0.3)])
def test_dose_must_be_a_fraction(tmp_path, dose):
    with pytest.raises(DataError, match="dose must be above 0 and below 1"):
        prepare_simulated(None, tmp_path / "out", dose=dose, phantoms=1)


def test_nothing_to_simulate_from_is_an_error(tmp_path):
    with pytest.raises(DataError, match="nothing to simulate from"):
        prepare_simulated(None, tmp_path / "out")


# Going on


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_interrupted_preparation_goes_on_and_gives_the_same(tmp_path):
    mayo_2016_tree(tmp_path / "in")
    prepare_mayo2016(tmp_path / "in", tmp_path / "whole")

    def interrupt(done, total):
        if done == 2:
            raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        prepare_mayo2016(tmp_path / "in", out, progress=interrupt)
    with pytest.raises(DataError, match="after 2 of 3 volumes"):
        TrainingSet(out, patch=16)
    (out / ".L333.ldct.npy.partial").write_bytes(b"killed while writing")
    kept = {path: path.stat().st_mtime_ns for path in out.glob("L*.npy")}
    assert len(kept) == 6
    log = []
    prepare_mayo2016(tmp_path / "in", out, log=log.append)
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    assert not any(line.startswith(("L067:", "L310:")) for line in log)
    assert files_of(out) == files_of(tmp_path / "whole")


@pytest.mark.parametrize("damage", ["lost", "truncated"])
def test_lost_file_is_made_again(tmp_path, damage):
    pairs = mayo_2016_tree(tmp_path / "in")
    prepare_mayo2016(tmp_path / "in", tmp_path / "out")
    path = tmp_path / "out" / "L310.ldct.npy"
    path.write_bytes(path.read_bytes()[:-8])
    if damage == "lost":
        path.unlink()
    prepare_mayo2016(tmp_path / "in", tmp_path / "out")
    assert_holds(tmp_path / "out", "L310", *pairs["L310", 1, "B30f"])


def test_set_made_otherwise_is_not_touched(tmp_path):
    mayo_2016_tree(tmp_path / "in", patients=("L067",), reconstructions=FOUR[:2])
    out = tmp_path / "out"
    prepare_mayo2016(tmp_path / "in", out, kernel="B30")
    before = files_of(out)
    with pytest.raises(DataError, match="holds a set of 1 volumes that was made with another reconstruction"):
        prepare_mayo2016(tmp_path / "in", out, kernel="D45")
    with pytest.raises(DataError, match="made by mayo2016, not simulate"):
        prepare_simulated(None, out, phantoms=1, phantom_shape=(1, 32, 32))
    assert files_of(out) == before


def test_full_disk_keeps_what_is_done_and_leaves_nothing_half(tmp_path, monkeypatch):
    mayo_2016_tree(tmp_path / "in")
    save, written = np.save, []

    def full_after_five(file, array, **settings):
        written.append(file)
        if len(written) > 4:
            file.write(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(file, array, **settings)

    monkeypatch.setattr(prepare.np, "save", full_after_five)
    with pytest.raises(RuntimeError, match=r"L310\.ldct\.npy could not be written: check free space"):
        prepare_mayo2016(tmp_path / "in", tmp_path / "out")
    monkeypatch.undo()
    assert [v.name for v in read_index(tmp_path / "out").volumes] == ["L067"]
    assert not list((tmp_path / "out").glob(".*"))
    prepare_mayo2016(tmp_path / "in", tmp_path / "out")
    assert len(WholeSlices(tmp_path / "out", "validation")) == 5


def test_folder_that_cannot_be_made_is_a_sentence(tmp_path):
    mayo_2016_tree(tmp_path / "in")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be made"):
        prepare_mayo2016(tmp_path / "in", tmp_path / "file" / "out")
