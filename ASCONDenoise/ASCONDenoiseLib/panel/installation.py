"""Python packages that Slicer lacks: asked for at the first click, installed by Slicer and the extension PyTorch."""

from __future__ import annotations

import contextlib
import io
import sys

import slicer
import slicer.packaging
from slicer.i18n import tr as _

from ASCONDenoiseLib.messages import installation_failure

PACKAGES = ["safetensors>=0.4.3", "scikit-image>=0.22"]
"""What else the worker needs (numpy, scipy, pydicom) comes with Slicer."""

ANATOMY_PACKAGES = ["scikit-learn>=1.3", "threadpoolctl>=3.1"]
"""For the section Anatomy besides."""

TORCH = ">=2.2"


def torchInstalled() -> bool:
    """Read from the packages' metadata: Slicer's own process does not import torch."""
    return _installed(f"torch{TORCH}")


def _installed(requirements) -> bool:
    """pip_check, which raises whatever comes for a package that was removed halfway: that has no version any more."""
    try:
        return slicer.packaging.pip_check(requirements)
    except Exception:
        return False


def ensurePackages(more=()) -> bool:
    """Asks to install what is missing of PACKAGES, `more` and torch; whether something was.

    As Slicer's own pip_ensure, it installs nothing in testing mode. Raises RuntimeError, a sentence, where that fails.
    """
    packages = [*PACKAGES, *more]
    if torchInstalled() and _installed(packages):
        return False
    said = io.StringIO()  # pip's words go to the console only
    try:
        with contextlib.redirect_stdout(_Tee(sys.stdout, said)):
            slicer.packaging.pip_ensure(packages, requester="ASCON Denoise")
            if not torchInstalled():
                _installTorch()
    except ModuleNotFoundError as error:
        if error.name != "PyTorchUtils":
            raise RuntimeError(installation_failure(f"restart: {error}", _)) from None
        raise RuntimeError(
            _(
                "ASCON needs PyTorch. Install the extension PyTorch with Slicer's Extensions Manager, restart Slicer, "
                "then click again."
            )
        ) from None
    except Exception as error:
        raise RuntimeError(installation_failure(f"{said.getvalue()}\n{error}", _)) from None
    missing = [package for package in [*packages, f"torch{TORCH}"] if not _installed(package)]
    if missing:
        raise RuntimeError(
            _("These Python packages are missing: {names}. Click again to install them.").format(
                names=", ".join(missing)
            )
        )
    return True


def _installTorch() -> None:
    """By the PyTorch extension, which knows what fits the computer's GPU. It imports torch, once, when it is done."""
    import PyTorchUtils

    if slicer.app.testingEnabled():
        return
    logic = PyTorchUtils.PyTorchUtilsLogic()
    if logic.installTorch(askConfirmation=True, torchVersionRequirement=TORCH) is None:
        raise RuntimeError("User declined package installation")


class _Tee(io.TextIOBase):
    """A stream that writes to two."""

    def __init__(self, *streams):
        self._streams = streams

    def write(self, text: str) -> int:
        for stream in self._streams:
            stream.write(text)
        return len(text)
