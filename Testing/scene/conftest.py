"""A scene for each test: real MRML, no application, no window."""

from __future__ import annotations

import pytest


@pytest.fixture
def a_scene():
    import slicer

    scene = slicer.vtkMRMLScene()
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene)
    yield scene
    scene.Clear(1)
