"""Python packages that Slicer lacks: asked for at a click, installed by Slicer and the extension PyTorch."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Sequence
from typing import TextIO

import slicer
import slicer.packaging
from slicer.i18n import tr as _

from ASCONDenoiseLib.errors import Failure
from ASCONDenoiseLib.messages import installation_failure

PACKAGES = ["safetensors>=0.4.3", "scikit-image>=0.22"]
"""What the worker needs besides torch and what comes with Slicer (numpy, scipy, pydicom)."""

ANATOMY_PACKAGES = ["scikit-learn>=1.3", "threadpoolctl>=3.1"]
"""What the section Anatomy needs besides."""

TORCH = ">=2.2"


def torchInstalled() -> bool:
    """Whether torch is there, by the packages' metadata: Slicer's own process does not import it."""
    return _installed(f"torch{TORCH}")


def _installed(requirements: str | list[str]) -> bool:
    """As pip_check, which raises TypeError and others where a package was removed halfway and has no version."""
    try:
        return slicer.packaging.pip_check(requirements)
    except Exception:
        return False


def ensurePackages(more: Sequence[str] = ()) -> bool:
    """Asks to install what is missing of PACKAGES, `more` and torch; returns whether something was installed.

    As Slicer's own pip_ensure, it installs nothing in testing mode. Raises Failure where something stays missing.
    """
    packages = [*PACKAGES, *more]
    if torchInstalled() and _installed(packages):
        return False
    printed = io.StringIO()  # pip's words go to the console only
    try:
        with contextlib.redirect_stdout(_Tee(sys.stdout, printed)):
            slicer.packaging.pip_ensure(packages, requester="ASCON Denoise")
            if not torchInstalled():
                _installTorch()
    except ModuleNotFoundError as error:
        if error.name != "PyTorchUtils":
            raise Failure(installation_failure(f"restart: {error}", _)) from None
        raise Failure(
            _(
                "ASCON needs PyTorch. Install the extension PyTorch with Slicer's Extensions Manager, restart Slicer, "
                "then click again."
            )
        ) from None
    except Exception as error:
        raise Failure(installation_failure(f"{printed.getvalue()}\n{error}", _)) from None
    missing = [package for package in [*packages, f"torch{TORCH}"] if not _installed(package)]
    if missing:
        text = _("These Python packages are missing: {names}. Click again to install them.")
        raise Failure(text.format(names=", ".join(missing)))
    return True


def _installTorch() -> None:
    """By the PyTorch extension, which knows what fits the computer's GPU. It imports torch, once, when it is done."""
    import PyTorchUtils  # type: ignore[import-not-found]

    if slicer.app.testingEnabled():
        return
    logic = PyTorchUtils.PyTorchUtilsLogic()
    if logic.installTorch(askConfirmation=True, torchVersionRequirement=TORCH) is None:
        raise RuntimeError("User declined package installation")


class _Tee(io.TextIOBase):
    """A stream that writes to two."""

    def __init__(self, *streams: TextIO):
        self._streams = streams

    def write(self, text: str) -> int:
        for stream in self._streams:
            stream.write(text)
        return len(text)
