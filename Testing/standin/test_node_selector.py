"""The node selector follows a real scene."""

from __future__ import annotations

from standin.started import a_selector, a_volume, slicer


def test_node_selector_filters_a_real_scene() -> None:
    selector, heard = a_selector(), []
    selector.currentNodeChanged.connect(heard.append)
    ids = []
    selector.connect("currentNodeIDChanged(QString)", ids.append)
    table = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", "table")
    first, second = a_volume("first"), a_volume("second")
    hidden = slicer.vtkMRMLScalarVolumeNode()
    hidden.SetHideFromEditors(1)
    slicer.mrmlScene.AddNode(hidden)
    label = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "label")
    assert [selector.nodeFromIndex(i) for i in range(selector.nodeCount())] == [first, second, label]
    assert selector.currentNode() is None
    selector.setCurrentNode(table)
    assert selector.currentNode() is None
    selector.setCurrentNode(second)
    selector.currentNodeID = first.GetID()
    assert selector.currentNode() is first
    selector.showChildNodeTypes = False
    assert selector.nodeCount() == 2
    slicer.mrmlScene.RemoveNode(first)  # Qt moves on to the row that follows
    assert selector.currentNode() is second
    slicer.mrmlScene.Clear(0)
    assert selector.currentNode() is None
    assert heard == [second, first, second, None]
    assert ids[-1] == ""


def test_node_selector_without_none_takes_the_first_node_of_a_scene() -> None:
    node, selector = a_volume(), slicer.qMRMLNodeComboBox()
    selector.nodeTypes = ["vtkMRMLScalarVolumeNode"]
    assert not selector.enabled
    selector.setMRMLScene(slicer.mrmlScene)
    assert selector.enabled
    assert selector.currentNode() is node
    made = selector.addNode()
    assert made.IsA("vtkMRMLScalarVolumeNode")
    assert selector.currentNode() is made


def test_checkable_node_selector_keeps_what_is_ticked_while_the_scene_changes() -> None:
    first, second = a_volume("first"), a_volume("second")
    selector, heard = slicer.qMRMLCheckableNodeComboBox(), []
    selector.nodeTypes = ["vtkMRMLScalarVolumeNode"]
    selector.setMRMLScene(slicer.mrmlScene)
    selector.checkedNodesChanged.connect(lambda: heard.append(selector.checkedNodes()))
    assert selector.checkedNodes() == () and selector.noneChecked()
    selector.check(second)
    selector.check(first)
    selector.check(first)
    third = a_volume("third")
    assert selector.checkedNodes() == (first, second) and selector.uncheckedNodes() == (third,)
    slicer.mrmlScene.RemoveNode(first)
    selector.uncheck(second)
    assert heard == [(second,), (first, second), (second,), ()] and not selector.allChecked()
    selector.setMRMLScene(None)  # it would observe the nodes of other tests
