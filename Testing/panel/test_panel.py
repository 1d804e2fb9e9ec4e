"""The panel's whole click path, with the real worker: select, click, progress, cancel, second click, strength, compare,
numbers, export. The same file runs inside a real Slicer (run.py) and, in pytest, on the stand-in.

The model is an ESAU-Net with fixed random weights, made in a process of its own: it shows where voxels go, not how well
they are denoised.
"""

import contextlib
import importlib.metadata
import itertools
import json
import os
import signal
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

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "Testing"))  # for dicom_fixtures

MAKE_MODELS = """
import sys
from model_fixtures import a_random_model

for seed, path in enumerate(sys.argv[1:]):
    a_random_model(
        path, seed, name=f"model {seed}", version="1.0", training_data=["none <at all>"],
        intended_use="Tests of the panel", limits=["Everything"], metrics={"psnr_db": 1.25})
"""

DENOISE = """
import sys, numpy as np
from ASCONDenoiseLib.models import inference
from ASCONDenoiseLib.models.files import load_network

source, model, target = sys.argv[1:]
network, _ = load_network(model)
np.save(target, inference.denoise(np.load(source), network, device="cpu").voxels)
"""


def runPython(code: str, *arguments: str) -> None:
    """In a process of its own, since Slicer's imports no torch."""
    paths = os.pathsep.join(map(str, (ROOT / "ASCONDenoise", ROOT / "Testing")))
    environment = os.environ | {"PYTHONPATH": paths}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
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


temporary = tempfile.TemporaryDirectory()
modelFolder = Path(temporary.name) / "models"
environment = mock.patch.dict(os.environ, ASCON_MODELS=str(modelFolder))
warm = []  # the worker that tests share
denoised = {}  # what PanelTestCase.expected knows already


def setUpModule():
    for package in ("torch", "safetensors", "scikit-image"):
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            raise unittest.SkipTest(f"the Python package {package} is not installed") from None
    modelFolder.mkdir(parents=True)  # again, for the next file of tests
    runPython(MAKE_MODELS, *(str(modelFolder / f"test-model-{i}.safetensors") for i in range(2)))
    environment.start()


def tearDownModule():
    for worker in warm:
        worker.stop("")
    warm.clear()
    environment.stop()
    temporary.cleanup()


def longestHold(work) -> float:
    """Seconds that the main thread is held at most in one piece of `work`."""
    beats = [time.monotonic()]
    timer = qt.QTimer()
    timer.timeout.connect(lambda: beats.append(time.monotonic()))
    timer.start(0)
    work()
    timer.stop()
    return float(np.diff(beats).max())


class PanelTestCase(unittest.TestCase):
    """A panel of its own for each test, and a scene with an LDCT."""

    cold = ()
    """Tests that start a worker of their own; the others share one, since each start costs a second or more."""

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
        self.choices = self.panel._parameterNode
        self.shared = self.cold is not all and self._testMethodName not in self.cold
        if self.shared:
            if not warm:
                warm.append(self.logic.tasks.worker)
            self.logic.tasks.worker = warm[0]
        self.choices.model = "test-model-0"
        self.choices.strength = 100

    def closePanel(self):
        if self.panel is not None:
            if self.shared:
                self.logic.cancel("")
                self.logic.wait()
                self.logic.tasks.worker = type(warm[0])()
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
                runPython(DENOISE, source, str(modelFolder / f"test-model-{model}.safetensors"), target)
                denoised[key] = np.load(target).astype(float)
        full = denoised[key]
        return np.rint(voxels + strength * (full - voxels)).astype(voxels.dtype)


class ClickTest(PanelTestCase):
    cold = ("test_progress_speaks_of_slices_and_time",)

    def test_select_click_result(self):
        transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "moved")
        self.ldct.SetAndObserveTransformNodeID(transform.GetID())
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
        study = hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "study")
        hierarchy.SetItemParent(hierarchy.GetItemByDataNode(self.ldct), study)
        self.ui.inputSelector.setCurrentNode(self.ldct)
        self.assertIs(self.choices.inputVolume, self.ldct)
        before = self.voxels.copy()

        result = self.denoise()

        output = self.choices.outputVolume
        self.assertEqual(output.GetName(), "CT denoised")
        self.assertIs(self.ui.outputSelector.currentNode(), output)
        np.testing.assert_array_equal(result, self.expected(self.voxels))
        self.assertEqual(result.dtype, np.int16)
        np.testing.assert_array_equal(slicer.util.arrayFromVolume(self.ldct), before)
        np.testing.assert_array_equal(result[:, :5], -2048)
        np.testing.assert_array_equal(result[:, 30:33, 40:43], 3000)
        matrices = [vtk.vtkMatrix4x4() for _ in range(2)]
        for node, matrix in zip((self.ldct, output), matrices, strict=True):
            node.GetIJKToRASMatrix(matrix)
        self.assertEqual(
            [matrices[0].GetElement(i, j) for i in range(4) for j in range(4)],
            [matrices[1].GetElement(i, j) for i in range(4) for j in range(4)],
        )
        self.assertEqual(output.GetTransformNodeID(), transform.GetID())
        self.assertEqual(output.GetDisplayNode().GetWindowLevelMin(), -160)
        self.assertEqual(hierarchy.GetItemParent(hierarchy.GetItemByDataNode(output)), study)

    def test_status_line_and_provenance_say_how(self):
        self.choices.strength = 75
        self.denoise()
        words = self.ui.statusLabel.text
        self.assertRegex(words, r"model 0 1\.0 on \S.*, \d+\.\d s, strength 75\s%$")
        output = self.choices.outputVolume
        card = json.loads((modelFolder / "test-model-0.json").read_text())
        self.assertEqual(output.GetAttribute("ASCON.ModelSha256"), card["sha256"])
        self.assertEqual(output.GetAttribute("ASCON.ModelName"), "model 0")
        self.assertEqual(output.GetAttribute("ASCON.Strength"), "0.75")
        self.assertTrue(output.GetAttribute("ASCON.Device"))
        self.assertTrue(output.GetAttribute("ASCON.Precision"))

    def test_progress_speaks_of_slices_and_time(self):
        said = []
        self.click()
        self.assertTrue(self.ui.progressBar.visible or not self.panel.parent.visible)
        wait(
            lambda: (
                said.append((self.ui.progressBar.value, self.ui.progressBar.text, self.ui.statusLabel.text))
                or not self.logic.tasks.busy("denoise")
            )
        )
        self.assertTrue(any(line == "Denoising CT... starting PyTorch" for _value, _text, line in said))
        said = [(value, text or line.removeprefix("Denoising CT... ")) for value, text, line in said]  # what is seen
        texts = list(dict.fromkeys(text for _value, text in said))
        self.assertTrue(any(text == "starting PyTorch" for text in texts), texts)
        self.assertTrue(any(text.startswith("slice 6 of 6, ") and text.endswith(" s left") for text in texts), texts)
        self.assertEqual(self.ui.progressBar.maximum, 6)
        self.assertEqual([value for value, _text in said][-1], 6)

    def test_progress_is_said_below_where_the_bar_draws_no_text(self):
        self.ui.progressBar.setRange(0, 6)
        self.panel._doing = "Denoising CT..."
        for platform, words in (("linux", ""), ("win32", ""), ("darwin", " slice 2 of 6")):
            with mock.patch.object(sys, "platform", platform):
                self.panel._sayProgress(self.ui.progressBar, "slice 2 of 6", "denoise")
            self.assertEqual(self.ui.statusLabel.text, f"Denoising CT...{words}")

    def test_second_click_uses_the_warm_worker_and_the_same_output(self):
        self.denoise()
        pid, output = self.logic.tasks.worker.pid, self.choices.outputVolume
        self.choices.model = "test-model-1"
        second = self.denoise()
        self.assertEqual(self.logic.tasks.worker.pid, pid)
        self.assertIs(self.choices.outputVolume, output)
        self.assertEqual(self.volumes(), ["CT", "CT denoised"])
        np.testing.assert_array_equal(second, self.expected(self.voxels, model=1))
        self.assertEqual(output.GetAttribute("ASCON.ModelName"), "model 1")
        third = self.denoise()
        np.testing.assert_array_equal(third, second)
        self.assertNotIn("torch", self.logic.run.facts["times"])
        self.assertEqual(len(self.newFiles()), 1)

    def test_strength_set_during_the_run_counts(self):
        self.click()
        self.ui.mildButton.click()
        wait(lambda: not self.logic.tasks.busy("denoise"))
        result = slicer.util.arrayFromVolume(self.choices.outputVolume)
        np.testing.assert_array_equal(result, self.expected(self.voxels, 0.5))

    def test_float_volume_stays_float(self):
        node = makeVolume("float", self.voxels.astype(np.float32) + np.float32(0.25))
        self.choices.inputVolume = node
        result = self.denoise()
        self.assertEqual(result.dtype, np.float32)
        self.assertTrue(np.isfinite(result).all())
        np.testing.assert_array_equal(result[:, :5], -2047.75)

    def test_nobody_is_asked_and_no_window_opens(self):
        """The notice is a label; the only pop-ups are Slicer's own, when packages are missing."""
        with mock.patch.object(qt, "QMessageBox", None), mock.patch.object(slicer.util, "_messageDisplay", None):
            self.denoise()
        self.assertIn("research", self.ui.noticeLabel.text)


