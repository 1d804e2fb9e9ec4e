"""The anatomy that a network found in a volume: its features clustered, voxel by voxel, and what each cluster holds.

One clustering for the whole volume. A first pass runs the network on some slices, evenly spaced from the first to the
last, and fits K-means to a seeded sample of their body voxels; a second runs it on all slices, one at a time, and
labels every voxel of the body. A slice's features are forgotten when it is labelled, so memory beyond the input is that
of one batch, the labels (one byte a voxel) and, where asked for, the denoised volume. The network is the cost: at most
FIT_SLICES slices more than denoising, a quarter of the volume at most where that has more than 16 slices.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ASCONDenoiseLib.errors import Cancelled, InputError
from ASCONDenoiseLib.imaging.clustering import (
    COLOURS,
    READINGS_HU,
    ClusterSettings,
    Separation,
    body_mask,
    cluster_centres,
    embedding,
    nearest_centre,
    reading_number,
    separation,
    suggested_reading,
)
from ASCONDenoiseLib.imaging.hounsfield import Padding

if TYPE_CHECKING:
    from ASCONDenoiseLib.models.inference import Result

FIT_SLICES = 24
FIT_VOXELS = 60_000
EMBEDDING_STEPS = 4
"""Slices that t-SNE counts as in the progress."""

SeeFeatures = Callable[[int, np.ndarray, np.ndarray], None]
"""Gets a slice's number, features (C, H, W) and denoised HU, as `inference.denoise` has them."""


@dataclass(frozen=True)
class Cluster:
    """What one cluster holds.

    Attributes:
        label: In the label map, from 1 on in the order of the mean HU before denoising.
        reading: Suggested: what most of its voxels are by their denoised HU. Nobody has looked.
        colour: Red, green and blue, 0 to 255.
        noise_removed_hu: Standard deviation of input less output: what denoising (at strength 1) took away here.
    """

    label: int
    reading: str
    colour: tuple[int, int, int]
    voxels: int
    volume_ml: float
    mean_before_hu: float
    sd_before_hu: float
    mean_after_hu: float
    sd_after_hu: float
    noise_removed_hu: float


@dataclass(frozen=True)
class Points:
    """A seeded sample of body voxels, spread evenly over the volume, and where t-SNE puts them.

    Attributes:
        ijk: (N, 3) column, row and slice; sorted by slice.
        labels: (N,) uint8
        hu: (N,) before denoising
        xy: (N, 2) float32, place in the scatter plot
    """

    ijk: np.ndarray
    labels: np.ndarray
    hu: np.ndarray
    xy: np.ndarray


@dataclass(frozen=True)
class Anatomy:
    """Clusters of one volume by one network.

    Attributes:
        labels: (S, H, W) uint8: 0 background, 1, 2, ... the clusters
        separation: Of the points, by all features; None where there is one cluster only.
        fit_slices: How many slices K-means was fitted on.
    """

    labels: np.ndarray
    clusters: tuple[Cluster, ...]
    points: Points
    separation: Separation | None
    settings: ClusterSettings
    fit_slices: int
    device: str
    precision: str
    seconds: float
    notes: tuple[str, ...] = ()


