"""From the click on Preview, and from scrolling to another slice, to the denoised slice in the view.

    python Testing/benchmarks/bench_preview.py [SCAN] [--slices 60] [--picture FILE]

Runs the real panel, worker and fast model on the stand-in, on a CT file that ASCON reads, or a phantom. Compares with
the whole volume, denoised by the model that the panel chooses, in the same run. A warm preview is to be there within
1 s, and the main thread is never to be held for more than 0.2 s; exits with 1 where that is missed.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "Testing"))

import numpy as np  # noqa: E402
import standin  # noqa: E402

standin.install()

import qt  # noqa: E402
import slicer  # noqa: E402

WARM_S, HOLD_S = 1.0, 0.2


def voxels(path: str | None, slices: int) -> tuple[np.ndarray, tuple[float, float, float]]:
    """The middle slices of a file, or a noisy phantom, and their spacing in mm."""
    if path is None:
        from ASCONDenoiseLib.physics.phantoms import abdomen

        phantom = abdomen(0, (slices, 512, 512), (0.75, 0.75, 3.0))
        noise_hu = np.random.default_rng(0).normal(0, 20, phantom.voxels_hu.shape)
        return np.rint(phantom.voxels_hu + noise_hu).astype(np.int16), phantom.spacing_mm
    from ASCONDenoiseLib.io.reading import read_volume

    scan = read_volume(path)
    first = max(0, (len(scan.voxels) - slices) // 2)
    return np.ascontiguousarray(scan.voxels[first : first + slices]), scan.geometry.spacing_mm


def volume(voxels_hu: np.ndarray, spacing_mm: tuple[float, float, float]):
    """A node in the view Red."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT")
    slicer.util.updateVolumeFromArray(node, voxels_hu)
    node.SetSpacing(spacing_mm)
    node.SetIJKToRASDirections(-1, 0, 0, 0, -1, 0, 0, 0, 1)
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().SetAutoWindowLevel(False)
    node.GetDisplayNode().SetWindowLevelMinMax(-160, 240)
    slicer.util.setSliceViewerLayers(background=node, fit=True)
    return node


def timed(work, until) -> tuple[float, float]:
    """Seconds until something is true and drawn, and the longest hold of the main thread."""
    beats: list[float] = []
    timer = qt.QTimer()
    timer.timeout.connect(lambda: beats.append(time.monotonic()))
    timer.start(0)
    started = time.monotonic()
    beats.append(started)
    work()
    while not until():
        slicer.app.processEvents()
        time.sleep(0.001)
    slicer.app.layoutManager().sliceWidget("Red").sliceView().forceRender()
    timer.stop()
    return time.monotonic() - started, float(np.diff(beats).max())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scan", nargs="?", help="a CT volume (default: a phantom)")
    parser.add_argument("--slices", type=int, default=60, help="of the volume, from its middle")
    parser.add_argument("--scrolls", type=int, default=5, help="to how many other slices")
    parser.add_argument("--picture", help="PNG of panel and views with the preview on")
    arguments = parser.parse_args()
    standin.load_module(ROOT / "ASCONDenoise" / "ASCONDenoise.py")
    slicer.util.mainWindow().resize(1600, 1000)
    slicer.util.mainWindow().show()
    slicer.app.layoutManager().setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpRedSliceView)
    voxels_hu, spacing_mm = voxels(arguments.scan, arguments.slices)
    node, slices = volume(voxels_hu, spacing_mm), len(voxels_hu)
    slicer.util.selectModule("ASCONDenoise")
    panel = slicer.modules.ASCONDenoiseWidget
    section, ui = panel.preview, panel.ui
    panel._parameterNode.inputVolume = node
    (red,) = [view for view in slicer.util.getNodesByClass("vtkMRMLSliceNode") if view.GetLayoutName() == "Red"]
    origin, mm = node.GetOrigin(), node.GetSpacing()[2]

    def done() -> bool:
        assert ui.previewButton.checked, ui.statusLabel.text
        return section.shown is not None and not section.busy

    rows: list[tuple[str, float, float]] = []

    def row(what: str, seconds: float, held: float) -> None:
        rows.append((what, seconds, held))
        print(f"| {what} | {seconds:.2f} s | {held:.3f} s |", flush=True)

    print("| what | until it is seen | longest hold of the main thread |\n|---|---:|---:|")
    row("the click, cold", *timed(ui.previewButton.click, done))
    for index in np.linspace(0, slices - 1, arguments.scrolls).astype(int):
        place = (0.0, 0.0, origin[2] + mm * float(index))
        scrolled = timed(lambda place=place: red.JumpSliceByOffsetting(*place), done)
        row(f"scrolled to slice {index + 1}", *scrolled)
        assert section.shown.index == index, (section.shown.index, index)
    if arguments.picture:
        slicer.util.mainWindow().grab().save(arguments.picture)
    warm = [seconds for _what, seconds, _hold in rows[1:]]
    ui.previewButton.click()
    whole, hold = timed(ui.denoiseButton.click, lambda: not panel.logic.tasks.busy("denoise"))
    row(f"Denoise, {slices} slices, {panel.logic.run.facts['model']['name']}", whole, hold)
    longest = max(held for _what, _seconds, held in rows)
    warm_s = float(np.median(warm))
    print(f"\nA warm preview takes {warm_s:.2f} s (median), {whole / warm_s:.0f} times less than all slices.")
    panel.cleanup()
    return int(warm_s > WARM_S or longest > HOLD_S)


if __name__ == "__main__":
    sys.exit(main())
