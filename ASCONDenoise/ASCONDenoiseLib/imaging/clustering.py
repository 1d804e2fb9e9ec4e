"""Voxels that look alike to a network: K-means and t-SNE on its features, and numbers for how well clusters part.

The paper's Fig. 3: features before the last layer, clustered by K-means, "similar to organ semantic segmentation".
Features are taken as they are. Scaled to equal spread they fit the tissues of phantom patients less well (adjusted Rand
index 0.35 to 0.47 instead of 0.43 to 0.68 with 8 clusters): many channels hold edges and little else. Of a residual
network the image belongs to them, see `models.networks.anatomy_of`.

Clusters are numbered from 1, 0 is the background. The same seed gives the same result, whatever the number of threads:
scikit-learn's sums depend on that number, so it gets one thread here. It needs less than a second for K-means.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ASCONDenoiseLib.errors import Cancelled, InputError

COLOURS = (
    (240, 120, 168),
    (48, 120, 0),
    (120, 144, 240),
    (192, 240, 168),
    (192, 0, 144),
    (24, 216, 240),
    (240, 24, 72),
    (240, 240, 0),
    (0, 144, 120),
    (192, 168, 24),
    (48, 96, 216),
    (0, 192, 120),
)
"""RGB of the clusters 1, 2, ...; any two differ, to the colour-blind as well, and neighbours most."""

MAX_CLUSTERS = len(COLOURS)

READINGS_HU = {
    "air": (-np.inf, -950.0),
    "lung": (-950.0, -500.0),
    "edge of lung or gas": (-500.0, -150.0),
    "fat": (-150.0, -40.0),
    "fluid or edge of fat": (-40.0, 20.0),
    "soft tissue": (20.0, 90.0),
    "contrast or spongy bone": (90.0, 250.0),
    "bone": (250.0, np.inf),
}
"""What voxels of [lowest, highest) HU usually are. Partial volume and calcium are not told apart."""

BODY_HU = -500.0
"""A smoothed image above this is body or couch."""
BODY_SMOOTHING_MM = 1.5
COUCH_MM = 4.0
"""Half the thickness of what is taken for couch, blanket or tube, not body."""

STARTS = 4
"""K-means begins so often from other centres and keeps the best."""

PERPLEXITY = 30.0
POLL_S = 0.1


@dataclass(frozen=True)
class ClusterSettings:
    """How a volume is clustered. Raises InputError for numbers that make no sense.

    Attributes:
        clusters: of K-means.
        points: voxels in the scatter plot. t-SNE takes some 8 s for 2000, 16 s for 3000 on one core.
        seed: of the random numbers.
    """

    clusters: int = 8
    points: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        if not 2 <= self.clusters <= MAX_CLUSTERS:
            raise InputError(f"Choose 2 to {MAX_CLUSTERS} clusters; got {self.clusters}.")
        if not 100 <= self.points <= 10_000:
            raise InputError(f"Choose 100 to 10000 points for the scatter plot; got {self.points}.")
        if self.seed < 0:
            raise InputError(f"A seed is a whole number from 0; got {self.seed}.")


@dataclass(frozen=True)
class Separation:
    """How compact clusters are and how far apart, in the space of the features. Scale does not matter.

    Attributes:
        silhouette: mean over points, -1 to 1, higher is better (Rousseeuw 1987).
        davies_bouldin: 0 and up, lower is better (Davies and Bouldin 1979).
        intra_inter: mean over clusters of the mean distance to the cluster's centre, over the mean distance of two
            centres; lower is better.
    """

    silhouette: float
    davies_bouldin: float
    intra_inter: float


def body_mask(slice_hu: np.ndarray, spacing_mm: tuple[float, ...]) -> np.ndarray:
    """Return where a slice (H, W) in HU is body, lungs and gut gas included; couch, blankets and tubes left out.

    `spacing_mm` is (x, y, ...). Everything above BODY_HU that is thicker than twice COUCH_MM in some place and no
    smaller there than a tenth of the largest such piece, with its holes filled. In a slice without such a piece,
    everything above BODY_HU.
    """
    sampling = spacing_mm[1], spacing_mm[0]
    smooth = ndimage.gaussian_filter(slice_hu.astype(np.float32), [BODY_SMOOTHING_MM / s for s in sampling])
    solid = np.pad(smooth > BODY_HU, 1, mode="edge")  # what is cut off by the image's edge is not thin there
    cores, count = ndimage.label(ndimage.distance_transform_edt(solid, sampling) > COUCH_MM)
    if count:
        sizes = np.bincount(cores.ravel())
        sizes[0] = 0
        kept = (sizes >= sizes.max() / 10)[cores]
        solid &= ndimage.distance_transform_edt(~kept, sampling) <= COUCH_MM
    filled: np.ndarray = ndimage.binary_fill_holes(solid)
    return filled[1:-1, 1:-1]


def cluster_centres(features: np.ndarray, clusters: int, seed: int = 0) -> np.ndarray:
    """Find centres by K-means.

    Args:
        features: (N, C).
        clusters: the largest number of centres.
        seed: of the first centres.

    Returns:
        (K, C) float32; K is smaller than `clusters` where there are fewer different features.

    Raises:
        InputError: there are fewer voxels than clusters.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    if len(features) < clusters:
        raise InputError(
            f"{clusters} clusters need as many voxels of the body; there are {len(features)}. "
            "Choose fewer clusters, or a CT that shows a body."
        )
    with _one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different features than clusters
        fitted = KMeans(clusters, n_init=STARTS, random_state=seed).fit(features.astype(np.float32, copy=False))
    return np.unique(fitted.cluster_centers_.astype(np.float32), axis=0)