def cluster_volume(
    voxels_hu: np.ndarray,
    network: Any,
    settings: ClusterSettings | None = None,
    *,
    spacing_mm: tuple[float, float, float],
    device: str = "auto",
    batch: int | None = None,
    precision: str = "auto",
    padding_hu: Padding = None,
    progress: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
    labels: np.ndarray | None = None,
    denoised_hu: np.ndarray | None = None,
) -> Anatomy:
    """Clusters the voxels of a volume by the features that a network has before its last layer.

    Args:
        voxels_hu, network, device, batch, precision, padding_hu, cancelled: as in `inference.denoise`.
        spacing_mm: distance of columns, rows and slices.
        progress: called with (done, in all): slices of both passes, and EMBEDDING_STEPS for t-SNE.
        labels: (S, H, W) uint8 array that receives the labels, e.g. memory-mapped.
        denoised_hu: (S, H, W) array of the input's dtype that receives the denoised volume, strength 1.

    Raises:
        InputError: the volume shows no body, or fewer voxels of it than clusters.
        InputError, Failure, Cancelled: as `inference.denoise`.
    """
    from ASCONDenoiseLib.models.inference import check_voxels, denoise

    settings = settings or ClusterSettings()
    started = time.monotonic()
    check_voxels(voxels_hu)
    labels = _bodies(voxels_hu, spacing_mm, labels, cancelled)
    chosen = fit_slices(len(voxels_hu))
    in_all = len(chosen) + len(voxels_hu) + EMBEDDING_STEPS

    def run(slices_hu: np.ndarray, done_before: int, see: SeeFeatures, out: np.ndarray | None = None) -> Result:
        def step(done: int, _: int) -> None:
            if progress is not None:
                progress(done_before + done, in_all)

        return denoise(
            slices_hu,
            network,
            device=device,
            batch=batch,
            precision=precision,
            padding_hu=padding_hu,
            progress=step,
            cancelled=cancelled,
            see_features=see,
            out=out,
        )

    fit = _Sample(labels[chosen], FIT_VOXELS, settings.seed)
    run(voxels_hu[chosen], 0, fit.take)
    centres = cluster_centres(fit.features(), settings.clusters, settings.seed)
    points, sums = _Sample(labels, settings.points, settings.seed + 1), _Sums(len(centres))

    def label(k: int, features: np.ndarray, slice_denoised_hu: np.ndarray) -> None:
        points.take(k, features)
        body = labels[k] > 0
        numbers = nearest_centre(features.transpose(1, 2, 0)[body], centres)  # quick where channels are last in memory
        labels[k][body] = numbers
        sums.add(numbers, voxels_hu[k][body], slice_denoised_hu[body])

    result = run(voxels_hu, len(chosen), label, denoised_hu)
    order = _renumber(labels, sums)
    ijk, features = points.ijk(), points.features()
    at = tuple(ijk.T[::-1])
    xy = embedding(features, settings.seed, cancelled)
    if progress is not None:
        progress(in_all, in_all)
    return Anatomy(
        labels,
        tuple(sums.cluster(before, label, spacing_mm) for label, before in enumerate(order, 1)),
        Points(ijk, labels[at], np.asarray(voxels_hu[at]), xy),
        separation(features, labels[at]),
        settings,
        len(chosen),
        result.device,
        result.precision,
        time.monotonic() - started,
        result.notes,
    )


