"""The click on Denoise: its result, why it may not be possible, what is warned of, and the strength."""

import itertools
import json
import sys
import unittest
from unittest import mock

import numpy as np
import qt
import slicer
import vtk
from panel_case import PanelTestCase, makeVolume, modelFolder, toolTip, wait


class ClickTest(PanelTestCase):
    ownWorker = ("test_progress_speaks_of_slices_and_time",)

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
        self.panel.task._doing = "Denoising CT..."
        for platform, words in (("linux", ""), ("win32", ""), ("darwin", " slice 2 of 6")):
            with mock.patch.object(sys, "platform", platform):
                self.panel.task._showProgress("slice 2 of 6")
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

    def test_the_first_section_holds_what_a_first_run_needs(self):
        ui = self.ui
        first = (ui.inputSelector, ui.strengthSlider, ui.warningLabel, ui.denoiseButton, ui.progressBar, ui.statusLabel)
        others = (ui.referenceSelector, ui.outputSelector, ui.modelComboBox, ui.modelCardButton)
        for section, widgets in ((ui.inputsCollapsibleButton, first), (ui.othersCollapsibleButton, others)):
            for widget in widgets:
                self.assertTrue(section.isAncestorOf(widget), widget.name)
        self.assertFalse(ui.inputsCollapsibleButton.collapsed)
        self.assertTrue(ui.othersCollapsibleButton.collapsed)

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
        self.assertEqual(toolTip(self.ui.denoiseButton), "Choose the LDCT volume first.")
        self.choices.inputVolume = self.ldct
        self.assertTrue(self.ui.denoiseButton.enabled)

    def test_with_a_volume_without_voxels(self):
        self.choices.inputVolume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty")
        self.assertFalse(self.ui.denoiseButton.enabled)
        self.assertIn("empty", toolTip(self.ui.denoiseButton))

    def test_with_an_output_that_would_replace_something(self):
        self.choices.outputVolume = self.ldct
        self.assertFalse(self.ui.denoiseButton.enabled)
        self.assertIn("replace CT", toolTip(self.ui.denoiseButton))
        ndct = makeVolume("NDCT", self.voxels)
        self.choices.referenceVolume = self.choices.outputVolume = ndct
        self.assertIn("replace NDCT", toolTip(self.ui.denoiseButton))

    def test_with_a_model_that_is_not_there(self):
        self.choices.model = "lost"
        self.assertFalse(self.ui.denoiseButton.enabled)
        wanted = 'The model "lost" is not on this computer. Choose another, or import it.'
        self.assertEqual(toolTip(self.ui.denoiseButton), wanted)
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
        self.settle()
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


def noise_hu(voxels) -> float:
    """Standard deviation less a smooth image: means of 11 columns."""
    kernel = np.ones(11) / 11
    smooth = np.apply_along_axis(lambda row: np.convolve(row, kernel, "same"), 2, voxels)
    return float((voxels - smooth)[:, 10:-10, 10:-10].std() / np.sqrt(1 - 1 / 11))


class StrengthTest(PanelTestCase):
    def test_presets(self):
        for button, percent in ((self.ui.mildButton, 50), (self.ui.mediumButton, 75), (self.ui.fullButton, 100)):
            button.click()
            self.assertEqual(self.ui.strengthSlider.value, percent)
            self.assertEqual(self.choices.strength, percent)

    def test_the_strength_says_what_it_means_and_is_chosen_by_its_target(self):
        ui = self.ui
        for button in (ui.halfNoiseButton, ui.normalDoseButton):
            self.assertFalse(button.enabled)
            self.assertIn("Denoise first", toolTip(button))
        self.assertEqual(ui.noiseLabel.text, "")
        y, x = np.mgrid[:96, :96]
        noisy = 45 + 10 * np.sin(x / 20) + np.random.default_rng(0).normal(0, 30, (4, 96, 96))
        self.choices.inputVolume = makeVolume("noisy", np.rint(noisy).astype(np.int16), tilt=0)
        full = self.denoise().copy()
        self.settle()
        noise = self.logic.noise()
        before, after = (noise_hu(np.rint(noisy) + s * (full - np.rint(noisy))) for s in (0, 1))
        self.assertAlmostEqual(noise.at(0), before, delta=2)
        self.assertAlmostEqual(noise.at(1), after, delta=2)
        percent = "100\N{NO-BREAK SPACE}%"
        words = f"{percent}: {noise.at(0):.0f} \N{RIGHTWARDS ARROW} {noise.at(1):.0f} HU of noise in soft tissue"
        self.assertEqual(ui.noiseLabel.text, words)
        ui.normalDoseButton.click()
        self.assertIn("No file says the dose", ui.statusLabel.text)
        self.assertEqual(ui.strengthSlider.value, 100)
        ui.doseSpinBox.value = 81
        self.assertEqual(self.choices.dosePercent, 81)
        ui.normalDoseButton.click()
        self.logic.wait()
        strength = noise.strength_for(0.9 * noise.at(0))
        self.assertAlmostEqual(ui.strengthSlider.value, 100 * strength)
        output = self.choices.outputVolume
        self.assertEqual(output.GetAttribute("ASCON.StrengthTarget"), "normal-dose")
        self.assertEqual(output.GetAttribute("ASCON.Dose"), "0.81")
        self.assertAlmostEqual(float(output.GetAttribute("ASCON.Strength")), strength)
        ui.strengthSlider.value = 30
        self.logic.wait()
        self.assertIsNone(output.GetAttribute("ASCON.StrengthTarget"))
        self.assertTrue(ui.noiseLabel.text.startswith("30"))

    def test_slider_after_a_run_blends_without_the_network(self):
        self.denoise()
        self.settle()
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
        self.settle()
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
        self.settle()
        slicer.mrmlScene.RemoveNode(self.choices.outputVolume)
        self.assertIsNone(self.logic.run)
        self.assertEqual(self.newFiles(), [])
        self.ui.strengthSlider.value = 10
        self.logic.wait()
        self.assertEqual(self.volumes(), ["CT"])


if __name__ == "__main__":
    unittest.main()
