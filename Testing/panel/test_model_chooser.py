"""Model and card."""

import unittest
from pathlib import Path
from unittest import mock

import numpy as np
import qt
from panel_case import PanelTestCase, modelFolder, newFolder

from ASCONDenoiseLib.models import files
from ASCONDenoiseLib.models.files import DEFAULT_MODEL


class ModelTest(PanelTestCase):
    """A model of one's own: two files, checked and copied."""

    def choose(self, path):
        with mock.patch.object(qt.QFileDialog, "getOpenFileName", lambda *_arguments: str(path)):
            self.ui.importModelButton.click()

    def test_import(self):
        folder = newFolder()
        for suffix in (".safetensors", ".json"):
            content = (modelFolder / f"test-model-1{suffix}").read_bytes()
            (folder / f"of-my-own{suffix}").write_bytes(content)
        try:
            self.choose(folder / "of-my-own.safetensors")
            self.assertEqual(self.choices.model, "of-my-own")
            self.assertIn("of-my-own is imported", self.ui.statusLabel.text)
            self.assertEqual(self.ui.modelComboBox.itemData(self.ui.modelComboBox.currentIndex), "of-my-own")
            np.testing.assert_array_equal(self.denoise(), self.expected(self.voxels, model=1))
        finally:
            for path in modelFolder.glob("of-my-own*"):
                path.unlink()

    def test_the_default_model_once_imported_is_chosen_by_its_name_beside_automatic(self):
        chooser = "ASCONDenoiseLib.panel.sections.model_chooser"
        imported = Path(f"{DEFAULT_MODEL}.safetensors")
        with (
            mock.patch(f"{chooser}.import_model", lambda _path: imported),
            mock.patch.object(files, "AUTOMATIC_FAST", True),
            mock.patch.object(files, "fast_model", lambda: Path("fast.safetensors")),
        ):
            self.choose(imported)
            self.assertEqual(self.choices.model, DEFAULT_MODEL)
            self.assertIn("imported and chosen", self.ui.statusLabel.text)

    def test_what_is_refused_is_a_sentence_and_changes_nothing(self):
        folder = newFolder()
        before = sorted(modelFolder.iterdir())
        (folder / "pickled.safetensors").write_bytes(b"PK\3\4 and so on")
        (folder / "alone.safetensors").write_bytes((modelFolder / "test-model-1.safetensors").read_bytes())
        for name, sentence in {"pickled": "is a pickle", "alone": "card", "gone": "There is no model file"}.items():
            self.choose(folder / f"{name}.safetensors")
            self.assertIn(sentence, self.ui.statusLabel.text)
            self.assertEqual(self.choices.model, "test-model-0")
        self.choose("")  # cancelled
        self.assertEqual(sorted(modelFolder.iterdir()), before)
        self.assertTrue(self.ui.denoiseButton.enabled)

    def test_card_is_one_click_away(self):
        self.assertFalse(self.ui.modelCardBrowser.visible)
        self.ui.modelCardButton.click()
        self.assertFalse(self.ui.modelCardBrowser.isHidden())
        card = self.ui.modelCardBrowser.plainText
        for words in ("model 0", "Tests of the panel", "Everything", "none <at all>", "Apache-2.0", "psnr_db: 1.25"):
            self.assertIn(words, card)


if __name__ == "__main__":
    unittest.main()
