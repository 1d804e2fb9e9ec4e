"""What a test must not miss: exceptions that Slicer would swallow, and calls that it would misunderstand."""

import sys
import warnings

UNCAUGHT: list[BaseException] = []
"""Raised in slots and observers, printed and swallowed as in Slicer; tests look here."""


class PythonQtTrap(UserWarning):
    """A real Slicer would go on without a word here, and not do what the author meant."""


def trap(message: str) -> None:
    """Warns of such a call."""
    warnings.warn(message, PythonQtTrap, stacklevel=4)


def swallow(error: BaseException) -> None:
    """What happens to an exception in a slot: sys.excepthook prints it and keeps it for tests, then it is forgotten."""
    sys.excepthook(type(error), error, error.__traceback__)
