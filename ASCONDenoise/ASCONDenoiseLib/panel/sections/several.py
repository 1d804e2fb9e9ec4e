"""Several volumes of the scene: ticked in a list, denoised one after the other."""

from __future__ import annotations

import slicer
from slicer.i18n import tr as _

from ASCONDenoiseLib.panel.context import PanelContext
from ASCONDenoiseLib.panel.task_button import TaskButton
from ASCONDenoiseLib.scene.several import Several


class SeveralSection:
    """The list of volumes, the button that denoises them, and what became of them."""

    def __init__(self, panel: PanelContext):
        self.panel = panel
        ui = panel.ui
        self.selector = ui.severalSelector
        self.task = TaskButton("several", panel, (ui.severalButton, ui.progressBar, ui.severalLabel))
        self.selector.checkedNodesChanged.connect(self.update)
        ui.severalButton.clicked.connect(self.onButton)

    def update(self) -> None:
        """Labels and enables the button."""
        count = len(self.selector.checkedNodes())
        obstacle = "" if self.panel.choices is not None and count else _("Tick volumes first.")
        purpose = _("Denoise the ticked volumes, one after the other, with the model and strength chosen above.")
        text = _("Denoise all {count}").format(count=count) if count else _("Denoise all")
        self.task.update(text, purpose, obstacle)

    def onButton(self) -> None:
        """Starts, or cancels what is not done yet."""

        def start() -> str:
            choices = self.panel.choices
            volumes = list(self.selector.checkedNodes())
            doing = _("Denoising {number} of {count}, {name}...")
            lines = [
                doing.format(number=number, count=len(volumes), name=volume.GetName())
                for number, volume in enumerate(volumes, 1)
            ]
            self.panel.logic.denoiseSeveral(
                volumes, choices.model, choices.device, begins=lambda number: self.task.nowDoing(lines[number])
            )
            return lines[0]

        self.task.startOrCancel(start)

    def onEnd(self, several: Several) -> None:
        """Says once, at the end, what failed and why."""
        count, failed = len(several.outputs), several.failures
        self.task.say(_("Done: {count} of {all} volumes denoised.").format(count=count, all=count + len(failed)))
        if failed:
            title = _("These volumes were not denoised:")
            slicer.util.warningDisplay("\n\n".join([title, *(f"{name}: {reason}" for name, reason in failed)]))

    def onFailed(self, error: Exception) -> None:
        """The rest was cancelled, or cannot be done."""
        self.task.say(_("{reason} What was denoised before stays.").format(reason=error))
