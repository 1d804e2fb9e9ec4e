"""Safety measurements: denoisers of known behaviour get the numbers that follow from it."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from evaluation_fixtures import TINY_SAFETY
from scipy.ndimage import gaussian_filter

from ASCONDenoiseLib.imaging.image_quality import TissueShift
from ASCONDenoiseLib.physics import dose
from ASCONDenoiseLib.physics.cylinder import Insert, cylinder
from ASCONDenoiseLib.physics.settings import KERNELS, DoseSettings
from ASCONTrainingLib.evaluation import cylinder as cylinders
from ASCONTrainingLib.evaluation import edges, lesions, safety, safety_report
from ASCONTrainingLib.evaluation.volumes import VolumePair


def identity(volume: np.ndarray, _=None) -> np.ndarray:
    return volume.copy()


def blurred(volume: np.ndarray, _=None) -> np.ndarray:
    return gaussian_filter(volume.astype(np.float64), (0, 1.5, 1.5))


@pytest.fixture(scope="module")
def pairs() -> list[VolumePair]:
    phantom = cylinder((3, 192, 192), (1.2, 1.2, 3.0), diameter_mm=200.0, inserts=big_inserts())
    settings = DoseSettings(0.25, kernel="standard", photons=1e6, views=492, seed=1)
    ndct = np.rint(dose.scan(phantom.voxels_hu + 50, phantom.spacing_mm, settings)).astype(np.int16)
    ldct = dose.simulate(ndct, phantom.spacing_mm, settings).voxels
    return [VolumePair("cylinder", ndct, ldct, phantom.spacing_mm)]


def big_inserts() -> tuple[Insert, ...]:
    """In water that is shifted to 50 HU; their edges are straight enough for profiles."""
    return (Insert("fat", -160, 60, 0, 50), Insert("bone", 500, 60, 120, 50))


def test_an_identity_keeps_everything(pairs):
    found = safety.measure("identity", identity, pairs, TINY_SAFETY)
    assert all(point.kept == pytest.approx(1, abs=1e-5) for point in found.lesions)
    assert {(p.dose, p.contrast_hu, p.diameter_mm) for p in found.lesions} == {
        (d, c, size) for d in (0.25, 0.5) for c in (20.0, 40.0) for size in (6.0, 12.0)
    }
    assert min(p.count for p in found.lesions) >= 5 and found.residual_structure is None
    for edge in found.edges:
        if abs(edge.contrast_hu) >= 100:
            assert edge.ratio == pytest.approx(1, abs=0.08), edge
    assert all(n.ldct_hu == n.output_hu and n.ldct_sd == n.output_sd for n in found.pure_noise)
    assert all(abs(shift.shift_hu) < 1 for shift in found.shifts) and len(found.shifts) >= 3
    assert all(found.limits_kept().values())
    json.dumps(found.to_dict(), allow_nan=False)


def test_the_contrast_that_a_blur_keeps_is_known(pairs):
    """<w, w blurred> / <w, w> for the lesion's shape w, whatever the noise."""
    points = lesions.lesion_points(blurred, pairs, TINY_SAFETY)
    for point in points:
        w = lesions.lesion_shape(point.diameter_mm, pairs[0].spacing_mm, (61, 61))
        wanted = (w * gaussian_filter(w, 1.5)).sum() / (w * w).sum()
        assert point.kept == pytest.approx(wanted, abs=0.01)
        assert point.kept_sd < 0.01  # the noise cancels in a linear filter
    small, large = (np.mean([p.kept for p in points if p.diameter_mm == size]) for size in (6.0, 12.0))
    assert small < large < 0.95


def test_the_snr_is_that_of_white_noise_by_formula(monkeypatch):
    """SNR = contrast * sqrt(sum w^2) / s with s^2, the variance of a pixel at dose d, 1 / d times the NDCT's own."""
    own = 10.0

    def white(ndct, spacing_mm, scanner, count):
        random = np.random.default_rng(scanner.seed)
        return random.normal(0, own * math.sqrt(1 / scanner.dose - 1), (count, *ndct.shape)).astype(np.float32)

    monkeypatch.setattr(lesions, "_noise", white)
    monkeypatch.setattr(lesions, "calibrate", lambda voxels, *_: (np.ones(len(voxels)), KERNELS["standard"]))
    flat = np.full((4, 96, 96), 60, np.int16)
    settings = replace(TINY_SAFETY, realisations=60)
    for point in lesions.lesion_points(identity, [VolumePair("flat", flat, flat, (1.0, 1.0, 3.0))], settings):
        w = lesions.lesion_shape(point.diameter_mm, (1.0, 1.0, 3.0), (41, 41))
        wanted = point.contrast_hu * math.sqrt((w * w).sum()) / (own / math.sqrt(point.dose))
        assert point.snr == pytest.approx(wanted, rel=0.1), point


