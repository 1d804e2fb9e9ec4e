"""The low-dose abdomen of the module Sample Data."""

import sys
import unittest
from unittest import mock

import numpy as np
import qt
import slicer
from panel_case import PanelTestCase, makeVolume


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
            mock.patch.dict(sys.modules["ASCONDenoiseLib.scene.operations"].PHANTOM, phantom),
            mock.patch.object(SampleData.SampleDataLogic, "downloadSample", offline, create=True),
        ):
            ldct, ndct = self.module.sample_data.load()  # what its button does
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
