"""The panel's section Anatomy: find, cancel, table, colours, and the plot that is linked to the slices both ways.

As test_panel.py, whose models with random weights serve here too: which voxels go into which cluster is what the core
says in a process of its own, and what is shown of them is computed here again, the plain way.
"""

import importlib.metadata
import sys
import tempfile
import time
import unittest
from pathlib import Path
from unittest import mock

import numpy as np
import slicer
import test_panel
import vtk
from test_panel import LongRun, PanelTestCase, longestHold, makeVolume, runPython, someVoxels, wait
from vtk.util import numpy_support

CLUSTER = """
import sys, numpy as np
from ASCONDenoiseLib.models.files import load_network
from ASCONDenoiseLib.models.feature_clusters import cluster_volume
from ASCONDenoiseLib.imaging.clustering import ClusterSettings

source, model, target, clusters, points, *spacing = sys.argv[1:]
network, _ = load_network(model)
denoised = np.empty_like(np.load(source))
found = cluster_volume(np.load(source), network, ClusterSettings(int(clusters), int(points)),
                       spacing_mm=tuple(map(float, spacing)), device="cpu", denoised_hu=denoised)
np.savez(target, map=found.labels, denoised=denoised, **vars(found.points))
"""

POINTS = 150
"""Few: t-SNE is quick."""

found = {}  # what AnatomyTestCase.expected knows already


def setUpModule():
    try:
        importlib.metadata.version("scikit-learn")
    except importlib.metadata.PackageNotFoundError:
        raise unittest.SkipTest("the Python package scikit-learn is not installed") from None
    test_panel.setUpModule()


def tearDownModule():
    test_panel.tearDownModule()


class AnatomyTestCase(PanelTestCase):
    def setUp(self):
        super().setUp()
        self.logic.points = POINTS
        self.choices.clusters = 4
        self.ui.anatomyCollapsibleButton.collapsed = False

    def closePanel(self):
        if self.panel is not None and self.ui.plotButton.checked:
            self.ui.plotButton.click()
        super().closePanel()

    def click(self):
        self.ui.anatomyButton.click()

    def find(self):
        """Clicks, waits for the end and returns the segmentation node."""
        self.click()
        self.assertEqual(self.ui.anatomyButton.text, "Cancel")
        wait(lambda: not self.logic.tasks.busy("anatomy"))
        self.assertIn("Done", self.ui.anatomyStatusLabel.text)
        return self.choices.anatomy

    def expected(self) -> dict:
        """Labels, points and denoised voxels, from the core in another process."""
        key = self.voxels.tobytes(), self.choices.clusters
        if key not in found:
            with tempfile.TemporaryDirectory() as folder:
                source, target = f"{folder}/in.npy", f"{folder}/out.npz"
                np.save(source, self.voxels)
                model = str(test_panel.modelFolder / "test-model-0.safetensors")
                numbers = map(str, (self.choices.clusters, POINTS, *self.ldct.GetSpacing()))
                runPython(CLUSTER, source, model, target, *numbers)
                with np.load(target) as arrays:
                    found[key] = dict(arrays)
        return found[key]

    def nodes(self) -> list:
        """Names of all nodes that an anatomy may consist of."""
        kinds = ("Segmentation", "SegmentationDisplay", "Table", "PlotChart", "PlotSeries")
        return [node.GetName() for kind in kinds for node in slicer.util.getNodesByClass(f"vtkMRML{kind}Node")]

    def tick(self):
        for _ in range(3):
            slicer.app.processEvents()


