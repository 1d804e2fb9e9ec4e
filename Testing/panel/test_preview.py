"""The button Preview: the axial slice in sight, denoised alone."""

import unittest
from pathlib import Path

import numpy as np
import slicer
import vtk
from panel_case import PanelTestCase, longestHold, makeVolume, pace, toolTip, wait


class PreviewTest(PanelTestCase):
    def setUp(self):
        super().setUp()
        manager = slicer.app.layoutManager()
        if manager is None:
            self.skipTest("no views without the main window")
        layout = manager.layout
        self.addCleanup(lambda: manager.setLayout(layout))
        manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
        slicer.util.setSliceViewerLayers(background=self.ldct, fit=True)
        self.section = self.panel.preview
        self.section.worker = self.logic.tasks.worker  # which has torch in memory already
        self.red = self.view("Red")
        self.scroll(2)

    def closePanel(self):
        if self.panel is not None:
            self.ui.previewButton.checked = False
            self.section.worker = type(self.section.worker)()
        super().closePanel()

    def view(self, name: str):
        (node,) = [n for n in slicer.util.getNodesByClass("vtkMRMLSliceNode") if n.GetLayoutName() == name]
        return node

    def composite(self, name: str = "Red"):
        nodes = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
        (node,) = [n for n in nodes if n.GetLayoutName() == name]
        return node

    def scroll(self, index: float):
        """Shows a slice of the LDCT, in its own plane, in the view Red."""
        matrix = vtk.vtkMatrix4x4()
        self.ldct.GetIJKToRASMatrix(matrix)
        self.red.SetOrientation("Axial")
        self.red.RotateToVolumePlane(self.ldct)
        self.red.JumpSliceByCentering(*matrix.MultiplyPoint((33, 30, index, 1))[:3])

    def settled(self):
        wait(lambda: not self.section.busy)
        return self.section.shown

    def shownVoxels(self):
        return slicer.util.arrayFromVolume(self.section.shown.node)[0]

    def requests(self, **changed) -> list:
        """What the worker is asked from now on, something of it changed."""
        worker, asked = self.section.worker, []
        request = worker.request
        worker.request = lambda listener, **job: asked.append(job) or request(listener, **job | changed)
        self.addCleanup(lambda: setattr(worker, "request", request))
        return asked

    def test_the_slice_in_sight_is_shown_as_the_whole_volume_would_be(self):
        self.choices.strength = 75
        before = self.voxels.copy()
        self.ui.previewButton.click()
        preview = self.settled()
        np.testing.assert_array_equal(self.shownVoxels(), self.expected(self.voxels, 0.75)[2])
        self.assertEqual(self.composite().GetBackgroundVolumeID(), self.ldct.GetID())
        self.assertEqual(self.composite().GetForegroundVolumeID(), preview.node.GetID())
        self.assertEqual(self.composite().GetForegroundOpacity(), 1)
        self.assertEqual(preview.node.GetName(), "CT preview: slice 3, 75 %")
        self.assertIn("Preview of slice 3 alone, model 0 1.0", self.ui.statusLabel.text)
        self.assertEqual(preview.node.GetAttribute("ASCON.ModelName"), "model 0")
        self.assertEqual(preview.node.GetAttribute("ASCON.Strength"), "0.75")
        matrices = [vtk.vtkMatrix4x4() for _ in range(2)]
        for node, matrix in zip((self.ldct, preview.node), matrices, strict=True):
            node.GetIJKToRASMatrix(matrix)
        np.testing.assert_allclose(matrices[1].MultiplyPoint((5, 6, 0, 1)), matrices[0].MultiplyPoint((5, 6, 2, 1)))
        self.assertIsNone(self.choices.outputVolume)
        self.assertIsNone(self.logic.run)
        np.testing.assert_array_equal(slicer.util.arrayFromVolume(self.ldct), before)

    def test_scrolling_renews_it_and_its_strength_follows_at_once(self):
        self.ui.previewButton.click()
        node = self.settled().node
        requests = self.requests()
        for index in (3, 4, 5):  # passed over, the last stays
            self.scroll(index)
            slicer.app.processEvents()
        preview = self.settled()
        self.assertEqual(preview.index, 5)
        self.assertEqual(len(requests), 1)
        self.assertIs(preview.node, node)
        np.testing.assert_array_equal(self.shownVoxels(), self.expected(self.voxels)[5])
        self.ui.strengthSlider.value = 50
        expected = self.expected(self.voxels, 0.5)[5]
        np.testing.assert_array_equal(self.shownVoxels(), expected)
        self.assertEqual(len(requests), 1)
        self.choices.model = "test-model-1"
        wait(lambda: self.section.busy)
        self.settled()
        np.testing.assert_array_equal(self.shownVoxels(), self.expected(self.voxels, 0.5, model=1)[5])

    def test_before_and_after_as_for_a_result(self):
        self.assertFalse(self.ui.flickerButton.enabled)
        self.ui.previewButton.click()
        self.settled()
        self.assertTrue(self.ui.flickerButton.enabled)
        self.ui.revealSlider.value = 0
        self.assertEqual(self.composite().GetForegroundOpacity(), 0)
        self.ui.boneButton.click()
        windows = [
            (display.GetWindowLevelMin(), display.GetWindowLevelMax())
            for display in (self.ldct.GetDisplayNode(), self.section.shown.node.GetDisplayNode())
        ]
        self.assertEqual(windows[0], windows[1])
        self.ui.previewButton.click()
        self.assertFalse(self.ui.flickerButton.enabled)

    def test_it_goes_without_a_trace(self):
        volumes = self.volumes()
        self.ui.previewButton.click()
        self.settled()
        listed = [self.ui.inputSelector.nodeFromIndex(i).GetName() for i in range(self.ui.inputSelector.nodeCount())]
        self.assertEqual(listed, ["CT"])
        self.scroll(4)
        self.settled()
        self.assertNotIn("preview", Path(self.saveScene()).read_text())
        self.ui.previewButton.click()
        self.assertEqual(self.volumes(), volumes)
        self.assertIsNone(self.composite().GetForegroundVolumeID())
        self.assertEqual(self.newFiles(), [])
        self.scroll(2)
        for _turn in range(3):
            slicer.app.processEvents()
        self.assertFalse(self.section.busy)

    def test_denoise_replaces_it(self):
        self.ui.previewButton.click()
        self.settled()
        result = self.denoise()
        np.testing.assert_array_equal(result, self.expected(self.voxels))
        self.assertFalse(self.ui.previewButton.checked)
        self.assertEqual(self.composite().GetForegroundVolumeID(), self.choices.outputVolume.GetID())
        self.assertEqual(sorted(self.volumes()), ["CT", "CT denoised"])
        self.settle()
        self.ui.previewButton.click()  # of a result there may be one, too: of another model, say
        self.choices.model = "test-model-1"
        preview = self.settled()
        self.assertEqual(self.composite().GetForegroundVolumeID(), preview.node.GetID())
        self.ui.previewButton.click()
        self.assertEqual(self.composite().GetForegroundVolumeID(), self.choices.outputVolume.GetID())

    def test_where_no_axial_slice_is_in_sight_it_says_so_and_waits_for_one(self):
        slicer.app.layoutManager().setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpYellowSliceView)
        self.view("Yellow").SetOrientation("Sagittal")
        self.ui.previewButton.click()
        self.settled()
        self.assertIn("No axial slice is in sight", self.ui.statusLabel.text)
        self.assertIsNone(self.section.shown)
        slicer.app.layoutManager().setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpRedSliceView)
        wait(lambda: self.section.shown is not None)
        self.assertEqual(self.section.shown.index, 2)

    def test_another_ldct_is_another_preview(self):
        self.ui.previewButton.click()
        first = self.settled().node
        volume = makeVolume("other", self.voxels[::-1])
        self.choices.inputVolume = volume
        wait(lambda: self.section.shown is not None and self.section.shown.input is volume)
        self.assertIsNone(first.GetScene())
        np.testing.assert_array_equal(self.shownVoxels(), self.expected(self.voxels)[5 - self.section.shown.index])
        slicer.mrmlScene.RemoveNode(volume)
        self.assertNotIn("preview", " ".join(self.volumes()))
        self.assertNotIn(self.choices.inputVolume, [volume, first])

    def test_a_failure_is_a_sentence_and_the_button_comes_up(self):
        self.requests(device="abacus")
        self.ui.previewButton.click()
        wait(lambda: not self.ui.previewButton.checked)
        self.assertIn("abacus", self.ui.statusLabel.text)
        self.assertEqual(self.newFiles(), [])

    def test_the_end_of_the_scene_in_the_middle_of_it(self):
        self.ui.previewButton.click()
        slicer.app.processEvents()
        slicer.mrmlScene.Clear()
        self.assertFalse(self.section.busy)
        self.assertFalse(self.ui.previewButton.checked)
        self.assertFalse(self.ui.previewButton.enabled)
        self.assertIn("LDCT", toolTip(self.ui.previewButton))

    def test_the_main_thread_is_not_held(self):
        limit = 0.2 * pace()
        self.ui.previewButton.click()
        self.settled()
        at = [2]

        def scroll():
            at[0] = 5 - at[0]
            self.scroll(at[0])
            wait(lambda: self.section.shown.index == at[0] and not self.section.busy)

        self.assertLess(longestHold(scroll, limit), limit)


if __name__ == "__main__":
    unittest.main()
