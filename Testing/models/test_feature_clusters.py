"""Clusters of a volume: by a network whose features are known, and by the shipped model on phantoms."""

from __future__ import annotations

import weakref
from dataclasses import asdict

import numpy as np
import pytest
import torch
from scipy import ndimage
from sklearn.metrics import adjusted_rand_score
from torch import nn

from ASCONDenoiseLib.errors import Cancelled, InputError
from ASCONDenoiseLib.imaging import clustering
from ASCONDenoiseLib.imaging.clustering import ClusterSettings
from ASCONDenoiseLib.imaging.hounsfield import to_unit
from ASCONDenoiseLib.models import feature_clusters, inference
from ASCONDenoiseLib.models.feature_clusters import cluster_volume, fit_slices
from ASCONDenoiseLib.models.files import find_model, load_network
from ASCONDenoiseLib.models.inference import denoise
from ASCONDenoiseLib.physics import dose, phantoms
from ASCONDenoiseLib.physics.cylinder import Insert, cylinder
from ASCONDenoiseLib.physics.phantom_volume import Phantom
from ASCONDenoiseLib.physics.settings import DoseSettings

SPACING_MM = (1.5, 2.0, 4.0)
TISSUES_HU = {"lung": -800, "fat": -100, "soft tissue": 50, "bone": 700}
FEW = ClusterSettings(clusters=4, points=150, seed=1)


class Nearest(nn.Module):
    """Features: which of the four tissues is nearest, and the image; output: that tissue's HU, a perfect denoiser."""

    SIDE_MULTIPLE = 8

    def __init__(self):
        super().__init__()
        self.unit = nn.Parameter(to_unit(torch.tensor([*TISSUES_HU.values()], dtype=torch.float32)))

    def features(self, x: torch.Tensor) -> torch.Tensor:
        near = (x - self.unit.reshape(1, -1, 1, 1)).abs().argmin(dim=1)
        one_hot = nn.functional.one_hot(near, len(self.unit)).permute(0, 3, 1, 2).float()
        return torch.cat([one_hot, 0.01 * x], dim=1)

    def last(self, features: torch.Tensor) -> torch.Tensor:
        return (features[:, :-1] * self.unit.reshape(1, -1, 1, 1)).sum(dim=1, keepdim=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.features(x))


@pytest.fixture
def a_body() -> tuple[np.ndarray, np.ndarray]:
    """An int16 volume of a noisy block of four tissues in air, (9, 50, 43), and its tissues, 1 to 4, 0 for air.

    Lung lies in the lower slices only.
    """
    truth = np.zeros((9, 50, 43), np.uint8)
    truth[:, 5:45, 5:38] = 2
    truth[:, 12:40, 10:33] = 3
    truth[:, 18:25, 14:22] = 4
    truth[:4, 26:36, 14:30] = 1
    hu = np.array([-1000, *TISSUES_HU.values()])[truth]
    return (hu + np.random.default_rng(0).normal(0, 15, hu.shape)).round().astype(np.int16), truth


def test_tissues_come_out_in_the_order_of_their_hu(a_body):
    voxels, truth = a_body
    found = cluster_volume(voxels, Nearest(), FEW, spacing_mm=SPACING_MM)
    inside = ndimage.binary_erosion(truth > 0, np.ones((1, 5, 5)))
    np.testing.assert_array_equal(found.labels[inside], truth[inside])
    body = found.labels > 0  # smoothing moves its edge by a pixel
    assert not body[ndimage.binary_dilation(truth > 0, np.ones((1, 5, 5))) == 0].any()
    assert [cluster.reading for cluster in found.clusters] == [*TISSUES_HU]
    assert [cluster.label for cluster in found.clusters] == [1, 2, 3, 4]
    assert [cluster.colour for cluster in found.clusters] == [*clustering.COLOURS[:4]]
    assert (found.device, found.fit_slices, found.settings) == ("cpu", 4, FEW)


def test_the_table_says_what_numpy_says(a_body):
    voxels, _ = a_body
    denoised = np.empty_like(voxels)
    found = cluster_volume(voxels, Nearest(), FEW, spacing_mm=SPACING_MM, denoised_hu=denoised)
    np.testing.assert_array_equal(denoised, denoise(voxels, Nearest()).voxels)
    for cluster in found.clusters:
        here = found.labels == cluster.label
        before, after = voxels[here].astype(float), denoised[here].astype(float)
        assert cluster.voxels == here.sum() > 500
        expected = {
            "volume_ml": here.sum() * 1.5 * 2 * 4 / 1000,
            "mean_before_hu": before.mean(),
            "sd_before_hu": before.std(),
            "mean_after_hu": after.mean(),
            "sd_after_hu": after.std(),
            "noise_removed_hu": (before - after).std(),
        }
        assert {name: asdict(cluster)[name] for name in expected} == pytest.approx(expected, rel=1e-6, abs=1e-4)
    assert found.clusters[2].noise_removed_hu == pytest.approx(15, rel=0.05)


