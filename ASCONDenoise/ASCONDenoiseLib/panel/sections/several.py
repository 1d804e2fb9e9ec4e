"""Several volumes, one after the other: those ticked in a list, or all frames of a sequence."""

from __future__ import annotations

from typing import Any

import slicer
from slicer.i18n import tr as _

from ASCONDenoiseLib.panel import network_input
from ASCONDenoiseLib.panel.context import PanelContext
from ASCONDenoiseLib.panel.task_button import TaskButton
from ASCONDenoiseLib.panel.task_queue import Task
from ASCONDenoiseLib.scene.sequences import frames_of
from ASCONDenoiseLib.scene.several import Several


class SeveralSection:
    """The list of volumes and the button that denoises them; the button for a sequence, where the LDCT is of one."""

    def __init__(self, panel: PanelContext):
        self.panel = panel
        ui = panel.ui
        self.selector = ui.severalSelector
        self.task = TaskButton("several", panel, (ui.severalButton, ui.progressBar, ui.severalLabel))
        self.sequenceTask = TaskButton("several", panel, (ui.sequenceButton, ui.progressBar, ui.statusLabel))
        self._under_way = self.task
        self.selector.checkedNodesChanged.connect(self.update)
        ui.severalButton.clicked.connect(self.onButton)
        ui.sequenceButton.clicked.connect(self.onSequenceButton)

    def update(self) -> None:
        """Labels and enables the buttons."""
        count = len(self.selector.checkedNodes())
        obstacle = "" if self.panel.choices is not None and count else _("Tick volumes first.")
        purpose = _("Denoise the ticked volumes, one after the other, with the model and strength chosen above.")
        text = _("Denoise all {count}").format(count=count) if count else _("Denoise all")
        self.task.update(text, purpose, obstacle)
        busy, choices = self.panel.logic.tasks.busy("several"), self.panel.choices
        if busy and self._under_way is self.sequenceTask:  # whose button cancels
            self.task.button.text, self.task.button.enabled = text, False
        frames = frames_of(choices.inputVolume) if choices is not None else 0
        self.sequenceTask.button.visible = frames > 0 and not (busy and self._under_way is self.task)
        if frames:
            text = _("Denoise all {count} frames of the sequence").format(count=frames)
            purpose = _("Make a denoised sequence, which the same sequence browser shows in a new volume.")
            self.sequenceTask.update(text, purpose, network_input.obstacle(choices.inputVolume, model=choices.model))

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
            self._under_way = self.task
            return lines[0]

        self.task.startOrCancel(start)

    def onSequenceButton(self) -> None:
        """Starts, or cancels."""

        def start() -> str:
            choices = self.panel.choices
            doing = _("Denoising frame {number} of {count}...")
            count = frames_of(choices.inputVolume)
            lines = [doing.format(number=number, count=count) for number in range(1, count + 1)]
            self.panel.logic.denoiseSequence(
                choices.inputVolume,
                choices.model,
                choices.device,
                begins=lambda number: self.sequenceTask.nowDoing(lines[number]),
            )
            self._under_way = self.sequenceTask
            return lines[0]

        self.sequenceTask.startOrCancel(start)

    def onProgress(self, task: Task, event: dict) -> None:
        """Shows an event of the worker."""
        self._under_way.onProgress(task, event)

    def onEnd(self, result: Any) -> None:
        """Says once, at the end, what failed and why; of a sequence, where it is."""
        if isinstance(result, Several):
            self._tell(result)
        else:
            done = _("Done: {name} shows the denoised sequence.").format(name=result.GetName())
            self.sequenceTask.say(done)

    def _tell(self, several: Several) -> None:
        count, failed = len(several.outputs), several.failures
        self.task.say(_("Done: {count} of {all} volumes denoised.").format(count=count, all=count + len(failed)))
        if failed:
            title = _("These volumes were not denoised:")
            slicer.util.warningDisplay("\n\n".join([title, *(f"{name}: {reason}" for name, reason in failed)]))

    def onFailed(self, error: Exception) -> None:
        """The rest was cancelled, or cannot be done."""
        rest = _("What was denoised before stays.") if self._under_way is self.task else _("Nothing was changed.")
        self._under_way.say(f"{error} {rest}")
