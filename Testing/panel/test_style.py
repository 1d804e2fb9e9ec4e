"""The panel in Slicer's light and dark styles."""

import unittest

import numpy as np
import qt
import slicer
from panel_case import PanelTestCase


class StyleTest(PanelTestCase):
    """Legible in Slicer's light and dark styles."""

    def setUp(self):
        before, palette = (qt.QPalette(slicer.app.palette()) for _ in range(2))
        self.addCleanup(lambda: slicer.app.setPalette(before))
        window, text = (53, 240) if "dark" in self._testMethodName else (240, 53)
        palette.setColor(qt.QPalette.Window, qt.QColor(window, window, window))
        palette.setColor(qt.QPalette.WindowText, qt.QColor(text, text, text))
        slicer.app.setPalette(palette)
        super().setUp()

    def contrast(self, label) -> float:
        """Of text and window, as the accessibility guidelines reckon it."""

        def luminance(color) -> float:
            parts = [part / 255 for part in (color.red(), color.green(), color.blue())]
            linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
            return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

        text = qt.QColor([rule.split(":")[1].strip() for rule in label.styleSheet.split(";") if "color" in rule][-1])
        palette = self.panel.parent.palette  # kept: its colours are parts of it
        low, high = sorted((luminance(text), luminance(palette.color(qt.QPalette.Window))))
        return (high + 0.05) / (low + 0.05)

    def test_warnings_on_light(self):
        for label in (self.ui.noticeLabel, self.ui.warningLabel):
            self.assertGreater(self.contrast(label), 4)

    def test_warnings_on_dark(self):
        for label in (self.ui.noticeLabel, self.ui.warningLabel):
            self.assertGreater(self.contrast(label), 4)


if __name__ == "__main__":
    unittest.main()
