"""Python packages that are missing."""

import subprocess
import sys
import unittest
from unittest import mock

import slicer
from panel_case import PanelTestCase


class FirstUseTest(PanelTestCase):
    """Packages are asked for at the click; each way that fails is a sentence."""

    def setUp(self):
        super().setUp()
        self.installation = sys.modules["ASCONDenoiseLib.panel.installation"]
        self.missing = {"torch", "safetensors"}
        self.asked = []

        def check(requirements):
            requirements = [requirements] if isinstance(requirements, str) else requirements
            return not any(name in requirement for requirement in requirements for name in self.missing)

        def ensure(requirements, requester=None):
            self.asked.append((requirements, requester))
            self.missing.discard("safetensors")

        for name, fake in (("pip_check", check), ("pip_ensure", ensure)):
            patch = mock.patch.object(slicer.packaging, name, fake)
            patch.start()
            self.addCleanup(patch.stop)

    def clickAndRead(self) -> str:
        self.click()
        self.assertFalse(self.logic.tasks.busy())
        self.assertTrue(self.ui.denoiseButton.enabled)
        return self.ui.statusLabel.text

    def test_nothing_is_asked_before_the_click_nor_when_nothing_is_missing(self):
        self.assertEqual(self.asked, [])
        self.missing.clear()
        self.denoise()
        self.assertEqual(self.asked, [])

    def test_without_the_pytorch_extension(self):
        with mock.patch.dict(sys.modules, PyTorchUtils=None):
            self.assertIn("Install the extension PyTorch", self.clickAndRead())
        self.assertEqual(self.asked, [(list(self.installation.PANEL), "ASCON Denoise")])

    def test_declined(self):
        def declined(*_arguments, **_more):
            raise RuntimeError("User declined package installation")

        with mock.patch.object(slicer.packaging, "pip_ensure", declined):
            self.assertIn("Click again to be asked again", self.clickAndRead())

    def test_a_package_that_was_removed_halfway(self):
        """Its metadata have no version, which pip_check compares all the same."""

        def check(requirements):
            if "torch" in str(requirements):
                raise TypeError("expected string or bytes-like object, got 'NoneType'")
            return True

        patch = mock.patch.object(slicer.packaging, "pip_check", check)
        with patch, mock.patch.dict(sys.modules, PyTorchUtils=None):
            self.assertIn("Install the extension PyTorch", self.clickAndRead())

    def test_ways_to_fail(self):
        for words, sentence in {
            "NewConnectionError: Temporary failure in name resolution": "Go online",
            "ProxyError: 407 Proxy Authentication Required": "HTTPS_PROXY",
            "OSError: [WinError 206] The filename or extension is too long": "too long for Windows",
            "OSError: [Errno 28] No space left on device": "disk is full",
            "SSLError: CERTIFICATE_VERIFY_FAILED": "certificate",
            "PermissionError: [WinError 5] Access is denied": "restart",
            "something else entirely": "log has the details",
        }.items():

            def failed(*_arguments, words=words, **_more):
                print(words)  # pip's words reach the console only
                raise subprocess.CalledProcessError(1, "pip install")

            with mock.patch.object(slicer.packaging, "pip_ensure", failed):
                self.assertIn(sentence, self.clickAndRead(), words)


if __name__ == "__main__":
    unittest.main()
