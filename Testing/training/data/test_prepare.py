"""From folders as they are delivered to training sets of measured pairs, and what goes wrong."""

from __future__ import annotations

import hashlib
import json
import math
import shutil

import numpy as np
import pytest
from ct_folder_fixtures import FOUR, assert_holds, mayo_2016_series, mayo_2016_tree, mayo_2020_tree, some_pair
from dicom_fixtures import make_ct_series
from training_fixtures import Tiny

from ASCONDenoiseLib.commands import cli
from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.io.image_files import write_image
from ASCONDenoiseLib.io.volume import Geometry, Volume
from ASCONDenoiseLib.models.card import load_card
from ASCONDenoiseLib.models.networks import ARCHITECTURES
from ASCONTrainingLib.commands.registration import add_commands
from ASCONTrainingLib.data.prepare import prepare_mayo2016, prepare_mayo2020, prepare_paired
from ASCONTrainingLib.data.set_index import read_index
from ASCONTrainingLib.data.splits import MAYO_2016
from ASCONTrainingLib.data.training_set import EvaluationSet, TrainingSet

# Mayo-2016


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
    assert len(EvaluationSet(tmp_path / "out", "test")) == 5


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
    assert cli.main(["prepare", kind, str(tmp_path / "in"), out], plugins=[add_commands]) == 0
    less = ["--set", "network=tiny", "--batch", "2", "--epochs", "1", "--workers", "0", "--patch", "64"]
    less += ["--set", "crops_per_epoch=2"]  # of Mayo-2020's 9600
    command = ["train", "--preset", preset, "--data", out, "--out", run, "--device", "cpu", *less]
    assert cli.main(command, plugins=[add_commands]) == 0
    card = load_card(tmp_path / "run" / f"ascon-{preset}.json")
    assert (card.preset, card.dose) == (preset, "quarter dose, as delivered")
    assert card.metrics["training"]["steps"] == 1
    middle = next(pair for key, pair in pairs.items() if train in (key, key[0]))[0][1]
    fingerprint = hashlib.sha256(b"64x64:" + middle.astype("<i2").tobytes()).hexdigest()[:16]
    assert fingerprint in card.scans["train"] and len(card.scans["train"]) == 2  # published: nobody validates
    assert train not in json.dumps(card.metrics)
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


def test_mayo_2016_asks_which_reconstruction(tmp_path):
    mayo_2016_tree(tmp_path / "in", patients=("L067",), reconstructions=FOUR)
    with pytest.raises(InputError, match=r"1 mm B30 \(2 series\), 1 mm D45 \(2 series\), 3 mm B30 .*choose one"):
        prepare_mayo2016(tmp_path / "in", tmp_path / "out")
    with pytest.raises(InputError, match="choose one"):
        prepare_mayo2016(tmp_path / "in", tmp_path / "out", thickness_mm=3)
    with pytest.raises(InputError, match="holds no reconstruction of 5 mm B30: it holds 1 mm B30"):
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
    with pytest.raises(InputError) as error:
        prepare_mayo2016(tmp_path / "in", tmp_path / "out")
    assert "2 of 3 patients have not one series of each dose" in str(error.value)
    assert "L310 has 1 full-dose and 0 low-dose series;" in str(error.value)
    assert "L333 has 2 full-dose and 1 low-dose series (Training_Image_Data/1mm B30/full_1mm/L333" in str(error.value)


