import pytest

from ASCONDenoiseLib.imaging.image_quality import Quality, TissueShift
from ASCONDenoiseLib.imaging.noise import Noise
from ASCONDenoiseLib.imaging.noise_spectrum import Texture


@pytest.fixture
def a_quality():
    return Quality(
        noise_before=Noise(25.04, 812),
        noise_after=Noise(10.02, 812),
        noise_reference=Noise(12.49, 812),
        noise_reduction_percent=60.0,
        texture_before=Texture((0.1, 0.2), (5.0, 7.0), 0.3141, 0.2, 8.04, 23.7, 23, 48, 3.04),
        texture_after=Texture((0.1, 0.2), (4.0, 2.0), 0.2718, 0.1, 6.26, 7.7, 23, 48, 6.15),
        texture_reference=Texture((0.1, 0.2), (2.0, 3.0), 0.3133, 0.2, 4.02, 11.8, 23, 48),
        slice_correlation_before=0.05,
        slice_correlation_after=0.2,
        hu_shift=(TissueShift("fat", 12345, -99.96, 0.124), TissueShift("bone", 77, 612.3, -1.5)),
        residual_structure=0.043,
        has_reference=True,
        slices=40,
        notes=("Noise spectrum from 23 regions of 48 x 48 pixels.",),
    )
