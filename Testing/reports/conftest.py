import pytest

from ASCONDenoiseLib.imaging.image_quality import Noise, Quality, TissueShift


@pytest.fixture
def a_quality():
    return Quality(
        noise_before=Noise(25.04, 812),
        noise_after=Noise(10.02, 812),
        noise_reference=Noise(12.49, 812),
        noise_reduction_percent=60.0,
        nps_mean_before=0.3141,
        nps_mean_after=0.2718,
        hu_shift=(TissueShift("fat", 12345, -99.96, 0.124), TissueShift("bone", 77, 612.3, -1.5)),
        residual_structure=0.043,
        has_reference=True,
        slices=40,
        notes=("Noise spectrum from 23 regions of 48 x 48 pixels.",),
    )
