"""The cylinder against what it promises: exact HU, areas, textures and edges."""

import numpy as np
import pytest
from scipy.ndimage import binary_erosion

from ASCONDenoiseLib.physics.cylinder import Insert, cylinder, standard_inserts
from ASCONDenoiseLib.physics.phantom_volume import PSF_SIGMA_MM


def radius_map(phantom, x_mm=0.0, y_mm=0.0):
    """Distance of every pixel of a slice from a point given from the image's middle, mm."""
    _, height, width = phantom.voxels_hu.shape
    sx, sy, _ = phantom.spacing_mm
    y, x = np.mgrid[:height, :width]
    return np.hypot((x - (width - 1) / 2) * sx - x_mm, (y - (height - 1) / 2) * sy - y_mm)


@pytest.fixture(scope="module")
def a_cylinder():
    return cylinder((4, 256, 256))


def test_inserts_are_exact(a_cylinder):
    assert a_cylinder.label_names[0] == "air outside" and a_cylinder.label_names[1] == "water"
    for label, rod in enumerate(standard_inserts(), 2):
        angle = np.radians(rod.angle_deg)
        distance = radius_map(a_cylinder, rod.distance_mm * np.cos(angle), rod.distance_mm * np.sin(angle))
        inner = a_cylinder.voxels_hu[:, distance < rod.diameter_mm / 2 - 4]
        if not rod.texture_sd_hu:
            assert inner == pytest.approx(rod.hu, abs=0.01)
        area = (a_cylinder.labels[0] == label).sum()
        assert area == pytest.approx(np.pi * rod.diameter_mm**2 / 4, rel=0.03)
        assert a_cylinder.label_names[label] == rod.name


def test_cylinder_area_and_water():
    phantom = cylinder((1, 200, 200), (1.1, 1.1, 1.0), 180, inserts=())
    assert (phantom.voxels_hu + 1000).sum() / 1000 * 1.1**2 == pytest.approx(np.pi * 90**2, rel=1e-3)
    assert phantom.voxels_hu[0][radius_map(phantom) < 85] == pytest.approx(0, abs=1e-3)
    assert phantom.voxels_hu[0][radius_map(phantom) > 96] == pytest.approx(-1000, abs=1e-3)


def test_pair_has_equal_mean_and_different_texture(a_cylinder):
    values = {name: value for value, name in a_cylinder.label_names.items()}
    stats = {}
    for name in ("fine texture", "coarse texture"):
        inner = binary_erosion(a_cylinder.labels == values[name], np.ones((1, 5, 5)))
        hu = a_cylinder.voxels_hu
        both = inner[:, :, :-2] & inner[:, :, 2:]
        a, b = hu[:, :, :-2][both], hu[:, :, 2:][both]
        stats[name] = hu[inner].mean(), hu[inner].std(), np.corrcoef(a, b)[0, 1]
    (mean_fine, sd_fine, r_fine), (mean_coarse, sd_coarse, r_coarse) = stats.values()
    assert mean_fine == pytest.approx(60, abs=1.5) and mean_coarse == pytest.approx(60, abs=1.5)
    assert sd_coarse > 1.8 * sd_fine > 5
    # exp(-r^2 / 2 L^2) at r = 2 mm, L^2 widened by the blur: 1.2 mm and 3 mm
    for measured, length in ((r_fine, 1.2), (r_coarse, 3.0)):
        assert measured == pytest.approx(np.exp(-4 / (2 * (length**2 + 2 * PSF_SIGMA_MM**2))), abs=0.15)


def test_edge_is_as_sharp_as_the_psf():
    spacing = 0.5
    phantom = cylinder((1, 161, 161), (spacing, spacing, 1.0), 60, [Insert("bone", 800, 0, 0, 30)])
    distance, hu = radius_map(phantom), phantom.voxels_hu[0]
    bins = np.arange(11, 19, 0.1)
    edge = np.array([hu[(distance >= b) & (distance < b + 0.1)].mean() for b in bins]) / 800
    position = np.interp([-0.9, -0.1], -edge, bins + 0.05)
    # 10-90 % of a Gaussian edge: 2.563 sigma; the pixel's own width adds its variance
    sigma = np.hypot(PSF_SIGMA_MM, spacing / np.sqrt(12))
    assert position[1] - position[0] == pytest.approx(2.563 * sigma, rel=0.08)
    assert position.mean() == pytest.approx(15, abs=0.1)


@pytest.mark.parametrize("diameter_mm, inserts", [(300, None), (60, [Insert("rod", 40, 28, 0, 10)])])
def test_what_does_not_fit_is_refused(diameter_mm, inserts):
    with pytest.raises(ValueError, match="does not fit|leaves the cylinder"):
        cylinder((1, 128, 128), (1, 1, 1), diameter_mm, inserts)
