"""Several volumes, ticked in the list: failures are told once, cancelling keeps what is done; and whole sequences."""

import unittest
from unittest import mock

import numpy as np
import slicer
from panel_case import LongRun, PanelTestCase, makeVolume, someVoxels, toolTip, wait


class SeveralTest(PanelTestCase):
    def setUp(self):
        super().setUp()
        self.second = makeVolume("second", someVoxels(4, seed=1), tilt=20)
        self.button = self.ui.severalButton

    def tick(self, *nodes):
        for node in nodes:
            self.ui.severalSelector.check(node)

    def runAll(self):
        with mock.patch.object(slicer.util, "warningDisplay") as warned:
            self.button.click()
            self.assertEqual(self.button.text, "Cancel")
            wait(lambda: not self.logic.tasks.busy("several"))
        return warned

    def node(self, name):
        return slicer.util.getFirstNodeByClassByName("vtkMRMLScalarVolumeNode", name)

    def test_each_ticked_volume_is_denoised_and_no_other(self):
        self.assertFalse(self.button.enabled)
        self.assertIn("Tick", toolTip(self.button))
        third = makeVolume("third", someVoxels(3))
        self.tick(self.ldct, self.second)
        self.assertEqual(self.button.text, "Denoise all 2")
        self.choices.strength = 50
        warned = self.runAll()
        warned.assert_not_called()
        self.assertEqual(self.ui.severalLabel.text, "Done: 2 of 2 volumes denoised.")
        self.assertEqual(self.volumes(), ["CT", "second", "third", "CT denoised", "second denoised"])
        for source in (self.ldct, self.second):
            voxels = slicer.util.arrayFromVolume(source)
            made = self.node(f"{source.GetName()} denoised")
            np.testing.assert_array_equal(slicer.util.arrayFromVolume(made), self.expected(voxels, 0.5))
            self.assertEqual(made.GetAttribute("ASCON.Strength"), "0.5")
        self.assertEqual(self.ui.severalSelector.checkedNodes(), (self.ldct, self.second))
        self.assertIs(self.choices.inputVolume, self.ldct)
        self.assertIsNone(self.choices.outputVolume)  # that of the single Denoise
        self.assertEqual(self.newFiles(), [])
        self.assertIsNotNone(third.GetScene())

    def test_what_fails_stops_nothing_and_is_told_once(self):
        empty = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty")
        bad = makeVolume("not finite", np.full((3, 32, 32), np.nan, np.float32))
        self.tick(empty, bad, self.second)
        warned = self.runAll()
        self.assertEqual(self.ui.severalLabel.text, "Done: 1 of 3 volumes denoised.")
        warned.assert_called_once()
        (text,) = warned.call_args.args
        self.assertRegex(text, r"(?s)not denoised.*empty: .*\n\nnot finite: .*")
        self.assertNotIn("second:", text)
        self.assertIsNotNone(self.node("second denoised"))
        self.assertEqual(self.newFiles(), [])

    def test_a_crash_of_the_worker_costs_one_volume(self):
        self.tick(self.ldct, self.second)
        with mock.patch.object(slicer.util, "warningDisplay") as warned:
            self.button.click()
            wait(lambda: self.logic.tasks.current.begun)
            self.logic.tasks.worker.stop("The worker ended.")
            wait(lambda: not self.logic.tasks.busy("several"))
        self.assertIn("CT: The worker ended.", warned.call_args.args[0])
        self.assertEqual(self.volumes(), ["CT", "second", "second denoised"])

    def test_a_volume_that_is_removed_before_its_turn(self):
        self.tick(self.ldct, self.second)
        with mock.patch.object(slicer.util, "warningDisplay") as warned:
            self.button.click()
            slicer.mrmlScene.RemoveNode(self.second)
            wait(lambda: not self.logic.tasks.busy("several"))
        self.assertIn("second: It was removed", warned.call_args.args[0])
        self.assertEqual(self.volumes(), ["CT", "CT denoised"])

    def test_the_single_denoise_waits(self):
        self.tick(self.ldct)
        self.button.click()
        self.assertFalse(self.ui.denoiseButton.enabled)
        wait(lambda: not self.logic.tasks.busy("several"))
        self.assertTrue(self.ui.denoiseButton.enabled)


