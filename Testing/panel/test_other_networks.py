"""Models of other systems open in the panel and denoise like any other."""

import unittest
from unittest import mock

import numpy as np
import qt
from panel_case import PanelTestCase, modelFolder, newFolder, runChild


class OtherNetworksTest(PanelTestCase):
    """Patch-DML, whose low band passes by, and TSC-Net, with deformable convolution."""

    def test_their_models_are_imported_and_denoise(self):
        folder, names = newFolder(), ("patch_dml", "tsc_net")
        runChild("child_make_other_models.py", str(folder), *names)
        np.save(folder / "in.npy", self.voxels)
        try:
            for name in names:
                model = folder / f"{name}.safetensors"
                with mock.patch.object(qt.QFileDialog, "getOpenFileName", lambda *_arguments, m=model: str(m)):
                    self.ui.importModelButton.click()
                self.assertEqual(self.choices.model, name)
                runChild("child_denoise.py", str(folder / "in.npy"), str(model), str(folder / "out.npy"))
                expected = np.load(folder / "out.npy")
                np.testing.assert_array_equal(self.denoise(), expected)
                self.assertGreater(np.abs(expected - self.voxels).max(), 0)
        finally:
            for name in names:
                for path in modelFolder.glob(f"{name}*"):
                    path.unlink()


if __name__ == "__main__":
    unittest.main()
