"""What the panel's tests share: a panel of its own for each test, a scene with an LDCT, and models.

The models are ESAU-Nets with fixed random weights, made in a process of their own: they show where voxels go, not how
well they are denoised. Each test drives the real worker. The same files run inside a real Slicer (run.py) and, in
pytest, on the stand-in.
"""

import html
import importlib.metadata
import os
import re
import subprocess
import sys
import tempfile
import time
import types
import unittest
from pathlib import Path
from unittest import mock

import numpy as np
import qt
import slicer
import vtk

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.append(str(ROOT / "Testing"))  # for dicom_fixtures

temporary = tempfile.TemporaryDirectory()
modelFolder = Path(temporary.name) / "models"
ALL = "all"
IDLE_S = 0.05
"""What `pace` measures on an idle core of 2020."""
sharedWorker = []  # the worker that tests share, once there is one
denoised = {}  # what PanelTestCase.expected has computed already


def newFolder() -> Path:
    """An empty folder that is removed at the end."""
    return Path(tempfile.mkdtemp(dir=temporary.name))


def skipWithout(*packages: str) -> None:
    """Skips a class of tests where the worker would lack a Python package."""
    for package in packages:
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            raise unittest.SkipTest(f"the Python package {package} is not installed") from None


def makeModels() -> Path:
    """The folder with the models test-model-0 and test-model-1, which the first call makes."""
    if not modelFolder.is_dir():
        modelFolder.mkdir()
        runChild("child_make_models.py", *(str(modelFolder / f"test-model-{i}.safetensors") for i in range(2)))
    return modelFolder


def runChild(script: str, *arguments: str) -> None:
    """Runs a script of this folder in a process of its own, since Slicer's imports no torch."""
    paths = os.pathsep.join(map(str, (ROOT / "ASCONDenoise", ROOT / "Testing")))
    command = [sys.executable, str(HERE / script), *arguments]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)


def wait(until, seconds: float = 60.0) -> None:
    """Turns the event loop until something is true."""
    end = time.monotonic() + seconds
    while not until():
        if time.monotonic() > end:
            raise AssertionError(f"waited {seconds:g} s in vain")
        slicer.app.processEvents()
        time.sleep(0.002)


def pace() -> float:
    """How many times longer a fixed piece of work takes on this machine, as busy as it is, than on an idle core: >= 1.

    Limits of time in tests are multiplied by it.
    """
    started = time.monotonic()
    numbers = np.random.default_rng(0).random(200_000)
    for _ in range(5):
        np.sort(numbers)
        sum(range(200_000))
    return max(1.0, (time.monotonic() - started) / IDLE_S)


def toolTip(widget) -> str:
    """The text of a tool tip, which Slicer turns into rich text."""
    return html.unescape(re.sub(r"<[^>]*>", "", widget.toolTip))


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    if os.name == "nt":  # where os.kill(pid, 0) is a Ctrl-C
        listed = subprocess.run(["tasklist", "/NH", "/FI", f"PID eq {pid}"], capture_output=True, text=True)
        return str(pid) in listed.stdout.split()
    status = Path(f"/proc/{pid}/stat")
    if sys.platform.startswith("linux"):
        return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def makeVolume(name: str, voxels, **geometry):
    """A volume node, oblique unless told otherwise."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    slicer.util.updateVolumeFromArray(node, voxels)
    matrix = vtk.vtkMatrix4x4()
    turn = vtk.vtkTransform()
    turn.RotateX(geometry.get("tilt", 7))
    turn.Scale(-0.8, -0.9, 2.5)
    matrix.DeepCopy(turn.GetMatrix())
    for i, value in enumerate((31.0, -12.5, 400.25)):
        matrix.SetElement(i, 3, value)
    node.SetIJKToRASMatrix(matrix)
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().SetAutoWindowLevel(False)
    node.GetDisplayNode().SetWindowLevelMinMax(-160, 240)
    return node


def someVoxels(slices: int = 6, seed: int = 0, side: int = 61):
    """A soft-tissue ellipse with a little fat in air, noise, padding and metal; odd sides. int16."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : (side + 6) * 1j]
    image = np.where((x / 0.9) ** 2 + (y / 0.8) ** 2 < 1, 45.0, -1000.0)
    image[20:40, 8:20] = -95
    voxels = image + rng.normal(0, 20, (slices, *image.shape))
    voxels[:, :10] = -2048
    voxels[:, 30:33, 40:43] = 3000
    return np.rint(voxels).astype(np.int16)


def fakeDatabase(files: dict):
    """What the panel asks of Slicer's DICOM database, for files by SOP instance UID."""

    def value(uid, tag):
        import pydicom

        if uid not in files:
            return ""
        element = pydicom.dcmread(files[uid], stop_before_pixels=True).get(tuple(int(n, 16) for n in tag.split(",")))
        return "" if element is None else str(element.value)

    return types.SimpleNamespace(isOpen=True, fileForInstance=lambda uid: files.get(uid, ""), instanceValue=value)


def longestHold(work, limit: float) -> float:
    """Seconds that one piece of `work` holds the main thread at most.

    Where it is not below the limit, other programs may have held it: the best of up to three tries counts.
    """
    holds: list[float] = []
    while len(holds) < 3 and min(holds, default=limit) >= limit:
        beats = [time.monotonic()]
        timer = qt.QTimer()
        timer.timeout.connect(lambda beats=beats: beats.append(time.monotonic()))
        timer.start(0)
        work()
        timer.stop()
        holds.append(float(np.diff(beats).max()))
    return min(holds)


