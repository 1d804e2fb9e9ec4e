"""The stand-in started, and what its own tests share; without it, a test file that imports this is skipped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from system_packages import skip_without_standin

import standin

skip_without_standin()
standin.install()

import ctk  # noqa: E402
import qt  # noqa: E402
import slicer  # noqa: E402

__all__ = ["CHILDREN", "UI", "a_panel", "a_selector", "a_volume", "ctk", "qt", "slicer", "wait"]

CHILDREN = Path(__file__).with_name("children")
"""Programs that tests run in a process of their own, and a module that they load."""

UI = """<ui version="4.0"><class>Panel</class><widget class="qMRMLWidget" name="Panel">
<layout class="QVBoxLayout" name="v">
<item><widget class="qMRMLNodeComboBox" name="input"><property name="nodeTypes"><stringlist>
<string>vtkMRMLScalarVolumeNode</string></stringlist></property><property name="noneEnabled"><bool>true</bool>
</property><property name="SlicerParameterName" stdset="0"><string>volume</string></property></widget></item><item>
<widget class="ctkSliderWidget" name="strength"><property name="SlicerParameterName" stdset="0">
<string>strength</string></property></widget></item><item><widget class="QComboBox" name="device">
<property name="SlicerParameterName" stdset="0"><string>device</string></property></widget></item><item>
<widget class="QCheckBox" name="fast"><property name="SlicerParameterName" stdset="0"><string>fast</string>
</property></widget></item></layout></widget><connections><connection><sender>Panel</sender>
<signal>mrmlSceneChanged(vtkMRMLScene*)</signal><receiver>input</receiver><slot>setMRMLScene(vtkMRMLScene*)</slot>
</connection></connections></ui>"""


def a_volume(name: str = "ct") -> Any:
    return slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)


def a_selector() -> Any:
    selector = slicer.qMRMLNodeComboBox()
    selector.nodeTypes = ["vtkMRMLScalarVolumeNode"]
    selector.noneEnabled = True
    selector.setMRMLScene(slicer.mrmlScene)
    return selector


def a_panel(folder: Path, text: str = UI) -> Any:
    path = folder / "panel.ui"
    path.write_text(text)
    return slicer.util.loadUI(str(path))


def wait(done: Any, seconds: float = 10) -> None:
    timer = qt.QElapsedTimer()
    timer.start()
    while not done():
        assert timer.elapsed() < 1000 * seconds, "waited in vain"
        slicer.app.processEvents()