def test_each_kind_of_lesion_is_at_all_places(monkeypatch):
    """As many kinds as places, at one of which all contrast is lost: no kind is always there, and none never."""

    def noise(ndct, spacing_mm, scanner, count):
        return np.random.default_rng(0).normal(0, 1, (count, *ndct.shape)).astype(np.float32)

    def lost_in_a_corner(volume, _):
        volume = volume.copy()
        volume[:, :20, :20] = 60
        return volume

    monkeypatch.setattr(lesions, "_noise", noise)
    monkeypatch.setattr(lesions, "calibrate", lambda voxels, *_: (np.ones(len(voxels)), KERNELS["standard"]))
    flat = np.full((1, 64, 64), 60, np.int16)
    settings = replace(TINY_SAFETY, doses=(0.5,), realisations=12)
    points = lesions.lesion_points(lost_in_a_corner, [VolumePair("flat", flat, flat, (1.0, 1.0, 3.0))], settings)
    assert len(points) == 4 and [point.count for point in points] == [12] * 4
    assert np.mean([point.kept for point in points]) == pytest.approx(3 / 4)
    assert all(0.4 < point.kept < 0.95 for point in points), points


def test_lesions_lie_in_flat_tissue_with_room_and_never_touch():
    image = np.full((120, 120), -100, np.int16)
    image[10:70, 10:110] = 60
    places = lesions.flat_places(image, (1.0, 1.0, 3.0), 17)
    assert len(places) >= 2
    for i, (row, column) in enumerate(places):
        assert (image[row - 8 : row + 9, column - 8 : column + 9] == 60).all()
        assert all(max(abs(row - r), abs(column - c)) >= 17 for r, c in places[:i])
    assert len(lesions.flat_places(np.full((120, 120), -100, np.int16), (1.0, 1.0, 3.0), 17)) == 0


def test_a_lesion_is_a_disc_of_its_size():
    for diameter in (5.0, 20.0):
        shape = lesions.lesion_shape(diameter, (0.8, 0.8, 3.0), (61, 61))
        assert shape.sum() * 0.8**2 == pytest.approx(math.pi * diameter**2 / 4, rel=0.01)
        assert shape[30, 30] == pytest.approx(1, abs=0.01) and shape[0, 0] == 0


def test_a_denoiser_that_eats_lesions_or_widens_edges_or_shifts_hu_is_told(pairs):
    """Each limit is crossed by a denoiser made for it, and the others are not by it."""

    def shifted(volume, _):
        return volume + 1.5

    def less_contrast(volume, _):  # of everything between 0 and 120 HU, towards 60
        return np.where((volume > 0) & (volume < 120), 60 + 0.8 * (volume - 60), volume)

    def inventive(volume, _):  # a faint disc in the middle
        y, x = np.indices(volume.shape[1:])
        return volume + 60 * (np.hypot(y - volume.shape[1] / 2, x - volume.shape[2] / 2) < 3)

    few = replace(TINY_SAFETY, doses=(0.5,), realisations=2)
    judged = {
        name: list(safety.measure(name, run, pairs, few).limits_kept().values())
        for name, run in {"shifted": shifted, "blurred": blurred, "inventive": inventive}.items()
    }
    assert judged["shifted"] == [False, True, True, True]
    assert judged["blurred"][1:3] == [False, False]
    assert judged["inventive"] == [judged["inventive"][0], True, True, False]
    assert min(point.kept for point in lesions.lesion_points(less_contrast, pairs, few)) < 0.9


def test_the_width_of_a_blurred_edge_is_that_of_its_gaussians(pairs):
    """Widths add in quadrature: the point spread of the phantom and a blur of 1.5 pixels."""
    for edge in cylinders.cylinder_edges(lambda v, _: gaussian_filter(v.astype(float), (0, 1.0, 1.0)), TINY_SAFETY):
        if edge is not None and abs(edge.contrast_hu) >= 300:
            pixel = 2.0
            wanted = math.hypot(edge.reference_mm, 2.563 * 1.0 * pixel)
            assert edge.output_mm == pytest.approx(wanted, rel=0.05)
    strong = edges.patient_edges(pairs, [blurred(pairs[0].ldct_hu)], (300.0, 2000.0), 40)
    assert strong.count >= edges.MIN_EDGES
    assert strong.output_mm == pytest.approx(math.hypot(strong.reference_mm, 2.563 * 1.5 * 1.2), rel=0.06)