class PanelTestCase(unittest.TestCase):
    """A panel of its own for each test, and a scene with an LDCT."""

    ownWorker = ()
    """Names of tests that start a worker of their own, or ALL; the others share one, since a start takes seconds."""

    @classmethod
    def setUpClass(cls):
        skipWithout("torch", "safetensors", "scikit-image")
        cls.enterClassContext(mock.patch.dict(os.environ, ASCON_MODELS=str(makeModels())))

    def setUp(self):
        slicer.mrmlScene.Clear()
        self.voxels = someVoxels()
        self.ldct = makeVolume("CT", self.voxels)
        slicer.modules.ascondenoise.widgetRepresentation()
        self.module = sys.modules["ASCONDenoise"]
        self.files = set(Path(slicer.app.temporaryPath).iterdir())
        self.panel = self.module.ASCONDenoiseWidget(None)
        self.addCleanup(self.closePanel)
        self.ui = self.panel.ui
        self.logic = self.panel.logic
        self.shared = self.ownWorker != ALL and self._testMethodName not in self.ownWorker
        if self.shared:
            if not sharedWorker:
                sharedWorker.append(self.logic.tasks.worker)
                slicer.app.connect("aboutToQuit()", lambda: sharedWorker[0].stop(""))
            self.logic.tasks.worker = sharedWorker[0]
        self.choices.model = "test-model-0"
        self.choices.strength = 100

    @property
    def choices(self):
        """The panel's parameter node, which it takes anew with each scene."""
        return self.panel._parameterNode

    def closePanel(self):
        if self.panel is not None:
            if self.shared:
                self.logic.cancel("")
                self.logic.wait()
                self.logic.tasks.worker = type(sharedWorker[0])()
            self.panel.cleanup()
            manager = slicer.app.moduleManager()  # else it is cleaned up again, without its widgets, when Slicer quits
            manager.disconnect("moduleAboutToBeUnloaded(QString)", self.panel._onModuleAboutToBeUnloaded)
            self.panel.parent.hide()
            self.panel.parent.deleteLater()
            self.panel = None
        slicer.mrmlScene.Clear()

    def newFiles(self) -> list:
        """The panel's; Slicer keeps its own there, too."""
        files = Path(slicer.app.temporaryPath).glob("ASCON-*")
        return [path for path in files if path not in self.files]

    def volumes(self) -> list:
        return [node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")]

    def click(self):
        self.ui.denoiseButton.click()

    def settle(self):
        """Waits until there is nothing left to do."""
        wait(lambda: not self.logic.tasks.busy())

    def denoise(self):
        """Clicks, waits for the end and returns the result's voxels."""
        self.click()
        self.assertEqual(self.ui.denoiseButton.text, "Cancel")
        wait(lambda: not self.logic.tasks.busy("denoise"))
        self.assertIn("Done", self.ui.statusLabel.text)
        return slicer.util.arrayFromVolume(self.choices.outputVolume)

    def expected(self, voxels, strength: float = 1.0, model: int = 0):
        """What the network makes of voxels, from the core in another process, and weaker by the plain formula."""
        key = voxels.tobytes(), model
        if key not in denoised:
            with tempfile.TemporaryDirectory() as folder:
                source, target = f"{folder}/in.npy", f"{folder}/out.npy"
                np.save(source, voxels)
                runChild("child_denoise.py", source, str(modelFolder / f"test-model-{model}.safetensors"), target)
                denoised[key] = np.load(target).astype(float)
        full = denoised[key]
        return np.rint(voxels + strength * (full - voxels)).astype(voxels.dtype)

    def saveScene(self) -> str:
        """Saves the scene into a new folder; returns the file that `openScene` opens."""
        folder = newFolder() / "scene"
        folder.mkdir()
        self.assertTrue(slicer.mrmlScene.SaveSceneToSlicerDataBundleDirectory(str(folder), None))
        (file,) = folder.glob("*.mrml")
        return str(file)

    def openScene(self, file: str, *, add: bool = False):
        """Opens a scene in place of this one, or adds it; the panel follows in the event loop's next turns."""
        slicer.mrmlScene.SetURL(file)
        self.assertTrue(slicer.mrmlScene.Import() if add else slicer.mrmlScene.Connect())
        for _turn in range(3):
            slicer.app.processEvents()


class LongRun:
    """Mixed into a case, gives the LDCT many slices, so that there is time to interfere."""

    bar = "progressBar"

    def setUp(self):
        super().setUp()
        self.voxels = someVoxels(16)
        slicer.util.updateVolumeFromArray(self.ldct, self.voxels)
        self.panel._update()

    def runTo(self, words: str):
        """Clicks, and waits for a progress text."""
        self.click()
        wait(lambda: words in getattr(self.ui, self.bar).format and self.logic.tasks.current.begun)

    def secondsToCancel(self) -> float:
        """How long cancelling may take now that the network is at work: two batches, as long as they take here."""
        bar = getattr(self.ui, self.bar)
        at, started = bar.value, time.monotonic()
        wait(lambda: bar.value >= at + 2)
        return time.monotonic() - started + 0.3 * pace()
