"""The physics of dose against oracles: skimage's Radon transform, analytic discs, and what noise must obey."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from ASCONDenoiseLib.imaging.image_quality import nps
from ASCONDenoiseLib.physics import dose
from ASCONDenoiseLib.physics.dose import DoseError, DoseSettings, Kernel, Scanner, noise_factor

FAST = DoseSettings(views=360, detector_mm=0.7, kernel="standard", photons=2e5)
PIXEL_MM = (1.2, 1.2, 3.0)
SIDE = 180


def _radius_mm(side=SIDE, pixel_mm=PIXEL_MM[0], centre=(0.0, 0.0)):
    y, x = (np.mgrid[:side, :side] - (side - 1) / 2) * pixel_mm
    return np.hypot(x - centre[0], y - centre[1])


def _water(slices=1, radius_mm=95.0):
    disc = np.where(_radius_mm() < radius_mm, 0.0, -1000.0).astype(np.float32)
    return np.repeat(disc[None], slices, axis=0)


def _soft_disc(centre_mm, radius_mm, side=SIDE, pixel_mm=PIXEL_MM[0], fine=8):
    """A disc of 1 with antialiased edge: (side, side)."""
    big = _radius_mm(side * fine, pixel_mm / fine, centre_mm) < radius_mm
    return big.reshape(side, fine, side, fine).mean((1, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def a_scan():
    """(noise-free water cylinder, its scan at normal dose), 8 slices."""
    clean = _water(8)
    return clean, dose.scan(clean, PIXEL_MM, replace(FAST, seed=5))


def test_parallel_projection_agrees_with_skimage_radon():
    radon = pytest.importorskip("skimage.transform").radon
    side = 101
    image = _soft_disc((14, -9), 20, side, 1.0) + 0.5 * _soft_disc((-20, 5), 12, side, 1.0)
    angles = np.arange(0, 180, 5.0)
    ours = dose.line_integrals(torch.from_numpy(image)[None], (1.0, 1.0), Scanner(False, 0.0, len(angles), side, 1.0))
    theirs = radon(image, -angles, circle=True).T  # skimage's rows run the other way
    assert np.abs(ours[0].numpy() - theirs).max() < 0.02 * theirs.max()
    assert np.abs(ours[0].numpy() - theirs).mean() < 0.002 * theirs.max()


@pytest.mark.parametrize(("centre_mm", "radius_mm"), [((0, 0), 60), ((30, -20), 40), ((-70, 35), 15)])
def test_fan_projection_agrees_with_analytic_discs(centre_mm, radius_mm):
    scanner = dose.scanner_for((SIDE, SIDE), PIXEL_MM[:2], replace(FAST, views=24))
    image = torch.from_numpy(_soft_disc(centre_mm, radius_mm))[None]
    ours = dose.line_integrals(image, PIXEL_MM[:2], scanner)[0].numpy()
    # drawn from scratch: where the source stands, which way the ray goes, how far it passes the disc's middle
    beta = 2 * math.pi * np.arange(24)[:, None] / 24
    gamma = scanner.places_mm.numpy()[None] / scanner.source_mm
    source = scanner.source_mm * np.stack([np.sin(beta), -np.cos(beta)])
    ray = np.stack([-np.sin(beta - gamma), np.cos(beta - gamma)])
    to_centre = np.array(centre_mm).reshape(2, 1, 1) - source
    distance = np.abs(to_centre[0] * ray[1] - to_centre[1] * ray[0])
    theirs = 2 * np.sqrt(np.clip(radius_mm**2 - distance**2, 0, None))
    away_from_edge = np.abs(distance - radius_mm) > 2 * PIXEL_MM[0]
    assert np.abs(ours - theirs)[away_from_edge].max() < 0.3 + 0.01 * 2 * radius_mm
    assert abs(ours.mean() / theirs.mean() - 1) < 0.002


@pytest.mark.parametrize("geometry", ["fan", "parallel"])
def test_reconstruction_gives_back_the_image(geometry):
    image = _soft_disc((20, -10), 40) + 0.5 * _soft_disc((-30, 30), 30)
    scanner = dose.scanner_for((SIDE, SIDE), PIXEL_MM[:2], replace(FAST, geometry=geometry))
    rays = dose.line_integrals(torch.from_numpy(image)[None], PIXEL_MM[:2], scanner)
    again = dose.filtered_back_projection(rays, (SIDE, SIDE), PIXEL_MM[:2], scanner, Kernel(0.6, 4))[0].numpy()
    for centre, radius, value in (((20, -10), 34, 1.0), ((-30, 30), 24, 0.5)):
        inside = _radius_mm(centre=centre) < radius
        assert again[inside].mean() == pytest.approx(value, abs=0.002)
        assert again[inside].std() < 0.02


def test_coarse_integrals_stand_for_the_fine_ones():
    mu = torch.from_numpy(_soft_disc((10, 20), 70))[None] * dose.MU_WATER_PER_MM
    for geometry in ("fan", "parallel"):
        scanner = dose.scanner_for((SIDE, SIDE), PIXEL_MM[:2], replace(FAST, geometry=geometry, views=60))
        fine = dose.line_integrals(mu, PIXEL_MM[:2], scanner)
        coarse = dose._smooth_integrals(mu, PIXEL_MM[:2], scanner)
        assert (fine - coarse).abs().mean() < 0.01 * fine.max()


@pytest.mark.parametrize("level", [0.1, 0.25, 0.5])
def test_inserted_variance_is_that_of_the_dose(a_scan, level):
    """(1/d - 1) times the scan's own variance, calibrated from the scan, within 5 %."""
    clean, ndct = a_scan
    settings = replace(FAST, dose=level, kernel="scan", photons=None, seed=1)
    ldct = dose.simulate(ndct, PIXEL_MM, settings).voxels
    inner = np.broadcast_to(_radius_mm() < 70, ndct.shape)
    own = (ndct - clean)[inner].var()
    inserted = (ldct - ndct)[inner].var()
    assert inserted / own == pytest.approx(1 / level - 1, rel=0.05)


