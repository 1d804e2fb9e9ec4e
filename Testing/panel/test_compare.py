"""The section Compare."""

import sys
import time
import unittest

import numpy as np
import slicer
from panel_case import PanelTestCase, makeVolume, someVoxels, wait


class CompareTest(PanelTestCase):
    def setUp(self):
        super().setUp()
        if slicer.app.layoutManager() is None:
            self.skipTest("no views without the main window")
        self.layout = slicer.app.layoutManager().layout
        self.choices.referenceVolume = makeVolume("NDCT", someVoxels(seed=1))
        self.denoise()
        self.settle()

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
        self.settle()
        difference = self.logic.run.difference
        result = slicer.util.arrayFromVolume(self.choices.outputVolume)
        np.testing.assert_array_equal(slicer.util.arrayFromVolume(difference), result - self.voxels)
        display = difference.GetDisplayNode()
        limit = self.ui.differenceSlider.value  # suits the spread, see below
        self.assertEqual((display.GetWindowLevelMin(), display.GetWindowLevelMax()), (-limit, limit))
        self.assertEqual(self.view("difference")[1].GetBackgroundVolumeID(), difference.GetID())
        self.ui.differenceSlider.value = 20
        self.assertEqual((display.GetWindowLevelMin(), display.GetWindowLevelMax()), (-20, 20))
        self.ui.strengthSlider.value = 50
        self.logic.wait()
        np.testing.assert_array_equal(slicer.util.arrayFromVolume(difference), result - self.voxels)
        self.abdomen = self.ui.abdomenButton.click()
        self.assertEqual(display.GetWindowLevelMax(), 20)

    def test_the_range_of_the_difference_follows_its_spread_until_the_user_chooses(self):
        difference = sys.modules["ASCONDenoiseLib.imaging.difference"]
        self.ui.differenceButton.click()
        self.settle()
        spread = (slicer.util.arrayFromVolume(self.choices.outputVolume) - self.voxels)[self.voxels > -500].std()
        limits = [difference.limit_for_spread(factor * spread) for factor in (0.7, 1.3)]
        self.assertTrue(limits[0] <= self.choices.differenceRange <= limits[1], (limits, spread))
        self.assertEqual(self.ui.differenceSlider.value, self.choices.differenceRange)
        self.ui.differenceSlider.value = 35
        self.choices.model = "test-model-1"
        self.denoise()
        self.settle()
        self.assertEqual(self.choices.differenceRange, 35)
        self.assertEqual(self.logic.run.difference.GetDisplayNode().GetWindowLevelMax(), 35)

    def test_difference_of_volumes_that_do_not_fit_is_a_sentence(self):
        self.choices.outputVolume = makeVolume("smaller", self.voxels[:2])
        self.ui.differenceButton.click()
        self.settle()
        self.assertIn("differ in size", self.ui.statusLabel.text)
        self.assertFalse(self.ui.differenceButton.checked)
        self.assertIsNotNone(self.logic.run)

    def test_panes_are_fitted_to_the_body_and_again_when_they_are_resized(self):
        self.ui.differenceButton.click()
        self.settle()
        views = [self.view(pane)[0] for pane in ("LDCT", "denoised", "NDCT", "difference")]
        for _again in range(2):
            for _turn in range(3):
                slicer.app.processEvents()
            zoom = [view.GetFieldOfView()[0] / view.GetDimensions()[0] for view in views]
            np.testing.assert_allclose(zoom, zoom[0], rtol=1e-6)
            columns, rows, _one = views[1].GetDimensions()
            body_mm = np.array((0.9 * 67 * 0.8, 0.8 * 61 * 0.9))  # of the ellipse
            share = body_mm / (zoom[0] * np.array((columns, rows)))
            self.assertGreater(share.max(), 0.5)
            self.assertLess(share.max(), 1.0)
            views[1].SetDimensions(columns // 2, rows, 1)  # as the layout does while it settles

    def test_the_window_that_slicer_found_gives_way_to_one_that_shows_noise(self):
        display = self.ldct.GetDisplayNode()
        display.SetAutoWindowLevel(True)
        self.denoise()
        self.assertIn("Shown with the window Abdomen.", self.ui.statusLabel.text)
        for volume in (self.ldct, self.choices.outputVolume, self.choices.referenceVolume):
            shown = volume.GetDisplayNode()
            self.assertEqual((shown.GetWindowLevelMin(), shown.GetWindowLevelMax()), (-160, 240))
        display.SetWindowLevelMinMax(-10, 90)
        self.denoise()
        self.assertNotIn("window", self.ui.statusLabel.text)
        self.assertEqual(display.GetWindowLevelMax(), 90)

    def test_difference_again_after_a_second_run(self):
        self.ui.differenceButton.click()
        self.settle()
        self.choices.model = "test-model-1"
        self.denoise()
        self.settle()
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
        for percent, label in ((0, "LDCT"), (40, "40\N{NO-BREAK SPACE}%"), (100, "100\N{NO-BREAK SPACE}%")):
            self.ui.revealSlider.value = percent
            self.assertEqual(view.GetLayoutLabel(), label)

    def test_leaving_the_module_ends_the_flicker(self):
        self.ui.flickerButton.click()
        self.panel.compare.onFlicker()
        self.assertEqual(self.ui.revealSlider.value, 0)
        self.panel.exit()
        self.assertFalse(self.ui.flickerButton.checked)
        self.assertEqual(self.ui.revealSlider.value, 100)

    def test_other_views_chosen_in_slicer(self):
        self.ui.differenceButton.click()
        self.settle()
        self.assertTrue(self.ui.compareButton.checked)
        slicer.app.layoutManager().setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpRedSliceView)
        self.assertFalse(self.ui.compareButton.checked)
        self.assertFalse(self.ui.differenceButton.checked)
        slicer.app.processEvents()
        self.assertEqual(slicer.app.layoutManager().layout, slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpRedSliceView)

    def test_the_difference_has_a_scale_in_hu_in_its_view(self):
        self.ui.differenceButton.click()
        self.settle()
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
            self.settle()

    def test_a_scene_saved_side_by_side_is_opened_side_by_side(self):
        manager = slicer.app.layoutManager()
        self.ui.compareButton.click()
        number = manager.layout
        self.assertTrue(manager.layoutLogic().GetLayoutNode().IsLayoutDescription(number))
        file = self.saveScene()
        slicer.mrmlScene.Clear()
        self.assertNotEqual(manager.layout, number)
        self.assertFalse(self.ui.compareButton.checked)
        self.openScene(file)
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


if __name__ == "__main__":
    unittest.main()
