"""From DICOM files to DICOM files."""

import os
import sys
import types
import unittest
from pathlib import Path
from unittest import mock

import numpy as np
import qt
import slicer
import vtk
from panel_case import PanelTestCase, fakeDatabase, makeVolume, modelFolder, newFolder, someVoxels, toolTip, wait


class DicomTest(PanelTestCase):
    def setUp(self):
        super().setUp()
        import pydicom
        from dicom_fixtures import make_ct_series

        self.source = newFolder()
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
        self.settle()
        self.assertTrue(self.ui.saveDicomButton.enabled, toolTip(self.ui.saveDicomButton))
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
        self.settle()
        self.assertFalse(self.ui.saveDicomButton.enabled)
        self.assertIn("DICOM database", toolTip(self.ui.saveDicomButton))

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
        self.settle()
        self.instances.clear()
        self.panel.export.saveDicom(str(self.source))
        self.settle()
        self.assertNotIn("written to", self.ui.statusLabel.text)
        self.assertFalse((self.source / "DICOM CT denoised").exists())

    def test_other_volumes_have_nothing_to_derive_from(self):
        self.choices.inputVolume = makeVolume("from a file", someVoxels())
        self.denoise()
        self.settle()
        self.assertFalse(self.ui.saveDicomButton.enabled)
        self.assertIn("not loaded from the DICOM database", toolTip(self.ui.saveDicomButton))


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

        folder = newFolder()
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
                self.panel.export.saveDicom(str(folder.parent))
                self.settle()
        table = self.ui.numbersTable
        rows = {table.item(r, 0).text(): [table.item(r, c).text() for c in (1, 2)] for r in range(table.rowCount)}
        before, after = (float(cell.split()[0]) for cell in rows["RMSE [HU]"])
        self.assertLess(after, 0.8 * before)
        before, after = map(float, rows["Noise in soft tissue, SD [HU]"])
        self.assertLess(after, 0.7 * before)
        saved = read_series(folder.parent / self.choices.outputVolume.GetName())
        np.testing.assert_array_equal(saved.voxels, result)
        self.assertEqual(saved.geometry, volume.geometry)


if __name__ == "__main__":
    unittest.main()
