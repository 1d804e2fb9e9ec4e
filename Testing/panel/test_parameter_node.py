"""The user's choices, saved with the scene."""

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
        self.panel.initializeParameterNode()
        choices, ui = self.panel._parameterNode, self.ui
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


if __name__ == "__main__":
    unittest.main()