class ReasonTest(PanelTestCase):
    """The button's tool tip says why it is disabled."""

    def test_without_a_volume(self):
        self.choices.inputVolume = None
        self.assertFalse(self.ui.denoiseButton.enabled)
        self.assertEqual(self.ui.denoiseButton.toolTip, "Choose the LDCT volume first.")
        self.choices.inputVolume = self.ldct
        self.assertTrue(self.ui.denoiseButton.enabled)

    def test_with_a_volume_without_voxels(self):
        self.choices.inputVolume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty")
        self.assertFalse(self.ui.denoiseButton.enabled)
        self.assertIn("empty", self.ui.denoiseButton.toolTip)

    def test_with_an_output_that_would_replace_something(self):
        self.choices.outputVolume = self.ldct
        self.assertFalse(self.ui.denoiseButton.enabled)
        self.assertIn("replace CT", self.ui.denoiseButton.toolTip)
        ndct = makeVolume("NDCT", self.voxels)
        self.choices.referenceVolume = self.choices.outputVolume = ndct
        self.assertIn("replace NDCT", self.ui.denoiseButton.toolTip)

    def test_with_a_model_that_is_not_there(self):
        self.choices.model = "lost"
        self.assertFalse(self.ui.denoiseButton.enabled)
        self.assertEqual(
            self.ui.denoiseButton.toolTip,
            'The model "lost" is not on this computer. Choose another, or import it.',
        )
        self.assertIn("missing", self.ui.modelComboBox.currentText)