def nearest_centre(features: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Return the number of the nearest centre, from 1, as (N,) uint8, of features (N, C) and centres (K, C)."""
    squares = (centres * centres).sum(axis=1)
    nearest: np.ndarray = (squares - 2 * (features @ centres.T)).argmin(axis=1).astype(np.uint8) + np.uint8(1)
    return nearest


def embedding(features: np.ndarray, seed: int = 0, cancelled: Callable[[], bool] | None = None) -> np.ndarray:
    """Lay out features in two dimensions by t-SNE (van der Maaten and Hinton 2008; Barnes-Hut).

    It starts from the two principal components. The work is done in a thread, so that `cancelled` is heard at once;
    the thread then ends by itself some seconds later.

    Args:
        features: (N, C).
        seed: of the random numbers.
        cancelled: asked every POLL_S seconds.

    Returns:
        (N, 2) float32.

    Raises:
        Cancelled: `cancelled` returned True.
    """
    from sklearn.manifold import TSNE

    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    outcome: list[np.ndarray | BaseException] = []

    def work() -> None:
        try:
            with _one_thread():
                tsne = TSNE(2, init="pca", perplexity=perplexity, random_state=seed)
                outcome.append(tsne.fit_transform(features.astype(np.float32, copy=False)))
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=work, name="t-SNE", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(POLL_S)
        if cancelled is not None and cancelled():
            raise Cancelled("Cancelled during the embedding.")
    (places,) = outcome
    if isinstance(places, BaseException):
        raise places
    return places.astype(np.float32)


def separation(features: np.ndarray, labels: np.ndarray) -> Separation | None:
    """Measure how features (N, C) part by their clusters (N,); None where there are fewer than two clusters."""
    from sklearn.metrics import davies_bouldin_score, silhouette_score

    names = np.unique(labels)
    if not 2 <= len(names) < len(labels):
        return None
    features = features.astype(np.float64)
    centres = np.stack([features[labels == name].mean(axis=0) for name in names])
    intra = np.mean(
        [
            np.linalg.norm(features[labels == name] - centre, axis=1).mean()
            for name, centre in zip(names, centres, strict=True)
        ]
    )
    apart = np.linalg.norm(centres[:, None] - centres[None], axis=2)
    inter = apart[np.triu_indices(len(names), 1)].mean()
    with _one_thread():
        silhouette = silhouette_score(features, labels)
    return Separation(float(silhouette), float(davies_bouldin_score(features, labels)), float(intra / inter))


def reading_number(hu: np.ndarray) -> np.ndarray:
    """Return which of READINGS_HU each value lies in, from 0."""
    numbers: np.ndarray = np.digitize(hu, [low for low, _ in READINGS_HU.values()][1:])
    return numbers


def suggested_reading(counts: np.ndarray) -> str:
    """Suggest what a cluster is, from its voxels' `reading_number`, counted: (len(READINGS_HU),).

    One reading where half the voxels or more have it, else the two that are most frequent, as "mixed".
    """
    names = list(READINGS_HU)
    order: list[int] = np.argsort(-counts, kind="stable").tolist()
    if 2 * counts[order[0]] >= counts.sum():
        return names[order[0]]
    return "mixed: " + ", ".join(names[i] for i in sorted(order[:2]))


@contextmanager
def _one_thread() -> Iterator[None]:
    """OpenMP with one thread, for the calling thread only; torch and others keep theirs."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    with threadpool_limits(1, user_api="openmp"):
        yield
