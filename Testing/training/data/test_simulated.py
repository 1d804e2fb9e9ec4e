"""Simulated sets: whose noise it is, what it depends on, and what is left out."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pydicom
import pytest
from ct_folder_fixtures import arrays_of, assert_holds, mayo_2020_tree, some_pair
from dicom_fixtures import make_ct_series
from model_fixtures import a_card
from scipy import ndimage

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.io.image_files import write_image
from ASCONDenoiseLib.io.volume import Geometry, Volume
from ASCONDenoiseLib.models.files import find_model, load_network, save_model
from ASCONDenoiseLib.models.inference import denoise
from ASCONDenoiseLib.models.networks.esau_net import ESAUNet
from ASCONDenoiseLib.physics import dose
from ASCONDenoiseLib.physics.calibration import CalibrationError
from ASCONDenoiseLib.physics.phantoms import abdomen
from ASCONDenoiseLib.physics.settings import KERNELS, DoseSettings, Kernel
from ASCONTrainingLib.data.noise_levels import ANATOMY_NOISES, LEVELS, at_level
from ASCONTrainingLib.data.pairing import PairedVolume
from ASCONTrainingLib.data.simulated import PHANTOMS, SCANNER_BLUR_MM, prepare_simulated, psf_mm
from ASCONTrainingLib.data.training_set import EvaluationSet


def fake_simulate(calls):
    """In place of the physics: noise of one HU per unit of its seed modulo 50."""

    def simulate(voxels, spacing_mm, settings, *, device, padding_hu, calibration):
        told = {"settings": settings, "spacing_mm": spacing_mm, "device": device, "padding_hu": padding_hu}
        calls.append(SimpleNamespace(**told, calibration=calibration))
        low, notes = voxels + np.int16(settings.seed % 50 + 1), ("The photons are doubtful.",)
        return SimpleNamespace(voxels=low, notes=notes)

    return simulate


def fakes(calls):
    """In place of all that measures or makes noise."""

    def calibrate(voxels, spacing_mm, settings, *, device):
        return np.full(len(voxels), float(voxels.mean())), settings.seed

    return {"simulate": fake_simulate(calls), "calibrate": calibrate}


def normal_dose_tree(root: Path, names=("a", "b", "c")) -> dict[str, np.ndarray]:
    volumes = {}
    for name in names:
        volumes[name] = some_pair(ord(name))[0]
        if name in "bd":
            make_ct_series(root / name / "study" / "series", voxels_hu=volumes[name], padding=-1000)
        else:
            root.mkdir(exist_ok=True)
            write_image(Volume(volumes[name], Geometry((0.7, 0.7, 3.0), (0, 0, 0))), root / f"{name}.nii.gz")
    return volumes


def test_simulated_pairs_from_files_and_dicom(tmp_path):
    volumes = normal_dose_tree(tmp_path / "in")
    make_ct_series(tmp_path / "in" / "c_low_dose", shape=(2, 8, 8))
    calls, log = [], []
    index = prepare_simulated(
        tmp_path / "in", tmp_path / "out", dose=0.25, **fakes(calls), device="cpu", log=log.append
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
    assert "b-study-series: The photons are doubtful." in log


def test_normal_dose_series_are_told_by_their_description_in_a_tree_of_uids(tmp_path):
    pairs = mayo_2020_tree(tmp_path / "in", patients=("L004", "L006"), classic=True)
    log = []
    index = prepare_simulated(tmp_path / "in", tmp_path / "out", **fakes([]), log=log.append)
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
        index = prepare_simulated(tmp_path / names, tmp_path / f"out-{names}", **fakes(calls), **settings)
        outcomes.append({v.patient: (v.dose, c.settings.seed) for v, c in zip(index.volumes, calls, strict=True)})
        assert all(v.dose == c.settings.dose for v, c in zip(index.volumes, calls, strict=True))
    doses = [dose for dose, _ in outcomes[0].values()]
    assert len(set(doses)) == 6 and min(doses) >= 0.1 and max(doses) <= 0.4
    assert all(outcomes[0][name] == outcomes[1][name] for name in "bdf")


def test_training_scans_are_there_several_times_with_other_noise(tmp_path):
    normal_dose_tree(tmp_path / "in")
    settings = {**fakes([]), "device": "cpu", "noises": 3}
    index = prepare_simulated(tmp_path / "in", tmp_path / "out", **settings)
    once = index.of("train")[0]
    copies = [v for v in index.volumes if v.patient == once.patient]
    assert [v.name for v in copies] == [once.name, f"{once.name}-noise2", f"{once.name}-noise3"]
    ndct, ldct = ([arrays_of(tmp_path / "out", v.name)[which] for v in copies] for which in (0, 1))
    assert all((other == ndct[0]).all() for other in ndct)
    assert len({int((low - high).ravel()[0]) for low, high in zip(ldct, ndct, strict=True)}) > 1
    assert all(len([v for v in index.volumes if v.patient == p.patient]) == 1 for p in index.of("validation"))
    with pytest.raises(InputError, match="made with another noises"):
        prepare_simulated(tmp_path / "in", tmp_path / "out", **settings | {"noises": 2})
    with pytest.raises(InputError, match="once or more; got 0"):
        prepare_simulated(tmp_path / "in", tmp_path / "none", **settings | {"noises": 0})


def test_training_scans_are_there_at_other_levels_of_noise(tmp_path):
    identity = ESAUNet(residual=True, channels=8)  # as it begins
    model = tmp_path / "identity.safetensors"
    save_model(identity, a_card(settings={"residual": True, "channels": 8}), model)
    volumes = normal_dose_tree(tmp_path / "in")
    calls = []
    settings = {**fakes(calls), "device": "cpu"}
    index = prepare_simulated(tmp_path / "in", tmp_path / "out", levels_by=str(model), **settings)
    once = index.of("train")[0]
    copies = [v for v in index.volumes if "-level" in v.name]
    assert [(v.patient, v.split) for v in copies] == [(once.patient, "train")] * 4
    simulated = [call.settings for call in calls][-4 - ANATOMY_NOISES :]
    anatomies = simulated[1 : 1 + ANATOMY_NOISES]  # of what is denoised: once, after the first copy
    pairs = [s for s in simulated if s not in anatomies]
    assert len(pairs) == 4 and len({s.seed for s in simulated}) == len(simulated)
    assert {s.dose for s in anatomies} == {0.25}
    measured = {id(call.calibration[0]) for call in calls}
    assert len(measured) == 3  # each scan once, whatever its copies
    assert calls[-1].calibration[0][0] == volumes[once.patient].mean()
    own = next(call.calibration[1] for call in calls if call.calibration[0][0] == volumes[once.patient].mean())
    for name in (f"{copy.name}.ldct.npy" for copy in copies[:2]):
        (tmp_path / "out" / name).unlink()
    prepare_simulated(tmp_path / "in", tmp_path / "out", levels_by=str(model), **settings)
    assert calls[-1].calibration[1] == own  # the seed hangs on the scan, not on which of its copies comes first
    for copy, pair, (own, added) in zip(copies, pairs, LEVELS, strict=True):
        ndct, ldct = arrays_of(tmp_path / "out", copy.name)
        # the identity takes nothing off: the anatomy is the NDCT and the mean of that noise, whose share is 1 - own
        expected = volumes[once.patient] + (1 - own) * np.mean([s.seed % 50 + 1 for s in anatomies])
        assert np.abs(ndct - expected).max() <= 0.51
        assert np.abs(ldct - (expected + added * (pair.seed % 50 + 1))).max() <= 0.51
    model.rename(tmp_path / "moved.safetensors")
    model.with_suffix(".json").rename(tmp_path / "moved.json")
    moved = str(tmp_path / "moved.safetensors")  # the same model
    again = prepare_simulated(tmp_path / "in", tmp_path / "out", levels_by=moved, **settings)
    assert len(again.volumes) == len(index.volumes)
    with pytest.raises(InputError, match="made with another levels_by"):
        prepare_simulated(tmp_path / "in", tmp_path / "out", **settings)
    with pytest.raises(InputError, match="made of scans"):
        prepare_simulated(None, tmp_path / "none", levels_by=moved, phantoms=1)


def test_a_lower_level_has_less_noise():
    """Of a phantom, whose noise is known, as the default model tells it from anatomy."""
    mm = (1.3, 1.3, 3.0)
    truth = abdomen(3, (1, 248, 248), mm).voxels_hu
    settings = DoseSettings(photons=1e6, kernel="standard", seed=1)
    ndct = dose.scan(truth, mm, settings).round().astype(np.int16)

    def ldct(seed):
        return dose.simulate(ndct, mm, replace(settings, dose=0.25, seed=seed)).voxels

    network, _ = load_network(find_model("best"))
    anatomy = np.mean([denoise(ldct(seed), network, device="cpu").voxels for seed in range(2, 2 + ANATOMY_NOISES)], 0)
    flat = (ndimage.gaussian_gradient_magnitude(truth[0], 1.0) < 3)[None] & (truth > 0) & (truth < 90)
    pair = PairedVolume(ndct, ldct(9), mm)
    noise = [(at_level(pair, anatomy, copy).ndct - truth)[flat].std() for copy in range(len(LEVELS))]
    own = (ndct - truth)[flat].std()
    print(f"noise of the NDCT {own:.1f} HU, at the levels " + ", ".join(f"{n:.1f}" for n in noise))
    assert noise[0] == noise[1] < 0.85 * own and noise[2] < own < noise[3]


def test_phantoms_stand_in(tmp_path):
    scans = []

    def scan(voxels, spacing_mm, settings, *, device):
        scans.append((voxels, spacing_mm, settings))
        return np.rint(voxels)

    settings = {"phantoms": 3, "phantom_shape": (2, 32, 48), **fakes([]), "scan": scan}
    index = prepare_simulated(None, tmp_path / "out", **settings)
    assert [v.patient for v in index.volumes] == ["phantom0", "phantom1", "phantom2"]
    assert sorted(v.split for v in index.volumes) == ["test", "train", "validation"]
    for volume, kind in zip(index.volumes, PHANTOMS, strict=True):
        x, y, z = volume.spacing_mm
        assert volume.shape == (2, 32, 48) and x * 48 == pytest.approx(y * 32)
        assert kind.view_mm[0] <= x * 48 <= kind.view_mm[1] and kind.slice_mm[0] <= z <= kind.slice_mm[1]
    for volume, (voxels, _, _) in zip(index.volumes, scans, strict=True):
        assert np.array_equal(arrays_of(tmp_path / "out", volume.name)[0], np.rint(voxels))
    assert all(2e5 <= s.photons <= 2e7 and 0.36 <= s.kernel.cutoff_per_mm <= 0.9 for _, _, s in scans)
    assert len({s.photons for _, _, s in scans}) == len({s.seed for _, _, s in scans}) == 3
    assert len({v.spacing_mm for v in index.volumes}) == len({s.kernel for _, _, s in scans}) == 3


@pytest.mark.parametrize("kernel", [KERNELS["soft"], KERNELS["sharp"], Kernel(0.6, 2.0)])
def test_a_phantom_is_as_sharp_as_the_kernel_of_its_noise(kernel):
    """Half of the response of scanner and kernel together is left where half of the Gaussian's is."""
    frequency = np.linspace(0, 2, 20_001)
    scanner = np.exp(-2 * (np.pi * frequency * SCANNER_BLUR_MM) ** 2)
    both = scanner * np.exp(-((frequency / kernel.cutoff_per_mm) ** kernel.order))
    gaussian = np.exp(-2 * (np.pi * frequency * psf_mm(kernel)) ** 2)
    half = [frequency[np.searchsorted(-response, -0.5)] for response in (both, gaussian)]
    assert half[1] == pytest.approx(half[0], rel=0.005)


