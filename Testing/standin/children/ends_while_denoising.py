"""Slicer ends while the panel denoises; Testing and Testing/panel are in PYTHONPATH.

    ends_while_denoising.py MODULE_FILE quits|killed

Prints the worker's process number and ASCON's temporary folders; where it quits, then those that are left.
"""

import os
import sys

import standin

standin.install()

import slicer  # noqa: E402

module, how = sys.argv[1:]
standin.load_module(module)
layouts = slicer.app.layoutManager().layoutLogic().GetLayoutNode()
assert all(map(layouts.IsLayoutDescription, range(7460, 7464))), "a scene saved with them would show nothing"
slicer.modules.ascondenoise.widgetRepresentation()

from panel_case import makeVolume, someVoxels  # noqa: E402

panel = slicer.modules.ASCONDenoiseWidget
panel._parameterNode.inputVolume = makeVolume("CT", someVoxels(200))
panel._parameterNode.anatomy = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
panel.ui.denoiseButton.click()
while "slice" not in panel.ui.progressBar.format:
    slicer.app.processEvents()
print(panel.logic.tasks.worker.pid, *(path for path in os.scandir(slicer.app.temporaryPath) if "ASCON" in path.name))
sys.stdout.flush()
if how == "killed":
    os._exit(1)
slicer.app.aboutToQuit.emit()
assert not standin.UNCAUGHT, standin.UNCAUGHT
print(*(path.name for path in os.scandir(slicer.app.temporaryPath) if "ASCON" in path.name), "left")