class FindTest(AnatomyTestCase):
    def test_the_segmentation_is_like_the_volume(self):
        transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "moved")
        self.ldct.SetAndObserveTransformNodeID(transform.GetID())
        segmentation = self.find()
        self.assertEqual(segmentation.GetName(), "CT anatomy")
        self.assertEqual(segmentation.GetTransformNodeID(), transform.GetID())
        segments = segmentation.GetSegmentation()
        labels = self.expected()["map"]
        self.assertEqual(segments.GetNumberOfSegments(), labels.max())
        self.assertEqual(segments.GetNumberOfLayers(), 1)
        first = segments.GetNthSegment(0).GetRepresentation("Binary labelmap")
        np.testing.assert_array_equal(
            slicer.util.arrayFromSegmentInternalBinaryLabelmap(segmentation, segments.GetNthSegmentID(0)), labels
        )
        matrices = [vtk.vtkMatrix4x4() for _ in range(2)]
        self.ldct.GetIJKToRASMatrix(matrices[0])
        first.GetImageToWorldMatrix(matrices[1])
        for i in range(4):
            for j in range(4):
                self.assertAlmostEqual(matrices[0].GetElement(i, j), matrices[1].GetElement(i, j), places=10)
        for i in range(segments.GetNumberOfSegments()):
            segment = segments.GetNthSegment(i)
            self.assertEqual(segment.GetLabelValue(), i + 1)
            self.assertRegex(segment.GetName(), rf"^{i + 1} \w.* \(suggested\)$")
        colors = {tuple(round(255 * c) for c in segments.GetNthSegment(i).GetColor()) for i in range(labels.max())}
        self.assertEqual(len(colors), labels.max())
        self.assertEqual(segmentation.GetAttribute("ASCON.ModelName"), "model 0")
        np.testing.assert_array_equal(slicer.util.arrayFromVolume(self.ldct), self.voxels)
        self.assertEqual(self.newFiles(), [])

    def test_the_table_holds_what_the_clusters_hold(self):
        segmentation = self.find()
        expected = self.expected()
        table, labels = self.ui.anatomyTable, expected["map"]
        self.assertFalse(table.isHidden())
        self.assertEqual(table.rowCount, labels.max())
        ml_per_voxel = np.prod(self.ldct.GetSpacing()) / 1000
        means = []
        for label in range(1, labels.max() + 1):
            mine = labels == label
            before, after = self.voxels[mine].astype(float), expected["denoised"][mine].astype(float)
            row = [table.item(label - 1, c).text() for c in range(table.columnCount)]
            self.assertEqual(f"{row[0]} (suggested)", segmentation.GetSegmentation().GetNthSegment(label - 1).GetName())
            self.assertEqual(
                row[1:],
                [
                    f"{mine.sum() * ml_per_voxel:.1f}",
                    f"{before.mean():.0f} ± {before.std():.0f}",
                    f"{after.mean():.0f} ± {after.std():.0f}",
                    f"{(before - after).std():.1f}",
                ],
            )
            means.append(before.mean())
        self.assertEqual(means, sorted(means))
        self.assertIn("Suggested", table.horizontalHeaderItem(0).text())
        self.assertRegex(
            self.ui.anatomyLabel.text, r"^Silhouette -?\d\.\d\d .*, Davies-Bouldin .* intra/inter \d\.\d\d"
        )
        self.assertIn("CT anatomy table", self.nodes())

    def test_opacity_and_outlines(self):
        display = self.find().GetDisplayNode()
        self.assertEqual(display.GetOpacity2DFill(), 0.4)
        self.assertFalse(display.GetVisibility2DOutline())
        self.ui.anatomyOpacitySlider.value = 70
        self.ui.anatomyOutlinesCheckBox.click()
        self.assertEqual(display.GetOpacity2DFill(), 0.7)
        self.assertTrue(display.GetVisibility2DOutline())
        display = self.find().GetDisplayNode()  # the next looks the same
        self.assertEqual(display.GetOpacity2DFill(), 0.7)
        self.assertTrue(display.GetVisibility2DOutline())

    def test_again_replaces_and_another_volume_keeps(self):
        self.find()
        nodes = self.nodes()
        self.choices.clusters = 3
        second = self.find()
        self.assertEqual(second.GetSegmentation().GetNumberOfSegments(), 3)
        self.assertEqual([name for name in self.nodes() if "CT" in name], [name for name in nodes if "CT" in name])
        self.choices.inputVolume = makeVolume("other", someVoxels(4, seed=1))
        third = self.find()
        self.assertEqual(third.GetName(), "other anatomy")
        self.assertTrue(slicer.mrmlScene.IsNodePresent(second))

    def test_progress_and_t_sne_are_said(self):
        said = []
        self.click()
        wait(lambda: said.append(self.ui.anatomyProgressBar.format) or not self.logic.tasks.busy("anatomy"))
        self.assertTrue(any(text.startswith("step ") for text in said), set(said))
        self.assertIn("laying out the t-SNE plot", said)
        self.assertTrue(self.ui.anatomyProgressBar.isHidden())
        self.assertTrue(self.ui.progressBar.isHidden())

    def test_why_the_button_is_disabled(self):
        self.choices.inputVolume = None
        self.assertFalse(self.ui.anatomyButton.enabled)
        self.assertEqual(self.ui.anatomyButton.toolTip, "Choose the LDCT volume first.")
        self.choices.inputVolume = self.ldct
        self.assertTrue(self.ui.anatomyButton.enabled)
        self.choices.outputVolume = self.ldct  # which is the other button's trouble
        self.assertTrue(self.ui.anatomyButton.enabled)
        self.assertFalse(self.ui.plotButton.enabled)

    def test_one_after_the_other(self):
        self.click()
        self.assertFalse(self.ui.denoiseButton.enabled)
        self.assertIn("Wait", self.ui.denoiseButton.toolTip)
        wait(lambda: not self.logic.tasks.busy("anatomy"))
        self.ui.denoiseButton.click()
        self.assertFalse(self.ui.anatomyButton.enabled)
        wait(lambda: not self.logic.tasks.busy("denoise"))
        self.assertTrue(self.ui.anatomyButton.enabled)

    def test_another_strength_waits_for_it(self):
        self.ui.denoiseButton.click()
        wait(lambda: not self.logic.tasks.busy())
        self.click()
        self.choices.strength = 50
        wait(lambda: not self.logic.tasks.busy("anatomy"))
        self.assertIn("Done", self.ui.anatomyStatusLabel.text)
        wait(lambda: self.logic.run.strength == 0.5 and not self.logic.tasks.busy())

    def test_the_main_thread_is_never_busy_for_long(self):
        self.voxels = np.tile(someVoxels(1), (8, 2, 2))
        slicer.util.updateVolumeFromArray(self.ldct, self.voxels)
        self.assertLess(longestHold(self.find), 0.2)

    def test_packages_are_asked_for_at_the_click(self):
        installation = sys.modules["ASCONDenoiseLib.panel.installation"]
        asked = []

        def check(wanted):
            return "scikit-learn" not in (wanted if isinstance(wanted, str) else " ".join(wanted))

        missing = mock.patch.object(slicer.packaging, "pip_check", check)
        ensured = mock.patch.object(slicer.packaging, "pip_ensure", lambda wanted, requester: asked.extend(wanted))
        with missing, ensured:
            self.click()
        self.assertEqual(asked, [*installation.PACKAGES, *installation.ANATOMY_PACKAGES])
        self.assertIn("scikit-learn", self.ui.anatomyStatusLabel.text)
        self.assertFalse(self.logic.tasks.busy())


