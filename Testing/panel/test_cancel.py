"""A run that is cancelled, or fails: nothing is changed, and the next one works."""

import contextlib
import os
import signal
import sys
import time
import unittest
from unittest import mock

import numpy as np
import slicer
from panel_case import LongRun, PanelTestCase, makeVolume, modelFolder, pace, wait


class CancelTest(LongRun, PanelTestCase):
    ownWorker = (
        "test_cancel_at_once_while_pytorch_starts",
        "test_second_cancel_ends_a_worker_that_hangs",
        "test_worker_killed_during_the_run",
        "test_worker_that_cannot_start",
    )

    def assertNothingHappened(self):
        self.assertEqual(self.volumes(), ["CT"])
        np.testing.assert_array_equal(slicer.util.arrayFromVolume(self.ldct), self.voxels)
        self.assertEqual(self.newFiles(), [])
        self.assertIsNone(self.choices.outputVolume)

    def test_cancel_during_the_network_then_again(self):
        self.runTo("slice ")
        pid, limit = self.logic.tasks.worker.pid, self.secondsToCancel()
        clicked = time.monotonic()
        self.click()
        self.settle()
        self.assertLess(time.monotonic() - clicked, limit)
        self.assertEqual(self.ui.statusLabel.text, "Cancelled. Nothing was changed.")
        self.assertEqual(self.ui.denoiseButton.text, "Denoise")
        self.assertTrue(self.ui.denoiseButton.enabled)
        self.assertNothingHappened()
        self.assertEqual(self.logic.tasks.worker.pid, pid)
        np.testing.assert_array_equal(self.denoise()[:6], self.expected(self.voxels[:6]))  # each slice by itself

    def test_cancel_at_once_while_pytorch_starts(self):
        seconds = []
        limit = 0.2 * pace()
        while len(seconds) < 3 and min(seconds, default=limit) >= limit:  # a busy machine may need another try
            self.click()
            wait(lambda: self.logic.tasks.worker.process is not None)
            clicked = time.monotonic()
            self.click()
            self.settle()
            seconds.append(time.monotonic() - clicked)
            self.assertNothingHappened()
        self.assertLess(min(seconds), limit)

    def test_second_cancel_ends_a_worker_that_hangs(self):
        if os.name == "nt":
            self.skipTest("no signals on Windows")
        self.runTo("slice ")
        pid = self.logic.tasks.worker.pid
        os.kill(pid, signal.SIGSTOP)
        try:
            self.click()
            for _ in range(20):
                slicer.app.processEvents()
            self.assertEqual(self.ui.denoiseButton.text, "Cancelling...")
            self.click()
            wait(lambda: not self.logic.tasks.busy(), pace())
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self.assertNothingHappened()
        self.denoise()

    def test_input_removed_during_the_run(self):
        self.runTo("slice ")
        slicer.mrmlScene.RemoveNode(self.ldct)
        self.settle()
        self.assertEqual(self.ui.statusLabel.text, "CT was removed from the scene. Nothing was changed.")
        self.assertEqual(self.volumes(), [])
        self.assertEqual(self.newFiles(), [])
        self.ldct = makeVolume("CT", self.voxels)
        self.choices.inputVolume = self.ldct
        self.denoise()

    def test_output_removed_during_the_run(self):
        output = makeVolume("result", self.voxels)
        self.choices.outputVolume = output
        self.runTo("slice ")
        slicer.mrmlScene.RemoveNode(output)
        self.settle()
        self.assertIn("result was removed", self.ui.statusLabel.text)
        self.assertNothingHappened()

    def test_scene_closed_during_the_run(self):
        self.runTo("slice ")
        slicer.mrmlScene.Clear()
        self.settle()
        self.assertEqual(self.ui.statusLabel.text, "The scene was closed. Nothing was changed.")
        self.assertEqual(self.volumes(), [])
        self.assertEqual(self.newFiles(), [])
        self.panel.initializeParameterNode()
        self.choices.model = "test-model-0"
        self.choices.inputVolume = makeVolume("CT", self.voxels)
        self.denoise()

    def test_worker_killed_during_the_run(self):
        self.runTo("slice ")
        if os.name == "nt":
            self.logic.tasks.worker.process.kill()
        else:
            os.kill(self.logic.tasks.worker.pid, signal.SIGKILL)
        self.settle()
        self.assertIn("ended unexpectedly", self.ui.statusLabel.text)
        self.assertNothingHappened()
        self.denoise()

    def test_worker_that_cannot_start(self):
        with mock.patch.object(sys, "executable", "/no/such/PythonSlicer"), mock.patch("shutil.which", lambda *_: None):
            self.click()
            self.settle()
        self.assertIn("could not be started", self.ui.statusLabel.text)
        self.denoise()

    def test_model_file_gone_or_damaged(self):
        path = modelFolder / "test-model-1.safetensors"
        content = path.read_bytes()
        self.choices.model = "test-model-1"
        try:
            path.write_bytes(content[:-1000])
            self.click()
            self.settle()
            self.assertIn("cut short", self.ui.statusLabel.text)
            path.unlink()
            self.click()
            self.assertFalse(self.logic.tasks.busy())
            self.assertIn("test-model-1", self.ui.statusLabel.text)
        finally:
            path.write_bytes(content)
        self.panel.enter()
        self.assertNothingHappened()
        self.denoise()

    def test_error_of_the_worker_is_a_sentence(self):
        """As when memory runs out there; inference's own tests make it happen."""
        self.runTo("slice ")
        job = self.logic.tasks.current._job
        self.logic.tasks.current._onEvent({"id": job, "event": "error", "message": "There is not enough memory."})
        self.assertIn("There is not enough memory.", self.ui.statusLabel.text)
        self.assertFalse(self.logic.tasks.busy())
        self.assertNothingHappened()

    def test_disk_full_is_a_sentence(self):
        """Where the worker finds no room for its output."""
        steps = sys.modules["ASCONDenoiseLib.scene.operations"]
        with mock.patch.object(steps.Run, "file", lambda run, name: str(run.folder / "gone" / name)):
            self.click()
            self.settle()
        self.assertTrue(self.ui.statusLabel.text)
        self.assertNothingHappened()


if __name__ == "__main__":
    unittest.main()
