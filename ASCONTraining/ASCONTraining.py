"""The module ASCON Training as 3D Slicer knows it: hidden, without a panel. The pipeline lies in ASCONTrainingLib."""

import sys
import time
from pathlib import Path

import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
)


class ASCONTraining(ScriptedLoadableModule):
    """Hidden: it is listed nowhere, and brings ASCONTrainingLib and a logic into Slicer's Python."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("ASCON Training")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Filtering.Denoising")]
        self.parent.dependencies = ["ASCONDenoise"]
        self.parent.hidden = True
        self.parent.contributors = ["The developers of ASCON for 3D Slicer"]
        self.parent.helpText = _("""
Training of the networks that ASCON Denoise uses, without a panel:<br>
<code>Slicer --no-splash --no-main-window --python-script .../Scripts/train.py -- --preset smoke --out FOLDER</code><br>
<code>PythonSlicer .../Scripts/train.py --help</code> lists the arguments. See the README of the extension.
""")
        self.parent.acknowledgementText = _("""
The method is that of Z. Chen, Q. Gao, Y. Zhang, H. Shan: "ASCON: Anatomy-Aware Supervised Contrastive Learning
Framework for Low-Dose CT Denoising", MICCAI 2023,
<a href="https://doi.org/10.1007/978-3-031-43999-5_34">doi:10.1007/978-3-031-43999-5_34</a>.
""")


class ASCONTrainingLogic(ScriptedLoadableModuleLogic):
    """Train from other scripts, in a process of its own: Slicer goes on meanwhile, and survives what happens there."""

    def script(self):
        """Return the path of the script that trains."""
        return Path(__file__).resolve().parent / "Scripts" / "train.py"

    def presets(self):
        """Return name -> settings that a training can begin with."""
        from ASCONTrainingLib.config.presets import PRESETS

        return dict(PRESETS)

    def start(self, arguments, onLine=None, onFinished=None):
        """Start a training and return its process, at once.

        Args:
            arguments: of `ascon train`, e.g. ["--preset", "smoke", "--out", folder, "--json"].
            onLine: called with each line that it prints.
            onFinished: called with its exit code, 0 where all went well.
        """
        return slicer.util.launchConsoleProcess(
            [sys.executable, str(self.script()), *map(str, arguments)],
            useStartupEnvironment=False,
            blocking=False,
            logCallback=onLine,
            completedCallback=onFinished,
        )


class ASCONTrainingTest(ScriptedLoadableModuleTest):
    """Runs inside Slicer: the logic starts a process that ends with the right code."""

    def runTest(self):
        """All tests."""
        self.setUp()
        self.test_presetsAreThere()
        self.test_aProcessStartsAndEnds()
        self.test_badInputIsTold()

    def test_presetsAreThere(self):
        """Those that the help names."""
        self.assertLessEqual(
            {"paper-mayo2016", "paper-mayo2020", "released", "smoke"}, set(ASCONTrainingLogic().presets())
        )

    def test_aProcessStartsAndEnds(self):
        """Help needs neither data nor torch."""
        lines, code = self._run(["--help"])
        self.assertEqual(code, 0)
        self.assertIn("--preset", "".join(lines))

    def test_badInputIsTold(self):
        """A wrong argument is exit code 2 and a sentence; without torch 1."""
        lines, code = self._run(["--preset", "none-such", "--out", "nowhere"])
        self.assertIn(code, (1, 2))
        self.assertIn("ascon:", "".join(lines))

    def _run(self, arguments):
        """(lines, exit code) of a training, while Slicer's event loop turns."""
        lines, codes = [], []
        process = ASCONTrainingLogic().start(arguments, lines.append, codes.append)
        deadline = time.monotonic() + 60
        while not codes and time.monotonic() < deadline:
            slicer.app.processEvents()
            time.sleep(0.02)
        if not codes:
            process.kill()
            self.fail("the process did not end within a minute")
        return lines, codes[0]
