"""The module ASCON Training as 3D Slicer knows it. The pipeline lies in ASCONTrainingLib."""

import sys
import time
from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)


class ASCONTraining(ScriptedLoadableModule):
    """What Slicer shows about the module."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("ASCON Training")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Filtering.Denoising")]
        self.parent.dependencies = ["ASCONDenoise"]
        self.parent.contributors = ["The developers of ASCON for 3D Slicer"]
        self.parent.helpText = _("""
Training of the networks that ASCON Denoise uses. The panel installs what a training needs and shows the command line
that starts one; <code>PythonSlicer .../Scripts/train.py --help</code> lists the arguments.
""")
        self.parent.acknowledgementText = _("""
The method is that of Z. Chen, Q. Gao, Y. Zhang, H. Shan: "ASCON: Anatomy-Aware Supervised Contrastive Learning
Framework for Low-Dose CT Denoising", MICCAI 2023,
<a href="https://doi.org/10.1007/978-3-031-43999-5_34">doi:10.1007/978-3-031-43999-5_34</a>.
""")


class ASCONTrainingWidget(ScriptedLoadableModuleWidget):
    """The packages that a training needs, a button that installs them, and the command line of a training."""

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        panel = slicer.util.loadUI(self.resourcePath("UI/ASCONTraining.ui"))
        self.layout.addWidget(panel)
        self.ui = slicer.util.childWidgetVariables(panel)
        self.ui.installButton.clicked.connect(self.onInstallButton)
        self.ui.copyButton.clicked.connect(self.onCopyButton)
        self.ui.commandEdit.plainText = ASCONTrainingLogic().commandLine()
        self.update()

    def enter(self):
        self.update()

    def update(self, said=""):
        """Show which packages are there, and a sentence."""
        missing = ASCONTrainingLogic().missingPackages()
        if missing:
            status = _("These packages are missing: {names}.").format(names=", ".join(missing))
        else:
            status = _("All packages that a training needs are installed.")
        self.ui.packagesLabel.text = f"{status} {said}".strip()
        self.ui.installButton.enabled = bool(missing)

    def onInstallButton(self):
        from ASCONDenoiseLib.errors import Failure

        self.ui.installButton.enabled = False  # Slicer's event loop turns while pip runs
        said = ""
        try:
            ASCONTrainingLogic().installPackages()
        except Failure as error:
            said = str(error)
        finally:
            self.update(said)

    def onCopyButton(self):
        qt.QApplication.clipboard().setText(self.ui.commandEdit.plainText)


class ASCONTrainingLogic(ScriptedLoadableModuleLogic):
    """Train from other scripts, in a process of its own: Slicer goes on meanwhile, and survives what happens there."""

    def script(self):
        """Return the path of the script that trains."""
        return Path(__file__).resolve().parent / "Scripts" / "train.py"

    def presets(self):
        """Return name -> settings that a training can begin with."""
        from ASCONTrainingLib.config.presets import PRESETS

        return dict(PRESETS)

    def commandLine(self):
        """Return a line for a terminal that trains on phantoms for minutes."""
        slicerItself = slicer.app.launcherExecutableFilePath or "Slicer"
        options = "--no-splash --no-main-window --python-script"
        return f'"{slicerItself}" {options} "{self.script()}" -- --preset smoke --out ascon-smoke'

    def missingPackages(self):
        """Return the requirements of a training that Slicer's Python does not meet."""
        from ASCONDenoiseLib.panel.installation import missing
        from ASCONDenoiseLib.requirements import TORCH, TRAINING

        return missing([TORCH, *TRAINING])

    def installPackages(self):
        """Ask for what is missing and install it. Raise Failure, with a sentence, where something stays missing."""
        from ASCONDenoiseLib.panel.installation import ensurePackages
        from ASCONDenoiseLib.requirements import TRAINING

        ensurePackages(TRAINING)

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
