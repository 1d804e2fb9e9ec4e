"""A scripted module is loaded, entered and reloaded."""

from __future__ import annotations

import shutil
from pathlib import Path

import standin
from standin.started import CHILDREN, slicer


def test_a_scripted_module_is_loaded_entered_and_reloaded(tmp_path: Path) -> None:  # rule 17
    path = tmp_path / "Small.py"
    shutil.copy(CHILDREN / "Small.py", path)
    standin.load_module(path)
    assert (slicer.modules.small.title, slicer.modules.small.categories) == ("A small module", ("Testing",))
    assert slicer.util.modulePath("Small") == str(path)
    slicer.util.selectModule("Small")
    widget = slicer.util.getModuleWidget("Small")
    assert widget is slicer.modules.SmallWidget
    assert widget.resourcePath("UI/x.ui") == str(tmp_path / "Resources" / "UI" / "x.ui")
    node = slicer.util.getModuleLogic("Small").getParameterNode()
    assert node is widget.logic.getParameterNode()
    assert node.GetAttribute("ModuleName") == "Small"
    slicer.util.selectModule("Volumes")
    assert widget.events == ["setup", "enter", "exit"]
    slicer.util.reloadScriptedModule("Small")
    assert widget.events[-1] == "cleanup"
    assert slicer.util.getModuleWidget("Small") is not widget
    assert slicer.util.getModuleWidget("Small").events == ["setup"]
