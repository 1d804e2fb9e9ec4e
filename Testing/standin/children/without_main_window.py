"""The panel denoises and compares in a Slicer without main window; Testing and Testing/panel are in PYTHONPATH.

    without_main_window.py MODULE_FILE

Prints the status after each, then whether torch was imported into this process and what was raised in slots.
"""

import sys

import standin

standin.install()

import slicer  # noqa: E402

slicer.app._o._layout = None
slicer.util.mainWindow = lambda: None
assert slicer.app.layoutManager() is None
standin.load_module(sys.argv[1])
slicer.modules.ascondenoise.widgetRepresentation()

from panel_case import makeVolume, someVoxels  # noqa: E402

panel = slicer.modules.ASCONDenoiseWidget
panel._parameterNode.inputVolume = makeVolume("CT", someVoxels(3))
panel.ui.denoiseButton.click()
panel.logic.wait()
print(panel.ui.statusLabel.text)
panel.ui.compareButton.click()
print(panel.ui.statusLabel.text)
panel.cleanup()
print("torch" in sys.modules, standin.UNCAUGHT)