def test_points_lie_in_the_body_where_they_say(a_body):
    voxels, _ = a_body
    found = cluster_volume(voxels, Nearest(), FEW, spacing_mm=SPACING_MM)
    points, labels = found.points, found.labels
    i, j, k = points.ijk.T
    assert points.ijk.shape == (150, 3) and points.xy.shape == (150, 2) and np.isfinite(points.xy).all()
    assert len(np.unique(points.ijk, axis=0)) == 150 and points.labels.min() > 0
    np.testing.assert_array_equal(points.labels, labels[k, j, i])
    np.testing.assert_array_equal(points.hu, voxels[k, j, i])
    assert (np.diff(k) >= 0).all() and set(k) == set(range(9))
    apart = np.linalg.norm(points.xy[:, None] - points.xy[None], axis=2) + 1e9 * np.eye(150)
    assert (points.labels[apart.argmin(axis=1)] == points.labels).mean() > 0.95


def test_the_same_seed_gives_the_same_whatever_the_batch(a_body):
    voxels, _ = a_body
    first, second, other = (
        cluster_volume(voxels, Nearest(), settings, spacing_mm=SPACING_MM, batch=batch)
        for settings, batch in ((FEW, 1), (FEW, 4), (ClusterSettings(4, 150, seed=2), 1))
    )
    np.testing.assert_array_equal(first.labels, second.labels)
    np.testing.assert_array_equal(first.points.xy, second.points.xy)
    assert first.clusters == second.clusters and first.separation == second.separation
    assert not np.array_equal(first.points.ijk, other.points.ijk)