def test_an_edge_that_a_denoiser_wipes_out_is_no_edge_kept():
    def wiped(volume, _):  # all but air, bone and much iodine
        return np.where(np.abs(volume.mean(0)) < 250, 0.0, volume)

    found = [edge for edge in cylinders.cylinder_edges(wiped, TINY_SAFETY) if edge is not None]
    lost = {edge.where for edge in found if edge.output_mm is None}
    assert {"insert fat", "insert iodine"} <= lost and not {"insert air", "insert bone"} & lost
    judged = safety.Safety("wiped", (), tuple(found), (), None, None, (), 0.0)
    assert not judged.limits_kept()["edges at most 1.1 times as wide"]
    assert "insert fat (-100 HU, 6): lost" in safety_report.text([judged])
    json.dumps(judged.to_dict(), allow_nan=False)


def test_a_fixed_pattern_is_found_under_the_noise():
    pattern = 6 * np.sign(np.sin(np.arange(128)[:, None] / 4) * np.sin(np.arange(128)[None] / 4))
    _, plain = cylinders.pure_noise_structure(identity, TINY_SAFETY)
    _, with_pattern = cylinders.pure_noise_structure(lambda v, _: v + pattern, TINY_SAFETY)
    assert with_pattern == pytest.approx(math.hypot(plain, 6), rel=0.15)


def test_the_hotelling_observer_sees_what_a_denoiser_does_to_faint_discs():
    """It knows a linear filter's noise and whitens it: a blur changes nothing for it, twice the contrast does."""
    settings = replace(TINY_SAFETY, diameters_mm=(12.0,), cylinder_slices=8)
    (kept,) = cylinders.disc_detectability(identity, settings)
    assert kept.ldct == pytest.approx(kept.output) and kept.count >= 16 and kept.ldct > 0.5
    (flat,) = cylinders.disc_detectability(lambda v, _: 0.5 * v, settings)
    assert flat.output == pytest.approx(flat.ldct, rel=1e-4)
    rng = np.random.default_rng(0)
    (noisy,) = cylinders.disc_detectability(lambda v, _: v + rng.normal(0, 60, v.shape), settings)
    assert noisy.output < 0.7 * noisy.ldct
    found = safety.Safety("A model", (), (), (), None, None, (), 0.0, (kept,))
    assert f"12 mm in a cylinder: d' {kept.ldct:.2f} before" in safety_report.text([found])


def test_tissues_of_several_volumes_are_weighed_by_their_voxels():
    volumes = [
        [TissueShift("fat", 100, -100.0, 1.0), TissueShift("bone", 10, 500.0, -2.0)],
        [TissueShift("fat", 300, -90.0, 3.0)],
    ]
    assert safety._together(volumes) == (
        TissueShift("fat", 400, -92.5, 2.5),
        TissueShift("bone", 10, 500.0, -2.0),
    )


def test_text_table_and_picture_hold_every_lesion(tmp_path):
    points = tuple(
        lesions.LesionPoint(0.25, contrast, 10.0, 7, snr, kept, 0.02)
        for contrast, snr, kept in ((10, 3, 0.7), (40, 12, 0.95))
    )
    found = safety.Safety("A model", (), (), points, 0.1, None, (), 0.0)
    assert "lesion of 40 HU, 10 mm, dose 0.25: SNR 12.0, keeps 95.0% (sd 2.0%, 7 times)" in safety_report.text([found])
    assert found.limits_kept()["lesions of SNR above 5 keep 90% of their contrast"]
    assert found.limits_kept()["mean HU of every tissue within 1 HU"] is None
    assert "  not measured  mean HU of every tissue" in safety_report.text([found])
    rows = list(csv.DictReader(io.StringIO(safety_report.lesions_csv([found, found]))))
    assert len(rows) == 4 and float(rows[1]["kept"]) == 0.95 and rows[1]["name"] == "A model"
    from PIL import Image

    picture = np.asarray(Image.open(safety_report.lesions_png([found], tmp_path / "lesions.png")))
    coloured = (picture == safety_report.COLOURS[0]).all(-1)
    coloured[:60, :300] = False  # the legend
    columns = np.nonzero(coloured.any(0))[0]
    assert (np.diff(columns) > 50).sum() == 1  # two points, far apart


def test_nothing_to_measure_is_said():
    with pytest.raises(ValueError, match="there are none"):
        safety.measure("x", identity, [])
