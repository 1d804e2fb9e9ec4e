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

        small, source = SampleData.SampleDataLogic.sampleDataSourcesByCategory("ASCON")
        self.assertEqual(small.sampleName, "ASCON: small phantom")
        self.assertEqual(source.sampleName, "ASCON: low-dose abdomen")
        self.assertFalse(qt.QPixmap(source.thumbnailFileName).isNull())
        phantom = {"shape": [3, 128, 128], "spacing_mm": [2.8, 2.8, 3.0]}

        def offline(*_arguments):
            raise OSError("Name or service not known")

        with (
            mock.patch.dict(sys.modules["ASCONDenoiseLib.scene.operations"].PHANTOM, phantom),
            mock.patch.object(SampleData.SampleDataLogic, "downloadSample", offline, create=True),
        ):
            said = self.follow()
            ldct, ndct = source.customDownloader(source)  # what its button does
        self.assertIn("The CT could not be downloaded. A phantom is simulated instead.", said)
        self.assertTrue(any(text.startswith("Simulating a low-dose scan: slice 3 of 3") for text in said), said)
        self.assertEqual(self.windows(), [])
        self.assertEqual([ldct.GetName(), ndct.GetName()], ["ASCON low-dose abdomen", "ASCON normal-dose abdomen"])
        self.assertEqual(ldct.GetSpacing(), (2.8, 2.8, 3.0))
        low, normal = (slicer.util.arrayFromVolume(node).astype(float) for node in (ldct, ndct))
        inside = (normal > 20) & (normal < 80)
        self.assertGreater(inside.mean(), 0.1)
        self.assertGreater((low - normal)[inside].std(), 15)
        self.assertLess(abs((low - normal)[inside].mean()), 5)
        self.assertEqual(self.newFiles(), [])

    def windows(self) -> list:
        """The progress windows on show."""
        windows = slicer.app.topLevelWidgets()
        return [window for window in windows if window.inherits("QProgressDialog") and window.visible]

    def follow(self) -> list:
        """Texts of the progress window from now on, while the event loop turns."""
        said = []
        self.timer = qt.QTimer()
        self.timer.timeout.connect(lambda: said.extend(window.labelText for window in self.windows()))
        self.timer.start(0)
        return said

    def test_the_small_phantom_needs_no_download(self):
        import SampleData

        small, _source = SampleData.SampleDataLogic.sampleDataSourcesByCategory("ASCON")
        with (
            mock.patch.object(SampleData.SampleDataLogic, "downloadSample", None, create=True),
            mock.patch.object(sys.modules["ASCONDenoiseLib.panel.sample_data"], "SMALL_PHANTOM", [2, 96, 96]),
        ):
            ldct, ndct = small.customDownloader(small)
        for node in (ldct, ndct):
            self.assertEqual(slicer.util.arrayFromVolume(node).shape, (2, 96, 96))

    def test_cancelled_while_the_download_fails_and_while_the_phantom_is_simulated(self):
        import SampleData

        def download(samples, *_arguments):
            samples.logMessage("Download failed (attempt 1 of 3)...", 40)
            raise OSError("Name or service not known")

        for words in ("Download failed", "Simulating"):
            timer = qt.QTimer()
            timer.timeout.connect(
                lambda words=words: [
                    slicer.util.findChildren(window, className="QPushButton")[0].click()
                    for window in self.windows()
                    if words in window.labelText
                ]
            )
            timer.start(0)
            with mock.patch.object(SampleData.SampleDataLogic, "downloadSample", download, create=True):
                self.assertEqual(self.module.sample_data.load(), [])
            timer.stop()
            self.assertEqual(self.volumes(), ["CT"])
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
