"""Spheres added to phantoms: contrast, size, what is refused."""

import numpy as np
import pytest
from phantom_fixtures import distance_from

from ASCONDenoiseLib.physics.cylinder import cylinder
from ASCONDenoiseLib.physics.phantom_volume import Lesion, add_lesions


@pytest.mark.parametrize("contrast_hu", [-30.0, 12.5])
@pytest.mark.parametrize("diameter_mm", [6.0, 15.0])
def test_added_lesion_is_exact(contrast_hu, diameter_mm):
    water = cylinder((21, 64, 64), (1.0, 1.0, 1.0), 60, inserts=())
    phantom = add_lesions(water, [Lesion((30.3, 33.0, 10.0), diameter_mm, contrast_hu)])
    (lesion,) = phantom.lesions
    distance = distance_from(phantom, lesion.centre_ijk)
    assert phantom.voxels_hu[distance < diameter_mm / 2 - 2.6] == pytest.approx(contrast_hu, abs=0.02)
    far = distance > diameter_mm / 2 + 5
    assert np.array_equal(phantom.voxels_hu[far], water.voxels_hu[far])
    # mass: contrast times the sphere's volume, and the diameter from it; the label's volume too
    volume = (phantom.voxels_hu - water.voxels_hu).sum(dtype=np.float64) / contrast_hu
    assert (6 * volume / np.pi) ** (1 / 3) == pytest.approx(diameter_mm, rel=0.03)
    assert (6 * (phantom.labels == lesion.label).sum() / np.pi) ** (1 / 3) == pytest.approx(diameter_mm, rel=0.05)
    assert not np.any(water.labels >= 100)  # the input is left alone


def test_lesion_outside_is_refused():
    with pytest.raises(ValueError, match="outside"):
        add_lesions(cylinder((2, 64, 64), (1, 1, 1), 50, ()), [Lesion((70, 3, 1), 5, 20)])
