"""Several volumes: ticked in the list, denoised one after the other; failures are told once, and cancelling keeps."""

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


if __name__ == "__main__":
    unittest.main()
