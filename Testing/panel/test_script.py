"""Denoising from a script, with the panel and without one."""

import re
import sys
import unittest

import numpy as np
import slicer
from panel_case import ROOT, PanelTestCase, makeVolume


class ScriptTest(PanelTestCase):
    def setUp(self):
        super().setUp()
        self.alone = sys.modules["ASCONDenoise"].ASCONDenoiseLogic()  # of no panel
        self.addCleanup(self.alone.close)

    def test_without_a_panel(self):
        told = []
        started = self.alone.denoise(self.ldct, model="test-model-0", strength=0.5)
        started.whenDone(lambda ended: told.append(ended.result.output.GetName()))
        self.assertFalse(started.done)
        denoised = started.wait().output
        self.assertTrue(started.done)
        self.assertEqual(told, ["CT denoised"])
        np.testing.assert_array_equal(slicer.util.arrayFromVolume(denoised), self.expected(self.voxels, 0.5))
        self.assertEqual(denoised.GetAttribute("ASCON.Strength"), "0.5")
        self.assertIsNone(self.choices.outputVolume)  # that of the panel
        started.whenDone(lambda ended: told.append("late"))
        self.assertEqual(told[1:], ["late"])

    def test_what_cannot_be_done_raises(self):
        with self.assertRaisesRegex(ValueError, "LDCT"):
            self.alone.denoise(None)
        first = self.alone.denoise(self.ldct, model="test-model-0")
        second = self.alone.denoise(self.ldct, model="test-model-0")  # in place of the first
        with self.assertRaisesRegex(Exception, "Something else"):
            first.wait()
        third = self.alone.denoise(self.ldct, model="test-model-0")
        self.alone.cancel("Enough.")
        for ended in (second, third):
            with self.assertRaises(Exception):  # noqa: B017 - the reason differs
                ended.wait()
        self.assertEqual(self.volumes(), ["CT"])
        self.assertEqual(self.newFiles(), [])

    def test_the_panel_shows_what_a_script_has_done_with_its_logic(self):
        other = makeVolume("other", self.voxels[:3])
        denoised = self.logic.denoise(other, model="test-model-0", strength=0.25).wait().output
        self.assertIs(self.choices.inputVolume, other)
        self.assertIs(self.choices.outputVolume, denoised)
        self.assertEqual(self.ui.strengthSlider.value, 25)
        self.settle()
        np.testing.assert_array_equal(slicer.util.arrayFromVolume(denoised), self.expected(self.voxels[:3], 0.25))

    def test_the_example_of_the_tutorial(self):
        if self.ui.modelComboBox.findData("") < 0:
            self.skipTest("no model is shipped yet")
        tutorial = (ROOT / "docs" / "panel.md").read_text()
        (example,) = re.findall(r"```python\n(.*?)```", tutorial, re.DOTALL)
        names = {"slicer": slicer}
        try:
            exec(example, names)
            self.assertEqual(names["denoised"].GetName(), "CT denoised")
            self.assertEqual(slicer.util.arrayFromVolume(names["denoised"]).shape, self.voxels.shape)
            self.assertIs(names["logic"], slicer.modules.ASCONDenoiseWidget.logic)
        finally:
            names["logic"].cancel("")
            names["logic"].wait()


if __name__ == "__main__":
    unittest.main()
