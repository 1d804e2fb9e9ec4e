"""Geometry of phantoms, for tests."""

import numpy as np


def distance_from(phantom, centre_ijk):
    k, j, i = np.indices(phantom.labels.shape)
    sx, sy, sz = phantom.spacing_mm
    ci, cj, ck = centre_ijk
    return np.sqrt(((i - ci) * sx) ** 2 + ((j - cj) * sy) ** 2 + ((k - ck) * sz) ** 2)