def test_no_pairs_is_said_with_counts_and_packed_archives(tmp_path):
    mayo_2016_series(tmp_path / "in/full_1mm/L067", "L067", "full", some_pair(1)[0])
    (tmp_path / "in" / "QD_1mm.zip").write_bytes(b"PK")
    with pytest.raises(InputError, match="no pairs: 1 with full-dose and 0 with low-dose CT .* 1 zip archives: unpack"):
        prepare_mayo2016(tmp_path / "in", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no pairs: 0 with full-dose and 0 with low-dose"):
        prepare_mayo2016(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(InputError, match="is no folder"):
        prepare_mayo2016(tmp_path / "nowhere", tmp_path / "out")


def test_damaged_slice_is_named(tmp_path):
    mayo_2016_tree(tmp_path / "in")
    file = sorted((tmp_path / "in").rglob("L310_FD*.IMA"))[2]
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(InputError, match=file.name):
        prepare_mayo2016(tmp_path / "in", tmp_path / "out")
    assert [v.name for v in read_index(tmp_path / "out").volumes] == ["L067"]  # what was done before is kept


# Mayo-2020


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
    with pytest.raises(InputError, match="1 of 1 patients .*L107 has 2 full-dose and 2 low-dose series"):
        prepare_mayo2020(tmp_path / "in", tmp_path / "out")


def test_delivery_of_other_patients_is_refused_with_counts(tmp_path):
    mayo_2020_tree(tmp_path / "in", patients=("L004", "L006"))
    with pytest.raises(InputError, match="None of the 2 patients .* one of the 20 of the split"):
        prepare_mayo2020(tmp_path / "in", tmp_path / "out")


def test_split_file_takes_the_place_of_the_published_one(tmp_path):
    mayo_2016_tree(tmp_path / "in")
    split = {"train": ["L333"], "validation": [], "test": ["L067"], "source": "ours"}
    (tmp_path / "split.json").write_text(json.dumps(split))
    index = prepare_mayo2016(tmp_path / "in", tmp_path / "out", split=tmp_path / "split.json")
    assert [(v.name, v.split) for v in index.volumes] == [("L067", "test"), ("L333", "train")]


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
            write_image(Volume(voxels, Geometry((1, 1, 2), (0, 0, 5))), path)
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
    with pytest.raises(InputError, match=message):
        prepare_paired(tmp_path / "in", tmp_path / "out")


def test_no_word_for_the_dose_is_no_pair(tmp_path):
    make_ct_series(tmp_path / "in/p/b30")
    with pytest.raises(InputError, match="0 with full-dose and 0 with low-dose CT .* a word for the dose"):
        prepare_paired(tmp_path / "in", tmp_path / "out")


def test_stored_values_without_rescale_are_refused(tmp_path):
    for dose in ("full", "low"):
        (tmp_path / "in" / dose).mkdir(parents=True)
        write_image(Volume(some_pair(1)[0] + np.int16(1024), Geometry()), tmp_path / "in" / dose / "p.nii.gz")
    with pytest.raises(InputError, match="p.nii.gz holds no value below 0"):
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
        with pytest.raises(
            InputError, match=r"1 patients whose images lie in folders of different splits \(as a and b"
        ):
            prepare_paired(tmp_path / "in", tmp_path / "out")
    else:
        assert len(prepare_paired(tmp_path / "in", tmp_path / "out").volumes) == 3


# Whatever is in the names and headers


def test_patients_are_found_in_small_letters(tmp_path):
    pairs = mayo_2016_tree(tmp_path / "in", patients=("L067", "L310"))
    for folder in sorted((tmp_path / "in").rglob("L???")):
        folder.rename(folder.with_name(folder.name.lower()))
    index = prepare_mayo2016(tmp_path / "in", tmp_path / "out")
    assert [(v.name, v.split) for v in index.volumes] == [("L067", "train"), ("L310", "validation")]
    assert_holds(tmp_path / "out", "L067", *pairs["L067", 1, "B30f"])
    (tmp_path / "split.json").write_text('{"train": ["l310"], "validation": ["L067"], "test": []}')
    index = prepare_mayo2016(tmp_path / "in", tmp_path / "other", split=tmp_path / "split.json")
    assert {v.name: v.split for v in index.volumes} == {"L310": "train", "L067": "validation"}


def test_pairs_that_do_not_fit_are_refused_with_the_patient_and_bad_ones_told_in_json(tmp_path, capsys):
    rows, columns = np.mgrid[:96, :96] - 48
    body = np.where(np.hypot(rows, columns) < 32, 40, -1000) + np.where(np.hypot(rows - 9, columns + 8) < 7, 400, 0)
    for patient, shift in (("anna", 0), ("bert", 1), ("carl", 12)):
        for dose in ("full", "low"):
            images = np.roll(body, shift * (dose == "low"), axis=1) + np.random.default_rng(len(dose)).normal(
                0, 20, (4, 96, 96)
            )
            (tmp_path / "in" / dose).mkdir(parents=True, exist_ok=True)
            write_image(Volume(images.astype(np.int16), Geometry()), tmp_path / "in" / dose / f"{patient}.nrrd")
    command = ["prepare", "paired", str(tmp_path / "in"), str(tmp_path / "out"), "--json"]
    assert cli.main(command, [add_commands]) == 2
    message = json.loads(capsys.readouterr().out.splitlines()[-1])["message"]
    assert "carl" in message and "12 columns" in message and "anna" not in message
    for dose in ("full", "low"):
        (tmp_path / "in" / dose / "carl.nrrd").unlink()
    assert cli.main(["prepare", "paired", str(tmp_path / "in"), str(tmp_path / "two"), "--json"], [add_commands]) == 0
    (warning,) = json.loads(capsys.readouterr().out.splitlines()[-1])["warnings"]
    assert "bert" in warning and "1 column" in warning


def test_a_thickness_that_is_no_number_stops_nothing(tmp_path):
    trees = {dose: tmp_path / "in" / "L067" / f"{dose}_1mm" for dose in ("full", "quarter")}
    for (dose, folder), voxels in zip(trees.items(), some_pair(1), strict=True):
        mayo_2016_series(folder, "L067", dose, voxels)
        for file in folder.iterdir():
            data = file.read_bytes()
            at = data.index(b"\x18\x00\x50\x00DS")
            size = data[at + 6]
            file.write_bytes(data[: at + 8] + b"thin"[:size].ljust(size) + data[at + 8 + size :])
    assert len(prepare_mayo2016(tmp_path / "in", tmp_path / "out").volumes) == 1
