"""The panel of the module ASCON Training."""

import subprocess
import sys
import unittest
from unittest import mock

import qt
import slicer


class TrainingModuleTest(unittest.TestCase):
    """It says what a training lacks, installs it at the click only, and shows how to start one."""

    def setUp(self):
        self.missing = {"torch", "nibabel"}
        self.asked = []

        def check(requirement):
            return not any(requirement.startswith(name) for name in self.missing)

        def ensure(packages, requester=None):
            self.asked.append(packages)
            self.assertFalse(self.ui.installButton.enabled)
            self.missing.clear()

        for name, fake in (("pip_check", check), ("pip_ensure", ensure)):
            patch = mock.patch.object(slicer.packaging, name, fake)
            patch.start()
            self.addCleanup(patch.stop)
        slicer.modules.ascontraining.widgetRepresentation()
        self.panel = sys.modules["ASCONTraining"].ASCONTrainingWidget(None)
        self.addCleanup(self.close)
        self.ui = self.panel.ui

    def close(self):
        manager = slicer.app.moduleManager()  # else it is cleaned up again, without its widgets, when Slicer quits
        manager.disconnect("moduleAboutToBeUnloaded(QString)", self.panel._onModuleAboutToBeUnloaded)
        self.panel.parent.hide()
        self.panel.parent.deleteLater()

    def test_nothing_is_installed_before_the_click(self):
        self.assertEqual(self.asked, [])
        self.assertEqual(self.ui.packagesLabel.text, "These packages are missing: torch>=2.2, nibabel>=5.2.")
        self.ui.installButton.click()
        requirements = sys.modules["ASCONDenoiseLib.requirements"]
        self.assertEqual(self.asked, [list(requirements.TRAINING)])
        self.assertEqual(self.ui.packagesLabel.text, "All packages that a training needs are installed.")
        self.assertFalse(self.ui.installButton.enabled)

    def test_a_failure_is_a_sentence_and_can_be_tried_again(self):
        def failed(*_arguments, **_more):
            print("No space left on device")
            raise subprocess.CalledProcessError(1, "pip install")

        with mock.patch.object(slicer.packaging, "pip_ensure", failed):
            self.ui.installButton.click()
        self.assertIn("missing: torch>=2.2, nibabel>=5.2. The installation failed because", self.ui.packagesLabel.text)
        self.assertTrue(self.ui.installButton.enabled)

    def test_packages_installed_elsewhere_are_seen_when_the_module_is_entered(self):
        self.missing.clear()
        self.panel.enter()
        self.assertFalse(self.ui.installButton.enabled)

    def test_another_installation_is_not_disturbed(self):
        with mock.patch.object(slicer.packaging, "isPipInstallInProgress", lambda: True):
            self.ui.installButton.click()
        self.assertIn("Another module is installing packages.", self.ui.packagesLabel.text)
        self.assertEqual(self.asked, [])

    def test_the_command_line_is_copied(self):
        self.ui.copyButton.click()
        line = qt.QApplication.clipboard().text()
        self.assertEqual(line, self.ui.commandEdit.plainText)
        self.assertIn("--no-main-window --python-script", line)
        self.assertTrue(line.endswith('train.py" -- --preset smoke --out ascon-smoke'))


if __name__ == "__main__":
    unittest.main()
