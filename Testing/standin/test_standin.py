"""The stand-in for Slicer's Qt side is as strict as PythonQt. Rule numbers are those of standin/README.md."""

from __future__ import annotations

import enum
import gc
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Optional

import pytest
from system_packages import skip_without_standin

skip_without_standin()
import slicer  # noqa: E402

import standin  # noqa: E402

standin.install()
import ctk  # noqa: E402
import qt  # noqa: E402
from slicer import vtkMRMLScalarVolumeNode  # noqa: E402
from slicer.parameterNodeWrapper import Choice, Default, WithinRange, parameterNodeWrapper  # noqa: E402


@pytest.fixture(autouse=True)
def a_clean_state() -> Iterator[None]:
    """An empty scene before; traps are errors; nothing swallowed is left behind unnoticed."""
    slicer.mrmlScene.Clear(0)
    standin.UNCAUGHT.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error", standin.PythonQtTrap)
        yield
    left = list(standin.UNCAUGHT)
    standin.UNCAUGHT.clear()
    assert not left


def a_volume(name: str = "ct") -> Any:
    return slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)


def a_selector() -> Any:
    selector = slicer.qMRMLNodeComboBox()
    selector.nodeTypes = ["vtkMRMLScalarVolumeNode"]
    selector.noneEnabled = True
    selector.setMRMLScene(slicer.mrmlScene)
    return selector


def names() -> dict[str, Any]:
    label, button, slider = qt.QLabel("text"), qt.QPushButton("press"), qt.QSlider()
    process, table, combo = qt.QProcess(), qt.QTableWidget(2, 3), qt.QComboBox()
    settings, group, timer, bar = qt.QSettings(), ctk.ctkSliderWidget(), qt.QTimer(), qt.QProgressBar()
    return {**globals(), **locals()}


REFUSED = [
    # rule, what is written, what it raises
    (1, "label.txt", AttributeError),
    (1, "qt.QWidgit", AttributeError),
    (1, "ctk.QLabel", AttributeError),
    (1, "slicer.qMRMLNodeCombobox", AttributeError),
    (1, "slicer.modules.nosuchmodule", AttributeError),
    (2, "label.text()", TypeError),
    (2, "slider.value()", TypeError),
    (2, "combo.currentIndex()", TypeError),
    (2, "table.rowCount()", TypeError),
    (2, "timer.active()", TypeError),
    (2, "slicer.app.temporaryPath()", TypeError),
    (2, "button.enabled()", TypeError),
    (5, "setattr(label, 'txt', 'x')", AttributeError),
    (5, "setattr(label, 'setText', print)", AttributeError),
    (5, "setattr(button, 'clicked', print)", AttributeError),
    (5, "setattr(table, 'count', 3)", AttributeError),
    (5, "setattr(combo, 'count', 3)", AttributeError),
    (5, "setattr(slider, 'value', 'fast')", AttributeError),
    (5, "setattr(label, 'sizePolicy', 3)", AttributeError),
    (6, "qt.QLabel.text", standin.PythonQtTrap),
    (6, "group.setSuffix(' %')", AttributeError),  # a property only
    (7, "qt.QLabel(text='x')", ValueError),
    (7, "label.setText(text='x')", ValueError),
    (7, "process.start('x', arguments=[])", ValueError),
    (7, "slicer.qMRMLNodeComboBox(parent=label)", ValueError),
    (8, "label.setText()", ValueError),
    (8, "label.setText('a', 'b')", ValueError),
    (8, "slider.setValue('7')", ValueError),
    (8, "slider.setValue(2**40)", ValueError),
    (8, "slider.setValue(None)", ValueError),
    (8, "ctk.ctkCollapsibleButton('Inputs')", ValueError),
    (8, "qt.QVBoxLayout().addWidget('label')", ValueError),
    (8, "slicer.qMRMLNodeComboBox().setMRMLScene(label)", ValueError),
    (8, "button.setShortcut('Ctrl+D')", ValueError),
    (8, "label.setText(None)", standin.PythonQtTrap),
    (8, "setattr(label, 'text', None)", standin.PythonQtTrap),
    (8, "setattr(slicer.qMRMLNodeComboBox(), 'nodeTypes', 'vtkMRMLVolumeNode')", standin.PythonQtTrap),
    (8, "process.start('python', '-c')", standin.PythonQtTrap),
    (9, "process.readAllStandardOutput().decode()", AttributeError),
    (10, "qt.Qt.AlignMiddle", AttributeError),
    (10, "qt.QMessageBox.StandardButton.Okay", AttributeError),
    (10, "setattr(qt.QMessageBox.StandardButton, 'Ok', 3)", AttributeError),
    (14, "button.clickd.connect(print)", AttributeError),
    (14, "button.connect('clickd()', print)", standin.PythonQtTrap),
    (14, "button.connect('clicked(int)', print)", standin.PythonQtTrap),
    (14, "slider.connect('valueChanged(int)', bar, 'setvalue(int)')", standin.PythonQtTrap),
    (14, "slider.connect('valueChanged(int)', bar, 'setValue(QString)')", standin.PythonQtTrap),
    (14, "button.clicked.connect(print, 1)", ValueError),
    (14, "button.clicked.connect()", ValueError),
    (14, "button.clicked[bool]", TypeError),
    (14, "process.error.connect(print)", AttributeError),
    (14, "combo.connect('currentIndexChanged(QString)', print)", standin.PythonQtTrap),
    (14, "qt.QMenu().addAction('x', print)", ValueError),
    (14, "qt.QTimer.singleShot(10)", TypeError),
    (18, "slicer.util.loadUI('/no/such/file.ui')", RuntimeError),
    (20, "slicer.util.pip_ensure('numpy')", AttributeError),
    (0, "qt.QVBoxLayout().setMargin(3)", AttributeError),  # Qt 5 only
    (0, "button.connect('idClicked(int)', print)", standin.PythonQtTrap),
    (0, "qt.QRegExp('x')", AttributeError),
    (0, "qt.Qt.MidButton", AttributeError),
]


