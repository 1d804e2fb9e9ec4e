"""Projection and reconstruction against oracles: skimage's Radon transform and analytic discs."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from dose_fixtures import FAST, PIXEL_MM, SIDE, distance_mm, soft_disc

from ASCONDenoiseLib.physics import scanner as ct
from ASCONDenoiseLib.physics.scanner import Scanner, filtered_back_projection, line_integrals, scanner_for
from ASCONDenoiseLib.physics.settings import Kernel


def test_parallel_projection_agrees_with_skimage_radon():
    radon = pytest.importorskip("skimage.transform").radon
    side = 101
    image = soft_disc((14, -9), 20, side, 1.0) + 0.5 * soft_disc((-20, 5), 12, side, 1.0)
    angles = np.arange(0, 180, 5.0)
    ours = line_integrals(torch.from_numpy(image)[None], (1.0, 1.0), Scanner(False, 0.0, len(angles), side, 1.0))
    theirs = radon(image, -angles, circle=True).T  # skimage's rows run the other way
    assert np.abs(ours[0].numpy() - theirs).max() < 0.02 * theirs.max()
    assert np.abs(ours[0].numpy() - theirs).mean() < 0.002 * theirs.max()


@pytest.mark.parametrize(("centre_mm", "radius_mm"), [((0, 0), 60), ((30, -20), 40), ((-70, 35), 15)])
def test_fan_projection_agrees_with_analytic_discs(centre_mm, radius_mm):
    scanner = scanner_for((SIDE, SIDE), PIXEL_MM[:2], replace(FAST, views=24))
    image = torch.from_numpy(soft_disc(centre_mm, radius_mm))[None]
    ours = line_integrals(image, PIXEL_MM[:2], scanner)[0].numpy()
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
    image = soft_disc((20, -10), 40) + 0.5 * soft_disc((-30, 30), 30)
    scanner = scanner_for((SIDE, SIDE), PIXEL_MM[:2], replace(FAST, geometry=geometry))
    rays = line_integrals(torch.from_numpy(image)[None], PIXEL_MM[:2], scanner)
    again = filtered_back_projection(rays, (SIDE, SIDE), PIXEL_MM[:2], scanner, Kernel(0.6, 4))[0].numpy()
    for centre, radius, value in (((20, -10), 34, 1.0), ((-30, 30), 24, 0.5)):
        inside = distance_mm(centre=centre) < radius
        assert again[inside].mean() == pytest.approx(value, abs=0.002)
        assert again[inside].std() < 0.02


def test_coarse_integrals_stand_for_the_fine_ones():
    mu = torch.from_numpy(soft_disc((10, 20), 70))[None] * ct.MU_WATER_PER_MM
    for geometry in ("fan", "parallel"):
        scanner = scanner_for((SIDE, SIDE), PIXEL_MM[:2], replace(FAST, geometry=geometry, views=60))
        fine = line_integrals(mu, PIXEL_MM[:2], scanner)
        coarse = ct._smooth_integrals(mu, PIXEL_MM[:2], scanner)
        assert (fine - coarse).abs().mean() < 0.01 * fine.max()
