"""The section Anatomy: find, cancel, table and colours."""

import sys
import time
import unittest
from unittest import mock

import numpy as np
import slicer
import vtk
from anatomy_case import AnatomyTestCase
from panel_case import LongRun, longestHold, makeVolume, pace, someVoxels, toolTip, wait


class FindTest(AnatomyTestCase):
    def test_the_segmentation_is_like_the_volume(self):
        transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "moved")
        self.ldct.SetAndObserveTransformNodeID(transform.GetID())
        segmentation = self.find()
        self.assertEqual(segmentation.GetName(), "CT anatomy")
        self.assertEqual(segmentation.GetTransformNodeID(), transform.GetID())
        segments = segmentation.GetSegmentation()
        labels = self.expected()["map"]
        self.assertEqual(segments.GetNumberOfSegments(), labels.max())
        self.assertEqual(segments.GetNumberOfLayers(), 1)
        first = segments.GetNthSegment(0).GetRepresentation("Binary labelmap")
        np.testing.assert_array_equal(
            slicer.util.arrayFromSegmentInternalBinaryLabelmap(segmentation, segments.GetNthSegmentID(0)), labels
        )
        matrices = [vtk.vtkMatrix4x4() for _ in range(2)]
        self.ldct.GetIJKToRASMatrix(matrices[0])
        first.GetImageToWorldMatrix(matrices[1])
        for i in range(4):
            for j in range(4):
                self.assertAlmostEqual(matrices[0].GetElement(i, j), matrices[1].GetElement(i, j), places=10)
        for i in range(segments.GetNumberOfSegments()):
            segment = segments.GetNthSegment(i)
            self.assertEqual(segment.GetLabelValue(), i + 1)
            self.assertRegex(segment.GetName(), rf"^{i + 1} \w.* \(suggested\)$")
        colors = {tuple(round(255 * c) for c in segments.GetNthSegment(i).GetColor()) for i in range(labels.max())}
        self.assertEqual(len(colors), labels.max())
        self.assertEqual(segmentation.GetAttribute("ASCON.ModelName"), "model 0")
        np.testing.assert_array_equal(slicer.util.arrayFromVolume(self.ldct), self.voxels)
        self.assertEqual(self.newFiles(), [])

    def test_the_table_holds_what_the_clusters_hold(self):
        segmentation = self.find()
        expected = self.expected()
        table, labels = self.ui.anatomyTable, expected["map"]
        self.assertFalse(table.isHidden())
        self.assertEqual(table.rowCount, labels.max())
        ml_per_voxel = np.prod(self.ldct.GetSpacing()) / 1000
        means = []
        for label in range(1, labels.max() + 1):
            mine = labels == label
            before, after = self.voxels[mine].astype(float), expected["denoised"][mine].astype(float)
            row = [table.item(label - 1, c).text() for c in range(table.columnCount)]
            self.assertEqual(f"{row[0]} (suggested)", segmentation.GetSegmentation().GetNthSegment(label - 1).GetName())
            self.assertEqual(
                row[1:],
                [
                    f"{mine.sum() * ml_per_voxel:.1f}",
                    f"{before.mean():.0f} ± {before.std():.0f}",
                    f"{after.mean():.0f} ± {after.std():.0f}",
                    f"{(before - after).std():.1f}",
                ],
            )
            means.append(before.mean())
        self.assertEqual(means, sorted(means))
        self.assertIn("Suggested", table.horizontalHeaderItem(0).text())
        self.assertRegex(
            self.ui.anatomyLabel.text, r"^Silhouette -?\d\.\d\d .*, Davies-Bouldin .* intra/inter \d\.\d\d"
        )
        self.assertIn("CT anatomy table", self.nodes())

    def test_opacity_and_outlines(self):
        display = self.find().GetDisplayNode()
        self.assertEqual(display.GetOpacity2DFill(), 0)  # the image stays as it is, between outlines
        self.assertTrue(display.GetVisibility2DOutline())
        self.ui.anatomyOpacitySlider.value = 70
        self.ui.anatomyOutlinesCheckBox.click()
        self.assertEqual(display.GetOpacity2DFill(), 0.7)
        self.assertFalse(display.GetVisibility2DOutline())
        display = self.find().GetDisplayNode()  # the next looks the same
        self.assertEqual(display.GetOpacity2DFill(), 0.7)
        self.assertFalse(display.GetVisibility2DOutline())

    def test_again_replaces_and_another_volume_keeps(self):
        self.find()
        nodes = self.nodes()
        self.choices.clusters = 3
        second = self.find()
        self.assertEqual(second.GetSegmentation().GetNumberOfSegments(), 3)
        self.assertEqual([name for name in self.nodes() if "CT" in name], [name for name in nodes if "CT" in name])
        self.choices.inputVolume = makeVolume("other", someVoxels(4, seed=1))
        third = self.find()
        self.assertEqual(third.GetName(), "other anatomy")
        self.assertTrue(slicer.mrmlScene.IsNodePresent(second))

    def test_progress_and_t_sne_are_said(self):
        said = []
        self.click()
        wait(lambda: said.append(self.ui.anatomyProgressBar.format) or not self.logic.tasks.busy("anatomy"))
        self.assertTrue(any(text.startswith("step ") for text in said), set(said))
        self.assertIn("laying out the t-SNE plot", said)
        self.assertTrue(self.ui.anatomyProgressBar.isHidden())
        self.assertTrue(self.ui.progressBar.isHidden())

    def test_why_the_button_is_disabled(self):
        self.choices.inputVolume = None
        self.assertFalse(self.ui.anatomyButton.enabled)
        self.assertEqual(toolTip(self.ui.anatomyButton), "Choose the LDCT volume first.")
        self.choices.inputVolume = self.ldct
        self.assertTrue(self.ui.anatomyButton.enabled)
        self.choices.outputVolume = self.ldct  # which is the other button's trouble
        self.assertTrue(self.ui.anatomyButton.enabled)
        self.assertFalse(self.ui.plotButton.enabled)

    def test_one_after_the_other(self):
        self.click()
        self.assertFalse(self.ui.denoiseButton.enabled)
        self.assertIn("Wait", toolTip(self.ui.denoiseButton))
        wait(lambda: not self.logic.tasks.busy("anatomy"))
        self.ui.denoiseButton.click()
        self.assertFalse(self.ui.anatomyButton.enabled)
        wait(lambda: not self.logic.tasks.busy("denoise"))
        self.assertTrue(self.ui.anatomyButton.enabled)

    def test_another_strength_waits_for_it(self):
        self.ui.denoiseButton.click()
        self.settle()
        self.click()
        self.choices.strength = 50
        wait(lambda: not self.logic.tasks.busy("anatomy"))
        self.assertIn("Done", self.ui.anatomyStatusLabel.text)
        wait(lambda: self.logic.run.strength == 0.5 and not self.logic.tasks.busy())

    def test_the_main_thread_is_never_busy_for_long(self):
        self.voxels = np.tile(someVoxels(1), (8, 2, 2))
        slicer.util.updateVolumeFromArray(self.ldct, self.voxels)
        limit = 0.2 * pace()
        self.assertLess(longestHold(self.find, limit), limit)

    def test_packages_are_asked_for_at_the_click(self):
        requirements = sys.modules["ASCONDenoiseLib.requirements"]
        asked = []

        def check(wanted):
            return "scikit-learn" not in (wanted if isinstance(wanted, str) else " ".join(wanted))

        missing = mock.patch.object(slicer.packaging, "pip_check", check)
        ensured = mock.patch.object(slicer.packaging, "pip_ensure", lambda wanted, requester: asked.extend(wanted))
        with missing, ensured:
            self.click()
        self.assertEqual(asked, [*requirements.PANEL, *requirements.ANATOMY])
        self.assertIn("scikit-learn", self.ui.anatomyStatusLabel.text)
        self.assertFalse(self.logic.tasks.busy())


