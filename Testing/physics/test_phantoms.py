"""Phantoms against what they promise: tissues in their ranges, planned lesions, edges."""

import numpy as np
import pytest
from phantom_fixtures import distance_from
from scipy.ndimage import binary_erosion, gaussian_filter

from ASCONDenoiseLib.physics.phantom_volume import PSF_SIGMA_MM
from ASCONDenoiseLib.physics.phantoms import abdomen, chest

SMALL = ((4, 112, 112), (3.2, 3.2, 5.0))

# (lowest, highest) mean HU over every contrast phase, of labels eroded by one voxel
EXPECTED_HU = {
    "air": (-1001, -999),
    "fat": (-115, -80),
    "muscle": (38, 75),
    "cortical bone": (330, 800),  # thin shells: partial volume
    "trabecular bone": (80, 330),
    "liver": (45, 125),
    "spleen": (38, 145),
    "kidney cortex": (28, 220),
    "artery": (36, 340),
    "vein": (25, 175),
    "gut gas": (-1000, -940),
    "lung": (-910, -800),
    "airway": (-1000, -900),
    "heart chamber": (36, 290),
    "heart muscle": (38, 130),
}


@pytest.fixture(scope="module")
def an_abdomen():
    return abdomen(3, (12, 256, 256))


@pytest.fixture(scope="module")
def a_chest():
    return chest(4, (6, 128, 128), (2.8, 2.8, 6.0))


@pytest.mark.parametrize("make", [abdomen, chest])
def test_seed_decides_everything(make):
    a, b, other = make(5, *SMALL), make(5, *SMALL), make(6, *SMALL)
    assert np.array_equal(a.voxels_hu, b.voxels_hu) and np.array_equal(a.labels, b.labels) and a.lesions == b.lesions
    assert np.mean(a.labels != other.labels) > 0.1  # another patient, not another texture


@pytest.mark.parametrize("make", [abdomen, chest])
def test_same_seed_is_the_same_patient_at_another_matrix(make):
    fine, coarse = make(1, (1, 256, 256), (1.4, 1.4, 3)), make(1, (1, 128, 128), (2.8, 2.8, 3))
    binned = fine.voxels_hu[0].reshape(128, 2, 128, 2).mean((1, 3))
    assert np.corrcoef(binned.ravel(), coarse.voxels_hu[0].ravel())[0, 1] > 0.98


@pytest.mark.parametrize("make", [abdomen, chest])
def test_types_shape_and_labels(make):
    phantom = make(2, *SMALL)
    assert phantom.voxels_hu.dtype == np.float32 and phantom.labels.dtype == np.uint8
    assert phantom.voxels_hu.shape == phantom.labels.shape == SMALL[0] and phantom.spacing_mm == SMALL[1]
    assert set(np.unique(phantom.labels)) <= set(phantom.label_names)
    assert np.isfinite(phantom.voxels_hu).all()
    assert phantom.voxels_hu.min() >= -1060 and phantom.voxels_hu.max() < 1500
    assert phantom.label_names[0] == "air" and (phantom.voxels_hu[:, 0, 0] == -1000).all()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("make", [abdomen, chest])
def test_tissues_have_their_hu(make, seed):
    phantom = make(seed, (5, 192, 192), (1.9, 1.9, 6.0))
    seen = {}
    for value, name in phantom.label_names.items():
        inner = binary_erosion(phantom.labels == value, np.ones((1, 3, 3)))
        if name in EXPECTED_HU and inner.sum() > 60:
            low, high = EXPECTED_HU[name]
            seen[name] = float(phantom.voxels_hu[inner].mean())
            assert low < seen[name] < high, (name, seen[name])
    needed = {"air", "fat", "muscle", "cortical bone", "artery", *(("liver",) if make is abdomen else ("lung",))}
    assert needed <= set(seen)


def test_anatomy_lies_where_it_should(an_abdomen, a_chest):
    def middle(phantom, name):
        value = next(v for v, n in phantom.label_names.items() if n == name)
        return np.argwhere(phantom.labels == value).mean(0)  # slice, row, column

    body = np.argwhere(an_abdomen.labels > 1).mean(0)
    assert middle(an_abdomen, "liver")[2] < body[2] - 15 < body[2] + 15 < middle(an_abdomen, "spleen")[2]
    assert middle(an_abdomen, "trabecular bone")[1] > body[1] + 10  # the spine is behind
    assert middle(a_chest, "heart muscle")[2] > np.argwhere(a_chest.labels > 1).mean(0)[2]  # the heart is on the left


