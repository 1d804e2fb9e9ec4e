"""Pictures of the panel for the README, drawn on the stand-in for Slicer and saying so.

    python Testing/draw_panel.py FOLDER [--ct FILE --credit TEXT] [--model NAME]

Without a CT the volume is a phantom. The low dose is simulated, as for the module's sample data.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import standin

standin.install()

import slicer  # noqa: E402
from PIL import Image, ImageDraw, ImageFont  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
CAPTION = "Drawn by the tests' stand-in for 3D Slicer: not a screenshot of Slicer."
SLICES = 5


def normal_dose(path: str | None):
    """Volume node of the middle slices of a CT file; None for a phantom."""
    if path is None:
        return None
    from ASCONDenoiseLib.io.reading import read_volume
    from ASCONDenoiseLib.scene.display import set_window

    volume = read_volume(path)
    first = max(0, len(volume.voxels) // 2 - SLICES // 2)
    voxels = volume.voxels[first : first + SLICES]
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT")
    slicer.util.updateVolumeFromArray(node, voxels)
    node.SetSpacing(volume.geometry.spacing_mm)
    lps = volume.geometry.direction
    node.SetIJKToRASDirections(*(-v if i < 6 else v for i, v in enumerate(lps)))
    node.CreateDefaultDisplayNodes()
    set_window([node], (-160.0, 240.0))
    return node


def settle(seconds: float = 0.5) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        slicer.app.processEvents()
        time.sleep(0.01)


def draw(path: Path, credit: str) -> None:
    """The main window as it is now, with the caption below."""
    settle()
    slicer.util.mainWindow().grab().save(str(path))
    picture = Image.open(path).convert("RGB")
    canvas = Image.new("RGB", (picture.width, picture.height + 30), "white")
    canvas.paste(picture)
    text = f"{CAPTION} {credit}".strip()
    ImageDraw.Draw(canvas).text((10, picture.height + 6), text, "black", ImageFont.load_default(size=15))
    canvas.quantize(256, Image.Quantize.MAXCOVERAGE).save(path, optimize=True)  # keeps rare colours


def pick_in_the_plot(segmentation) -> None:
    """Selects a point of the sixth cluster, as a click on it does."""
    from vtk.util import numpy_support

    table = segmentation.GetNodeReference("ASCON.Points").GetTable()
    labels = numpy_support.vtk_to_numpy(table.GetColumnByName("cluster"))
    rows = (labels == 6).nonzero()[0]
    chart = slicer.app.layoutManager().plotWidget(0).plotView().chart()
    selection = numpy_support.numpy_to_vtkIdTypeArray(rows[len(rows) // 2 :][:1].astype("int64"), deep=True)
    chart.GetPlot(5).SetSelection(selection)
    chart.InvokeEvent("SelectionChangedEvent")


def draw_regions(ui, volume) -> None:
    """Two closed curves in even tissue of the middle slice, and a line across the skin, as a user would draw them."""
    from math import cos, pi, sin

    import numpy as np
    from scipy.ndimage import uniform_filter

    from ASCONDenoiseLib.scene.volumes import ijk_to_world

    matrix = ijk_to_world(volume)
    columns, _rows, slices = volume.GetImageData().GetDimensions()
    k = slices // 2

    def markup(kind: str, name: str, points):
        node = slicer.mrmlScene.AddNewNodeByClass(kind, name)
        for i, j in points:
            node.AddControlPointWorld(*matrix.MultiplyPoint((i, j, k, 1))[:3])
        return node

    def around(i: float, j: float, radius: float):
        return [(i + radius * cos(a * pi / 4), j + radius * sin(a * pi / 4)) for a in range(8)]

    image, radius = slicer.util.arrayFromVolume(volume)[k].astype(float), round(0.02 * columns)
    mean = uniform_filter(image, 3 * radius)
    scatter = uniform_filter(image**2, 3 * radius) - mean**2

    def evenest(low_hu: float, high_hu: float):
        in_range = np.where((mean > low_hu) & (mean < high_hu), scatter, np.inf)
        assert np.isfinite(in_range).any(), f"no tissue of {low_hu} to {high_hu} HU in the slice"
        j, i = np.unravel_index(in_range.argmin(), image.shape)
        return around(i, j, radius)

    ui.lesionSelector.setCurrentNode(markup("vtkMRMLMarkupsClosedCurveNode", "lesion", evenest(100, 400)))
    ui.backgroundSelector.setCurrentNode(markup("vtkMRMLMarkupsClosedCurveNode", "background", evenest(20, 80)))
    skin = int((image[:, columns // 2] > -400).argmax())
    line = markup("vtkMRMLMarkupsLineNode", "edge", [(columns / 2, skin - 8), (columns / 2, skin + 5)])
    ui.edgeSelector.setCurrentNode(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--ct")
    parser.add_argument("--credit", default="", help="where the CT comes from, for the caption")
    parser.add_argument("--model", default="", help="name of a model; the default model where left out")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    standin.load_module(ROOT / "ASCONDenoise" / "ASCONDenoise.py")
    slicer.util.mainWindow().resize(1500, 920)
    slicer.util.mainWindow().show()
    slicer.util.selectModule("ASCONDenoise")
    panel = slicer.modules.ASCONDenoiseWidget
    credit = f"{arguments.credit} Quarter dose, simulated.".strip()

    maker = sys.modules["ASCONDenoise"].ASCONDenoiseLogic()
    source = normal_dose(arguments.ct)
    ldct, ndct = maker.makeSample(source)
    maker.close()
    if source is not None:
        slicer.mrmlScene.RemoveNode(source)
    choices = panel._parameterNode
    choices.model, choices.inputVolume, choices.referenceVolume = arguments.model, ldct, ndct
    slicer.util.setSliceViewerLayers(background=ldct, fit=True)
    draw(arguments.folder / "panel-start.png", credit)

    panel.ui.denoiseButton.click()
    while panel.logic.tasks.busy("denoise") and "slice 3" not in panel.ui.progressBar.format:
        slicer.app.processEvents()
    draw(arguments.folder / "panel-running.png", credit)
    panel.logic.wait()
    panel.ui.compareButton.click()
    panel.logic.wait()
    settle(3)
    draw(arguments.folder / "panel-side-by-side.png", credit)
    panel.ui.differenceButton.click()
    panel.logic.wait()
    panel.ui.othersCollapsibleButton.collapsed = False
    panel.ui.modelCardButton.click()
    panel.ui.advancedCollapsibleButton.collapsed = False
    settle(3)
    draw(arguments.folder / "panel-difference.png", credit)

    panel.ui.differenceButton.click()
    panel.ui.compareButton.click()
    for name in ("inputs", "others", "advanced", "compare", "numbers"):
        getattr(panel.ui, f"{name}CollapsibleButton").collapsed = True
    panel.ui.anatomyCollapsibleButton.collapsed = False
    panel.ui.anatomyButton.click()
    panel.logic.wait()
    panel.ui.plotButton.click()
    slicer.app.processEvents()
    pick_in_the_plot(panel._parameterNode.anatomy)
    settle(3)
    draw(arguments.folder / "panel-anatomy.png", credit)

    panel.ui.plotButton.click()
    panel._parameterNode.anatomy.GetDisplayNode().SetVisibility(False)
    panel.ui.anatomyCollapsibleButton.collapsed = True
    panel.ui.qualityCollapsibleButton.collapsed = False
    draw_regions(panel.ui, panel._parameterNode.outputVolume)
    panel.ui.inspectButton.click()
    panel.logic.wait()
    panel.ui.spectrumButton.click()
    panel.ui.overlayComboBox.currentIndex = 2
    panel.logic.wait()
    if panel.ui.placesTable.rowCount:
        panel.quality.onPlaceClicked(0, 0)
    while panel.quality.regions.busy:
        slicer.app.processEvents()
    settle(3)
    draw(arguments.folder / "panel-quality.png", credit)
    panel.cleanup()
    settle(1)  # the worker ends


if __name__ == "__main__":
    main()