def test_where_the_features_know_two_things_there_are_two_clusters():
    """K-means with more clusters than there are different features."""
    voxels = np.full((2, 40, 40), -1000, np.int16)
    voxels[:, 5:35, 5:35] = 50
    voxels[:, 15:25, 15:25] = 700

    class Sign(Nearest):
        def features(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([(x > to_unit(300)).float().repeat(1, 4, 1, 1), torch.zeros_like(x)], dim=1)

    found = cluster_volume(voxels, Sign(), FEW, spacing_mm=SPACING_MM)
    assert [cluster.reading for cluster in found.clusters][-1] == "bone" and len(found.clusters) == 2
    assert found.clusters[1].voxels == (voxels == 700).sum()


def test_no_features_are_kept(a_body, monkeypatch):
    """Only one batch's features are alive at a time."""
    run, alive = inference.denoise, []

    def watched(*args, see_features, **options):
        def see(k, features, denoised_hu):
            assert not [reference for reference in alive if reference() is not None]
            see_features(k, features, denoised_hu)
            alive.append(weakref.ref(features))

        return run(*args, see_features=see, **options)

    monkeypatch.setattr(inference, "denoise", watched)
    cluster_volume(a_body[0], Nearest(), FEW, spacing_mm=SPACING_MM, batch=1)
    assert len(alive) == 4 + 9


def test_results_can_go_into_files(a_body, tmp_path):
    voxels, _ = a_body
    labels = np.lib.format.open_memmap(tmp_path / "labels.npy", "w+", np.uint8, voxels.shape)
    found = cluster_volume(voxels, Nearest(), FEW, spacing_mm=SPACING_MM, labels=labels)
    assert found.labels is labels
    np.testing.assert_array_equal(
        np.load(tmp_path / "labels.npy"), cluster_volume(voxels, Nearest(), FEW, spacing_mm=SPACING_MM).labels
    )
    with pytest.raises(ValueError, match="shape"):
        cluster_volume(voxels, Nearest(), FEW, spacing_mm=SPACING_MM, labels=labels[1:])


def test_the_network_runs_on_few_slices_more_than_denoising_needs():
    for total in (1, 2, 4, 5, 16, 30, 96, 300, 2000):
        chosen = fit_slices(total)
        assert chosen[0] == 0 and chosen[-1] == total - 1 and len(set(chosen)) == len(chosen) <= 24
        if total >= 8:
            assert len(chosen) + total <= 1.5 * total
            assert np.diff(chosen).max() <= np.diff(chosen).min() + 1


def test_progress_counts_to_the_end(a_body):
    seen = []
    cluster_volume(
        a_body[0], Nearest(), FEW, spacing_mm=SPACING_MM, progress=lambda done, total: seen.append((done, total))
    )
    total = 4 + 9 + feature_clusters.EMBEDDING_STEPS
    assert seen == [(done, total) for done in [*range(1, 14), total]]


@pytest.mark.parametrize("after", [0, 10, 15, 22])
def test_cancel_is_heard_in_every_part(a_body, monkeypatch, after):
    """While the body is found, in either pass of the network, in the embedding."""
    asked = 0

    def cancelled() -> bool:
        nonlocal asked
        asked += 1
        return asked > after

    with pytest.raises(Cancelled):
        cluster_volume(a_body[0], Nearest(), FEW, spacing_mm=SPACING_MM, batch=1, cancelled=cancelled)
    assert asked == after + 1


def test_volumes_that_cannot_be_clustered(a_body):
    with pytest.raises(InputError, match="shows a body"):
        cluster_volume(np.full((3, 20, 20), -1000, np.int16), Nearest(), FEW, spacing_mm=SPACING_MM)

    class Blind(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    with pytest.raises(ValueError, match="no features"):
        cluster_volume(a_body[0], Blind(), FEW, spacing_mm=SPACING_MM)


# ---- the shipped model on phantoms


def textures(shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> Phantom:
    """Water with three rods of 60 HU: uniform, of fine and of coarse texture."""
    rods = [
        Insert("uniform", 60, 52, 0, 88),
        Insert("fine texture", 60, 52, 120, 88, texture_sd_hu=20, correlation_mm=1.2),
        Insert("coarse texture", 60, 52, 240, 88, texture_sd_hu=20, correlation_mm=4),
    ]
    return cylinder(shape, spacing_mm, 210, rods)


SHAPE, PHANTOM_MM = (1, 128, 128), {"abdomen": 380, "chest": 380, "cylinder": 230, "textures": 230}
NORMAL_PHOTONS = {"abdomen": 1.5e6, "chest": 6e5, "cylinder": 1.5e6, "textures": 1.5e6}
REACHED = {"abdomen": 0.46, "chest": 0.48, "cylinder": 0.68, "textures": 0.34}
"""Adjusted Rand index of 8 clusters that the shipped models reach, less a margin of some 0.05. HU alone does as well,
and in the chest, at 0.71, better; see the printed lines (pytest -s)."""


@pytest.fixture(scope="module", params=["best", "fast"])
def the_model(request) -> nn.Module:
    return load_network(find_model(request.param))[0]


@pytest.mark.parametrize("kind", REACHED)
def test_clusters_of_the_shipped_model_match_the_tissues_of_phantoms(the_model, kind):
    """At a quarter of a routine dose. All labels of the phantom count, small vessels and the skin too."""
    spacing_mm = (PHANTOM_MM[kind] / SHAPE[1], PHANTOM_MM[kind] / SHAPE[2], 3.0)
    make = {
        "abdomen": lambda: phantoms.abdomen(1_000_011, SHAPE, spacing_mm),
        "chest": lambda: phantoms.chest(1_000_011, SHAPE, spacing_mm),
        "cylinder": lambda: cylinder(SHAPE, spacing_mm),
        "textures": lambda: textures(SHAPE, spacing_mm),
    }
    phantom = make[kind]()
    outside = (0, 1) if kind in ("abdomen", "chest") else (0,)  # air and couch
    settings = DoseSettings(photons=NORMAL_PHOTONS[kind] / 4, kernel="standard", seed=1)
    ldct = dose.scan(phantom.voxels_hu.round().astype(np.int16), spacing_mm, settings)
    found = cluster_volume(ldct, the_model, ClusterSettings(8, 100), spacing_mm=spacing_mm)
    body = (found.labels > 0) & ~np.isin(phantom.labels, outside)
    truth = phantom.labels[body]
    hu = ldct[body].astype(np.float32)[:, None]
    by_hu = clustering.nearest_centre(hu, clustering.cluster_centres(hu, 8))
    by_features = adjusted_rand_score(truth, found.labels[body])
    print(f"\n{kind}: adjusted Rand index {by_features:.3f} by features, {adjusted_rand_score(truth, by_hu):.3f} by HU")
    if kind == "textures":  # tissues of equal HU, told apart by texture or not at all
        rods = truth > 1
        pair = (adjusted_rand_score(truth[rods], labels[rods]) for labels in (found.labels[body], by_hu))
        print("rods alone: {:.3f} by features, {:.3f} by HU".format(*pair))
    assert by_features > REACHED[kind]
    assert [c.mean_before_hu for c in found.clusters] == sorted(c.mean_before_hu for c in found.clusters)
