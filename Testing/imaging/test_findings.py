"""All measures of one scan: each is what its own function says, regions in their box, progress that counts."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.imaging import metrics, noise_consistency
from ASCONDenoiseLib.imaging.findings import find
from ASCONDenoiseLib.imaging.image_quality import quality
from ASCONDenoiseLib.imaging.noise import global_noise_hu, noise_map_hu

SPACING_MM = (0.8, 0.8, 3.0)


@pytest.fixture(scope="module")
def images():
    """A body of 50 HU with a lesion of 40 HU more; half of the noise is taken away."""
    y, x = np.mgrid[-60:60, -64:64] + 0.5
    clean = np.where(np.hypot(x, y) < 55, 50.0, -1000.0) + 40 * (np.hypot(x - 10, y) < 8)
    noise = np.random.default_rng(0).normal(0, 20, (4, 120, 128))
    parts = {"LDCT": noise, "denoised": noise / 2, "NDCT": np.random.default_rng(1).normal(0, 8, noise.shape)}
    return {name: np.rint(clean + part).astype(np.int16) for name, part in parts.items()}


@pytest.fixture(scope="module")
def labels():
    y, x = np.mgrid[-60:60, -64:64] + 0.5
    one = np.where(np.hypot(x - 10, y) < 7, 1, np.where(np.hypot(x + 20, y) < 9, 2, 0)).astype(np.uint8)
    volume = np.repeat(one[None], 4, axis=0)
    volume[0] = 0
    volume[3, :5, :5] = 7
    return volume


@pytest.fixture(scope="module")
def found(images, labels):
    steps = []
    findings = find(images, SPACING_MM, labels, lambda *step: steps.append(step))
    return findings, steps


def test_each_measure_is_that_of_its_function(found, images):
    findings, _ = found
    before, after, reference = images.values()
    assert findings.quality.to_dict() == quality(before, after, SPACING_MM, reference).to_dict()
    for name in ("LDCT", "denoised"):
        expected = noise_map_hu(images[name], SPACING_MM, guide_hu=reference)
        np.testing.assert_array_equal(findings.noise_maps[name], expected)
        assert findings.global_noise_hu[name] == global_noise_hu(expected, after)
    expected = noise_consistency.measure(before, after, SPACING_MM)
    np.testing.assert_array_equal(findings.consistency.z, expected.z)
    rows = {(c.name, c.scale.name): c.mean_sd("psnr_db")[0] for c in findings.comparisons}
    assert rows["denoised", "paper"] == metrics.compare(reference, after, metrics.PAPER, name="x").mean_sd("psnr_db")[0]
    assert len(rows) == 4
    assert findings.global_noise_hu["LDCT"] == pytest.approx(20, rel=0.08)


def test_regions_typed_out(found, images, labels):
    findings, _ = found
    for label in (1, 2, 7):
        for name, voxels in images.items():
            values = voxels[labels == label].astype(float)
            assert findings.regions[label][name].mean_hu == pytest.approx(values.mean())
            assert findings.regions[label][name].sd_hu == pytest.approx(values.std(ddof=1))
    assert findings.pairs["LDCT"].contrast_hu == pytest.approx(40, abs=1.5)
    assert findings.pairs["denoised"].cnr == pytest.approx(2 * findings.pairs["LDCT"].cnr, rel=0.05)


def test_progress_counts_to_its_end(found):
    _, steps = found
    assert steps[-1] == (12, 12) and [total for _, total in steps] == [12] * len(steps)
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)
    assert [done for done, _ in steps[:8]] == list(range(1, 9))  # a map of each slice, of two images


def test_it_goes_into_json(found):
    findings, _ = found
    read = json.loads(json.dumps(findings.to_dict(), allow_nan=False))
    assert read["regions"]["1"]["LDCT"]["voxels"] == findings.regions[1]["LDCT"].voxels
    assert set(read) == {"quality", "against_reference", "global_noise_hu", "consistency", "regions", "lesion"}


def test_without_reference_and_regions(images):
    pair = {name: images[name] for name in ("LDCT", "denoised")}
    findings = find(pair, SPACING_MM)
    assert findings.comparisons == () and findings.regions == {} and findings.pairs == {}
    assert not findings.quality.has_reference


def test_regions_that_are_none_are_refused(images, labels):
    with pytest.raises(InputError, match="no label but 0"):
        find(images, SPACING_MM, np.zeros_like(labels))
    with pytest.raises(InputError, match="differ in shape"):
        find(images, SPACING_MM, labels[:2])