def test_phantoms_fill_up_and_train(tmp_path):
    normal_dose_tree(tmp_path / "in")
    settings = {"phantom_shape": (1, 32, 32), **fakes([]), "scan": lambda v, *_, device: v}
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
    write_image(Volume(np.full((1, 8, 8), -5, np.int16), Geometry()), tmp_path / "in/blank.mha")
    write_image(Volume(np.full((1, 8, 8), 7, np.int16), Geometry()), tmp_path / "in/notHU.mha")
    (tmp_path / "in/broken.nrrd").write_bytes(b"NRRD")
    calls, log = [], []

    def simulate(voxels, *arguments, **settings):
        if voxels.shape[1] == 8:
            raise CalibrationError("Nothing to measure.")
        return fake_simulate(calls)(voxels, *arguments, **settings)

    index = prepare_simulated(tmp_path / "in", tmp_path / "out", **fakes([]) | {"simulate": simulate}, log=log.append)
    assert {v.patient for v in index.volumes} == set("abc")
    text = "\n".join(log)
    assert "blank is left out: Nothing to measure." in text and "notHU is left out: " in text
    assert "broken is left out: " in text and "3 of 6 volumes are left out." in text
    EvaluationSet(tmp_path / "out", index.volumes[0].split)  # whole all the same


