"""The section Numbers."""

import unittest

import numpy as np
import slicer
from panel_case import PanelTestCase, makeVolume, someVoxels


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
        self.settle()
        rows = self.table()
        noise = rows["Noise in soft tissue, SD [HU]"]
        self.assertAlmostEqual(float(noise[0]), 20, delta=2)
        self.assertEqual(noise[0], noise[1])  # strength 0
        self.assertFalse(any(name.startswith("PSNR") for name in rows))
        self.assertTrue(any("soft tissue" in name and "shift" in name for name in rows), rows)

        noisefree = someVoxels(seed=1, side=151)
        self.choices.referenceVolume = makeVolume("NDCT", noisefree)
        self.denoise()
        self.settle()
        rows = self.table()
        rmse = np.sqrt(((np.clip(self.voxels, -1000, 2000) - np.clip(noisefree, -1000, 2000)) ** 2.0).mean((1, 2)))
        for cell in rows["RMSE [HU]"][:2]:
            self.assertAlmostEqual(float(cell.split()[0]), rmse.mean(), delta=0.02)
        self.assertIn("PSNR [dB]", rows)
        self.assertIn("SSIM x100", rows)

    def test_reference_of_another_size_costs_a_sentence_only(self):
        self.choices.referenceVolume = makeVolume("NDCT", self.voxels[:2])
        self.denoise()
        self.settle()
        self.assertIn("different numbers of slices", self.ui.numbersLabel.text)
        self.assertFalse(self.ui.copyNumbersButton.enabled)

    def test_copy_and_export(self):
        self.choices.strength = 50
        self.denoise()
        self.settle()
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


if __name__ == "__main__":
    unittest.main()
