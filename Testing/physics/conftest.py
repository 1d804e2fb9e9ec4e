from dataclasses import replace

import pytest
from dose_fixtures import FAST, PIXEL_MM, water

from ASCONDenoiseLib.physics import dose


@pytest.fixture(scope="session")
def a_scan():
    """(noise-free water cylinder, its scan at normal dose), 8 slices."""
    clean = water(8)
    return clean, dose.scan(clean, PIXEL_MM, replace(FAST, seed=5))
