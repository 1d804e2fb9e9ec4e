"""The stand-in is as strict as PythonQt. Rule numbers are those of standin/README.md."""

from __future__ import annotations

import gc
import sys
import warnings
from typing import Any

import pytest

import standin
from standin.started import a_volume, ctk, qt, slicer, wait


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
