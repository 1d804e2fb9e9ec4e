"""Clusters an array by a model's features, by the core alone.

child_cluster.py SOURCE.npy MODEL.safetensors TARGET.npz CLUSTERS POINTS X_MM Y_MM Z_MM
"""

import sys

import numpy as np

from ASCONDenoiseLib.imaging.clustering import ClusterSettings
from ASCONDenoiseLib.models.feature_clusters import cluster_volume
from ASCONDenoiseLib.models.files import load_network

source, model, target, clusters, points, *spacing = sys.argv[1:]
network, _card = load_network(model)
voxels = np.load(source)
denoised = np.empty_like(voxels)
anatomy = cluster_volume(
    voxels,
    network,
    ClusterSettings(int(clusters), int(points)),
    spacing_mm=tuple(map(float, spacing)),
    device="cpu",
    denoised_hu=denoised,
)
np.savez(target, map=anatomy.labels, denoised=denoised, **vars(anatomy.points))