@pytest.mark.parametrize(("rule", "written", "error"), REFUSED, ids=[f"rule {r}: {w}" for r, w, _ in REFUSED])
def test_what_slicer_refuses_or_misunderstands_is_refused(rule: int, written: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        eval(written, names())


ACCEPTED = [
    # rule, what is written, what it gives
    (2, "label.text", "text"),
    (2, "(table.rowCount, table.columnCount)", (2, 3)),
    (3, "process.state() == qt.QProcess.NotRunning", True),
    (3, "(button.isChecked(), button.checked)", (False, False)),
    (3, "(timer.isActive(), timer.active)", (False, False)),
    (3, "table.horizontalHeader().count()", 3),
    (4, "(setattr(label, 'objectName', 'a'), label.name)[1]", "a"),
    (5, "(setattr(bar, 'value', 7.9), bar.value)[1]", 7),
    (5, "(label.setProperty('mine', 3), label.mine, setattr(label, 'mine', 4), label.property('mine'))[1::2]", (3, 4)),
    (6, "(qt.QLabel.setText(label, 'y'), label.text)[1]", "y"),
    (8, "(label.setText(3), label.text)[1]", "3"),
    (8, "(button.setEnabled([]), button.enabled)[1]", False),
    (8, "(slider.setRange(0, 9), slider.setValue(True), slider.value)[2]", 1),
    (8, "qt.QLabel(None).parent()", None),
    (8, "qt.QColor(qt.Qt.red).name()", "#ff0000"),
    (9, "table.selectedItems()", ()),
    (9, "slicer.app.layoutManager().sliceViewNames()", ("Red", "Green", "Yellow")),
    (9, "process.readAllStandardOutput().data()", b""),
    (9, "settings.value('no/such/key')", None),
    (9, "combo.currentData", None),
    (9, "(combo.addItem('x', {'a': 1}), combo.itemData(0))[1]", {"a": 1}),
    (9, "process.program()", ""),
    (9, "type(slicer.app.layoutManager().sliceWidget('Red').sliceView()).__name__", "qMRMLSliceView"),
    (10, "qt.QMessageBox.Ok == qt.QMessageBox.StandardButton.Ok == 1024", True),
    (10, "type(qt.Qt.AlignLeft | qt.Qt.AlignTop)", int),
    (10, "(setattr(label, 'alignment', qt.Qt.AlignRight | qt.Qt.AlignTop), label.alignment == 34)[1]", True),
    (10, "button.focusPolicy == qt.Qt.StrongFocus", True),
    (14, "button.connect('clicked( bool )', print)", True),
    (14, "qt.QObject.connect(slider, 'valueChanged(int)', bar, 'setValue(int)')", True),
    (17, "slicer.app.testingEnabled()", True),
    (19, "slicer.util.confirmYesNoDisplay('really?')", False),  # whatever its description says: True == Yes is False
    (19, "slicer.util.errorDisplay('a sentence')", None),
    (20, "slicer.packaging.pip_ensure(['no-such-package>=3'])", None),
    (20, "slicer.packaging.pip_check('numpy>=1')", True),
    (20, "slicer.packaging.pip_check('no-such-package')", False),
]


@pytest.mark.parametrize(("rule", "written", "expected"), ACCEPTED, ids=[f"rule {r}: {w}" for r, w, _ in ACCEPTED])
def test_what_slicer_accepts_is_accepted(rule: int, written: str, expected: object) -> None:
    assert eval(written, names()) == expected


def test_what_slicer_swallows_goes_on_like_there_when_traps_are_no_errors() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", standin.PythonQtTrap)
        label, selector = qt.QLabel("x"), slicer.qMRMLNodeComboBox()
        label.text = None
        selector.nodeTypes = "ab"
        assert label.text == "None"
        assert selector.nodeTypes == ("a", "b")
        assert qt.QPushButton().connect("clickd()", print) is False


def test_a_destroyed_object_says_so_and_equals_none() -> None:  # rule 11
    label = qt.QLabel("x")
    label.delete()
    assert label == None  # noqa: E711
    assert not label
    with pytest.raises(ValueError, match="destroyed"):
        _ = label.text
    with pytest.raises(ValueError, match="destroyed"):
        label.setText("y")
    with pytest.raises(AttributeError, match="destroyed"):
        label.text = "y"


def test_an_object_without_parent_dies_with_its_last_reference() -> None:  # rule 12
    ticks, holder = [], qt.QWidget()
    timer = qt.QTimer()
    timer.connect("timeout()", lambda: ticks.append("kept"))
    timer.start(1)
    lost = qt.QTimer()
    lost.connect("timeout()", lambda: ticks.append("lost"))
    lost.start(1)
    owned = qt.QTimer(holder)
    owned.connect("timeout()", lambda: ticks.append("owned"))
    owned.start(1)
    del lost, owned
    gc.collect()
    wait(lambda: ticks.count("kept") > 3)
    assert {"kept", "owned"} == set(ticks)


def test_a_layout_takes_over_what_is_added_to_it() -> None:  # rule 12
    panel = qt.QWidget()
    panel.setLayout(qt.QVBoxLayout())
    for text in "ab":
        panel.layout().addWidget(qt.QLabel(text))
    gc.collect()
    assert [label.text for label in panel.findChildren(qt.QLabel)] == ["a", "b"]
    assert panel.findChildren("QLabel")[0] is panel.layout().itemAt(0).widget()


def test_virtual_functions_are_called_on_python_subclasses() -> None:  # rules 5 and 13
    class Filter(qt.QObject):
        def __init__(self) -> None:
            qt.QObject.__init__(self)
            self.seen = []

        def eventFilter(self, watched: Any, event: Any) -> bool:
            self.seen.append((watched.name, event.type() == qt.QEvent.Resize))
            return False

    label, watcher = qt.QLabel(), Filter()
    label.name = "watched"
    label.installEventFilter(watcher)
    label.show()
    label.resize(50, 60)
    assert ("watched", True) in watcher.seen


def wait(done: Any, seconds: float = 10) -> None:
    timer = qt.QElapsedTimer()
    timer.start()
    while not done():
        assert timer.elapsed() < 1000 * seconds, "waited in vain"
        slicer.app.processEvents()


def test_slots_get_as_many_arguments_as_they_declare() -> None:  # rules 14 and 15
    button, got = qt.QPushButton(), []
    button.checkable = True
    button.clicked.connect(lambda: got.append("none"))
    button.clicked.connect(lambda checked: got.append(checked))
    button.clicked.connect(lambda *everything: got.append(everything))
    button.clicked.connect(lambda index=7: got.append(index))  # the bool lands in the default argument
    button.connect("clicked()", lambda *everything: got.append(everything))
    button.click()
    assert got == ["none", True, (True,), True, ()]


def test_a_slot_that_declares_too_much_fails_when_called() -> None:  # rule 15
    process, got = qt.QProcess(), []
    process.finished.connect(lambda code, status: got.append(status))  # finished(int) comes first in Qt 5
    process.connect("finished(int,QProcess::ExitStatus)", lambda code, status: got.append(status))
    process.start(sys.executable, ["-c", ""])
    assert process.waitForFinished(20000)
    assert got == [qt.QProcess.NormalExit]
    assert isinstance(standin.UNCAUGHT.pop(), TypeError)


def test_an_exception_in_a_slot_is_printed_and_the_others_go_on(capsys: pytest.CaptureFixture[str]) -> None:  # rule 16
    def fail() -> None:
        raise KeyError("lost")

    button, got = qt.QPushButton(), []
    button.clicked.connect(fail)
    button.clicked.connect(lambda: got.append(1))
    button.clicked.connect(got.clear)  # a builtin gets every argument: clear(False) is a TypeError
    button.click()
    assert got == [1]
    assert "KeyError: 'lost'" in capsys.readouterr().err
    assert [type(error) for error in standin.UNCAUGHT] == [KeyError, TypeError]
    standin.UNCAUGHT.clear()


def test_an_exception_in_an_observer_is_kept_too() -> None:
    node = a_volume()
    node.AddObserver("ModifiedEvent", lambda caller, event: 1 / 0)
    node.Modified()
    assert isinstance(standin.UNCAUGHT.pop(), ZeroDivisionError)


def test_connections_are_counted() -> None:  # rule 16
    button, got = qt.QPushButton(), []

    def note() -> None:
        got.append(1)

    button.clicked.connect(note)
    button.connect("clicked(bool)", note)
    button.click()
    button.disconnect("clicked(bool)", note)
    button.click()
    assert button.clicked.disconnect(note)
    assert not button.clicked.disconnect(note)
    button.click()
    assert got == [1, 1, 1]


def test_a_process_talks_in_lines() -> None:
    process, lines = qt.QProcess(), []
    process.connect(
        "readyReadStandardOutput()",
        lambda: lines.extend(process.readAllStandardOutput().data().decode().splitlines()),
    )
    process.start("PythonSlicer", ["-u", "-c", "for line in open(0): print(line.strip().upper())"])
    process.write(b"one\n")
    wait(lambda: lines)
    process.write("two\n")
    process.closeWriteChannel()
    wait(lambda: process.state() == qt.QProcess.NotRunning)
    assert lines == ["ONE", "TWO"]
    assert process.exitCode() == 0


def test_settings_come_back_as_ini_files_keep_them() -> None:  # rule 9
    settings = qt.QSettings()
    settings.setValue("ASCON/on", True)
    settings.sync()
    assert settings.fileName().startswith(slicer.app.temporaryPath)
    assert slicer.util.settingsValue("ASCON/on", False, converter=slicer.util.toBool) is True


# -- widgets -----------------------------------------------------------------------------------------------------------


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


def test_slider_without_tracking_speaks_at_the_end_of_a_drag() -> None:
    slider, said = ctk.ctkSliderWidget(), []
    slider.maximum = 100
    slider.decimals = 0
    slider.valueChanged.connect(said.append)
    slider.value = 33.4
    slider.setValue(200)
    assert said == [33.0, 100.0]


def test_a_collapsed_button_hides_its_content() -> None:
    box = ctk.ctkCollapsibleButton()
    layout = qt.QVBoxLayout(box)
    label = qt.QLabel("inside")
    layout.addWidget(label)
    box.show()
    assert label.visible
    heard = []
    box.contentsCollapsed.connect(heard.append)
    box.collapsed = True
    assert not label.visible
    box.click()
    assert label.visible
    assert heard == [True, False]


def test_a_button_that_was_collapsed_shows_its_content_when_opened(tmp_path: Path) -> None:
    panel = a_panel(
        tmp_path,
        """<ui version="4.0"><class>P</class><widget class="qMRMLWidget" name="P"><layout class="QVBoxLayout" name="v">
        <item><widget class="ctkCollapsibleButton" name="box"><property name="collapsed"><bool>true</bool></property>
        <layout class="QFormLayout" name="f"><item row="0" column="1"><widget class="QLabel" name="label">
        <property name="text"><string>inside</string></property></widget></item></layout></widget></item></layout>
        </widget></ui>""",
    )
    panel.show()
    slicer.app.processEvents()
    ui = slicer.util.childWidgetVariables(panel)
    assert not ui.label.visible and ui.box.height < 40
    ui.box.collapsed = False
    slicer.app.processEvents()
    assert ui.label.visible and ui.label.height >= ui.label.sizeHint.height() and ui.box.height > 40


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


def a_panel(folder: Path, text: str = UI) -> Any:
    path = folder / "panel.ui"
    path.write_text(text)
    return slicer.util.loadUI(str(path))


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


# -- parameter nodes ---------------------------------------------------------------------------------------------------


class Device(enum.Enum):
    AUTO = "a"
    CPU = "c"


@parameterNodeWrapper
class Parameters:
    volume: vtkMRMLScalarVolumeNode
    other: Optional[vtkMRMLScalarVolumeNode]  # noqa: UP045
    strength: Annotated[float, WithinRange(0, 100)] = 75
    device: Device = Device.CPU
    fast: bool
    model: Annotated[str, Choice(["small", "large"]), Default("large")]


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
    @parameterNodeWrapper
    class Unbounded:
        strength: float

    wrapped = Unbounded(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScriptedModuleNode"))
    with pytest.raises(RuntimeError, match="unbounded"):
        wrapped.connectParametersToGui({"strength": ctk.ctkSliderWidget()})
    with pytest.raises(RuntimeError, match="Unable to create GUI connector"):
        wrapped.connectParametersToGui({"strength": qt.QCheckBox()})


def test_types_that_cannot_be_kept_are_refused() -> None:
    with pytest.raises(TypeError, match="serializer"):

        @parameterNodeWrapper
        class Complex:
            value: complex


# -- modules and views -------------------------------------------------------------------------------------------------

MODULE = """
import slicer
from slicer.ScriptedLoadableModule import *

class Small(ScriptedLoadableModule):
    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title, parent.categories = "A small module", ["Testing"]

class SmallWidget(ScriptedLoadableModuleWidget):
    events = []
    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        self.logic = SmallLogic()
        self.events.append("setup")
    def enter(self): self.events.append("enter")
    def exit(self): self.events.append("exit")
    def cleanup(self): self.events.append("cleanup")

class SmallLogic(ScriptedLoadableModuleLogic): pass
"""


def test_a_scripted_module_is_loaded_entered_and_reloaded(tmp_path: Path) -> None:  # rule 17
    path = tmp_path / "Small.py"
    path.write_text(MODULE)
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


def test_slice_views_show_the_scene() -> None:
    import numpy as np

    manager = slicer.app.layoutManager()
    window = slicer.util.mainWindow()
    window.resize(600, 400)
    window.show()
    node = a_volume()
    slicer.util.updateVolumeFromArray(node, np.full((9, 32, 32), 100, np.int16))
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().SetAutoWindowLevel(0)
    node.GetDisplayNode().SetWindowLevel(200, 100)
    manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpRedSliceView)
    slicer.app.processEvents()
    assert manager.sliceWidget("Red").visible
    assert not manager.sliceWidget("Green").visible
    slicer.util.setSliceViewerLayers(background=node, fit=True)
    view = manager.sliceWidget("Red").sliceView()

    def middle() -> int:
        image = view.grab().toImage()
        return qt.QColor(image.pixel(image.width() // 2, image.height() // 2)).red()

    assert abs(middle() - 128) <= 2  # the centre of the window is mid-grey
    node.GetDisplayNode().SetWindowLevel(200, 0)
    assert middle() == 255
    assert manager.sliceWidget("Red").sliceLogic().GetSliceOffset() == 4
    assert slicer.mrmlScene.GetSubjectHierarchyNode().GetItemByDataNode(node)


def test_plot_views_show_a_chart_and_say_what_is_selected() -> None:
    """Real charts: rows of points that are not numbers are neither drawn nor selected."""
    import numpy as np
    import vtk
    from vtk.util import numpy_support

    xy = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    xy[::2, 1] = np.nan
    table = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", "points")
    for column, name in zip(xy.T, "xy", strict=True):
        values = numpy_support.numpy_to_vtk(column, deep=True)
        values.SetName(name)
        table.AddColumn(values)
    series = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotSeriesNode", "some")
    series.SetAndObserveTableNodeID(table.GetID())
    series.SetXColumnName("x")
    series.SetYColumnName("y")
    series.SetPlotType(series.PlotTypeScatter)
    series.SetLineStyle(series.LineStyleNone)
    chart_node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotChartNode", "chart")
    chart_node.AddAndObservePlotSeriesNodeID(series.GetID())
    manager = slicer.app.layoutManager()
    manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
    slicer.modules.plots.logic().ShowChartInLayout(chart_node)
    assert manager.layout == slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpPlotView
    view = manager.plotWidget(0).plotView()
    assert manager.plotWidget(manager.plotViewCount) is None
    said = []
    view.connect("dataSelected(vtkStringArray*, vtkCollection*)", lambda ids, rows: said.append((ids, rows)))
    view.chart().GetPlot(0).Update()  # as when it is drawn
    view.chart().GetPlot(0).SelectPoints(vtk.vtkVector2f(-1, -1), vtk.vtkVector2f(1, 1))
    view.chart().InvokeEvent("SelectionChangedEvent")
    ((ids, rows),) = said
    assert [ids.GetValue(i) for i in range(ids.GetNumberOfValues())] == [series.GetID()]
    chosen = numpy_support.vtk_to_numpy(rows.GetItemAsObject(0))
    assert chosen.tolist() == np.flatnonzero((abs(xy) <= 1).all(axis=1)).tolist()
    assert len(chosen) > 5
    slicer.mrmlScene.RemoveNode(series)
    assert view.chart().GetNumberOfPlots() == 0
    manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)


def test_a_cleared_scene_has_a_subject_hierarchy_again() -> None:
    for _again in range(2):
        node = a_volume()
        assert slicer.mrmlScene.GetSubjectHierarchyNode().GetItemByDataNode(node)
        slicer.mrmlScene.Clear()
        assert slicer.mrmlScene.GetSubjectHierarchyNode() is not None


def test_the_dicom_database_reads_single_values(tmp_path: Path) -> None:
    from dicom_fixtures import make_ct_series

    database = ctk.ctkDICOMDatabase()
    (file,) = make_ct_series(tmp_path, shape=(1, 4, 4), series_description="Thorax")
    database.insert(str(file))
    import pydicom

    uid = pydicom.dcmread(file).SOPInstanceUID
    assert database.fileForInstance(uid) == str(file)
    assert database.instanceValue(uid, "0008,103E") == "Thorax"
    assert database.instanceValue(uid, "0008,0060") == "CT"
    assert database.instanceValue(uid, "0020,0037").count("\\") == 5
    assert database.instanceValue(uid, "0018,9999") == database.instanceValue("1.2.3", "0008,0060") == ""


def test_volumes_are_read_and_written_by_slicers_own_code(tmp_path: Path) -> None:
    import numpy as np

    path, voxels = tmp_path / "ct.nrrd", np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)
    node = a_volume()
    slicer.util.updateVolumeFromArray(node, voxels)
    assert node.AddDefaultStorageNode()
    node.GetStorageNode().SetFileName(str(path))
    assert node.GetStorageNode().WriteData(node)
    loaded = slicer.util.loadVolume(str(path), {"name": "again", "show": False})
    assert loaded.GetName() == "again"
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(loaded), voxels)


