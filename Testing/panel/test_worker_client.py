"""The worker process: it ends with the panel, starts anew when needed, and keeps the main thread free."""

import sys
import time
import types
import unittest

import numpy as np
import slicer
from panel_case import ALL, PanelTestCase, alive, longestHold, pace, someVoxels, wait


class LifeTest(PanelTestCase):
    """The worker ends with the panel; files go with it."""

    ownWorker = ALL

    def workers(self) -> list:
        tasks = self.logic.tasks
        return [worker.pid for worker in (tasks.worker, tasks.measuringWorker) if worker.process is not None]

    def test_closing_ends_everything_in_the_middle_of_a_run(self):
        self.click()
        wait(lambda: "slice" in self.ui.progressBar.format)
        pids = self.workers()
        self.assertTrue(pids)
        limit, cleanup, seconds = 0.2 * pace(), self.panel.cleanup, []

        def timed():
            started = time.monotonic()
            cleanup()
            seconds.append(time.monotonic() - started)

        self.panel.cleanup = timed  # what is ours; clearing the scene is Slicer's own
        self.closePanel()
        self.assertLess(seconds[0], limit)
        wait(lambda: not any(map(alive, pids)), 5 * pace())
        self.assertEqual(self.newFiles(), [])

    def test_reload_ends_the_worker_and_reads_the_code_anew(self):
        panel = slicer.modules.ASCONDenoiseWidget
        panel.initializeParameterNode()
        panel._parameterNode.model = "test-model-0"
        panel._parameterNode.inputVolume = self.ldct
        panel.ui.denoiseButton.click()
        wait(lambda: panel.logic.run is not None)
        pid, old = panel.logic.tasks.worker.pid, sys.modules["ASCONDenoiseLib.scene.operations"]
        panel.onReload()
        self.assertIsNot(slicer.modules.ASCONDenoiseWidget, panel)
        self.assertIsNot(sys.modules["ASCONDenoiseLib.scene.operations"], old)
        wait(lambda: not alive(pid), 5)
        new = slicer.modules.ASCONDenoiseWidget
        new.initializeParameterNode()
        self.assertEqual(new.ui.modelComboBox.currentText, "model 0 1.0")
        new.ui.denoiseButton.click()
        wait(lambda: new.logic.run is not None)
        new.onReload()

    def test_worker_that_has_ended_idle_is_started_again(self):
        self.logic.tasks.worker.stop("")
        self.logic.tasks.worker.idleMinutes = 0.5 / 60
        self.denoise()
        wait(lambda: self.logic.tasks.worker.process is None, 10)
        self.assertFalse(self.logic.tasks.busy("denoise"))
        self.denoise()

    def test_what_is_no_message_of_the_worker_is_passed_over(self):
        """A launcher or a Python that starts may write to the same stream."""
        worker, heard = self.logic.tasks.worker, []
        worker._pending[7] = heard.append, {}
        output = b'warning: no display\n\n[1, 2]\n{"event": "result", "id": 7}\n'
        worker.process = types.SimpleNamespace(readAllStandardOutput=lambda: types.SimpleNamespace(data=lambda: output))
        try:
            worker._onOutput(worker.process)
        finally:
            worker.process = None
        self.assertEqual(heard, [{"event": "result", "id": 7}])

    def test_the_main_thread_is_never_busy_for_long(self):
        self.voxels = np.tile(someVoxels(1), (12, 2, 2))
        slicer.util.updateVolumeFromArray(self.ldct, self.voxels)
        self.choices.strength = 50
        limit = 0.2 * pace()
        self.assertLess(longestHold(self.denoise, limit), limit)


if __name__ == "__main__":
    unittest.main()