class CancelTest(LongRun, AnatomyTestCase):
    bar = "anatomyProgressBar"

    def assertNothingHappened(self):
        self.assertEqual(self.nodes(), [])
        self.assertEqual(self.newFiles(), [])
        self.assertIsNone(self.choices.anatomy)

    def test_cancel_during_the_network_then_again(self):
        self.runTo("step ")
        pid, clicked = self.logic.tasks.worker.pid, time.monotonic()
        self.click()
        wait(lambda: not self.logic.tasks.busy())
        self.assertLess(time.monotonic() - clicked, 0.5)  # one slice, on a slow core
        self.assertEqual(self.ui.anatomyStatusLabel.text, "Cancelled. Nothing was changed.")
        self.assertEqual(self.ui.anatomyButton.text, "Find the anatomy")
        self.assertNothingHappened()
        self.assertEqual(self.logic.tasks.worker.pid, pid)
        self.find()

    def test_cancel_during_t_sne(self):
        self.logic.points = 2000
        self.runTo("t-SNE")
        clicked = time.monotonic()
        self.click()
        wait(lambda: not self.logic.tasks.busy())
        self.assertLess(time.monotonic() - clicked, 0.5)
        self.assertNothingHappened()

    def test_input_removed_during_the_run(self):
        self.runTo("step ")
        slicer.mrmlScene.RemoveNode(self.ldct)
        wait(lambda: not self.logic.tasks.busy())
        self.assertEqual(self.ui.anatomyStatusLabel.text, "CT was removed from the scene. Nothing was changed.")
        self.assertNothingHappened()

    def test_scene_closed_during_the_run(self):
        self.runTo("step ")
        slicer.mrmlScene.Clear()
        wait(lambda: not self.logic.tasks.busy())
        self.choices = self.panel.logic.getParameterNode()
        self.assertNothingHappened()

    def test_earlier_result_removed_during_the_run(self):
        self.logic.points = 150
        earlier = self.find()
        self.runTo("step ")
        slicer.mrmlScene.RemoveNode(earlier)
        self.assertIsNone(self.choices.anatomy)
        self.assertTrue(self.ui.anatomyTable.isHidden())
        self.assertFalse(self.ui.plotButton.enabled)
        wait(lambda: not self.logic.tasks.busy())
        self.assertIsNot(self.choices.anatomy, earlier)
        self.assertEqual(self.choices.anatomy.GetSegmentation().GetNumberOfSegments(), 4)

    def test_what_cannot_be_clustered_is_a_sentence(self):
        self.choices.inputVolume = makeVolume("air", np.full((3, 40, 40), -1000, np.int16))
        self.click()
        wait(lambda: not self.logic.tasks.busy())
        self.assertRegex(self.ui.anatomyStatusLabel.text, "body.* Nothing was changed.$")
        self.assertNothingHappened()


