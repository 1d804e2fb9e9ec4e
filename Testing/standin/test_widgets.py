"""CTK's and Slicer's widgets: a slider, a collapsible button."""

from __future__ import annotations

from pathlib import Path

from standin.started import a_panel, ctk, qt, slicer


def test_slider_without_tracking_speaks_at_the_end_of_a_drag() -> None:
    slider, said = ctk.ctkSliderWidget(), []
    slider.maximum = 100
    slider.decimals = 0
    slider.valueChanged.connect(said.append)
    slider.value = 33.4
    slider.setValue(200)
    assert said == [33.0, 100.0]


def test_plain_tool_tips_come_back_as_rich_text(tmp_path: Path) -> None:
    button, action = qt.QPushButton(), qt.QAction("Go", None)
    button.toolTip = "dose < 25 %\nand more"
    assert button.toolTip == "<p>dose &lt; 25 %<br>\nand more</p>"
    button.toolTip = button.toolTip
    assert button.toolTip.count("<p>") == 1
    button.setToolTip("plain")
    assert button.toolTip == "<p>plain</p>"
    button.setProperty("toolTip", "other")
    assert button.toolTip == "<p>other</p>"
    button.toolTip = "<b>rich</b>"
    assert button.toolTip == "<b>rich</b>"
    button.toolTip = ""
    assert button.toolTip == ""
    action.toolTip = "an action is no widget"
    assert action.toolTip == "an action is no widget"
    panel = a_panel(
        tmp_path,
        """<ui version="4.0"><class>P</class><widget class="qMRMLWidget" name="P"><layout class="QVBoxLayout" name="v">
        <item><widget class="QLabel" name="label"><property name="toolTip"><string>from the file</string></property>
        </widget></item></layout></widget></ui>""",
    )
    assert slicer.util.childWidgetVariables(panel).label.toolTip == "<p>from the file</p>"


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
