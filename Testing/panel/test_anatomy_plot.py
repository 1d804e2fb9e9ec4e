"""The section Anatomy: the plot that is linked to the slices both ways, and what is saved with the scene."""

import unittest

import numpy as np
import slicer
import vtk
from anatomy_case import POINTS, AnatomyTestCase
from vtk.util import numpy_support


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
        self.settle()
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
        file = self.saveScene()
        slicer.mrmlScene.Clear()
        self.assertTrue(self.ui.anatomyTable.isHidden())
        self.openScene(file)
        self.ldct = slicer.util.getNode("CT")
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
