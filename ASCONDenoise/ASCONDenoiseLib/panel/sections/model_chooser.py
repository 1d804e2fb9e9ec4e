"""Model and device: the choice, the model's card, and the import of a model file."""

from __future__ import annotations

import html

import qt
import slicer
from slicer.i18n import tr as _

from ASCONDenoiseLib import messages
from ASCONDenoiseLib.errors import AsconError, InputError
from ASCONDenoiseLib.models import files
from ASCONDenoiseLib.models.card import load_card
from ASCONDenoiseLib.models.files import DEFAULT_MODEL, find_model, import_model, list_models
from ASCONDenoiseLib.panel.context import PanelContext
from ASCONDenoiseLib.panel.installation import torchInstalled


class ModelChooser:
    """Lists the models of this computer and the devices that the worker knows."""

    def __init__(self, panel: PanelContext):
        self.panel = panel
        self.devices: list[tuple[str, str]] = []  # (title, name), once the worker was asked
        ui = panel.ui
        ui.modelComboBox.activated.connect(self.onModelActivated)
        ui.deviceComboBox.activated.connect(self.onDeviceActivated)
        ui.importModelButton.clicked.connect(self.onImportModelButton)
        ui.modelCardButton.toggled.connect(lambda on: ui.modelCardBrowser.setVisible(on))
        ui.advancedCollapsibleButton.contentsCollapsed.connect(self.onAdvancedCollapsed)

    def update(self) -> None:
        """Follows the user's choices."""
        if self.panel.choices is not None:
            self._fillModels()
            devices = [(_("Automatic"), "auto"), *(self.devices or [(_("CPU"), "cpu")])]
            _fill(self.panel.ui.deviceComboBox, devices, self.panel.choices.device)

    def _fillModels(self) -> None:
        ui, choices = self.panel.ui, self.panel.choices
        automatic = _choosesItself()
        items = [
            (f"{card.name} {card.version}", "" if path.stem == DEFAULT_MODEL and not automatic else path.stem)
            for card, path in list_models()
        ]
        if automatic:
            items.insert(0, (_("Automatic: fast for long scans without a GPU"), ""))
        if items and not choices.model and all(name for _text, name in items):  # no default model is shipped
            choices.model = items[0][1]
        _fill(ui.modelComboBox, items, choices.model)
        try:
            card = messages.card_html(load_card(find_model(choices.model or None)), _)
        except InputError as error:
            card = html.escape(str(error))
        if ui.modelCardBrowser.property("card") != card:
            ui.modelCardBrowser.setProperty("card", card)
            ui.modelCardBrowser.setHtml(card)

    def onModelActivated(self, index: int) -> None:
        self.panel.choices.model = self.panel.ui.modelComboBox.itemData(index)

    def onDeviceActivated(self, index: int) -> None:
        self.panel.choices.device = self.panel.ui.deviceComboBox.itemData(index)

    def onImportModelButton(self) -> None:
        parent, title = slicer.util.mainWindow(), _("The model's weights (its card lies beside them)")
        if path := qt.QFileDialog.getOpenFileName(parent, title, "", _("Models") + " (*.safetensors)"):
            self.importModel(path)

    def importModel(self, path: str) -> None:
        """Checks a model file and its card, copies them to where ASCON finds them, and chooses the model."""
        try:
            name = import_model(path).stem
        except AsconError as error:
            self.panel.say(str(error))
            return
        self.panel.choices.model = "" if name == DEFAULT_MODEL and not _choosesItself() else name
        self.panel.say(_("The model {name} is imported and chosen.").format(name=name))
        self.panel.update()

    def onAdvancedCollapsed(self, collapsed: bool) -> None:
        """Asks the worker, once, what devices there are: only torch knows."""
        if not collapsed and not self.devices and torchInstalled():
            self.panel.logic.tasks.worker.request(self.onDevices, command="devices")

    def onDevices(self, event: dict) -> None:
        """Gets the worker's answer."""
        if event["event"] == "result":
            self.devices = [(device["title"], device["name"]) for device in event["devices"]]
            self.update()


def _choosesItself() -> bool:
    """Whether there is a fast model, so that no model chosen means one that suits the volume, not the default."""
    return files.AUTOMATIC_FAST and files.fast_model() is not None


def _fill(box: qt.QComboBox, items: list[tuple[str, str]], chosen: str) -> None:
    """Gives a combo box its (text, data) items where they changed, and shows the chosen one, missing or not."""
    if chosen not in [data for _text, data in items]:
        items = [*items, (_("{name} (missing)").format(name=chosen), chosen)]
    if [(box.itemText(i), box.itemData(i)) for i in range(box.count)] != items:
        box.clear()
        for text, data in items:
            box.addItem(text, data)
    box.setCurrentIndex([data for _text, data in items].index(chosen))
