"""Body mask, K-means, t-SNE, numbers of separation, readings and colours."""

from __future__ import annotations

import time
from itertools import combinations

import numpy as np
import pytest
from skimage.color import deltaE_ciede2000, rgb2lab
from sklearn.metrics import adjusted_rand_score
from threadpoolctl import threadpool_limits

from ASCONDenoiseLib.errors import Cancelled, InputError
from ASCONDenoiseLib.imaging import clustering
from ASCONDenoiseLib.imaging.clustering import ClusterSettings
from ASCONDenoiseLib.physics import phantoms

SPACING_MM = (2.6, 2.6, 3.0)


def blobs(sizes: tuple[int, ...], spread: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Points about far places in 5 dimensions, shuffled, and which place each belongs to."""
    rng = np.random.default_rng(3)
    truth = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    places = rng.permutation(np.eye(len(sizes), 5)) * 4
    return (places[truth] + rng.normal(0, spread, (len(truth), 5))).astype(np.float32), truth


# ---- the body


@pytest.mark.parametrize("make", [phantoms.abdomen, phantoms.chest])
def test_the_body_is_found_without_the_couch(make):
    """Skin to skin, with lungs and gas; under the noise of a low dose, 40 HU."""
    phantom = make(1_000_002, (4, 160, 160), SPACING_MM)
    noisy = phantom.voxels_hu + np.random.default_rng(0).normal(0, 40, phantom.labels.shape)
    body = phantom.labels > 1
    found = np.stack([clustering.body_mask(image, SPACING_MM) for image in noisy])
    assert 2 * (found & body).sum() / (found.sum() + body.sum()) > 0.99
    gas = np.isin(phantom.labels, [22, 19, 24])  # lung, gut gas, airway
    assert found[gas].mean() > 0.999
    couch = phantom.labels == 1
    assert couch.sum() > 500 and found[couch].mean() < 0.02


def test_a_body_that_the_image_cuts_off_stays():
    image = np.full((60, 60), -1000.0)
    image[:, :3] = 40  # 6 mm are seen of an arm
    image[20:50, 20:50] = 40
    image[30:40, 30:40] = -900  # lung
    found = clustering.body_mask(image, (2.0, 2.0))
    assert found[30, 0] and found[35, 35] and not found[5, 15]


def test_where_nothing_is_thick_all_that_is_dense_counts():
    image = np.full((40, 40), -1000.0)
    image[18:21] = 300  # 3 mm
    found = clustering.body_mask(image, (1.0, 1.0))
    assert found[19].all() and found.sum() < 6 * 40
    assert not clustering.body_mask(np.full((9, 9), -1000, np.int16), (1.0, 1.0)).any()


# ---- K-means


def test_k_means_finds_what_is_apart_and_the_means_of_it():
    features, truth = blobs((400, 40, 1500, 90))
    centres = clustering.cluster_centres(features, 4)
    numbers = clustering.nearest_centre(features, centres)
    assert adjusted_rand_score(truth, numbers) == 1
    assert centres.dtype == np.float32 and numbers.dtype == np.uint8 and set(numbers) == {1, 2, 3, 4}
    for number, centre in enumerate(centres, 1):
        np.testing.assert_allclose(centre, features[numbers == number].mean(axis=0), atol=1e-4)


def test_the_nearest_centre_is_the_nearest():
    rng = np.random.default_rng(0)
    features, centres = rng.normal(size=(500, 32)).astype(np.float32), rng.normal(size=(12, 32)).astype(np.float32)
    naive = [min(range(12), key=lambda c: ((x - centres[c]) ** 2).sum()) + 1 for x in features]
    np.testing.assert_array_equal(clustering.nearest_centre(features, centres), naive)


def test_k_means_needs_enough_voxels_and_gives_no_empty_twins():
    with pytest.raises(InputError, match="there are 3"):
        clustering.cluster_centres(np.zeros((3, 4), np.float32), 4)
    two_values = np.repeat(np.float32([[0, 1], [2, 5]]), 10, axis=0)
    np.testing.assert_array_equal(clustering.cluster_centres(two_values, 5), [[0, 1], [2, 5]])


def test_neither_threads_nor_a_second_run_change_anything():
    features, _ = blobs((3000, 2500), spread=2.5)
    with threadpool_limits(1):
        centres, places = clustering.cluster_centres(features, 8, 5), clustering.embedding(features[:200], 5)
    with threadpool_limits(2):
        np.testing.assert_array_equal(clustering.cluster_centres(features, 8, 5), centres)
        np.testing.assert_array_equal(clustering.embedding(features[:200], 5), places)
    assert not np.array_equal(clustering.cluster_centres(features, 8, 6), centres)


# ---- t-SNE


def test_the_embedding_keeps_neighbours():
    features, truth = blobs((80, 60, 70))
    places = clustering.embedding(features)
    assert places.shape == (210, 2) and places.dtype == np.float32
    apart = np.linalg.norm(places[:, None] - places[None], axis=2) + 1e9 * np.eye(210)
    assert (truth[apart.argmin(axis=1)] == truth).all()


def test_a_handful_of_points_can_be_embedded():
    assert np.isfinite(clustering.embedding(blobs((3, 4))[0])).all()


def test_cancelling_the_embedding_is_heard_at_once():
    features = np.random.default_rng(0).normal(size=(3000, 32))
    started = time.monotonic()
    with pytest.raises(Cancelled):
        clustering.embedding(features, cancelled=lambda: time.monotonic() > started + 0.2)
    assert time.monotonic() < started + 1


def test_an_error_in_the_embedding_is_raised():
    with pytest.raises(ValueError, match="NaN"):
        clustering.embedding(np.full((20, 4), np.nan))


# ---- numbers


def test_separation_is_what_its_papers_say():
    features, truth = blobs((30, 20, 25), spread=1.5)
    distance = np.linalg.norm(features[:, None].astype(float) - features[None], axis=2)
    silhouettes = []
    for i, own in enumerate(truth):
        a = distance[i, truth == own].sum() / ((truth == own).sum() - 1)
        b = min(distance[i, truth == other].mean() for other in range(3) if other != own)
        silhouettes.append((b - a) / max(a, b))
    centres = [features[truth == c].mean(axis=0) for c in range(3)]
    spread = [np.linalg.norm(features[truth == c] - centres[c], axis=1).mean() for c in range(3)]
    between = {pair: np.linalg.norm(centres[pair[0]] - centres[pair[1]]) for pair in combinations(range(3), 2)}
    worst = [max((spread[i] + spread[j]) / between[min(i, j), max(i, j)] for j in range(3) if j != i) for i in range(3)]
    found = clustering.separation(features, truth)
    assert found.silhouette == pytest.approx(np.mean(silhouettes), rel=1e-5)
    assert found.davies_bouldin == pytest.approx(np.mean(worst), rel=1e-5)
    assert found.intra_inter == pytest.approx(np.mean(spread) / np.mean(list(between.values())), rel=1e-5)


def test_separation_knows_no_scale_and_falls_with_distance():
    near, far, truth = blobs((30, 20), spread=2)[0], blobs((30, 20), spread=0.5)[0], blobs((30, 20))[1]
    a, b = clustering.separation(near, truth), clustering.separation(1000 * near, truth)
    assert vars(a) == pytest.approx(vars(b), rel=1e-4)
    better = clustering.separation(far, truth)
    assert better.silhouette > a.silhouette
    assert better.davies_bouldin < a.davies_bouldin and better.intra_inter < a.intra_inter
    assert clustering.separation(near, np.ones(50)) is None


# ---- readings, colours, settings


@pytest.mark.parametrize(
    ("mean", "sd", "reading"),
    [
        (-1000, 10, "air"),
        (-850, 60, "lung"),
        (-300, 80, "edge of lung or gas"),
        (-100, 15, "fat"),
        (0, 10, "fluid or edge of fat"),
        (60, 15, "soft tissue"),
        (150, 30, "contrast or spongy bone"),
        (700, 200, "bone"),
    ],
)
def test_suggested_readings(mean, sd, reading):
    hu = np.random.default_rng(0).normal(mean, sd, 2000)
    counts = np.bincount(clustering.reading_number(hu), minlength=len(clustering.READINGS_HU))
    assert clustering.suggested_reading(counts) == reading


def test_readings_cover_all_hu_without_gap_and_mixtures_are_called_so():
    ranges = list(clustering.READINGS_HU.values())
    assert ranges[0][0] == -np.inf and ranges[-1][1] == np.inf
    assert all(low[1] == high[0] for low, high in zip(ranges, ranges[1:], strict=False))
    for number, (low, high) in enumerate(ranges):
        inside = np.array([max(low, -3000), np.nextafter(min(high, 4000), -9999)])
        assert clustering.reading_number(inside).tolist() == [number, number]
    assert clustering.suggested_reading(np.array([0, 0, 0, 40, 20, 35, 5, 0])) == "mixed: fat, soft tissue"


PROTAN = [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
DEUTAN = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
TRITAN = [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]


@pytest.mark.parametrize("vision", [np.eye(3), PROTAN, DEUTAN, TRITAN], ids=["usual", "protan", "deutan", "tritan"])
def test_colours_differ_for_everybody(vision):
    """Colour blindness as Machado, Oliveira and Fernandes simulate it (2009, severity 1), in linear RGB."""
    rgb = np.array(clustering.COLOURS) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ np.transpose(vision)
    linear = linear.clip(0, 1)
    seen = rgb2lab(np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)[None])[0]
    apart = {(i, j): float(deltaE_ciede2000(seen[i], seen[j])) for i, j in combinations(range(len(seen)), 2)}
    assert min(apart.values()) > 10
    assert min(d for pair, d in apart.items() if max(pair) < 8) > 13
    assert min(apart[i, i + 1] for i in range(len(seen) - 1)) > 20
    assert min(seen[:, 0]) > 35  # visible on black


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"clusters": 1}, "2 to 12"), ({"clusters": 13}, "2 to 12"), ({"points": 9}, "100 to"), ({"seed": -1}, "seed")],
)
def test_settings_that_make_no_sense(settings, words):
    with pytest.raises(InputError, match=words):
        ClusterSettings(**settings)