class WarningTest(PanelTestCase):
    """What does not look like the CT that the model is for costs a sentence above the button, never the button."""

    def warning(self, volume) -> str:
        self.choices.inputVolume = volume
        self.assertTrue(self.ui.denoiseButton.enabled)
        self.assertEqual(self.ui.warningLabel.isHidden(), not self.ui.warningLabel.text)
        return self.ui.warningLabel.text

    def test_none_for_a_ct(self):
        self.assertEqual(self.warning(self.ldct), "")

    def test_values_that_are_not_hu(self):
        stored = makeVolume("stored", np.where(self.voxels < -1024, 0, self.voxels + 1024))
        self.assertIn("No value is below 0", self.warning(stored))
        self.assertEqual(self.warning(self.ldct), "")
        slicer.util.updateVolumeFromArray(self.ldct, (self.voxels // 4000).astype(np.int16))  # later, by somebody else
        self.assertIn("span too little", self.ui.warningLabel.text)

    def test_another_modality(self):
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
        other = makeVolume("T2", self.voxels)
        hierarchy.SetItemAttribute(hierarchy.GetItemByDataNode(other), "DICOM.Modality", "MR")
        self.assertIn("This is MR, not CT", self.warning(other))

    def test_a_result(self):
        self.denoise()
        wait(lambda: not self.logic.tasks.busy())
        result = self.choices.outputVolume
        self.choices.outputVolume = None
        self.assertIn("denoised already", self.warning(result))

    def test_the_scope_of_the_chosen_model(self):
        thin = makeVolume("thin", self.voxels)
        thin.SetSpacing(0.8, 0.9, 1.0)
        self.assertEqual(self.warning(thin), "")  # nothing is known of the test's models
        path = modelFolder / "test-model-1.json"
        card = path.read_text()
        try:
            path.write_text(card.replace('"slice_mm": null', '"slice_mm": [2.5, 5]'))
            self.choices.model = "test-model-1"
            self.assertIn("1 mm are thinner", self.ui.warningLabel.text)
        finally:
            path.write_text(card)


class ModelTest(PanelTestCase):
    """A model of one's own: two files, checked and copied."""

    def choose(self, path):
        with mock.patch.object(qt.QFileDialog, "getOpenFileName", lambda *_arguments: str(path)):
            self.ui.importModelButton.click()

    def test_import(self):
        folder = Path(tempfile.mkdtemp(dir=temporary.name))
        for suffix in (".safetensors", ".json"):
            content = (modelFolder / f"test-model-1{suffix}").read_bytes()
            (folder / f"of-my-own{suffix}").write_bytes(content)
        try:
            self.choose(folder / "of-my-own.safetensors")
            self.assertEqual(self.choices.model, "of-my-own")
            self.assertIn("of-my-own is imported", self.ui.statusLabel.text)
            self.assertEqual(self.ui.modelComboBox.itemData(self.ui.modelComboBox.currentIndex), "of-my-own")
            np.testing.assert_array_equal(self.denoise(), self.expected(self.voxels, model=1))
        finally:
            for path in modelFolder.glob("of-my-own*"):
                path.unlink()

    def test_what_is_refused_is_a_sentence_and_changes_nothing(self):
        folder = Path(tempfile.mkdtemp(dir=temporary.name))
        before = sorted(modelFolder.iterdir())
        (folder / "pickled.safetensors").write_bytes(b"PK\3\4 and so on")
        (folder / "alone.safetensors").write_bytes((modelFolder / "test-model-1.safetensors").read_bytes())
        for name, sentence in {"pickled": "is a pickle", "alone": "card", "gone": "There is no model file"}.items():
            self.choose(folder / f"{name}.safetensors")
            self.assertIn(sentence, self.ui.statusLabel.text)
            self.assertEqual(self.choices.model, "test-model-0")
        self.choose("")  # cancelled
        self.assertEqual(sorted(modelFolder.iterdir()), before)
        self.assertTrue(self.ui.denoiseButton.enabled)


class LongRun:
    """For cases of which the LDCT has many slices: there is time to interfere."""

    bar = "progressBar"

    def setUp(self):
        super().setUp()
        self.voxels = someVoxels(16)
        slicer.util.updateVolumeFromArray(self.ldct, self.voxels)
        self.panel._update()

    def runTo(self, words: str):
        """Clicks, and waits for a progress text."""
        self.click()
        wait(lambda: words in getattr(self.ui, self.bar).format and self.logic.tasks.current._begun)


class CancelTest(LongRun, PanelTestCase):
    cold = (
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
        pid = self.logic.tasks.worker.pid
        clicked = time.monotonic()
        self.click()
        wait(lambda: not self.logic.tasks.busy())
        self.assertLess(time.monotonic() - clicked, 0.2 + self.secondsOfABatch())
        self.assertEqual(self.ui.statusLabel.text, "Cancelled. Nothing was changed.")
        self.assertEqual(self.ui.denoiseButton.text, "Denoise")
        self.assertTrue(self.ui.denoiseButton.enabled)
        self.assertNothingHappened()
        self.assertEqual(self.logic.tasks.worker.pid, pid)
        np.testing.assert_array_equal(self.denoise()[:6], self.expected(self.voxels[:6]))  # each slice by itself

    def secondsOfABatch(self) -> float:
        """One slice: what cancelling has to wait for."""
        return 0.3

    def test_cancel_at_once_while_pytorch_starts(self):
        seconds = []
        while len(seconds) < 3 and min(seconds, default=1) >= 0.2:  # a busy machine may need another try
            self.click()
            wait(lambda: self.logic.tasks.worker.process is not None)
            clicked = time.monotonic()
            self.click()
            wait(lambda: not self.logic.tasks.busy())
            seconds.append(time.monotonic() - clicked)
            self.assertNothingHappened()
        self.assertLess(min(seconds), 0.2)

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
            wait(lambda: not self.logic.tasks.busy(), 1)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self.assertNothingHappened()
        self.denoise()

    def test_input_removed_during_the_run(self):
        self.runTo("slice ")
        slicer.mrmlScene.RemoveNode(self.ldct)
        wait(lambda: not self.logic.tasks.busy())
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
        wait(lambda: not self.logic.tasks.busy())
        self.assertIn("result was removed", self.ui.statusLabel.text)
        self.assertNothingHappened()

    def test_scene_closed_during_the_run(self):
        self.runTo("slice ")
        slicer.mrmlScene.Clear()
        wait(lambda: not self.logic.tasks.busy())
        self.assertEqual(self.ui.statusLabel.text, "The scene was closed. Nothing was changed.")
        self.assertEqual(self.volumes(), [])
        self.assertEqual(self.newFiles(), [])
        self.panel.initializeParameterNode()
        self.choices = self.panel._parameterNode
        self.choices.model = "test-model-0"
        self.choices.inputVolume = makeVolume("CT", self.voxels)
        self.denoise()

    def test_worker_killed_during_the_run(self):
        self.runTo("slice ")
        if os.name == "nt":
            self.logic.tasks.worker.process.kill()
        else:
            os.kill(self.logic.tasks.worker.pid, signal.SIGKILL)
        wait(lambda: not self.logic.tasks.busy())
        self.assertIn("ended unexpectedly", self.ui.statusLabel.text)
        self.assertNothingHappened()
        self.denoise()

    def test_worker_that_cannot_start(self):
        with mock.patch.object(sys, "executable", "/no/such/PythonSlicer"), mock.patch("shutil.which", lambda *_: None):
            self.click()
            wait(lambda: not self.logic.tasks.busy())
        self.assertIn("could not be started", self.ui.statusLabel.text)
        self.denoise()

    def test_model_file_gone_or_damaged(self):
        path = modelFolder / "test-model-1.safetensors"
        content = path.read_bytes()
        self.choices.model = "test-model-1"
        try:
            path.write_bytes(content[:-1000])
            self.click()
            wait(lambda: not self.logic.tasks.busy())
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
            wait(lambda: not self.logic.tasks.busy())
        self.assertTrue(self.ui.statusLabel.text)
        self.assertNothingHappened()


class LifeTest(PanelTestCase):
    """The worker ends with the panel; files go with it."""

    cold = all

    def workers(self) -> list:
        tasks = self.logic.tasks
        return [worker.pid for worker in (tasks.worker, tasks.counter) if worker.process is not None]

    def test_closing_ends_everything_in_the_middle_of_a_run(self):
        self.click()
        wait(lambda: "slice" in self.ui.progressBar.format)
        pids = self.workers()
        self.assertTrue(pids)
        started = time.monotonic()
        self.closePanel()
        self.assertLess(time.monotonic() - started, 0.5)
        wait(lambda: not any(map(alive, pids)), 5)
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
        self.assertLess(longestHold(self.denoise), 0.2)


class StyleTest(PanelTestCase):
    """Legible in Slicer's light and dark styles."""

    def setUp(self):
        before, palette = (qt.QPalette(slicer.app.palette()) for _ in range(2))
        self.addCleanup(lambda: slicer.app.setPalette(before))
        window, text = (53, 240) if "dark" in self._testMethodName else (240, 53)
        palette.setColor(qt.QPalette.Window, qt.QColor(window, window, window))
        palette.setColor(qt.QPalette.WindowText, qt.QColor(text, text, text))
        slicer.app.setPalette(palette)
        super().setUp()

    def contrast(self, label) -> float:
        """Of text and window, as the accessibility guidelines reckon it."""

        def luminance(color) -> float:
            parts = [part / 255 for part in (color.red(), color.green(), color.blue())]
            linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
            return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

        text = qt.QColor([rule.split(":")[1].strip() for rule in label.styleSheet.split(";") if "color" in rule][-1])
        palette = self.panel.parent.palette  # kept: its colours are parts of it
        low, high = sorted((luminance(text), luminance(palette.color(qt.QPalette.Window))))
        return (high + 0.05) / (low + 0.05)

    def test_warnings_on_light(self):
        for label in (self.ui.noticeLabel, self.ui.warningLabel):
            self.assertGreater(self.contrast(label), 4)

    def test_warnings_on_dark(self):
        for label in (self.ui.noticeLabel, self.ui.warningLabel):
            self.assertGreater(self.contrast(label), 4)


class StrengthTest(PanelTestCase):
    def test_presets(self):
        for button, percent in ((self.ui.mildButton, 50), (self.ui.standardButton, 75), (self.ui.strongButton, 100)):
            button.click()
            self.assertEqual(self.ui.strengthSlider.value, percent)
            self.assertEqual(self.choices.strength, percent)

    def test_slider_after_a_run_blends_without_the_network(self):
        self.denoise()
        wait(lambda: not self.logic.tasks.busy())
        full = slicer.util.arrayFromVolume(self.choices.outputVolume).astype(float)
        jobs = []
        request = self.logic.tasks.worker.request
        self.logic.tasks.worker.request = lambda listener, **job: (
            jobs.append(job["command"]) or request(listener, **job)
        )
        for percent in (40, 0, 100):
            self.ui.strengthSlider.value = percent
            self.logic.wait()
            expected = np.rint(self.voxels + percent / 100 * (full - self.voxels)).astype(np.int16)
            np.testing.assert_array_equal(slicer.util.arrayFromVolume(self.choices.outputVolume), expected)
            self.assertIn(f"strength {percent}\N{NO-BREAK SPACE}%", self.ui.statusLabel.text)
            self.assertEqual(float(self.choices.outputVolume.GetAttribute("ASCON.Strength")), percent / 100)
        self.assertEqual(set(jobs), {"blend"})

    def test_planes_in_sight_follow_at_once(self):
        self.choices.inputVolume = makeVolume("straight", self.voxels, tilt=0)
        self.denoise()
        wait(lambda: not self.logic.tasks.busy())
        output = self.choices.outputVolume
        expected = slicer.util.arrayFromVolume(output).copy()
        places = {"Axial": (2, 400.25 + 2.5 * 4), "Coronal": (1, -12.5 - 0.9 * 17), "Sagittal": (0, 31.0 - 0.8 * 23)}
        for view, (orientation, (axis, mm)) in zip(
            slicer.util.getNodesByClass("vtkMRMLSliceNode"), itertools.cycle(places.items()), strict=False
        ):
            view.SetOrientation(orientation)
            view.JumpSlice(*(mm if i == axis else 0 for i in range(3)))
        self.ui.strengthSlider.value = 0  # no turn of the event loop
        shown = slicer.util.arrayFromVolume(output)
        for plane in np.s_[4, :, :], np.s_[:, 17, :], np.s_[:, :, 23]:
            expected[plane] = self.voxels[plane]
        np.testing.assert_array_equal(shown, expected)
        self.logic.wait()
        np.testing.assert_array_equal(shown, self.voxels)

    def test_another_volume_is_left_alone(self):
        self.denoise()
        wait(lambda: not self.logic.tasks.busy())
        slicer.mrmlScene.RemoveNode(self.choices.outputVolume)
        self.assertIsNone(self.logic.run)
        self.assertEqual(self.newFiles(), [])
        self.ui.strengthSlider.value = 10
        self.logic.wait()
        self.assertEqual(self.volumes(), ["CT"])


class NumbersTest(PanelTestCase):
    def setUp(self):
        super().setUp()
        self.voxels = someVoxels(side=151)
        slicer.util.updateVolumeFromArray(self.ldct, self.voxels)

    def table(self) -> dict:
        table = self.ui.numbersTable
        rows = [[table.item(r, c).text() for c in range(table.columnCount)] for r in range(table.rowCount)]
        return {row[0]: row[1:] for row in rows}

    def test_table_without_and_with_reference(self):
        self.choices.strength = 0
        self.denoise()
        wait(lambda: not self.logic.tasks.busy())
        rows = self.table()
        noise = rows["Noise in soft tissue, SD [HU]"]
        self.assertAlmostEqual(float(noise[0]), 20, delta=2)
        self.assertEqual(noise[0], noise[1])  # strength 0
        self.assertFalse(any(name.startswith("PSNR") for name in rows))
        self.assertTrue(any("soft tissue" in name and "shift" in name for name in rows), rows)

        noisefree = someVoxels(seed=1, side=151)
        self.choices.referenceVolume = makeVolume("NDCT", noisefree)
        self.denoise()
        wait(lambda: not self.logic.tasks.busy())
        rows = self.table()
        rmse = np.sqrt(((np.clip(self.voxels, -1000, 2000) - np.clip(noisefree, -1000, 2000)) ** 2.0).mean((1, 2)))
        for cell in rows["RMSE [HU]"][:2]:
            self.assertAlmostEqual(float(cell.split()[0]), rmse.mean(), delta=0.02)
        self.assertIn("PSNR [dB]", rows)
        self.assertIn("SSIM x 100", rows)

    def test_reference_of_another_size_costs_a_sentence_only(self):
        self.choices.referenceVolume = makeVolume("NDCT", self.voxels[:2])
        self.denoise()
        wait(lambda: not self.logic.tasks.busy())
        self.assertIn("different numbers of slices", self.ui.numbersLabel.text)
        self.assertFalse(self.ui.copyNumbersButton.enabled)

    def test_copy_and_export(self):
        self.choices.strength = 50
        self.denoise()
        wait(lambda: not self.logic.tasks.busy())
        self.ui.copyNumbersButton.click()
        lines = slicer.app.clipboard().text().splitlines()
        self.assertEqual(lines[0].split("\t"), ["Measure", "LDCT", "Denoised, 50 %"])
        self.assertEqual(len(lines), 1 + self.ui.numbersTable.rowCount)
        self.ui.exportNumbersButton.click()
        (node,) = slicer.util.getNodesByClass("vtkMRMLTableNode")
        self.assertEqual(node.GetName(), "CT denoised numbers")
        self.assertEqual(node.GetNumberOfRows(), len(lines) - 1)
        self.assertEqual(node.GetCellText(0, 1), lines[1].split("\t")[1])
        slicer.mrmlScene.RemoveNode(node)
        slicer.mrmlScene.RemoveNode(self.choices.outputVolume)  # the numbers stay on show
        self.ui.exportNumbersButton.click()
        (node,) = slicer.util.getNodesByClass("vtkMRMLTableNode")
        self.assertEqual(node.GetName(), "CT denoised numbers")


class CompareTest(PanelTestCase):
    def setUp(self):
        super().setUp()
        if slicer.app.layoutManager() is None:
            self.skipTest("no views without the main window")
        self.layout = slicer.app.layoutManager().layout
        self.choices.referenceVolume = makeVolume("NDCT", someVoxels(seed=1))
        self.denoise()
        wait(lambda: not self.logic.tasks.busy())

    def closePanel(self):
        if slicer.app.layoutManager() is not None:
            slicer.app.layoutManager().setLayout(self.layout)
        super().closePanel()

    def view(self, pane):
        return sys.modules["ASCONDenoiseLib.scene.compare_layout"].slice_view(slicer.mrmlScene, pane)

    def test_side_by_side_is_linked_and_goes_back(self):
        manager = slicer.app.layoutManager()
        before = manager.layout
        self.ui.compareButton.click()
        self.assertNotEqual(manager.layout, before)
        nodes = {"LDCT": self.ldct, "denoised": self.choices.outputVolume, "NDCT": self.choices.referenceVolume}
        views = {}
        for pane, volume in nodes.items():
            views[pane], composite = self.view(pane)
            shown = composite.GetForegroundVolumeID() or composite.GetBackgroundVolumeID()
            self.assertEqual(shown, volume.GetID())
            self.assertTrue(composite.GetLinkedControl())
        planes = [
            [view.GetSliceToRAS().GetElement(i, j) for i in range(3) for j in range(4)] for view in views.values()
        ]
        np.testing.assert_allclose(planes[1], planes[0])
        np.testing.assert_allclose(planes[2], planes[0])
        zoom = [view.GetFieldOfView()[0] / view.GetDimensions()[0] for view in views.values()]
        np.testing.assert_allclose(zoom, zoom[0], rtol=0.01)
        self.ui.compareButton.click()
        self.assertEqual(manager.layout, before)

    def test_one_window_for_all(self):
        hounsfield = sys.modules["ASCONDenoiseLib.imaging.hounsfield"]
        volumes = (self.ldct, self.choices.outputVolume, self.choices.referenceVolume)
        for name, window in hounsfield.DISPLAY_WINDOWS_HU.items():
            getattr(self.ui, f"{name}Button").click()
            for volume in volumes:
                display = volume.GetDisplayNode()
                self.assertEqual((display.GetWindowLevelMin(), display.GetWindowLevelMax()), window)
        self.choices.outputVolume.GetDisplayNode().SetWindowLevelMinMax(-10, 90)  # as the mouse does
        for volume in volumes:
            self.assertEqual(volume.GetDisplayNode().GetWindowLevelMax(), 90)

    def test_difference_follows_strength(self):
        self.ui.differenceButton.click()
        wait(lambda: not self.logic.tasks.busy())
        difference = self.logic.run.difference
        result = slicer.util.arrayFromVolume(self.choices.outputVolume)
        np.testing.assert_array_equal(slicer.util.arrayFromVolume(difference), result - self.voxels)
        display = difference.GetDisplayNode()
        self.assertEqual((display.GetWindowLevelMin(), display.GetWindowLevelMax()), (-50, 50))
        self.assertEqual(self.view("difference")[1].GetBackgroundVolumeID(), difference.GetID())
        self.ui.differenceSlider.value = 20
        self.assertEqual((display.GetWindowLevelMin(), display.GetWindowLevelMax()), (-20, 20))
        self.ui.strengthSlider.value = 50
        self.logic.wait()
        np.testing.assert_array_equal(slicer.util.arrayFromVolume(difference), result - self.voxels)
        self.abdomen = self.ui.abdomenButton.click()
        self.assertEqual(display.GetWindowLevelMax(), 20)

    def test_difference_again_after_a_second_run(self):
        self.ui.differenceButton.click()
        wait(lambda: not self.logic.tasks.busy())
        self.choices.model = "test-model-1"
        self.denoise()
        wait(lambda: not self.logic.tasks.busy())
        result = slicer.util.arrayFromVolume(self.choices.outputVolume)
        shown = slicer.mrmlScene.GetNodeByID(self.view("difference")[1].GetBackgroundVolumeID())
        np.testing.assert_array_equal(slicer.util.arrayFromVolume(shown), result - self.voxels)
        self.assertEqual(len([name for name in self.volumes() if "difference" in name]), 1)

    def test_reveal_and_flicker(self):
        self.ui.compareButton.click()
        _view, composite = self.view("denoised")
        self.assertEqual(composite.GetBackgroundVolumeID(), self.ldct.GetID())
        self.assertEqual(composite.GetForegroundVolumeID(), self.choices.outputVolume.GetID())
        self.ui.revealSlider.value = 30
        self.assertAlmostEqual(composite.GetForegroundOpacity(), 0.3)
        seen = set()
        self.ui.flickerButton.click()
        wait(lambda: seen.add(composite.GetForegroundOpacity()) or {0.0, 1.0} <= seen, 5)
        self.ui.flickerButton.click()
        at = composite.GetForegroundOpacity()
        for _ in range(10):
            slicer.app.processEvents()
            time.sleep(0.1)
        self.assertEqual(composite.GetForegroundOpacity(), at)
        self.assertEqual(self.view("LDCT")[1].GetForegroundOpacity(), 0)
        self.assertEqual(at, 1)

    def test_the_view_never_shows_the_ldct_under_another_name(self):
        self.ui.compareButton.click()
        view, _composite = self.view("denoised")
        for percent, label in ((0, "LDCT"), (40, "LDCT + denoised"), (100, "denoised")):
            self.ui.revealSlider.value = percent
            self.assertEqual(view.GetLayoutLabel(), label)

    def test_leaving_the_module_ends_the_flicker(self):
        self.ui.flickerButton.click()
        self.panel.onFlicker()
        self.assertEqual(self.ui.revealSlider.value, 0)
        self.panel.exit()
        self.assertFalse(self.ui.flickerButton.checked)
        self.assertEqual(self.ui.revealSlider.value, 100)

    def test_other_views_chosen_in_slicer(self):
        self.ui.differenceButton.click()
        wait(lambda: not self.logic.tasks.busy())
        self.assertTrue(self.ui.compareButton.checked)
        slicer.app.layoutManager().setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpRedSliceView)
        self.assertFalse(self.ui.compareButton.checked)
        self.assertFalse(self.ui.differenceButton.checked)
        slicer.app.processEvents()
        self.assertEqual(slicer.app.layoutManager().layout, slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpRedSliceView)

    def test_the_difference_has_a_scale_in_hu_in_its_view(self):
        self.ui.differenceButton.click()
        wait(lambda: not self.logic.tasks.busy())
        name = sys.modules["ASCONDenoiseLib.scene.compare_layout"].view_name("difference")
        for _again in range(2):
            (scale,) = slicer.util.getNodesByClass("vtkMRMLColorLegendDisplayNode")
            view = slicer.app.layoutManager().sliceWidget(name).sliceView()
            drawn = view.displayableManagerByClassName("vtkMRMLColorLegendDisplayableManager").GetColorLegendActor(
                scale
            )
            self.assertTrue(drawn.GetVisibility())
            self.assertEqual(scale.GetTitleText(), "HU")
            self.ui.compareButton.click()
            self.ui.differenceButton.click()
            wait(lambda: not self.logic.tasks.busy())

    def test_a_scene_saved_side_by_side_is_opened_side_by_side(self):
        manager = slicer.app.layoutManager()
        self.ui.compareButton.click()
        number = manager.layout
        self.assertTrue(manager.layoutLogic().GetLayoutNode().IsLayoutDescription(number))
        saved = Path(tempfile.mkdtemp(dir=temporary.name)) / "scene"
        saved.mkdir()
        self.assertTrue(slicer.mrmlScene.SaveSceneToSlicerDataBundleDirectory(str(saved), None))
        (file,) = saved.glob("*.mrml")
        slicer.mrmlScene.Clear()
        self.assertNotEqual(manager.layout, number)
        self.assertFalse(self.ui.compareButton.checked)
        slicer.mrmlScene.SetURL(str(file))
        self.assertTrue(slicer.mrmlScene.Connect())
        self.panel.enter()
        self.assertEqual(manager.layout, number)
        self.assertTrue(self.ui.compareButton.checked)
        for pane, volume in (("LDCT", "CT"), ("denoised", "CT denoised"), ("NDCT", "NDCT")):
            _view, composite = self.view(pane)
            shown = composite.GetForegroundVolumeID() or composite.GetBackgroundVolumeID()
            self.assertEqual(slicer.mrmlScene.GetNodeByID(shown).GetName(), volume)
        ldct, denoised = (slicer.util.getNode(name) for name in ("CT", "CT denoised"))
        ldct.GetDisplayNode().SetWindowLevelMinMax(-10, 90)
        self.assertEqual(denoised.GetDisplayNode().GetWindowLevelMax(), 90)
        self.ui.compareButton.click()
        self.assertNotEqual(manager.layout, number)


class DicomTest(PanelTestCase):
    def setUp(self):
        super().setUp()
        import pydicom
        from dicom_fixtures import make_ct_series

        self.source = Path(tempfile.mkdtemp(dir=temporary.name))
        voxels = someVoxels()
        voxels[voxels == -2048] = -1024
        files = make_ct_series(self.source / "in", voxels_hu=voxels, spacing_mm=(0.8, 0.9, 2.5))
        headers = [pydicom.dcmread(file, stop_before_pixels=True) for file in files]
        order = np.argsort([float(header.ImagePositionPatient[2]) for header in headers])
        self.headers = [headers[i] for i in order]
        self.instances = {headers[i].SOPInstanceUID: str(files[i]) for i in order}
        self.ldct = makeVolume("DICOM CT", voxels)
        corner = [float(value) for value in self.headers[0].ImagePositionPatient]
        matrix = vtk.vtkMatrix4x4()
        for i, value in enumerate((-0.8, -0.9, 2.5)):
            matrix.SetElement(i, i, value)
        for i, value in enumerate((-corner[0], -corner[1], corner[2])):
            matrix.SetElement(i, 3, value)
        self.ldct.SetIJKToRASMatrix(matrix)
        self.ldct.SetAttribute("DICOM.instanceUIDs", " ".join(self.instances))
        patch = mock.patch.object(slicer, "dicomDatabase", fakeDatabase(self.instances), create=True)
        patch.start()
        self.addCleanup(patch.stop)

    def test_save_and_import(self):
        import pydicom

        self.choices.inputVolume = self.ldct
        self.assertFalse(self.ui.saveDicomButton.enabled)
        self.choices.strength = 75
        result = self.denoise()
        wait(lambda: not self.logic.tasks.busy())
        self.assertTrue(self.ui.saveDicomButton.enabled, self.ui.saveDicomButton.toolTip)
        imported = []
        library = types.ModuleType("DICOMLib")
        library.DICOMUtils = types.SimpleNamespace(importDicom=imported.append)
        with (
            mock.patch.dict(sys.modules, DICOMLib=library),
            mock.patch.object(slicer.util, "confirmYesNoDisplay", lambda *_arguments, **_more: True),
            mock.patch.object(qt.QFileDialog, "getExistingDirectory", lambda *_arguments: str(self.source)),
        ):
            self.ui.saveDicomButton.click()
            wait(lambda: imported)
        folder = self.source / "DICOM CT denoised"
        self.assertEqual([Path(path) for path in imported], [folder])
        self.assertIn(str(folder), self.ui.statusLabel.text)
        written = sorted((pydicom.dcmread(file) for file in folder.iterdir()), key=lambda d: d.ImagePositionPatient[2])
        self.assertEqual(len(written), len(result))
        for image, source, slice_hu in zip(written, self.headers, result, strict=True):
            hu = image.pixel_array * float(image.RescaleSlope) + float(image.RescaleIntercept)
            np.testing.assert_array_equal(hu, slice_hu)
            self.assertEqual(image.PatientID, source.PatientID)
            self.assertEqual(image.StudyInstanceUID, source.StudyInstanceUID)
            self.assertNotEqual(image.SeriesInstanceUID, source.SeriesInstanceUID)
            self.assertEqual(image.SourceImageSequence[0].ReferencedSOPInstanceUID, source.SOPInstanceUID)
            self.assertEqual(image.ImagePositionPatient, source.ImagePositionPatient)
            self.assertIn("model 0", image.DerivationDescription)
            self.assertIn("0.75", image.DerivationDescription)
        self.assertEqual(len(self.newFiles()), 1)  # the run's own folder

    def test_a_database_that_is_closed_costs_a_sentence(self):
        self.choices.inputVolume = self.ldct
        slicer.dicomDatabase.isOpen = False
        self.denoise()
        wait(lambda: not self.logic.tasks.busy())
        self.assertFalse(self.ui.saveDicomButton.enabled)
        self.assertIn("DICOM database", self.ui.saveDicomButton.toolTip)

    def test_what_the_headers_say_is_compared_with_the_card(self):
        path = modelFolder / "test-model-0.json"
        card = path.read_text()
        try:
            seen = card.replace('"sharp_kernels": null', '"sharp_kernels": false')
            path.write_text(seen.replace('"body_parts": []', '"body_parts": ["chest"]'))
            self.choices.inputVolume = self.ldct
            self.assertEqual(self.ui.warningLabel.text, "")
            for file in self.instances.values():
                self.rewrite(file, ConvolutionKernel="BONEPLUS", BodyPartExamined="HEAD")
            self.choices.inputVolume = None
            self.choices.inputVolume = self.ldct
            self.assertIn("BONEPLUS is sharper", self.ui.warningLabel.text)
            self.assertIn("(HEAD)", self.ui.warningLabel.text)
        finally:
            path.write_text(card)

    def rewrite(self, file: str, **values: str):
        import pydicom

        header = pydicom.dcmread(file)
        for name, value in values.items():
            setattr(header, name, value)
        header.save_as(file)

    def test_lost_source_costs_a_sentence(self):
        self.choices.inputVolume = self.ldct
        self.denoise()
        wait(lambda: not self.logic.tasks.busy())
        self.instances.clear()
        self.panel.saveDicom(str(self.source))
        wait(lambda: not self.logic.tasks.busy())
        self.assertNotIn("written to", self.ui.statusLabel.text)
        self.assertFalse((self.source / "DICOM CT denoised").exists())

    def test_other_volumes_have_nothing_to_derive_from(self):
        self.choices.inputVolume = makeVolume("from a file", someVoxels())
        self.denoise()
        wait(lambda: not self.logic.tasks.busy())
        self.assertFalse(self.ui.saveDicomButton.enabled)
        self.assertIn("not loaded from the DICOM database", self.ui.saveDicomButton.toolTip)


class SceneTest(PanelTestCase):
    def test_choices_are_saved_with_the_scene(self):
        reference = makeVolume("NDCT", self.voxels)
        self.ui.referenceSelector.setCurrentNode(reference)
        self.ui.mildButton.click()
        self.ui.advancedCollapsibleButton.collapsed = False
        wait(lambda: self.panel._devices)
        names = [self.ui.deviceComboBox.itemData(i) for i in range(self.ui.deviceComboBox.count)]
        self.assertEqual(names[0], "auto")
        self.assertIn("cpu", names)
        self.ui.deviceComboBox.setCurrentIndex(names.index("cpu"))
        self.ui.deviceComboBox.activated.emit(names.index("cpu"))
        names = [self.ui.modelComboBox.itemData(i) for i in range(self.ui.modelComboBox.count)]
        self.ui.modelComboBox.setCurrentIndex(names.index("test-model-1"))
        self.ui.modelComboBox.activated.emit(names.index("test-model-1"))
        self.ui.differenceSlider.value = 80
        result = self.denoise().copy()
        wait(lambda: not self.logic.tasks.busy())
        saved = Path(tempfile.mkdtemp(dir=temporary.name)) / "scene"
        saved.mkdir()
        self.assertTrue(slicer.mrmlScene.SaveSceneToSlicerDataBundleDirectory(str(saved), None))
        (file,) = saved.glob("*.mrml")
        slicer.mrmlScene.Clear()
        slicer.mrmlScene.SetURL(str(file))
        self.assertTrue(slicer.mrmlScene.Connect())
        self.panel.initializeParameterNode()
        choices, ui = self.panel._parameterNode, self.ui
        self.assertEqual(choices.inputVolume.GetName(), "CT")
        self.assertEqual(ui.inputSelector.currentNode().GetName(), "CT")
        self.assertEqual(ui.referenceSelector.currentNode().GetName(), "NDCT")
        self.assertEqual(ui.outputSelector.currentNode().GetName(), "CT denoised")
        self.assertEqual(ui.strengthSlider.value, 50)
        self.assertEqual(ui.differenceSlider.value, 80)
        self.assertEqual(ui.modelComboBox.currentText, "model 1 1.0")
        self.assertEqual(ui.deviceComboBox.itemData(ui.deviceComboBox.currentIndex), "cpu")
        np.testing.assert_array_equal(slicer.util.arrayFromVolume(choices.outputVolume), result)
        self.assertEqual(choices.outputVolume.GetAttribute("ASCON.ModelName"), "model 1")
        self.denoise()

    def test_card_is_one_click_away(self):
        self.assertFalse(self.ui.modelCardBrowser.visible)
        self.ui.modelCardButton.click()
        self.assertFalse(self.ui.modelCardBrowser.isHidden())
        card = self.ui.modelCardBrowser.plainText
        for words in ("model 0", "Tests of the panel", "Everything", "none <at all>", "Apache-2.0", "psnr_db: 1.25"):
            self.assertIn(words, card)


class FirstUseTest(PanelTestCase):
    """Packages are asked for at the click; each way that fails is a sentence."""

    def setUp(self):
        super().setUp()
        self.installation = sys.modules["ASCONDenoiseLib.panel.installation"]
        self.missing = {"torch", "safetensors"}
        self.asked = []

        def check(requirements):
            requirements = [requirements] if isinstance(requirements, str) else requirements
            return not any(name in requirement for requirement in requirements for name in self.missing)

        def ensure(requirements, requester=None):
            self.asked.append((requirements, requester))
            self.missing.discard("safetensors")

        for name, fake in (("pip_check", check), ("pip_ensure", ensure)):
            patch = mock.patch.object(slicer.packaging, name, fake)
            patch.start()
            self.addCleanup(patch.stop)

    def clickAndRead(self) -> str:
        self.click()
        self.assertFalse(self.logic.tasks.busy())
        self.assertTrue(self.ui.denoiseButton.enabled)
        return self.ui.statusLabel.text

    def test_nothing_is_asked_before_the_click_nor_when_nothing_is_missing(self):
        self.assertEqual(self.asked, [])
        self.missing.clear()
        self.denoise()
        self.assertEqual(self.asked, [])

    def test_without_the_pytorch_extension(self):
        with mock.patch.dict(sys.modules, PyTorchUtils=None):
            self.assertIn("Install the extension PyTorch", self.clickAndRead())
        self.assertEqual(self.asked, [(self.installation.PACKAGES, "ASCON Denoise")])

    def test_declined(self):
        def declined(*_arguments, **_more):
            raise RuntimeError("User declined package installation")

        with mock.patch.object(slicer.packaging, "pip_ensure", declined):
            self.assertIn("Click again to be asked again", self.clickAndRead())

    def test_a_package_that_was_removed_halfway(self):
        """Its metadata have no version, which pip_check compares all the same."""

        def check(requirements):
            if "torch" in str(requirements):
                raise TypeError("expected string or bytes-like object, got 'NoneType'")
            return True

        patch = mock.patch.object(slicer.packaging, "pip_check", check)
        with patch, mock.patch.dict(sys.modules, PyTorchUtils=None):
            self.assertIn("Install the extension PyTorch", self.clickAndRead())

    def test_ways_to_fail(self):
        for words, sentence in {
            "NewConnectionError: Temporary failure in name resolution": "Go online",
            "ProxyError: 407 Proxy Authentication Required": "HTTPS_PROXY",
            "OSError: [WinError 206] The filename or extension is too long": "too long for Windows",
            "OSError: [Errno 28] No space left on device": "disk is full",
            "SSLError: CERTIFICATE_VERIFY_FAILED": "certificate",
            "PermissionError: [WinError 5] Access is denied": "restart",
            "something else entirely": "log has the details",
        }.items():

            def failed(*_arguments, words=words, **_more):
                print(words)  # pip's words reach the console only
                raise subprocess.CalledProcessError(1, "pip install")

            with mock.patch.object(slicer.packaging, "pip_ensure", failed):
                self.assertIn(sentence, self.clickAndRead(), words)


class RealTest(PanelTestCase):
    """The shipped model on a real CT, from the DICOM files of three slices to the DICOM files of the result."""

    def setUp(self):
        data = os.environ.get("ASCON_TEST_DATA")
        if not data:
            self.skipTest("ASCON_TEST_DATA is not set")
        super().setUp()
        if self.ui.modelComboBox.findData("") < 0:
            self.skipTest("no model is shipped yet")
        self.files = sorted((Path(data) / "dicom" / "hcc007a_liver_10mm").rglob("*.dcm"))[6:9]

    def test_from_dicom_to_dicom(self):
        import pydicom

        from ASCONDenoiseLib.io.dicom_reader import read_series

        folder = Path(tempfile.mkdtemp(dir=temporary.name))
        for file in self.files:
            (folder / file.name).write_bytes(file.read_bytes())
        volume = read_series(folder)
        normal = makeVolume("liver", volume.voxels)
        direction = np.array(volume.geometry.direction).reshape(3, 3)
        affine = np.eye(4)
        affine[:3, :3], affine[:3, 3] = direction * volume.geometry.spacing_mm, volume.geometry.origin_mm
        affine = np.diag([-1, -1, 1, 1]) @ affine
        matrix = vtk.vtkMatrix4x4()
        matrix.DeepCopy(affine.ravel().tolist())
        normal.SetIJKToRASMatrix(matrix)
        instances = {
            pydicom.dcmread(file, stop_before_pixels=True).SOPInstanceUID: str(file) for file in volume.source.files
        }
        ldct, ndct = self.logic.makeSample(normal)
        self.logic.onEnd = self.panel.onTaskEnd
        ldct.SetAttribute("DICOM.instanceUIDs", " ".join(instances))
        database = fakeDatabase(instances)
        self.choices.inputVolume, self.choices.referenceVolume, self.choices.model = ldct, ndct, ""
        with mock.patch.object(slicer, "dicomDatabase", database, create=True):
            result = self.denoise()
            wait(lambda: not self.logic.tasks.busy(), 60)
            with mock.patch.object(slicer.util, "confirmYesNoDisplay", lambda *_arguments, **_more: False):
                self.panel.saveDicom(str(folder.parent))
                wait(lambda: not self.logic.tasks.busy())
        table = self.ui.numbersTable
        rows = {table.item(r, 0).text(): [table.item(r, c).text() for c in (1, 2)] for r in range(table.rowCount)}
        before, after = (float(cell.split()[0]) for cell in rows["RMSE [HU]"])
        self.assertLess(after, 0.8 * before)
        before, after = map(float, rows["Noise in soft tissue, SD [HU]"])
        self.assertLess(after, 0.7 * before)
        saved = read_series(folder.parent / self.choices.outputVolume.GetName())
        np.testing.assert_array_equal(saved.voxels, result)
        self.assertEqual(saved.geometry, volume.geometry)


class SampleTest(PanelTestCase):
    def test_in_the_module_sample_data_and_made_of_a_phantom_when_offline(self):
        import SampleData

        (source,) = SampleData.SampleDataLogic.sampleDataSourcesByCategory("ASCON")
        self.assertEqual(source.sampleName, "ASCON: low-dose abdomen")
        self.assertFalse(qt.QPixmap(source.thumbnailFileName).isNull())
        phantom = {"shape": [3, 128, 128], "spacing_mm": [2.8, 2.8, 3.0]}

        def offline(*_arguments):
            raise OSError("Name or service not known")

        with (
            mock.patch.dict(self.module.steps.PHANTOM, phantom),
            mock.patch.object(SampleData.SampleDataLogic, "downloadSample", offline, create=True),
        ):
            ldct, ndct = self.module.sample.load(self.module.ASCONDenoiseLogic())  # what its button does
        self.assertEqual([ldct.GetName(), ndct.GetName()], ["ASCON low-dose abdomen", "ASCON normal-dose abdomen"])
        self.assertEqual(ldct.GetSpacing(), (2.8, 2.8, 3.0))
        low, normal = (slicer.util.arrayFromVolume(node).astype(float) for node in (ldct, ndct))
        inside = (normal > 20) & (normal < 80)
        self.assertGreater(inside.mean(), 0.1)
        self.assertGreater((low - normal)[inside].std(), 15)
        self.assertLess(abs((low - normal)[inside].mean()), 5)
        self.assertEqual(self.newFiles(), [])

    def test_quarter_dose_of_a_ct_is_twice_as_noisy(self):
        voxels = np.rint(np.random.default_rng(0).normal(50, 12, (2, 96, 96))).astype(np.int16)
        normal = makeVolume("normal", voxels, tilt=0)
        ldct, ndct = self.logic.makeSample(normal)
        np.testing.assert_array_equal(slicer.util.arrayFromVolume(ndct), voxels)
        noise = slicer.util.arrayFromVolume(ldct)[:, 20:-20, 20:-20].std()
        self.assertGreater(noise, 1.4 * 12)
        self.assertLess(noise, 3 * 12)
        self.assertEqual(ldct.GetOrigin(), normal.GetOrigin())


if __name__ == "__main__":
    unittest.main()
