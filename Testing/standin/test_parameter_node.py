"""Typed parameters in a node, bound to widgets."""

from __future__ import annotations

import enum
import gc
from pathlib import Path
from typing import Annotated, Any, Optional

import pytest

from standin.started import a_panel, a_volume, ctk, qt, slicer

wrapping = slicer.parameterNodeWrapper


class Device(enum.Enum):
    AUTO = "a"
    CPU = "c"


@wrapping.parameterNodeWrapper
class Parameters:
    volume: slicer.vtkMRMLScalarVolumeNode
    other: Optional[slicer.vtkMRMLScalarVolumeNode]  # noqa: UP045
    strength: Annotated[float, wrapping.WithinRange(0, 100)] = 75
    device: Device = Device.CPU
    fast: bool
    model: Annotated[str, wrapping.Choice(["small", "large"]), wrapping.Default("large")]


def parameters() -> Any:
    return Parameters(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScriptedModuleNode"))


def test_parameters_live_in_the_node_as_slicer_writes_them() -> None:
    wrapped = parameters()
    node = wrapped.parameterNode
    read = [node.GetParameter(n) for n in ("strength", "device", "fast", "model")]
    assert read == ["75", "CPU", "False", "large"]
    assert wrapped.volume is None
    assert wrapped.other is None
    volume = a_volume()
    wrapped.volume = wrapped.other = volume
    wrapped.device = Device.AUTO
    wrapped.fast = True
    again = Parameters(node)
    assert (again.volume, again.other, again.device, again.fast) == (volume, volume, Device.AUTO, True)
    assert (node.GetNodeReferenceID("volume"), node.GetNodeReferenceID("other.0")) == (volume.GetID(),) * 2
    slicer.mrmlScene.RemoveNode(volume)
    assert again.volume is None


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("strength", 101, ValueError),
        ("strength", "75", TypeError),
        ("strength", None, ValueError),
        ("model", "medium", ValueError),
        ("device", "AUTO", TypeError),
        ("fast", 1, TypeError),
        ("volume", "ct", TypeError),
    ],
)
def test_parameters_refuse_wrong_values(name: str, value: object, error: type[Exception]) -> None:
    wrapped = parameters()
    before = getattr(wrapped, name)
    with pytest.raises(error):
        setattr(wrapped, name, value)
    assert getattr(wrapped, name) == before


def test_values_are_kept_until_the_node_is_modified() -> None:
    wrapped, volume = parameters(), a_volume()
    node = wrapped.parameterNode
    assert wrapped.isCached("volume") and wrapped.isCached("other") and wrapped.isCached("strength")
    node.DisableModifiedEventOn()
    node.SetParameter("strength", "20")
    assert (wrapped.strength, Parameters(node).strength) == (75, 20)
    node.DisableModifiedEventOff()
    node.Modified()
    assert wrapped.strength == 20
    seen = []
    node.AddObserver("ModifiedEvent", lambda *_: seen.append((wrapped.strength, wrapped.volume)), 10.0)
    wrapped.strength = 30  # an observer that comes first finds the new value
    wrapped.volume = volume
    assert seen == [(30, None), (30, volume)]


def test_references_that_an_import_resolves_show_in_a_new_wrapper_only(tmp_path: Path) -> None:
    """They come with reference events, not with ModifiedEvent, which alone empties the wrapper's memory."""
    scene, node = slicer.mrmlScene, slicer.vtkMRMLScriptedModuleNode()
    node.SetSingletonTag("TheModule")
    saved = Parameters(scene.AddNode(node))
    saved.volume, saved.other, saved.strength = a_volume("one"), a_volume("two"), 20
    scene.SetURL(str(tmp_path / "scene.mrml"))
    assert scene.Commit()
    scene.Clear(0)  # the singleton stays, empty

    wrapped = Parameters(node)  # a panel is open
    assert scene.Import()
    assert wrapped.strength == 20
    assert (wrapped.volume, wrapped.other) == (None, None)
    again = Parameters(node)
    assert (again.volume.GetName(), again.other.GetName()) == ("one", "two")
    node.Modified()
    assert wrapped.volume is again.volume
    del wrapped, again, saved
    scene.RemoveNode(node)


def test_a_wrapper_that_is_let_go_leaves_no_observer() -> None:
    wrapped = parameters()
    node, modified = wrapped.parameterNode, "ModifiedEvent"
    assert node.HasObserver(modified)
    del wrapped
    gc.collect()
    assert not node.HasObserver(modified)


def test_parameters_follow_widgets_and_widgets_parameters(tmp_path: Path) -> None:
    panel, wrapped, volume = a_panel(tmp_path), parameters(), a_volume()
    panel.setMRMLScene(slicer.mrmlScene)
    ui = slicer.util.childWidgetVariables(panel)
    tag = wrapped.connectGui(ui)
    assert (ui.strength.value, ui.strength.maximum, ui.device.currentText, ui.fast.checked) == (75, 100, "CPU", False)
    wrapped.strength, wrapped.fast, wrapped.device = 20, True, Device.AUTO
    assert (ui.strength.value, ui.fast.checked, ui.device.currentText) == (20, True, "AUTO")
    ui.strength.value = 30
    ui.device.currentIndex = 1
    ui.input.setCurrentNode(volume)
    assert (wrapped.strength, wrapped.device, wrapped.volume) == (30, Device.CPU, volume)
    wrapped.disconnectGui(tag)
    ui.strength.value = 40
    wrapped.fast = False
    assert (wrapped.strength, ui.fast.checked) == (30, True)


def test_an_unbounded_number_has_no_slider() -> None:
    @wrapping.parameterNodeWrapper
    class Unbounded:
        strength: float

    wrapped = Unbounded(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScriptedModuleNode"))
    with pytest.raises(RuntimeError, match="unbounded"):
        wrapped.connectParametersToGui({"strength": ctk.ctkSliderWidget()})
    with pytest.raises(RuntimeError, match="Unable to create GUI connector"):
        wrapped.connectParametersToGui({"strength": qt.QCheckBox()})


def test_types_that_cannot_be_kept_are_refused() -> None:
    with pytest.raises(TypeError, match="serializer"):

        @wrapping.parameterNodeWrapper
        class Complex:
            value: complex