def test_organs_are_coherent_between_slices(an_abdomen):
    liver = an_abdomen.labels == 9
    for a, b in zip(liver[:-1], liver[1:], strict=True):
        assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.85  # Dice of neighbours 3 mm apart


def test_parenchyma_has_texture(an_abdomen):
    liver = binary_erosion(an_abdomen.labels == 9, np.ones((1, 7, 7)))
    assert 1.5 < an_abdomen.voxels_hu[liver].std() < 6.5


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_planned_lesions_have_their_contrast_and_size(seed):
    phantom, healthy = abdomen(seed, (16, 256, 256)), abdomen(seed, (16, 256, 256), lesions=0)
    assert 1 <= len(phantom.lesions) <= 3 and not healthy.lesions
    for lesion in phantom.lesions:
        assert 5 <= lesion.diameter_mm <= 20 and 10 <= abs(lesion.contrast_hu) <= 40
        assert phantom.label_names[lesion.label].startswith("lesion")
        distance, radius = distance_from(phantom, lesion.centre_ijk), lesion.diameter_mm / 2
        core = distance < max(radius - 2, 1.5)
        ring = (distance > radius + 2) & (distance < radius + 7) & (phantom.labels == 9)
        seen = phantom.voxels_hu[core].mean() - phantom.voxels_hu[ring].mean()
        assert seen == pytest.approx(lesion.contrast_hu, abs=5 if radius > 4 else 10)  # texture of 4 HU in both
        assert (phantom.labels == lesion.label).sum() > 0
        assert not np.isin(phantom.labels[distance < radius + 1], [10]).any()  # no vessel in a lesion
    changed = phantom.labels != healthy.labels  # the same patient but for the lesions and the vessels they displace
    assert changed.any() and set(np.unique(healthy.labels[changed])) <= {9, 10}


@pytest.mark.parametrize("make", [abdomen, chest])
def test_no_edge_is_sharper_than_the_psf_allows(make):
    spacing = 0.6
    hu = make(3, (1, 600, 600), (spacing, spacing, 1.5)).voxels_hu[0]
    step_hu = 2000  # air to the densest bone
    steepest = step_hu / (PSF_SIGMA_MM * np.sqrt(2 * np.pi)) * spacing  # an edge blurred by the Gaussian
    assert 0.05 * steepest < np.abs(np.diff(hu, axis=1)).max() <= steepest
    spectrum = np.abs(np.fft.fft2(hu)) ** 2
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(600, spacing), np.fft.fftfreq(600, spacing)))
    assert spectrum[frequency > 0.7].sum() < 2e-4 * spectrum[frequency > 0.02].sum()  # MTF 1.7 % at 0.7 per mm


@pytest.mark.parametrize("make", [abdomen, chest])
def test_a_sharper_scanner_shows_the_same_patient_with_less_blur(make):
    spacing, psf_mm = 0.5, 0.4
    sharp, usual = (make(3, (1, 400, 400), (spacing, spacing, 1.5), psf_mm=psf) for psf in (psf_mm, PSF_SIGMA_MM))
    assert np.array_equal(sharp.labels, usual.labels)
    more_mm = np.sqrt(PSF_SIGMA_MM**2 - psf_mm**2)  # Gaussians add in quadrature
    again = gaussian_filter(sharp.voxels_hu[0], more_mm / spacing, mode="nearest")
    assert np.abs(again - usual.voxels_hu[0]).max() < 0.02 * np.ptp(usual.voxels_hu)  # but for their sampling


@pytest.mark.parametrize("shape", [(1, 33, 47), (3, 128, 65), (2, 8, 8), (1, 64, 512), (1, 1, 1)])
@pytest.mark.parametrize("make", [abdomen, chest])
def test_odd_shapes(make, shape):
    phantom = make(0, shape, (1.3, 0.9, 2.0))
    assert phantom.voxels_hu.shape == shape and np.isfinite(phantom.voxels_hu).all()


def test_the_patient_fits_into_a_small_field_of_view():
    phantom = abdomen(2, (1, 64, 64), (1.0, 1.0, 3.0))
    body = phantom.labels > 1
    assert not body[:, [0, -1], :].any() and not body[:, :, [0, -1]].any() and 0.25 < body.mean() < 0.8


@pytest.mark.parametrize("make", [abdomen, chest])
@pytest.mark.parametrize("shape, spacing", [((4, 4), (1, 1, 1)), ((0, 4, 4), (1, 1, 1)), ((2, 4, 4), (1, 0, 1))])
def test_bad_shapes_are_refused(make, shape, spacing):
    with pytest.raises(ValueError, match="three sizes"):
        make(0, shape, spacing)
