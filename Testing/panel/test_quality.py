"""The section Image quality: regions, edge, spectra, places, maps and report of the last result."""

import unittest
from pathlib import Path
from unittest import mock

import numpy as np
import qt
import slicer
from panel_case import PanelTestCase, longestHold, makeVolume, newFolder, pace, skipWithout, someVoxels, wait
from vtk.util import numpy_support


class QualityTestCase(PanelTestCase):
    """A result, and markups at known voxels."""

    def setUp(self):
        super().setUp()
        self.voxels = someVoxels(side=151)
        slicer.util.updateVolumeFromArray(self.ldct, self.voxels)
        self.choices.strength = 50

    def world(self, ijk):
        """A voxel (column, row, slice) in RAS; the volume is oblique."""
        matrix = self.ldct.GetImageData() and slicer.util.arrayFromVTKMatrix(self.matrix())
        return (matrix @ [*ijk, 1.0])[:3]

    def matrix(self):
        import vtk

        matrix = vtk.vtkMatrix4x4()
        self.ldct.GetIJKToRASMatrix(matrix)
        return matrix

    def curve(self, name: str, centre, radius: float, kSlice: int, points: int = 12):
        """A closed curve, about a circle, in a slice."""
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsClosedCurveNode", name)
        for angle in np.linspace(0, 2 * np.pi, points, endpoint=False):
            i, j = centre[0] + radius * np.cos(angle), centre[1] + radius * np.sin(angle)
            node.AddControlPointWorld(*self.world((i, j, kSlice)))
        return node

    def box(self, name: str, centre, half):
        """A box along the volume's axes, half as long as told, in voxels."""
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", name)
        import vtk

        columns = slicer.util.arrayFromVTKMatrix(self.matrix())[:3, :3]
        lengths = np.linalg.norm(columns, axis=0)
        place = np.eye(4)
        place[:3, :3], place[:3, 3] = columns / lengths, self.world(centre)
        if np.linalg.det(place[:3, :3]) < 0:
            place[:3, 2] *= -1
        node.SetSize(*(2 * np.array(half) * lengths))
        transform = vtk.vtkMatrix4x4()
        for r in range(4):
            for c in range(4):
                transform.SetElement(r, c, place[r, c])
        node.SetAndObserveObjectToNodeMatrix(transform)
        return node

    def choose(self, name: str, node):
        getattr(self.ui, f"{name}Selector").setCurrentNode(node)

    def table(self, widget) -> dict:
        rows = [[widget.item(r, c).text() for c in range(widget.columnCount)] for r in range(widget.rowCount)]
        return {row[0]: row[1:] for row in rows}

    def measured(self):
        """Waits until the regions on show are those that were asked for last."""
        wait(lambda: not self.panel.quality.regions.busy)
        return self.table(self.ui.regionsTable)

    def images(self, strength: float = 0.5):
        return {"LDCT": self.voxels, "denoised": self.expected(self.voxels, strength)}