def test_calibration_finds_the_photons(a_scan):
    photons, _ = dose.calibrate(a_scan[1], PIXEL_MM, replace(FAST, photons=None))
    assert photons == pytest.approx(np.full(8, FAST.photons), rel=0.06)


def test_calibration_counts_electronic_noise_as_such():
    settings = replace(FAST, electronic_noise=60.0)
    ndct = dose.scan(_water(8), PIXEL_MM, settings)
    photons, _ = dose.calibrate(ndct, PIXEL_MM, replace(settings, photons=None))
    assert photons.mean() == pytest.approx(FAST.photons, rel=0.06)
    without, _ = dose.calibrate(ndct, PIXEL_MM, replace(FAST, photons=None))
    assert without.mean() < 0.9 * FAST.photons  # all noise taken for that of photons: fewer of them


def test_calibration_follows_the_tube_current_along_z():
    clean = _water(12)
    strong, weak = (dose.scan(clean[:6], PIXEL_MM, replace(FAST, photons=n)) for n in (4e5, 1e5))
    photons, _ = dose.calibrate(np.concatenate([strong, weak]), PIXEL_MM, replace(FAST, photons=None))
    assert photons[0] == pytest.approx(4e5, rel=0.12)
    assert photons[-1] == pytest.approx(1e5, rel=0.12)


@pytest.mark.parametrize("name", ["soft", "standard"])
def test_spectrum_is_that_of_the_scan(name):
    ndct = dose.scan(_water(8), PIXEL_MM, replace(FAST, kernel=name))
    ldct = dose.simulate(ndct, PIXEL_MM, replace(FAST, kernel="scan", photons=None, seed=9)).voxels

    def spectrum(noise):
        return nps(np.stack([s[y : y + 32, x : x + 32] for s in noise for y in (58, 90) for x in (58, 90)]), PIXEL_MM)

    own, inserted = spectrum(ndct), spectrum(ldct - ndct)
    assert inserted.mean_frequency == pytest.approx(own.mean_frequency, rel=0.05)
    shapes = own.power / own.power.sum(), inserted.power / inserted.power.sum()
    assert np.abs(shapes[0] - shapes[1]).sum() < 0.2