class PlotTest(AnatomyTestCase):
    """Anatomy and embedding linked both ways."""

    def setUp(self):
        super().setUp()
        if slicer.app.layoutManager() is None:
            self.skipTest("no views without the main window")
        slicer.app.layoutManager().setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
        moved = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "moved")
        turn = vtk.vtkTransform()
        turn.Translate(12, -7, 30)
        turn.RotateZ(20)
        self.transform = turn.GetMatrix()
        moved.SetMatrixTransformToParent(self.transform)
        self.ldct.SetAndObserveTransformNodeID(moved.GetID())
        self.crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
        self.crosshair.SetCrosshairMode(slicer.vtkMRMLCrosshairNode.NoCrosshair)

    def showPlot(self):
        self.find()
        self.ui.plotButton.click()
        self.tick()
        self.assertTrue(self.ui.plotButton.checked)
        manager = slicer.app.layoutManager()
        views = [manager.plotWidget(i) for i in range(manager.plotViewCount)]
        chart = slicer.util.getNode("CT anatomy t-SNE")
        (widget,) = [one for one in views if one.mrmlPlotViewNode().GetPlotChartNode() is chart]
        return widget.plotView()

    def select(self, view, rows):
        """Selects points in the chart, as its own rubber band does."""
        labels = self.expected()["labels"]
        chart = view.chart()
        for i in range(chart.GetNumberOfPlots()):
            plot = chart.GetPlot(i)
            number = plot.GetLabel().split()[0]
            mine = [row for row in rows if str(labels[row]) == number]
            plot.SetSelection(numpy_support.numpy_to_vtkIdTypeArray(np.array(mine, np.int64), deep=True))
        chart.InvokeEvent("SelectionChangedEvent")

    def world(self, ijk):
        """Where a voxel is, computed the plain way."""
        matrix = vtk.vtkMatrix4x4()
        self.ldct.GetIJKToRASMatrix(matrix)
        return self.transform.MultiplyPoint(matrix.MultiplyPoint((*map(float, ijk), 1.0)))[:3]

    def marked(self):
        """Place in the plot of the marked point; None without a mark."""
        chart = slicer.util.getNode("CT anatomy t-SNE")
        series = [chart.GetNthPlotSeriesNode(i) for i in range(chart.GetNumberOfPlotSeriesNodes())]
        mark = [one for one in series if one.GetName() == "picked"]
        if not mark:
            return None
        table = mark[0].GetTableNode().GetTable()
        rows = {tuple(table.GetColumnByName(axis).GetValue(r) for axis in "xy") for r in range(table.GetNumberOfRows())}
        self.assertEqual(len(rows), 1)
        return rows.pop()

    def test_one_series_per_cluster_in_its_colour_with_its_points(self):
        self.showPlot()
        expected, chart = self.expected(), slicer.util.getNode("CT anatomy t-SNE")
        segments = self.choices.anatomy.GetSegmentation()
        self.assertEqual(chart.GetNumberOfPlotSeriesNodes(), segments.GetNumberOfSegments())
        for i in range(segments.GetNumberOfSegments()):
            series, segment = chart.GetNthPlotSeriesNode(i), segments.GetNthSegment(i)
            self.assertEqual(series.GetName(), segment.GetName())
            self.assertEqual(series.GetColor(), segment.GetColor())
            table = series.GetTableNode().GetTable()
            columns = [table.GetColumnByName(name) for name in (series.GetXColumnName(), series.GetYColumnName())]
            xy = np.stack([numpy_support.vtk_to_numpy(column) for column in columns], axis=1)
            mine = expected["labels"] == i + 1
            np.testing.assert_array_equal(xy[mine], expected["xy"][mine])
            self.assertTrue(np.isnan(xy[~mine, 1]).all())

    def test_a_selected_point_jumps_the_slices(self):
        view = self.showPlot()
        expected = self.expected()
        for row in (0, POINTS // 2, POINTS - 1):
            self.select(view, [row])
            place = self.world(expected["ijk"][row])
            np.testing.assert_allclose(self.crosshair.GetCrosshairRAS(), place, atol=1e-6)
            for name in ("Red", "Yellow", "Green"):
                node = slicer.app.layoutManager().sliceWidget(name).mrmlSliceNode()
                matrix = node.GetSliceToRAS()
                normal = np.array([matrix.GetElement(i, 2) for i in range(3)])
                origin = np.array([matrix.GetElement(i, 3) for i in range(3)])
                self.assertAlmostEqual(float((np.array(place) - origin) @ normal), 0, places=4)
            np.testing.assert_array_equal(self.marked(), expected["xy"][row])
            hu = self.voxels[tuple(expected["ijk"][row][::-1])]
            self.assertRegex(self.ui.pointLabel.text, rf"^{expected['labels'][row]} .*\(suggested\), {hu} HU$")

    def test_of_several_points_the_middle_one(self):
        view = self.showPlot()
        expected = self.expected()
        rows = np.flatnonzero(expected["labels"] <= 2)  # of two series
        self.select(view, rows.tolist())
        xy = expected["xy"][rows].astype(float)
        middle = min(rows, key=lambda row: sum((expected["xy"][row].astype(float) - xy.mean(axis=0)) ** 2))
        np.testing.assert_allclose(self.crosshair.GetCrosshairRAS(), self.world(expected["ijk"][middle]), atol=1e-6)
        before = self.crosshair.GetCrosshairRAS()
        self.select(view, [])
        self.assertEqual(self.crosshair.GetCrosshairRAS(), before)

    def test_a_place_in_a_slice_marks_its_point(self):
        self.showPlot()
        expected = self.expected()
        self.assertIsNone(self.marked())
        for ijk in ((33, 30, 2), (14, 31, 5), (20, 22, 0)):
            place = self.world(ijk)
            self.crosshair.SetCrosshairRAS(place)  # as Shift and the mouse do
            distances = [float(np.linalg.norm(np.subtract(self.world(one), place))) for one in expected["ijk"]]
            same = [row for row, one in enumerate(expected["ijk"]) if one[2] == ijk[2] and distances[row] <= 10]
            nearest = min(same or range(POINTS), key=distances.__getitem__)
            np.testing.assert_array_equal(self.marked(), expected["xy"][nearest])
            self.assertIn(f"{distances[nearest]:.0f} mm away", self.ui.pointLabel.text)

    def test_plot_and_other_views_take_turns(self):
        manager = slicer.app.layoutManager()
        before = manager.layout
        self.showPlot()
        self.assertNotEqual(manager.layout, before)
        self.assertEqual(self.crosshair.GetCrosshairMode(), slicer.vtkMRMLCrosshairNode.ShowBasic)
        self.ui.plotButton.click()
        self.assertEqual(manager.layout, before)
        self.assertFalse(self.ui.plotButton.checked)
        self.assertEqual(self.crosshair.GetCrosshairMode(), slicer.vtkMRMLCrosshairNode.NoCrosshair)
        self.crosshair.SetCrosshairRAS(self.world((33, 30, 2)))
        self.assertIsNone(self.marked())
        self.ui.plotButton.click()
        manager.setLayout(before)  # by Slicer's own button
        self.assertFalse(self.ui.plotButton.checked)
        self.ui.denoiseButton.click()
        wait(lambda: not self.logic.tasks.busy())
        self.ui.plotButton.click()
        self.ui.compareButton.click()
        self.assertTrue(self.ui.compareButton.checked)
        self.assertFalse(self.ui.plotButton.checked)
        self.ui.plotButton.click()
        self.assertFalse(self.ui.compareButton.checked)
        self.assertTrue(self.ui.plotButton.checked)
        self.ui.plotButton.click()
        self.assertEqual(manager.layout, before)

    def test_found_again_while_the_plot_is_on(self):
        self.showPlot()
        self.choices.clusters = 3
        self.find()
        self.tick()
        self.assertTrue(self.ui.plotButton.checked)
        manager = slicer.app.layoutManager()
        views = [manager.plotWidget(i).plotView() for i in range(manager.plotViewCount)]
        (view,) = [view for view in views if view.chart().GetNumberOfPlots()]
        self.assertEqual(view.chart().GetNumberOfPlots(), 3)
        self.select(view, [7])
        np.testing.assert_array_equal(self.marked(), self.expected()["xy"][7])

    def test_volume_or_segmentation_or_plot_removed(self):
        view = self.showPlot()
        slicer.mrmlScene.RemoveNode(self.ldct)
        self.select(view, [3])
        self.assertIn("removed", self.ui.pointLabel.text)
        self.crosshair.SetCrosshairRAS(1.0, 2.0, 3.0)
        self.assertIsNone(self.marked())
        slicer.mrmlScene.RemoveNode(slicer.util.getNode("CT anatomy t-SNE"))
        self.ui.plotButton.click()
        self.ui.plotButton.click()
        self.assertIn("Find the anatomy again", self.ui.pointLabel.text)
        slicer.mrmlScene.RemoveNode(self.choices.anatomy)
        self.assertFalse(self.ui.plotButton.enabled)
        self.assertEqual(self.ui.pointLabel.text, "")

    def test_a_saved_scene_is_as_it_was(self):
        self.ui.anatomyOpacitySlider.value = 60
        self.showPlot()
        rows = [self.ui.anatomyTable.item(r, 0).text() for r in range(self.ui.anatomyTable.rowCount)]
        words, labels = self.ui.anatomyLabel.text, self.expected()["map"]
        folder = Path(tempfile.mkdtemp(dir=test_panel.temporary.name)) / "scene"
        folder.mkdir()
        self.assertTrue(slicer.mrmlScene.SaveSceneToSlicerDataBundleDirectory(str(folder), None))
        (file,) = folder.glob("*.mrml")
        slicer.mrmlScene.Clear()
        self.assertTrue(self.ui.anatomyTable.isHidden())
        slicer.mrmlScene.SetURL(str(file))
        self.assertTrue(slicer.mrmlScene.Connect())
        self.panel.initializeParameterNode()
        self.tick()
        self.choices, self.ldct = self.panel._parameterNode, slicer.util.getNode("CT")
        self.assertEqual(self.choices.clusters, 4)
        self.assertEqual(self.ui.clustersSpinBox.value, 4)
        self.assertEqual(self.choices.anatomy.GetDisplayNode().GetOpacity2DFill(), 0.6)
        self.assertEqual([self.ui.anatomyTable.item(r, 0).text() for r in range(len(rows))], rows)
        self.assertEqual(self.ui.anatomyLabel.text, words)
        segments = self.choices.anatomy.GetSegmentation()
        for i in range(segments.GetNumberOfSegments()):
            mask = slicer.util.arrayFromSegmentBinaryLabelmap(
                self.choices.anatomy, segments.GetNthSegmentID(i), self.ldct
            )
            np.testing.assert_array_equal(mask, labels == i + 1)
        if not self.ui.plotButton.checked:
            self.ui.plotButton.click()
        self.crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
        place = self.world(self.expected()["ijk"][5])
        self.crosshair.SetCrosshairRAS(place)
        np.testing.assert_allclose(self.marked(), self.expected()["xy"][5], rtol=1e-4)


if __name__ == "__main__":
    unittest.main()
