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
from ASCONDenoiseLib.requirements import PANEL, TORCH


def torchInstalled() -> bool:
    """Whether torch is there, by the packages' metadata: Slicer's own process does not import it."""
    return _installed(TORCH)


def missing(packages: Sequence[str]) -> list[str]:
    """Which of these requirements are not met."""
    return [package for package in packages if not _installed(package)]


def _installed(requirements: str) -> bool:
    """As pip_check, which raises TypeError and others where a package was removed halfway and has no version."""
    try:
        return slicer.packaging.pip_check(requirements)
    except Exception:
        return False


def ensurePackages(more: Sequence[str] = (), *, ask: bool = True) -> bool:
    """Installs what is missing of PANEL, `more` and torch; returns whether something was installed.

    As Slicer's own pip_ensure, it installs nothing in testing mode.

    Args:
        more: requirements besides.
        ask: whether the user is asked before; else there are no windows at all.

    Raises:
        Failure: something stays missing.
    """
    packages = list(dict.fromkeys([*PANEL, *more]))
    if not missing([*packages, TORCH]):
        return False
    if slicer.packaging.isPipInstallInProgress():
        raise Failure(_("Another module is installing packages. Wait until it is done, then try again."))
    windows = {} if ask else dict.fromkeys(("prompt_install", "prompt_restart", "show_progress"), False)
    printed = io.StringIO()  # pip's words go to the console only
    try:
        with contextlib.redirect_stdout(_Tee(sys.stdout, printed)):
            slicer.packaging.pip_ensure(packages, requester="ASCON Denoise", **windows)
            if not torchInstalled():
                _installTorch(ask)
    except ModuleNotFoundError as error:
        if error.name not in ("PyTorchUtils", "qt"):  # qt: the extension's file outside of Slicer itself
            raise Failure(installation_failure(f"restart: {error}", _)) from None
        raise Failure(
            _(
                "ASCON needs PyTorch. Install the extension PyTorch with Slicer's Extensions Manager, restart Slicer, "
                "then try again."
            )
        ) from None
    except Exception as error:
        raise Failure(installation_failure(f"{printed.getvalue()}\n{error}", _)) from None
    names = missing([*packages, TORCH])
    if names:
        text = _("These Python packages are missing: {names}. Try again to install them.")
        raise Failure(text.format(names=", ".join(names)))
    return True


def _installTorch(ask: bool) -> None:
    """By the PyTorch extension, which knows what fits the computer's GPU. It imports torch, once, when it is done."""
    import PyTorchUtils  # type: ignore[import-not-found]

    if slicer.app.testingEnabled():
        return
    logic = PyTorchUtils.PyTorchUtilsLogic()
    if logic.installTorch(askConfirmation=ask, torchVersionRequirement=TORCH.removeprefix("torch")) is None:
        raise RuntimeError("User declined package installation")


class _Tee(io.TextIOBase):
    """A stream that writes to two."""

    def __init__(self, *streams: TextIO):
        self._streams = streams

    def write(self, text: str) -> int:
        for stream in self._streams:
            stream.write(text)
        return len(text)
