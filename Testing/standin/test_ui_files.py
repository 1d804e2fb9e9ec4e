"""The loading of .ui files."""

from __future__ import annotations

from pathlib import Path

import pytest

import standin
from standin.started import UI, a_panel, ctk, slicer


def test_ui_files_are_loaded_with_their_connections(tmp_path: Path) -> None:  # rule 18
    panel = a_panel(tmp_path)
    ui = slicer.util.childWidgetVariables(panel)
    assert type(ui.input) is slicer.qMRMLNodeComboBox
    assert type(ui.strength) is ctk.ctkSliderWidget
    assert ui.input.property("SlicerParameterName") == ui.input.SlicerParameterName == "volume"
    assert ui.input.mrmlScene() is None
    panel.setMRMLScene(slicer.mrmlScene)
    assert ui.input.mrmlScene() is slicer.mrmlScene


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ('class="QCheckBox"', 'class="QChekBox"'),
        ('name="noneEnabled"', 'name="noneEnable"'),
        ("setMRMLScene(vtk", "setScene(vtk"),
        ("mrmlSceneChanged(vtkMRMLScene*)", "sceneChanged(vtkMRMLScene*)"),
        ('"SlicerParameterName" stdset="0"', '"SlicerParameterName"'),
    ],
)
def test_ui_files_with_unknown_names_are_refused(tmp_path: Path, good: str, bad: str) -> None:
    assert good in UI
    with pytest.raises((ValueError, standin.PythonQtTrap)):
        a_panel(tmp_path, UI.replace(good, bad))