def test_nothing_that_can_be_simulated_is_an_error(tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(InputError, match="holds no normal-dose CT volume"):
        prepare_simulated(tmp_path / "in", tmp_path / "out")
    (tmp_path / "in/broken.nrrd").write_bytes(b"NRRD")
    with pytest.raises(InputError, match="None of 1 volumes can be used. .*broken.nrrd cannot be read"):
        prepare_simulated(tmp_path / "in", tmp_path / "out")


@pytest.mark.skipif("ASCON_TEST_DATA" not in os.environ, reason="ASCON_TEST_DATA names no folder of real CT")
def test_real_series_are_found_and_read(tmp_path):
    folder = Path(os.environ["ASCON_TEST_DATA"]) / "dicom"
    index = prepare_simulated(folder, tmp_path / "out", **fakes([]))
    assert len(index.volumes) == len([path for path in folder.iterdir() if path.is_dir()])
    for volume in index.volumes:
        ndct = arrays_of(tmp_path / "out", volume.name)[0]
        for file in (folder / volume.source).glob("*.dcm"):
            dataset = pydicom.dcmread(file)
            hu = dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
            assert (ndct == np.rint(hu)).all((1, 2)).any()


@pytest.mark.parametrize("dose", [0, 1, 1.5, (0.5, 0.1), (0.1, 0.2, 0.3)])
def test_dose_must_be_a_fraction(tmp_path, dose):
    with pytest.raises(InputError, match="dose must be above 0 and below 1"):
        prepare_simulated(None, tmp_path / "out", dose=dose, phantoms=1)


def test_volumes_and_patients_are_left_out_by_name(tmp_path):
    normal_dose_tree(tmp_path / "in", "abc")
    (tmp_path / "in/c").mkdir()
    (tmp_path / "in/c.nii.gz").rename(tmp_path / "in/c/first.nii.gz")
    (tmp_path / "in/c/second.nii.gz").write_bytes((tmp_path / "in/c/first.nii.gz").read_bytes())
    settings = {**fakes([])}
    index = prepare_simulated(tmp_path / "in", tmp_path / "out", leave_out=["a", "c-second"], **settings)
    assert [v.name for v in index.volumes] == ["b-study-series", "c-first"]
    with pytest.raises(InputError, match="There is no c-third, d to leave out in .*: it holds a, b, c"):
        prepare_simulated(tmp_path / "in", tmp_path / "other", leave_out=["d", "c-third", "a"], **settings)
    assert not (tmp_path / "other").exists()
    with pytest.raises(InputError, match="made with another split and leave_out"):
        prepare_simulated(tmp_path / "in", tmp_path / "out", **settings)


def test_nothing_to_simulate_from_is_an_error(tmp_path):
    with pytest.raises(InputError, match="nothing to simulate from"):
        prepare_simulated(None, tmp_path / "out")