# -- run.py ------------------------------------------------------------------------------------------------------------

START = """
import runpy, sys
sys.path.insert(0, {testing!r})
import standin
standin.install()
import slicer
sys.path.remove({testing!r})
sys.argv = [{script!r}]
import qt
qt.QTimer.singleShot(0, lambda: runpy.run_path({script!r}, run_name="__main__"))
sys.exit(slicer.app.exec())
"""
TEST = """
import unittest
import qt
class OneTest(unittest.TestCase):
    def test_it(self):
        button = qt.QPushButton()
        button.clicked.connect(lambda: {in_slot})
        button.click()
        self.assertEqual(1, {number})
"""


@pytest.mark.parametrize(
    ("in_slot", "number", "code"), [("1", "1", 0), ("1", "2", 1), ("1 / 0", "1", 1), ("1", "(", 1)]
)
def test_the_script_that_runs_the_tests_in_slicer_ends_it_with_their_result(
    tmp_path: Path, in_slot: str, number: str, code: int
) -> None:
    here = Path(__file__).resolve().parents[1]
    folder = tmp_path / "Testing" / "slicer"
    folder.mkdir(parents=True)
    script = folder / "run.py"
    script.write_text((here / "panel" / "run.py").read_text())
    (folder / "test_one.py").write_text(TEST.format(in_slot=in_slot, number=number))
    for name in ("ASCONDenoise", "ASCONTraining"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.py").write_text(MODULE.replace("Small", name))
    started = START.format(testing=str(here), script=str(script))
    done = subprocess.run([sys.executable, "-c", started], capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stdout + done.stderr