def test_electronic_noise_adds_its_share():
    """Its variance is (1/d^2 - 1) times that of normal dose: at d = 0.1 it is 99 / 3 times that of d = 0.5."""
    clean = _water(6)
    inner = np.broadcast_to(_radius_mm() < 50, clean.shape)

    def variance(level, electronic_noise):
        settings = replace(FAST, dose=level, electronic_noise=electronic_noise)
        return (dose.simulate(clean, PIXEL_MM, settings).voxels - clean)[inner].var()

    low, half = (variance(d, 300.0) - variance(d, 0.0) for d in (0.1, 0.5))
    assert low / half == pytest.approx(99 / 3, rel=0.1)


def test_noise_is_stronger_in_the_middle_than_at_the_edge():
    clean = _water(8)
    noise = dose.simulate(clean, PIXEL_MM, FAST).voxels - clean
    radius = np.broadcast_to(_radius_mm(), noise.shape)
    assert noise[radius < 25].std() > 1.15 * noise[(radius > 80) & (radius < 92)].std()


def test_noise_has_no_mean():
    clean = _water(8)
    noise = dose.simulate(clean, PIXEL_MM, replace(FAST, dose=0.1)).voxels - clean
    inner = np.broadcast_to(_radius_mm() < 90, noise.shape)
    assert abs(noise[inner].mean()) < 0.5


def test_streaks_run_along_the_direction_of_most_attenuation():
    """Two dense rods left and right: between them the noise is drawn out from left to right."""
    clean = _water(6)
    for centre in ((-65, 0), (65, 0)):
        clean[:, _radius_mm(centre=centre) < 22] = 2500
    noise = dose.simulate(clean, PIXEL_MM, FAST).voxels - clean
    middle = noise[:, 75:105, 70:110]
    along = (middle[:, :, 4:] * middle[:, :, :-4]).mean() / middle.var()
    across = (middle[:, 4:] * middle[:, :-4]).mean() / middle.var()
    assert along > 0.15 > 0.05 > across


def test_bowtie_and_tube_current_shape_the_noise():
    clean = _water(4)
    radius = np.broadcast_to(_radius_mm(), clean.shape)

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
    ndct = np.rint(_water(3)).astype(np.int16)
    ndct[:, _radius_mm() > 105] = -2048
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


def test_noise_does_not_depend_on_the_batch(monkeypatch):
    clean = _water(3)
    together = dose.simulate(clean, PIXEL_MM, FAST).voxels
    monkeypatch.setattr(dose, "BATCH", 2)
    assert np.allclose(together, dose.simulate(clean, PIXEL_MM, FAST).voxels, atol=1e-3)


def test_full_dose_changes_nothing():
    clean = _water(1)
    assert (dose.simulate(clean, PIXEL_MM, replace(FAST, dose=1.0)).voxels == clean).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_makes_the_same_noise():
    clean = _water(2)
    on_cpu, on_cuda = (dose.simulate(clean, PIXEL_MM, FAST, device=d).voxels for d in ("cpu", "cuda"))
    assert np.abs(on_cpu - on_cuda).max() < 0.5


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
    with pytest.raises(DoseError, match=message):
        replace(FAST, **changes)


@pytest.mark.parametrize("volume", [np.full((1, 64, 64), 0.0), np.full((2, 64, 64), -700.0), np.full((1, 8, 8), 50.0)])
def test_a_scan_without_noisy_soft_tissue_cannot_be_calibrated(volume):
    with pytest.raises(DoseError, match="Give the number of photons"):
        dose.simulate(volume.astype(np.float32), PIXEL_MM, replace(FAST, photons=None, kernel="scan"))


def test_a_scan_without_noise_cannot_be_calibrated():
    with pytest.raises(DoseError, match="Give the number of photons"):
        dose.simulate(_water(1), PIXEL_MM, replace(FAST, photons=None))
    with pytest.raises(DoseError, match="set photons and kernel"):
        dose.scan(_water(1), PIXEL_MM, replace(FAST, photons=None))


def test_an_image_that_reaches_the_source_is_refused():
    with pytest.raises(DoseError, match="parallel geometry"):
        dose.simulate(_water(1), (6.0, 6.0, 3.0), FAST)


@pytest.mark.parametrize(("dose", "wanted"), [(0.25, 0.25), (0.25, 0.1), (0.1, 0.5), (0.5, 1.0)])
def test_noise_factor_gives_the_variance_of_the_wanted_dose(dose, wanted):
    variance = (1 / dose - 1) * noise_factor(dose, wanted) ** 2
    assert variance == pytest.approx(1 / wanted - 1)
