"""Simulated doses against what noise must obey."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from dose_fixtures import FAST, PIXEL_MM, SIDE, distance_mm, water
from phantom_fixtures import cut_by_the_scan_circle, large_body, scan_circle

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.imaging.noise_spectrum import nps
from ASCONDenoiseLib.physics import dose
from ASCONDenoiseLib.physics.dose import noise_factor


@pytest.mark.parametrize("level", [0.1, 0.25, 0.5])
def test_inserted_variance_is_that_of_the_dose(a_scan, level):
    """(1/d - 1) times the scan's own variance, calibrated from the scan, within 5 %."""
    clean, ndct = a_scan
    settings = replace(FAST, dose=level, kernel="scan", photons=None, seed=1)
    ldct = dose.simulate(ndct, PIXEL_MM, settings).voxels
    inner = np.broadcast_to(distance_mm() < 70, ndct.shape)
    own = (ndct - clean)[inner].var()
    inserted = (ldct - ndct)[inner].var()
    assert inserted / own == pytest.approx(1 / level - 1, rel=0.05)


def test_what_an_earlier_simulation_measured_is_not_measured_again(a_scan, monkeypatch):
    _, ndct = a_scan
    settings = replace(FAST, kernel="scan", photons=None, seed=1)
    first = dose.simulate(ndct, PIXEL_MM, settings)
    monkeypatch.setattr(dose, "calibrate", None)
    again = dose.simulate(ndct, PIXEL_MM, settings, calibration=(first.photons, first.kernel))
    assert (again.voxels == first.voxels).all() and again.notes == first.notes
    with pytest.raises(InputError, match="calibration is of 1 slices"):
        dose.simulate(ndct, PIXEL_MM, settings, calibration=(first.photons[:1], first.kernel))
    other = dose.simulate(ndct, PIXEL_MM, settings, calibration=(4 * first.photons, first.kernel)).voxels
    assert (other - ndct).std() == pytest.approx((first.voxels - ndct).std() / 2, rel=0.05)


@pytest.mark.parametrize("name", ["soft", "standard"])
def test_spectrum_is_that_of_the_scan(name):
    ndct = dose.scan(water(8), PIXEL_MM, replace(FAST, kernel=name))
    ldct = dose.simulate(ndct, PIXEL_MM, replace(FAST, kernel="scan", photons=None, seed=9)).voxels

    def spectrum(noise):
        return nps(np.stack([s[y : y + 32, x : x + 32] for s in noise for y in (58, 90) for x in (58, 90)]), PIXEL_MM)

    own, inserted = spectrum(ndct), spectrum(ldct - ndct)
    assert inserted.mean_frequency == pytest.approx(own.mean_frequency, rel=0.05)
    shapes = own.power / own.power.sum(), inserted.power / inserted.power.sum()
    assert np.abs(shapes[0] - shapes[1]).sum() < 0.2


def test_electronic_noise_adds_its_share():
    """Its variance is (1/d^2 - 1) times that of normal dose: at d = 0.1 it is 99 / 3 times that of d = 0.5."""
    clean = water(6)
    inner = np.broadcast_to(distance_mm() < 50, clean.shape)

    def variance(level, electronic_noise):
        settings = replace(FAST, dose=level, electronic_noise=electronic_noise)
        return (dose.simulate(clean, PIXEL_MM, settings).voxels - clean)[inner].var()

    low, half = (variance(d, 300.0) - variance(d, 0.0) for d in (0.1, 0.5))
    assert low / half == pytest.approx(99 / 3, rel=0.1)


def test_noise_is_stronger_in_the_middle_than_at_the_edge():
    clean = water(8)
    noise = dose.simulate(clean, PIXEL_MM, FAST).voxels - clean
    radius = np.broadcast_to(distance_mm(), noise.shape)
    assert noise[radius < 25].std() > 1.15 * noise[(radius > 80) & (radius < 92)].std()


def test_noise_has_no_mean():
    clean = water(8)
    noise = dose.simulate(clean, PIXEL_MM, replace(FAST, dose=0.1)).voxels - clean
    inner = np.broadcast_to(distance_mm() < 90, noise.shape)
    assert abs(noise[inner].mean()) < 0.5


def test_streaks_run_along_the_direction_of_most_attenuation():
    """Two dense rods left and right: between them the noise is drawn out from left to right."""
    clean = water(6)
    for centre in ((-65, 0), (65, 0)):
        clean[:, distance_mm(centre=centre) < 22] = 2500
    noise = dose.simulate(clean, PIXEL_MM, FAST).voxels - clean
    middle = noise[:, 75:105, 70:110]
    along = (middle[:, :, 4:] * middle[:, :, :-4]).mean() / middle.var()
    across = (middle[:, 4:] * middle[:, :-4]).mean() / middle.var()
    assert along > 0.15 > 0.05 > across


