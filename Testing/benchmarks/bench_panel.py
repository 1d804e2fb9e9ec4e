"""From the click on Denoise to the result on show, cold and warm: start, load, network, transfer, display.

    python Testing/benchmarks/bench_panel.py [--slices 60 300] [--side 512] [--strength 75] [--model NAME]

Runs the real panel and the real worker on the stand-in, on noise. What is not the network is to stay under 1 s when
warm, and when cold under the time that `python -c "import torch"` takes plus 3 s; the main thread is never to be held
for more than 0.2 s. Exits with 1 where that is missed, or where --minutes were not enough for all rows. The network
costs the same for each slice, so a smaller --side makes it cheap; with `--without-network` it is one of a few weights.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "Testing"))

import numpy as np  # noqa: E402
import standin  # noqa: E402

standin.install()

import qt  # noqa: E402
import slicer  # noqa: E402

WARM_S, COLD_S, HOLD_S = 1.0, 3.0, 0.2
"""Bounds of what is not the network (cold: besides importing torch), and of one hold of the main thread."""

COLUMNS = ("hand over", "start", "load", "network", "hand back", "display", "total", "not network", "longest hold")


def seconds_to_import_torch() -> float:
    """In a fresh process; the second of two, so that the files are in memory."""
    for _ in range(2):
        started = time.monotonic()
        subprocess.run([sys.executable, "-c", "import torch"], check=True)
    return time.monotonic() - started


def volume(slices: int, side: int):
    """An LDCT node of int16 noise around soft tissue."""
    one = np.random.default_rng(0).normal(50, 30, (side, side)).astype(np.int16)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", f"CT {slices}")
    slicer.util.updateVolumeFromArray(node, np.broadcast_to(one, (slices, side, side)))
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().SetAutoWindowLevel(False)
    node.GetDisplayNode().SetWindowLevelMinMax(-160, 240)
    slicer.util.setSliceViewerLayers(background=node, fit=True)
    return node


def make_small_model(folder: str) -> str:
    """Puts a model of a few weights into a folder, where the panel looks for models; returns its name."""
    script = Path(__file__).with_name("children") / "make_small_model.py"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "Testing")}
    subprocess.run([sys.executable, str(script), f"{folder}/small.safetensors"], env=environment, check=True)
    os.environ["ASCON_MODELS"] = folder
    return "small"


def click(panel, node) -> dict[str, float]:
    """Seconds of each part of one run, and how long the main thread was held at most in a piece of it."""
    for _ in range(50):  # the views are drawn
        slicer.app.processEvents()
    logic, marks, beats = panel.logic, {}, [time.monotonic()]
    panel._parameterNode.inputVolume, panel._parameterNode.outputVolume = node, None
    request = logic.tasks.worker.request

    def noted(listener, **job):
        marks.setdefault("sent", time.monotonic())

        def heard(event):
            marks.setdefault(event.get("stage", event["event"]), time.monotonic())
            listener(event)

        return request(heard, **job)

    logic.tasks.worker.request = noted
    timer = qt.QTimer()
    timer.timeout.connect(lambda: beats.append(time.monotonic()))
    timer.start(0)
    beats[:] = [time.monotonic()]
    clicked = time.monotonic()
    panel.ui.denoiseButton.click()
    while logic.tasks.busy("denoise"):
        slicer.app.processEvents()
        time.sleep(0.001)  # as an event loop does: a loop that never sleeps takes a third of a core from the network
    done = time.monotonic()
    manager = slicer.app.layoutManager()
    for name in manager.sliceViewNames():
        manager.sliceWidget(name).sliceView().forceRender()
    shown = time.monotonic()
    timer.stop()
    logic.tasks.worker.request = request
    assert logic.run is not None, panel.ui.statusLabel.text
    begun = marks.get("torch", marks.get("model", marks["started"]))
    network = logic.run.facts["times"]["work"]
    parts = {
        "hand over": marks["sent"] - clicked,
        "start": begun - marks["sent"],
        "load": marks["started"] - begun,
        "network": network,
        "hand back": done - marks["result"],
        "display": shown - done,
        "total": shown - clicked,
        "not network": shown - clicked - network,
        "longest hold": float(np.diff(beats).max()),
    }
    logic.wait()
    return parts


def missed(parts: dict[str, float], worker: str, torch_s: float) -> list[str]:
    """What of the bounds a run did not keep, as sentences."""
    bounds = {"not network": WARM_S if worker == "warm" else torch_s + COLD_S, "longest hold": HOLD_S}
    return [f"{name} {parts[name]:.2f} s, bound {s:.2f} s" for name, s in bounds.items() if parts[name] > s]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slices", type=int, nargs="+", default=[60, 300])
    parser.add_argument("--side", type=int, default=512, help="rows and columns of a slice")
    parser.add_argument("--strength", type=float, default=75)
    parser.add_argument("--model", default="", help="name of a model; the default model where left out")
    parser.add_argument("--minutes", type=float, default=60, help="a row that would end later is left out, and said")
    parser.add_argument(
        "--without-network", action="store_true", help="a network that costs next to nothing: the rest is timed"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = make_small_model(folder) if arguments.without_network else arguments.model
        return run(arguments, model)


def run(arguments: argparse.Namespace, model: str) -> int:
    """Prints a row for each size, cold and warm, then what was missed; returns the exit code."""
    begun = time.monotonic()
    standin.load_module(ROOT / "ASCONDenoise" / "ASCONDenoise.py")
    slicer.util.mainWindow().resize(1600, 1000)
    slicer.util.mainWindow().show()
    slicer.util.selectModule("ASCONDenoise")
    panel = slicer.modules.ASCONDenoiseWidget
    panel._parameterNode.strength = arguments.strength
    panel._parameterNode.model = model
    torch_s = seconds_to_import_torch()
    print(f"slices of {arguments.side} x {arguments.side}; import torch: {torch_s:.2f} s\n")
    print("| slices | worker | " + " | ".join(COLUMNS) + " |")
    print("|---|---|" + "---:|" * len(COLUMNS))
    problems, slice_s = [], 0.0
    for slices in arguments.slices:
        node = volume(slices, arguments.side)
        for worker in ("cold", "warm"):
            if time.monotonic() - begun + slice_s * slices > 60 * arguments.minutes:
                problems.append(f"{slices} slices, {worker}: left out, it would take {slice_s * slices / 60:.1f} min")
                continue
            if worker == "cold":
                panel.logic.tasks.worker.stop("")
            parts = click(panel, node)
            slice_s = parts["network"] / slices
            problems += [f"{slices} slices, {worker}: {problem}" for problem in missed(parts, worker, torch_s)]
            print(
                f"| {slices} | {worker} | " + " | ".join(f"{parts[name]:.2f} s" for name in COLUMNS) + " |", flush=True
            )
        if panel._parameterNode.outputVolume is not None:
            slicer.mrmlScene.RemoveNode(panel._parameterNode.outputVolume)
        slicer.mrmlScene.RemoveNode(node)
    panel.cleanup()
    print("\n" + ("\n".join(problems) or "All bounds were kept."))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