class RegionsTest(QualityTestCase):
    def test_nothing_is_asked_before_there_is_a_result(self):
        self.choose("lesion", self.curve("lesion", (75, 70), 8, 2))
        self.assertFalse(self.ui.inspectButton.enabled)
        self.assertFalse(self.ui.reportButton.enabled)
        self.assertFalse(self.panel.quality.regions.busy)
        self.denoise()
        self.assertIn("Lesion, ", "".join(self.measured()))
        self.assertTrue(self.ui.inspectButton.enabled)

    def test_a_curve_is_its_voxels_and_a_box_its_ellipsoid(self):
        self.denoise()
        self.choose("lesion", self.curve("lesion", (75.3, 70.2), 8.4, 2, points=60))
        self.choose("background", self.box("background", (100.2, 75.1, 2.6), (9.3, 7.2, 1.6)))
        k, j, i = np.indices(self.voxels.shape)
        inside = {
            "Lesion": (k == 2) & (np.hypot(i - 75.3, j - 70.2) <= 8.4),
            "Background": ((i - 100.2) / 9.3) ** 2 + ((j - 75.1) / 7.2) ** 2 + ((k - 2.6) / 1.6) ** 2 <= 1,
        }
        rows = self.measured()
        means = {}
        for name, mask in inside.items():
            (title,) = [row for row in rows if row.startswith(f"{name}, ")]
            count = int(title.split()[1])
            self.assertLessEqual(abs(count - mask.sum()), 0.01 * mask.sum() + 2)  # the curve is one of splines
            for cell, image in zip(rows[title], self.images().values(), strict=True):
                mean, sd = map(float, cell.split(" ± "))
                self.assertAlmostEqual(mean, image[mask].mean(), delta=0.3)
                self.assertAlmostEqual(sd, image[mask].std(ddof=1), delta=0.3)
                means.setdefault(name, []).append(mean)
        contrast = [float(cell) for cell in rows["Contrast [HU]"]]
        np.testing.assert_allclose(contrast, np.subtract(means["Lesion"], means["Background"]), atol=0.11)
        self.assertEqual(rows["Contrast kept [%]"][0], "")

    def test_they_follow_the_slider_and_the_mouse_at_once(self):
        self.denoise()
        self.choose("lesion", self.box("lesion", (75, 70, 2), (9, 9, 0.6)))
        before = self.measured()
        self.ui.strengthSlider.value = 0
        (row,) = [cells for name, cells in self.measured().items() if name.startswith("Lesion")]
        self.assertEqual(row[0], row[1])  # strength 0
        self.ui.strengthSlider.value = 100
        k, j, i = np.indices(self.voxels.shape)
        inside = (k == 2) & (np.hypot((i - 75) / 9, (j - 70) / 9) <= 1)
        (row,) = [cells for name, cells in self.measured().items() if name.startswith("Lesion")]
        self.assertAlmostEqual(float(row[1].split()[0]), self.images(1.0)["denoised"][inside].mean(), delta=0.1)
        lesion = self.ui.lesionSelector.currentNode()
        lesion.SetCenterWorld(*self.world((14, 30, 2)))  # fat
        after = self.measured()
        self.assertNotEqual(before, after)
        self.settle()
        slicer.mrmlScene.RemoveNode(lesion)
        slicer.app.processEvents()
        self.assertTrue(self.ui.regionsTable.isHidden())

    def test_with_the_ndct_once_that_is_measured(self):
        self.choices.referenceVolume = makeVolume("NDCT", someVoxels(seed=1, side=151))
        self.choose("lesion", self.box("lesion", (75, 70, 2), (9, 9, 0.6)))
        self.denoise()
        self.settle()
        self.measured()
        header = [self.ui.regionsTable.horizontalHeaderItem(c).text() for c in range(self.ui.regionsTable.columnCount)]
        self.assertEqual(header, ["", "LDCT", "denoised", "NDCT"])

    def test_what_cannot_be_measured_is_said(self):
        self.denoise()
        self.choose("lesion", self.curve("wild", (75, 70), 8, 2))
        self.ui.lesionSelector.currentNode().SetNthControlPointPositionWorld(0, *self.world((83, 70, 4)))
        self.measured()
        self.assertIn('"wild" does not lie in one axial slice', self.ui.regionsLabel.text)
        self.choose("lesion", self.box("far", (1000, 1000, 2), (5, 5, 1)))
        self.measured()
        self.assertIn("covers no voxel", self.ui.regionsLabel.text)
        self.choose("lesion", slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsClosedCurveNode", "empty"))
        self.measured()
        self.assertIn("needs three points", self.ui.regionsLabel.text)

    def test_the_edge_and_its_profile(self):
        """A straight edge of known width."""
        from scipy.special import ndtr

        column = np.arange(self.voxels.shape[2])
        noise = np.random.default_rng(0).normal(0, 3, self.voxels.shape)
        self.voxels = np.rint(-50 + 150 * ndtr((column - 80) * 0.8 / 1.2) + noise).astype(np.int16)
        slicer.util.updateVolumeFromArray(self.ldct, self.voxels)
        self.choices.strength = 0
        self.denoise()
        line = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsLineNode", "line")
        line.AddControlPointWorld(*self.world((65, 70, 3)))
        line.AddControlPointWorld(*self.world((95, 72, 3)))
        self.choose("edge", line)
        rows = self.measured()
        for cell in rows["Edge, 10-90 % width [mm]"]:
            self.assertAlmostEqual(float(cell), 2.563 * 1.2, delta=0.1)
        for level, title in ((2, "Edge, TTF50 [1/mm]"), (10, "Edge, TTF10 [1/mm]")):
            for cell in rows[title]:  # of a Gaussian
                self.assertAlmostEqual(float(cell), np.sqrt(np.log(level) / 2) / np.pi / 1.2, delta=0.02)
        self.ui.profileButton.click()
        chart = self.panel.quality.profile.chart
        self.assertEqual([chart.GetNthPlotSeriesNode(i).GetName() for i in range(2)], ["LDCT", "denoised"])
        table = chart.GetNthPlotSeriesNode(0).GetTableNode().GetTable()
        x, y = (numpy_support.vtk_to_numpy(table.GetColumnByName(name)) for name in "xy")
        self.assertAlmostEqual(x[-1], np.hypot(30 * 0.8, 2 * 0.9), places=3)
        self.assertLess(abs(y[:10].mean() + 50), 5)
        self.assertLess(abs(y[-10:].mean() - 100), 5)
        self.assertTrue(self.ui.profileButton.enabled)


class PlotTest(QualityTestCase):
    def test_the_spectrum_is_the_measured_one_and_follows_the_strength(self):
        self.choices.strength = 0
        self.denoise()
        self.settle()
        self.assertEqual(slicer.util.getNodesByClass("vtkMRMLTableNode"), [])  # none before it is shown
        self.ui.spectrumButton.click()
        chart = self.panel.quality.spectrum.chart
        series = [chart.GetNthPlotSeriesNode(i) for i in range(chart.GetNumberOfPlotSeriesNodes())]
        self.assertEqual([one.GetName() for one in series], ["LDCT", "denoised"])

        def power(one):
            table = one.GetTableNode().GetTable()
            return numpy_support.vtk_to_numpy(table.GetColumnByName("y")).copy()

        np.testing.assert_array_equal(*map(power, series))
        self.ui.strengthSlider.value = 100
        self.logic.wait()
        self.assertFalse(np.array_equal(*map(power, series)))
        self.assertEqual(len(slicer.util.getNodesByClass("vtkMRMLPlotChartNode")), 1)

    def test_plots_come_and_go(self):
        manager = slicer.app.layoutManager()
        if manager is None:
            self.skipTest("no views without the main window")
        before = slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView
        manager.setLayout(before)
        self.denoise()
        self.settle()
        self.ui.spectrumButton.click()
        self.assertNotEqual(manager.layout, before)
        self.assertEqual(
            manager.plotWidget(0).mrmlPlotViewNode().GetPlotChartNodeID(), self.panel.quality.spectrum.chart.GetID()
        )
        self.assertTrue(self.ui.spectrumButton.checked)
        self.ui.spectrumButton.click()
        self.assertEqual(manager.layout, before)
        self.assertFalse(self.ui.spectrumButton.checked)


class PlacesTest(QualityTestCase):
    """A result from which a lesion was taken."""

    def setUp(self):
        super().setUp()
        k, j, i = np.indices(self.voxels.shape)
        self.lesion = 100 * np.exp(-(((i - 90) * 0.8) ** 2 + ((j - 80) * 0.9) ** 2) / 2 / 4**2) * (k == 3)
        self.voxels = np.clip(self.voxels + self.lesion, -2048, 3000).round().astype(np.int16)
        slicer.util.updateVolumeFromArray(self.ldct, self.voxels)
        self.choices.strength = 0
        self.denoise()
        self.settle()
        full = self.logic.run.voxels("full").copy()
        rng = np.random.default_rng(5)
        full[...] = self.voxels - np.rint(self.lesion + rng.normal(0, 8, full.shape)).astype(np.int16)
        np.save(self.logic.run.file("full"), full)
        self.ui.strengthSlider.value = 100
        self.logic.wait()

    def inspect(self):
        self.ui.inspectButton.click()
        self.assertEqual(self.ui.inspectButton.text, "Cancel")
        wait(lambda: not self.logic.tasks.busy("inspect"), 120)

    def test_the_place_is_listed_and_a_click_jumps_there(self):
        self.inspect()
        self.assertIn("where it was not noise", self.ui.qualityStatusLabel.text)
        first = [self.ui.placesTable.item(0, c).text() for c in range(self.ui.placesTable.columnCount)]
        slice1, row, column = map(int, first[-3:])
        self.assertEqual(slice1, 4)
        self.assertLess(np.hypot(row - 81, column - 91), 4)
        self.assertLess(float(first[1]), -50)
        self.panel.quality.onPlaceClicked(0, 0)
        expected = self.world((column - 1, row - 1, slice1 - 1))
        crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
        if crosshair is not None:
            np.testing.assert_allclose(crosshair.GetCrosshairRAS(), expected, atol=1e-4)

    def test_maps_come_over_the_slices_and_go(self):
        self.inspect()
        self.ui.overlayComboBox.currentIndex = 3
        self.logic.wait()
        node = self.panel.quality._map
        values = slicer.util.arrayFromVolume(node)
        self.assertLess(values[3, 80, 90], -3)  # HU fell
        self.assertEqual(values[0, 80, 90], 1000)  # nothing here
        from ASCONDenoiseLib.scene.compare_layout import view_name

        every = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")  # the difference's since another test
        composites = [one for one in every if one.GetLayoutName() != view_name("difference")]
        self.assertGreaterEqual(len(composites), 3)
        for composite in composites:
            self.assertEqual(composite.GetNthLayerVolumeID(3), node.GetID())
        self.ui.overlayComboBox.currentIndex = 1
        self.logic.wait()
        self.assertIs(self.panel.quality._map, node)
        noise = slicer.util.arrayFromVolume(node)[2]
        self.assertAlmostEqual(float(np.median(noise[noise < 1000])), 20, delta=2)
        self.ui.overlayComboBox.currentIndex = 0
        for composite in composites:
            self.assertFalse(composite.GetNthLayerVolumeID(3))

    def test_it_holds_the_main_thread_for_moments_only(self):
        limit = 0.2 * pace()
        self.assertLess(longestHold(self.inspect, limit), limit)

    def test_another_result_forgets_the_places(self):
        self.inspect()
        self.assertFalse(self.ui.placesTable.isHidden())
        self.denoise()
        self.assertTrue(self.ui.placesTable.isHidden())
        self.assertFalse(self.ui.overlayComboBox.enabled)

    def test_cancelled_it_changes_nothing(self):
        self.ui.inspectButton.click()
        self.ui.inspectButton.click()
        self.logic.wait()
        self.assertTrue(self.ui.placesTable.isHidden())
        self.assertFalse(self.ui.overlayComboBox.enabled)


class ReportTest(QualityTestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        skipWithout("matplotlib")

    def test_the_page_is_written(self):
        self.denoise()
        self.settle()
        path = newFolder() / "page.html"
        with mock.patch.object(qt.QFileDialog, "getSaveFileName", lambda *_: str(path)):
            self.ui.reportButton.click()
        wait(lambda: not self.logic.tasks.busy("report"), 120)
        self.assertIn(str(path), self.ui.qualityStatusLabel.text)
        text = Path(path).read_text(encoding="utf-8")
        self.assertIn("CT denoised", text)
        self.assertIn('class="viewer"', text)
        self.assertIn(self.logic.run.facts["model"]["sha256"], text)


if __name__ == "__main__":
    unittest.main()