def test_bowtie_and_tube_current_shape_the_noise():
    clean = water(4)
    radius = np.broadcast_to(distance_mm(), clean.shape)

    def edge_to_middle(**changes):
        noise = dose.simulate(clean, PIXEL_MM, replace(FAST, **changes)).voxels - clean
        return noise[(radius > 80) & (radius < 92)].std() / noise[radius < 25].std()

    assert edge_to_middle(bowtie_edge=0.05, bowtie_mm=110.0) > 1.1 * edge_to_middle(bowtie_edge=1.0)

    def left_right_to_up_down(**changes):
        noise = dose.simulate(clean, PIXEL_MM, replace(FAST, **changes)).voxels - clean
        middle = noise[:, 70:110, 70:110]
        return np.diff(middle, axis=1).var() / np.diff(middle, axis=2).var()

    # rays of beta 0 and 180 degrees run along y; few photons there make noise that varies along x
    starved = left_right_to_up_down(tube_current=(0.2, 1.0, 0.2, 1.0))
    assert starved < 0.85 * left_right_to_up_down(tube_current=(1.0, 0.2, 1.0, 0.2))


def test_modulated_current_evens_out_the_noise_of_an_ellipse():
    y, x = (np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2) * PIXEL_MM[0]
    clean = np.where((x / 100) ** 2 + (y / 45) ** 2 < 1, 0.0, -1000.0).astype(np.float32)[None].repeat(4, 0)

    def anisotropy(modulation):
        noise = dose.simulate(clean, PIXEL_MM, replace(FAST, current_modulation=modulation)).voxels - clean
        middle = noise[:, 75:105, 60:120]
        return np.diff(middle, axis=1).var() / np.diff(middle, axis=2).var()

    assert anisotropy(0.0) > anisotropy(0.7) > 1.0


def test_padding_and_dtype_are_kept_and_a_seed_repeats():
    ndct = np.rint(water(3)).astype(np.int16)
    ndct[:, distance_mm() > 105] = -2048
    ndct[:, :4] = -999
    first, second = (dose.simulate(ndct, PIXEL_MM, FAST, padding_hu=-999).voxels for _ in range(2))
    assert first.dtype == np.int16
    assert (first[ndct == -2048] == -2048).all() and (first[ndct == -999] == -999).all()
    assert (first == second).all()
    assert (first != dose.simulate(ndct, PIXEL_MM, replace(FAST, seed=1)).voxels).mean() > 0.5
    assert (
        abs(np.corrcoef((first - ndct)[0, 60:120, 60:120].ravel(), (first - ndct)[1, 60:120, 60:120].ravel())[0, 1])
        < 0.1
    )


def test_a_body_that_the_scan_circle_cuts_has_even_noise_up_to_it():
    """No ring of noise at the circle; the true scan, in which the body goes on beyond it, falls off by 12 %."""
    body = large_body(6)
    cut = cut_by_the_scan_circle(body)
    noise = dose.simulate(cut, (1.5, 1.5, 3.0), FAST).voxels - cut
    side = body.shape[-1]
    flank = np.abs(np.mgrid[:side, :side][0] - side / 2) < 40
    tissue = flank & (body[0] > 0)

    def sd(outer_px, inner_px):
        ring = scan_circle(side, outer_px) & ~scan_circle(side, inner_px) & tissue
        return noise[:, ring].std()

    interior = sd(20, 60)
    for outer, inner in ((0, 1.5), (1.5, 4), (4, 8)):
        assert 0.75 < sd(outer, inner) / interior < 1.2
    ring = scan_circle(side) & ~scan_circle(side, 2) & tissue
    assert abs(noise[:, ring].mean()) < 0.1 * interior
    assert (noise[:, ~scan_circle(side)] == 0).all()


def test_noise_does_not_depend_on_the_batch(monkeypatch):
    clean = water(3)
    together = dose.simulate(clean, PIXEL_MM, FAST).voxels
    monkeypatch.setattr(dose, "SLICES_AT_ONCE", 2)
    assert np.allclose(together, dose.simulate(clean, PIXEL_MM, FAST).voxels, atol=1e-3)


def test_full_dose_changes_nothing():
    clean = water(1)
    assert (dose.simulate(clean, PIXEL_MM, replace(FAST, dose=1.0)).voxels == clean).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_makes_noise_of_the_same_strength():
    clean = water(4)
    on_cpu, on_cuda = (dose.simulate(clean, PIXEL_MM, FAST, device=d).voxels - clean for d in ("cpu", "cuda"))
    inner = np.broadcast_to(distance_mm() < 70, clean.shape)
    assert on_cuda[inner].std() == pytest.approx(on_cpu[inner].std(), rel=0.05)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dose": 0.0}, "dose must be above 0"),
        ({"dose": 1.5}, "dose must be above 0"),
        ({"geometry": "cone"}, "geometry must be"),
        ({"kernel": "B99"}, "Unknown kernel"),
        ({"photons": -1.0}, "photons per ray"),
        ({"electronic_noise": -1.0}, "electronic noise"),
        ({"electronic_noise": math.nan}, "electronic noise"),
        ({"current_modulation": math.nan}, "modulation"),
        ({"bowtie_edge": 0.0}, "bow-tie"),
        ({"tube_current": ()}, "tube current"),
    ],
)
def test_bad_settings_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        replace(FAST, **changes)


def test_an_image_that_reaches_the_source_is_refused():
    with pytest.raises(InputError, match="parallel geometry"):
        dose.simulate(water(1), (6.0, 6.0, 3.0), FAST)


@pytest.mark.parametrize(("dose", "wanted"), [(0.25, 0.25), (0.25, 0.1), (0.1, 0.5), (0.5, 1.0)])
def test_noise_factor_gives_the_variance_of_the_wanted_dose(dose, wanted):
    variance = (1 / dose - 1) * noise_factor(dose, wanted) ** 2
    assert variance == pytest.approx(1 / wanted - 1)