def fit_slices(total: int) -> list[int]:
    """The slices that K-means is fitted on: a quarter of all, 4 at least and FIT_SLICES at most, evenly spaced."""
    count = min(total, max(4, min(FIT_SLICES, total // 4)))
    return [int(k) for k in np.linspace(0, total - 1, count).round()]


def _bodies(
    voxels_hu: np.ndarray,
    spacing_mm: tuple[float, float, float],
    labels: np.ndarray | None,
    cancelled: Callable[[], bool] | None,
) -> np.ndarray:
    """(S, H, W) uint8, in `labels` where given: 1 in the body, 0 outside."""
    labels = np.empty(voxels_hu.shape, np.uint8) if labels is None else labels
    if labels.shape != voxels_hu.shape or labels.dtype != np.uint8:
        raise InputError(f"Labels are uint8 and of the volume's shape {voxels_hu.shape}; got {labels.shape}.")
    for k, slice_hu in enumerate(voxels_hu):
        if cancelled is not None and cancelled():
            raise Cancelled("Cancelled while looking for the body.")
        labels[k] = body_mask(slice_hu, spacing_mm)
    return labels


class _Sample:
    """Voxels of a body drawn at random, all of them where there are fewer, and their features, slice by slice."""

    def __init__(self, bodies: np.ndarray, count: int, seed: int):
        """bodies: (S, H, W), not 0 in the body."""
        sizes = np.array([np.count_nonzero(body) for body in bodies])
        ends = np.cumsum(sizes)
        voxels = int(ends[-1])
        if voxels <= count:
            drawn = np.arange(voxels)
        else:
            drawn = np.sort(np.random.default_rng(seed).choice(voxels, count, replace=False, shuffle=False))
        parts = np.split(drawn, np.searchsorted(drawn, ends[:-1]))
        self.width = bodies.shape[2]
        self.flat = [  # per slice: which of its pixels
            np.flatnonzero(body)[part - (end - size)]
            for body, part, end, size in zip(bodies, parts, ends, sizes, strict=True)
        ]
        self._features: list[np.ndarray] = []

    def take(self, k: int, features: np.ndarray, _denoised_hu: np.ndarray | None = None) -> None:
        """Keeps what is wanted of slice k's features (C, H, W); slices come in their order."""
        rows, columns = np.divmod(self.flat[k], self.width)
        self._features.append(features.transpose(1, 2, 0)[rows, columns])

    def features(self) -> np.ndarray:
        """(N, C)"""
        return np.concatenate(self._features)

    def ijk(self) -> np.ndarray:
        """(N, 3) column, row, slice"""
        k = np.repeat(np.arange(len(self.flat)), [len(flat) for flat in self.flat])
        row, column = np.divmod(np.concatenate(self.flat), self.width)
        return np.stack([column, row, k], axis=1)


class _Sums:
    """Count, sums and sums of squares per cluster, over all slices so far."""

    def __init__(self, clusters: int):
        self.voxels = np.zeros(clusters, np.int64)
        self.moments = np.zeros((3, 2, clusters))  # before, after, difference; sum, sum of squares
        self.readings = np.zeros((clusters, len(READINGS_HU)), np.int64)

    def add(self, numbers: np.ndarray, before_hu: np.ndarray, after_hu: np.ndarray) -> None:
        """A slice's body voxels (N,): cluster from 1, HU before and after."""
        clusters = len(self.voxels)
        index = numbers.astype(np.intp) - 1
        self.voxels += np.bincount(index, minlength=clusters)
        before, after = before_hu.astype(np.float64), after_hu.astype(np.float64)
        for moments, hu in zip(self.moments, (before, after, before - after), strict=True):
            moments[0] += np.bincount(index, hu, clusters)
            moments[1] += np.bincount(index, hu * hu, clusters)
        joint = index * len(READINGS_HU) + reading_number(after)
        self.readings += np.bincount(joint, minlength=self.readings.size).reshape(self.readings.shape)

    def order(self) -> list[int]:
        """Clusters that hold voxels, from 0, by their mean HU before denoising."""
        held = np.flatnonzero(self.voxels)
        means = self.moments[0, 0, held] / self.voxels[held]
        return [int(cluster) for cluster in held[np.argsort(means, kind="stable")]]

    def cluster(self, index: int, label: int, spacing_mm: tuple[float, float, float]) -> Cluster:
        """The row of the cluster that was number `index`, from 0, and is `label` now."""
        n = int(self.voxels[index])
        means = self.moments[:, 0, index] / n
        sds = np.sqrt(np.maximum(self.moments[:, 1, index] / n - means**2, 0))
        return Cluster(
            label=label,
            reading=suggested_reading(self.readings[index]),
            colour=COLOURS[label - 1],
            voxels=n,
            volume_ml=n * math.prod(spacing_mm) / 1000,
            mean_before_hu=float(means[0]),
            sd_before_hu=float(sds[0]),
            mean_after_hu=float(means[1]),
            sd_after_hu=float(sds[1]),
            noise_removed_hu=float(sds[2]),
        )


def _renumber(labels: np.ndarray, sums: _Sums) -> list[int]:
    """Numbers the labels by mean HU, in place, a slice at a time; returns the old ones (from 0) in the new order."""
    order = sums.order()
    new = np.zeros(len(sums.voxels) + 1, np.uint8)
    new[[old + 1 for old in order]] = np.arange(1, len(order) + 1)
    for slice_labels in labels:
        slice_labels[...] = new[slice_labels]
    return order