class CancelTest(LongRun, PanelTestCase):
    def test_cancel_keeps_what_is_done_and_stops_the_rest(self):
        first = makeVolume("first", someVoxels(2))
        second = makeVolume("second", self.voxels)
        slicer.mrmlScene.RemoveNode(self.ldct)
        for node in (first, second):
            self.ui.severalSelector.check(node)
        with mock.patch.object(slicer.util, "warningDisplay") as warned:
            self.ui.severalButton.click()
            wait(lambda: "2 of 2, second" in self.ui.severalLabel.text and self.logic.tasks.current.begun)
            self.ui.severalButton.click()
            wait(lambda: not self.logic.tasks.busy("several"))
        warned.assert_not_called()
        self.assertEqual(self.ui.severalLabel.text, "Cancelled. What was denoised before stays.")
        self.assertEqual(self.volumes(), ["first", "second", "first denoised"])
        self.assertEqual(self.newFiles(), [])


class SequenceTest(PanelTestCase):
    def setUp(self):
        super().setUp()
        sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "heart")
        self.frames = [someVoxels(3, seed=number) for number in range(2)]
        for number, voxels in enumerate(self.frames):
            frame = makeVolume("frame", voxels)
            sequence.SetDataNodeAtValue(frame, str(number))
            slicer.mrmlScene.RemoveNode(frame)
        self.browser = slicer.mrmlScene.AddNode(slicer.vtkMRMLSequenceBrowserNode())
        modified = self.browser.StartModify()
        self.browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
        slicer.util.updateVolumeFromArray(self.ldct, self.frames[0])
        self.browser.AddProxyNode(self.ldct, sequence, False)
        self.browser.EndModify(modified)
        self.panel._update()

    def test_the_whole_sequence_is_denoised(self):
        button = self.ui.sequenceButton
        self.assertTrue(button.isVisibleTo(self.panel.parent))
        self.assertEqual(button.text, "Denoise all 2 frames of the sequence")
        button.click()
        self.assertEqual(button.text, "Cancel")
        self.assertNotEqual(self.ui.severalButton.text, "Cancel")
        wait(lambda: "frame 2 of 2" in self.ui.statusLabel.text)
        wait(lambda: not self.logic.tasks.busy("several"))
        self.assertEqual(self.ui.statusLabel.text, "Done: CT denoised shows the denoised sequence.")
        shown = slicer.util.getFirstNodeByClassByName("vtkMRMLScalarVolumeNode", "CT denoised")
        sequence = self.browser.GetSequenceNode(shown)
        for number, voxels in enumerate(self.frames):
            made = slicer.util.arrayFromVolume(sequence.GetNthDataNode(number))
            np.testing.assert_array_equal(made, self.expected(voxels))
        np.testing.assert_array_equal(slicer.util.arrayFromVolume(shown), self.expected(self.frames[0]))

    def test_cancel_changes_nothing(self):
        nodes = slicer.mrmlScene.GetNumberOfNodes()
        self.ui.sequenceButton.click()
        wait(lambda: "frame 2 of 2" in self.ui.statusLabel.text)
        self.ui.sequenceButton.click()
        wait(lambda: not self.logic.tasks.busy("several"))
        self.assertEqual(self.ui.statusLabel.text, "Cancelled. Nothing was changed.")
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodes(), nodes)

    def test_one_button_cancels(self):
        self.ui.severalSelector.check(self.ldct)
        self.ui.severalButton.click()
        self.assertEqual(self.ui.severalButton.text, "Cancel")
        self.assertFalse(self.ui.sequenceButton.isVisibleTo(self.panel.parent))
        self.ui.severalButton.click()
        wait(lambda: not self.logic.tasks.busy("several"))
        self.assertTrue(self.ui.sequenceButton.isVisibleTo(self.panel.parent))

    def test_other_volumes_have_no_such_button(self):
        self.choices.inputVolume = makeVolume("other", someVoxels(2))
        self.assertFalse(self.ui.sequenceButton.isVisibleTo(self.panel.parent))


if __name__ == "__main__":
    unittest.main()
