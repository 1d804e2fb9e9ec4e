"""What the strength means in HU, and buttons that choose it by the noise that is to be left."""

from __future__ import annotations

from slicer.i18n import tr as _

from ASCONDenoiseLib import messages
from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.imaging.strength import Target
from ASCONDenoiseLib.panel.context import PanelContext

PRESETS = {"mild": 50, "medium": 75, "full": 100}
"""Strength in percent."""

TARGETS = {"halfNoise": "half-noise", "normalDose": "normal-dose"}
"""Button -> what the strength is chosen for."""


class StrengthSection:
    """The presets of the slider and the line below them."""

    def __init__(self, panel: PanelContext):
        self.panel = panel
        ui = panel.ui
        for name, percent in PRESETS.items():
            getattr(ui, f"{name}Button").clicked.connect(lambda _on, percent=percent: self.setPercent(percent))
        for name, target in TARGETS.items():
            getattr(ui, f"{name}Button").clicked.connect(lambda _on, target=target: self.choose(target))

    def update(self) -> None:
        """Follows the strength and the last result."""
        ui, noise = self.panel.ui, self.panel.logic.noise()
        ui.noiseLabel.text = "" if noise is None else messages.noise_at(self.panel.logic.strength, noise, _)
        ui.noiseLabel.visible = noise is not None
        known = _("Denoise first: only then is it known what a strength leaves.")
        ui.halfNoiseButton.enabled = ui.normalDoseButton.enabled = noise is not None
        ui.halfNoiseButton.toolTip = known if noise is None else _("The strength that leaves half of the noise.")
        ui.normalDoseButton.toolTip = (
            known if noise is None else _("The strength that leaves as much noise as the normal dose has.")
        )

    def setPercent(self, percent: float) -> None:
        self.panel.choices.strength = percent

    def choose(self, name: str) -> None:
        """Moves the slider to the strength for a target, one of `strength.TARGETS`."""
        dosePercent = self.panel.choices.dosePercent
        if name == "normal-dose" and not dosePercent:
            self.panel.say(
                _("No file says the dose of this scan. Enter it beside the button, in percent of the normal dose.")
            )
            return
        try:
            note = self.panel.logic.chooseStrength(Target(name, dosePercent / 100 or None))
        except InputError as error:
            self.panel.say(str(error))
            return
        self.setPercent(round(100 * self.panel.logic.strength, 3))
        if note:
            self.panel.say(f"{note[:1].upper()}{note[1:]}.")
