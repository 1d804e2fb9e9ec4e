"""The user's choices, saved with the scene."""

import importlib.util
import sys
import unittest

import numpy as np
import slicer
from panel_case import PanelTestCase, makeVolume, wait


class SceneTest(PanelTestCase):
    def test_choices_are_saved_with_the_scene(self):
        reference = makeVolume("NDCT", self.voxels)
        self.ui.referenceSelector.setCurrentNode(reference)
        self.ui.mildButton.click()
        self.ui.advancedCollapsibleButton.collapsed = False
        wait(lambda: self.panel.modelChooser.devices)
        names = [self.ui.deviceComboBox.itemData(i) for i in range(self.ui.deviceComboBox.count)]
        self.assertEqual(names[0], "auto")
        self.assertIn("cpu", names)
        self.ui.deviceComboBox.setCurrentIndex(names.index("cpu"))
        self.ui.deviceComboBox.activated.emit(names.index("cpu"))
        names = [self.ui.modelComboBox.itemData(i) for i in range(self.ui.modelComboBox.count)]
        self.ui.modelComboBox.setCurrentIndex(names.index("test-model-1"))
        self.ui.modelComboBox.activated.emit(names.index("test-model-1"))
        self.ui.differenceSlider.value = 80
        result = self.denoise().copy()
        self.settle()
        file = self.saveScene()
        slicer.mrmlScene.Clear()
        self.openScene(file)
        choices, ui = self.choices, self.ui
        self.assertEqual(choices.inputVolume.GetName(), "CT")
        self.assertEqual(ui.inputSelector.currentNode().GetName(), "CT")
        self.assertEqual(ui.referenceSelector.currentNode().GetName(), "NDCT")
        self.assertEqual(ui.outputSelector.currentNode().GetName(), "CT denoised")
        self.assertEqual(ui.strengthSlider.value, 50)
        self.assertEqual(ui.differenceSlider.value, 80)
        self.assertEqual(ui.modelComboBox.currentText, "model 1 1.0")
        self.assertEqual(ui.deviceComboBox.itemData(ui.deviceComboBox.currentIndex), "cpu")
        np.testing.assert_array_equal(slicer.util.arrayFromVolume(choices.outputVolume), result)
        self.assertEqual(choices.outputVolume.GetAttribute("ASCON.ModelName"), "model 1")
        self.denoise()

    def test_a_scene_that_is_added_while_the_panel_is_open_works_at_once(self):
        self.denoise()
        self.settle()
        withAnatomy = all(map(importlib.util.find_spec, ("sklearn", "threadpoolctl")))
        if withAnatomy:
            self.logic.points, self.choices.clusters = 150, 3
            self.ui.anatomyButton.click()
            self.settle()
        file = self.saveScene()
        slicer.mrmlScene.Clear()
        self.openScene(file, add=True)
        ui, denoised = self.ui, slicer.util.getNode("CT denoised")
        self.assertIs(self.choices.outputVolume, denoised)
        for widget in (ui.compareButton, ui.differenceButton, ui.revealSlider, ui.flickerButton):
            self.assertTrue(widget.enabled)
        if withAnatomy:
            self.assertIs(self.choices.anatomy, slicer.util.getNode("CT anatomy"))
            for widget in (ui.anatomyOpacitySlider, ui.anatomyOutlinesCheckBox, ui.plotButton):
                self.assertTrue(widget.enabled)
            self.assertEqual(ui.anatomyTable.rowCount, 3)
            ui.anatomyOpacitySlider.value = 60
            self.assertEqual(self.choices.anatomy.GetDisplayNode().GetOpacity2DFill(), 0.6)
        if slicer.app.layoutManager() is None:
            return
        layout = slicer.app.layoutManager().layout
        self.addCleanup(lambda: slicer.app.layoutManager().setLayout(layout))
        sliceView = sys.modules["ASCONDenoiseLib.scene.compare_layout"].slice_view
        ui.compareButton.click()
        ui.revealSlider.value = 30
        _view, composite = sliceView(slicer.mrmlScene, "denoised")
        self.assertEqual(composite.GetForegroundVolumeID(), denoised.GetID())
        self.assertAlmostEqual(composite.GetForegroundOpacity(), 0.3)
        ui.differenceButton.click()
        self.settle()
        _view, composite = sliceView(slicer.mrmlScene, "difference")
        difference = slicer.mrmlScene.GetNodeByID(composite.GetBackgroundVolumeID())
        expected = slicer.util.arrayFromVolume(denoised) - slicer.util.arrayFromVolume(slicer.util.getNode("CT"))
        np.testing.assert_array_equal(slicer.util.arrayFromVolume(difference), expected)
        if withAnatomy:
            ui.plotButton.click()
            self.assertTrue(ui.plotButton.checked)

    def test_the_node_is_taken_anew_after_whatever_changes_the_scene_as_a_whole(self):
        scene = slicer.mrmlScene
        for event in (scene.EndImportEvent, scene.EndRestoreEvent, scene.EndUndoEvent):
            before = self.choices
            scene.InvokeEvent(event)
            slicer.app.processEvents()
            self.assertIsNot(self.choices, before)
            self.assertIs(self.choices.inputVolume, self.ldct)

    def test_a_choice_that_somebody_else_writes_into_the_node_counts(self):
        result = makeVolume("result", self.voxels)
        node = self.choices.parameterNode
        node.DisableModifiedEventOn()  # so that only the event of the reference comes
        node.SetNodeReferenceID("outputVolume", result.GetID())
        node.DisableModifiedEventOff()
        slicer.app.processEvents()
        self.assertIs(self.choices.outputVolume, result)
        self.assertIs(self.ui.outputSelector.currentNode(), result)
        self.assertTrue(self.ui.compareButton.enabled)


if __name__ == "__main__":
    unittest.main()