class CancelTest(LongRun, AnatomyTestCase):
    bar = "anatomyProgressBar"

    def assertNothingHappened(self):
        self.assertEqual(self.nodes(), [])
        self.assertEqual(self.newFiles(), [])
        self.assertIsNone(self.choices.anatomy)

    def test_cancel_during_the_network_then_again(self):
        self.runTo("step ")
        pid, limit = self.logic.tasks.worker.pid, self.secondsToCancel()
        clicked = time.monotonic()
        self.click()
        self.settle()
        self.assertLess(time.monotonic() - clicked, limit)
        self.assertEqual(self.ui.anatomyStatusLabel.text, "Cancelled. Nothing was changed.")
        self.assertEqual(self.ui.anatomyButton.text, "Find the anatomy")
        self.assertNothingHappened()
        self.assertEqual(self.logic.tasks.worker.pid, pid)
        self.find()

    def test_cancel_during_t_sne(self):
        self.logic.points = 2000
        self.runTo("t-SNE")
        clicked = time.monotonic()
        self.click()
        self.settle()
        self.assertLess(time.monotonic() - clicked, 0.5 * pace())
        self.assertNothingHappened()

    def test_input_removed_during_the_run(self):
        self.runTo("step ")
        slicer.mrmlScene.RemoveNode(self.ldct)
        self.settle()
        self.assertEqual(self.ui.anatomyStatusLabel.text, "CT was removed from the scene. Nothing was changed.")
        self.assertNothingHappened()

    def test_scene_closed_during_the_run(self):
        self.runTo("step ")
        slicer.mrmlScene.Clear()
        self.settle()
        self.assertNothingHappened()

    def test_earlier_result_removed_during_the_run(self):
        self.logic.points = 150
        earlier = self.find()
        self.runTo("step ")
        slicer.mrmlScene.RemoveNode(earlier)
        self.assertIsNone(self.choices.anatomy)
        self.assertTrue(self.ui.anatomyTable.isHidden())
        self.assertFalse(self.ui.plotButton.enabled)
        self.settle()
        self.assertIsNot(self.choices.anatomy, earlier)
        self.assertEqual(self.choices.anatomy.GetSegmentation().GetNumberOfSegments(), 4)

    def test_what_cannot_be_clustered_is_a_sentence(self):
        self.choices.inputVolume = makeVolume("air", np.full((3, 40, 40), -1000, np.int16))
        self.click()
        self.settle()
        self.assertRegex(self.ui.anatomyStatusLabel.text, "body.* Nothing was changed.$")
        self.assertNothingHappened()


if __name__ == "__main__":
    unittest.main()
