"""A volume with other voxels."""

from __future__ import annotations

import numpy as np
import pytest
from dicom_fixtures import some_voxels

from ASCONDenoiseLib.io.volume import Geometry, Volume, like


def test_like_keeps_all_but_the_voxels():
    a_volume = Volume(some_voxels((5, 23, 31)), Geometry((0.7, 0.8, 2.5)))
    other = like(a_volume, a_volume.voxels.astype(np.float32) + 0.5)
    assert other.geometry is a_volume.geometry
    assert np.array_equal(other.voxels, a_volume.voxels + 0.5)
    with pytest.raises(ValueError, match="do not fit"):
        like(a_volume, a_volume.voxels[1:])
