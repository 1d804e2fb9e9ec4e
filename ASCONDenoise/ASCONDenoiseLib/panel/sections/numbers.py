"""The section Numbers: what was measured of the last result, as a table to copy or to keep in the scene."""

from __future__ import annotations

from collections.abc import Sequence

import slicer
from slicer.i18n import tr as _

from ASCONDenoiseLib.panel.context import PanelContext
from ASCONDenoiseLib.panel.table_widget import fillTable
from ASCONDenoiseLib.scene.tables import number_rows, rows_as_text, text_table


class NumbersSection:
    """Shows the numbers of one volume, which may be gone by the time that they are exported."""

    def __init__(self, panel: PanelContext):
        self.panel = panel
        self._rows: Sequence[Sequence[str]] = []
        self._volumeName = ""
        panel.ui.copyNumbersButton.clicked.connect(self.onCopyButton)
        panel.ui.exportNumbersButton.clicked.connect(self.onExportButton)

    def showMeasured(self, volumeName: str, measured: dict) -> None:
        """Shows what `operations.measure` returned."""
        self._volumeName = volumeName
        self.show(number_rows(measured, _), " ".join(measured["notes"]))

    def show(self, rows: Sequence[Sequence[str]], note: str) -> None:
        """Shows rows of text, the titles first, and a note below them; no rows: no table."""
        self._rows = rows
        ui = self.panel.ui
        fillTable(ui.numbersTable, rows)
        ui.numbersLabel.text = note
        ui.exportNumbersButton.enabled = ui.copyNumbersButton.enabled = bool(rows)

    def onCopyButton(self) -> None:
        slicer.app.clipboard().setText(rows_as_text(self._rows))

    def onExportButton(self) -> None:
        name = _("{volume} numbers").format(volume=self._volumeName)
        table = text_table(slicer.mrmlScene, name, self._rows)
        self.panel.say(_("Made the table {name}.").format(name=table.GetName()))
