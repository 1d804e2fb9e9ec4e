"""Volume nodes in a real MRML scene, for tests; without slicer-core, what imports this is skipped."""

from __future__ import annotations

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="needs slicer-core, or Slicer itself")
vtk = pytest.importorskip("vtk")

from ASCONDenoiseLib.scene.volumes import new_volume_like  # noqa: E402
from ASCONDenoiseLib.scene.voxels import copy_in_pieces, image_array, new_image, volume_array  # noqa: E402

OBLIQUE = np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]])
"""Columns: unit axes of i, j and k in RAS; a rotation."""


def a_volume(scene, voxels: np.ndarray | None = None, name: str = "scan", directions=((1, 0, 0), (0, 1, 0), (0, 0, 1))):
    """An int16 volume of 4 x 5 x 6 (slices, rows, columns) with spacing 0.7, 0.7, 2.5 mm, or these voxels."""
    if voxels is None:
        voxels = np.random.default_rng(1).integers(-1000, 1000, (4, 5, 6)).astype(np.int16)
    image = new_image(voxels.shape, voxels.dtype)
    image_array(image)[...] = voxels
    node = slicer.vtkMRMLScalarVolumeNode()
    node.SetName(name)
    node.SetIJKToRASDirections(*np.asarray(directions, float).ravel())
    node.SetSpacing(0.7, 0.7, 2.5)
    node.SetOrigin(-12.3, 45.6, 78.9)
    node.SetAndObserveImageData(image)
    scene.AddNode(node)
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().SetAutoWindowLevel(False)
    node.GetDisplayNode().SetWindowLevelMinMax(-100, 200)
    return node


def a_result(scene, source, name="scan denoised"):
    voxels = volume_array(source)
    image = new_image(voxels.shape, voxels.dtype)
    list(copy_in_pieces(voxels + 1, image_array(image)))
    return new_volume_like(scene, source, name, image)


def matrix_of(node) -> np.ndarray:
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return np.array([[matrix.GetElement(r, c) for c in range(4)] for r in range(4)])
