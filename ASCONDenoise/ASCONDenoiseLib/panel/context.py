"""What the frame of the panel and its sections have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ASCONDenoiseLib.panel.logic import ASCONDenoiseLogic


@dataclass
class PanelContext:
    """Widgets, logic and choices of one panel.

    Attributes:
        ui: the widgets of the .ui file, by name.
        logic: does what the widgets ask for.
        update: brings all of the panel into line with the choices and the logic.
        choices: the parameter node, which the frame takes anew; None while there is no scene.
    """

    ui: Any
    logic: ASCONDenoiseLogic
    update: Callable[[], None]
    choices: Any = None

    def say(self, text: str) -> None:
        """Shows a line of text below the button Denoise."""
        self.ui.statusLabel.text = text
