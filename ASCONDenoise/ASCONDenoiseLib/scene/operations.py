"""What the panel does, in pieces: generators that never hold Slicer's main thread for long. No Qt.

Each yields a number after a piece of work of some milliseconds, or a dictionary: a job for the worker (`worker.py`
says which there are), whose result it is sent. Whoever runs them gives the event loop its turn in between. To cancel,
throw an exception into one: it leaves no node and no file that was not there before.
"""

from __future__ import annotations

import importlib
import itertools
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ASCONDenoiseLib.imaging.hounsfield import DISPLAY_WINDOWS_HU

Steps = Generator[int | dict[str, Any], Any, Any]

SAMPLE_SLICES = 24
"""Of a sample CT: enough to scroll through, simulated in about a minute without a GPU."""

SAMPLE_DOSE = 0.25

PHANTOM = {"shape": [SAMPLE_SLICES, 256, 256], "spacing_mm": [1.4, 1.4, 3.0]}


@dataclass
class Run:
    """One denoised volume whose strength can still be changed: its nodes, its files, and how it was made."""

    folder: Path
    input: Any
    reference: Any = None
    output: Any = None
    difference: Any = None
    strength: float = 1.0
    measured: float | None = None
    """The strength that the numbers were measured at."""
    facts: dict[str, Any] = field(default_factory=dict)
    """The worker's result: model, device, precision, seconds, notes, times."""

    def file(self, name: str) -> str:
        """Path of the voxels called "ldct", "ndct", "full" (of strength 1), "blended" or "shown"."""
        return str(self.folder / f"{name}.npy")

    def voxels(self, name: str) -> np.ndarray:
        """The same, memory-mapped, (S, H, W). Not to be kept: Windows removes no file that is mapped."""
        return np.load(self.file(name), mmap_mode="r")

    def nodes(self) -> list[Any]:
        """The nodes it cannot do without."""
        return [self.input, self.output]

    def remove_files(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def private_folder(parent: str, *, keep: bool = False) -> Generator[Path, None, None]:
    """A new folder that only this user may read; removed at the end, or (`keep`) only where there is an error."""
    folder = Path(tempfile.mkdtemp(prefix="ASCON-", dir=parent))
    done = False
    try:
        yield folder
        done = True
    finally:
        if not (done and keep):
            shutil.rmtree(folder, ignore_errors=True)


def denoise(
    source: Any,
    output: Any,
    reference: Any,
    *,
    model: str,
    device: str,
    strength: Callable[[], float],
    file_for_instance: Callable[[str], str] | None,
    parent: str,
) -> Steps:
    """Denoises the volume node `source`; returns a Run. The node appears, or changes, whole and at the end.

    Args:
        output: the volume node that becomes the result; None: a new one, "<source> denoised".
        reference: the NDCT, kept for the numbers.
        strength: asked at the end, since the user may change it in between.
        file_for_instance: SOP instance UID -> DICOM file, which says what padding is.
        parent: folder of the temporary folder.
    """
    from ASCONDenoiseLib.scene import mrml

    with private_folder(parent, keep=True) as folder:
        run = Run(folder, source, reference, output)
        voxels = mrml.volume_array(source)
        padding_hu = yield from _handed_over(source, run.file("ldct"), file_for_instance)
        run.facts = yield {
            "command": "denoise",
            "input": run.file("ldct"),
            "output": run.file("full"),
            "model": model,
            "device": device,
            "padding_hu": padding_hu,
        }
        run.strength = strength()
        image = mrml.new_image(voxels.shape, voxels.dtype)
        target = mrml.image_array(image)
        if run.strength == 1:
            yield from mrml.copy_in_pieces(run.voxels("full"), target)
        else:
            yield from mrml.blend_in_pieces(run.voxels("ldct"), run.voxels("full"), target, run.strength)
        if output is None:
            run.output = mrml.new_volume_like(source.GetScene(), source, f"{source.GetName()} denoised", image)
        else:
            mrml.make_like(output, source, image)
        mrml.set_provenance(run.output, source, {**run.facts, "strength": run.strength})
    return run


def _handed_over(source: Any, file: str, file_for_instance: Callable[[str], str] | None) -> Steps:
    """Writes a volume node's voxels for the worker; returns its padding in HU, or None."""
    from ASCONDenoiseLib.scene import mrml

    padding_hu = None
    if mrml.instance_uids(source):
        yield from _imported("ASCONDenoiseLib.io.dicom_reader")
        padding_hu = mrml.padding_hu(source, file_for_instance)
    yield from mrml.write_in_pieces(mrml.volume_array(source), file)
    return padding_hu


def _imported(module: str) -> Steps:
    """Imports a module in a thread, where that takes long."""
    thread = threading.Thread(target=importlib.import_module, args=(module,))
    thread.start()
    while thread.is_alive():
        thread.join(0.005)
        yield 0


def blend_shown(run: Run, strength: float, views: list[Any]) -> None:
    """Gives the slices, rows and columns that the views (slice nodes) show another strength, at once."""
    from ASCONDenoiseLib.scene import mrml

    shown = mrml.shown_planes(run.output, views)
    voxels = mrml.volume_array(run.output)
    mrml.blend_slices(run.voxels("ldct"), run.voxels("full"), voxels, strength, shown)
    mrml.voxels_modified(run.output)
    if run.difference is not None:
        for _ in mrml.subtract_in_pieces(voxels, run.voxels("ldct"), mrml.volume_array(run.difference), shown):
            pass
        mrml.voxels_modified(run.difference)


def blend_all(run: Run, strength: float) -> Steps:
    """Gives the whole result another strength, blended in the worker; returns the Run."""
    from ASCONDenoiseLib.scene import mrml

    yield {
        "command": "blend",
        "input": run.file("ldct"),
        "denoised": run.file("full"),
        "output": run.file("blended"),
        "strength": strength,
    }
    voxels = mrml.volume_array(run.output)
    yield from mrml.copy_in_pieces(run.voxels("blended"), voxels)
    run.strength = strength
    mrml.set_strength(run.output, strength)
    mrml.voxels_modified(run.output)
    if run.difference is not None:
        yield from mrml.subtract_in_pieces(voxels, run.voxels("ldct"), mrml.volume_array(run.difference))
        mrml.voxels_modified(run.difference)
    return run


def difference(run: Run, limit_hu: float, node: Any = None) -> Steps:
    """Denoised less LDCT as a volume node in diverging colours, `run.difference`; returns it.

    Args:
        node: becomes that node; None: a new one.
    """
    from ASCONDenoiseLib.scene import mrml

    denoised = mrml.volume_array(run.output)
    image = mrml.new_image(denoised.shape, mrml.difference_dtype(denoised))
    yield from mrml.subtract_in_pieces(denoised, run.voxels("ldct"), mrml.image_array(image))
    if node is None or node.GetScene() is None:
        name = f"{run.output.GetName()} difference"
        node = mrml.new_volume_like(run.output.GetScene(), run.output, name, image)
    else:
        mrml.make_like(node, run.output, image)
    mrml.show_as_difference(node, limit_hu)
    run.difference = node
    return node


def measure(run: Run) -> Steps:
    """The numbers of a result as it is now; returns the worker's answer, and the "strength" that it is about.

    `mrml.number_rows` makes a table of it.
    """
    from ASCONDenoiseLib.scene import mrml

    yield from mrml.write_in_pieces(mrml.volume_array(run.output), run.file("shown"))
    reference = None
    if run.reference is not None and run.reference.GetScene() is not None:
        reference = run.file("ndct")
        yield from mrml.write_in_pieces(mrml.volume_array(run.reference), reference)
    measured = yield {
        "command": "measure",
        "input": run.file("ldct"),
        "denoised": run.file("shown"),
        "reference": reference,
        "spacing_mm": mrml.spacing_mm(run.output),
    }
    run.measured = run.strength
    return measured | {"strength": run.strength}


def anatomy(
    source: Any,
    before: Any,
    *,
    model: str,
    device: str,
    clusters: int,
    points: int,
    file_for_instance: Callable[[str], str] | None,
    parent: str,
    translate: Callable[[str], str] = str,
) -> Steps:
    """Clusters the volume node `source` by a model's features; returns the segmentation node, whose table and chart
    `anatomy_nodes` finds. All nodes appear at the end.

    Args:
        before: the segmentation of an earlier time or None; where it is of the same volume, it becomes the new one.
        points: in the scatter plot.
        file_for_instance, parent: as in `denoise`.
    """
    from ASCONDenoiseLib.scene import anatomy_nodes, mrml

    with private_folder(parent) as folder:
        files = {name: str(folder / name) for name in ("ldct.npy", "labels.npy", "points.npz")}
        padding_hu = yield from _handed_over(source, files["ldct.npy"], file_for_instance)
        facts = yield {
            "command": "cluster",
            "input": files["ldct.npy"],
            "output": files["labels.npy"],
            "points_output": files["points.npz"],
            "spacing_mm": mrml.spacing_mm(source),
            "model": model,
            "device": device,
            "padding_hu": padding_hu,
            "clusters": clusters,
            "points": points,
        }
        image = anatomy_nodes.new_label_image(source)
        yield from mrml.copy_in_pieces(np.load(files["labels.npy"], mmap_mode="r"), mrml.image_array(image))
        with np.load(files["points.npz"]) as arrays:
            sample_points = dict(arrays)
    if before is not None and (before.GetScene() is None or anatomy_nodes.volume_of(before) is not source):
        before = None
    return anatomy_nodes.show_anatomy(source, image, facts, sample_points, before, translate)


def save_dicom(volume: Any, files: list[str], folder: str, *, parent: str) -> Steps:
    """Writes a volume node as a DICOM series derived from `files` into a new folder; returns the worker's answer."""
    from ASCONDenoiseLib.scene import mrml

    with private_folder(parent) as temporary:
        voxels = str(temporary / "voxels.npy")
        yield from mrml.write_in_pieces(mrml.volume_array(volume), voxels)
        return (
            yield {
                "command": "export",
                "input": voxels,
                "files": files,
                "ijk_to_ras": mrml.ijk_to_ras(volume),
                "folder": folder,
                "description": mrml.describe(volume),
            }
        )


def new_folder(parent: str, name: str) -> Path:
    """A folder of `parent` that is not there yet, named after a volume."""
    name = re.sub(r"[^\w .()+-]", "_", name).strip(" .") or "denoised"
    folders = (Path(parent) / (f"{name} {i}" if i else name) for i in itertools.count())
    return next(folder for folder in folders if not folder.exists())


def sample(scene: Any, normal_dose: Any, names: tuple[str, str], *, parent: str) -> Steps:
    """[LDCT, NDCT] volume nodes: the middle slices of a normal-dose CT, or a phantom (None), and its quarter dose."""
    from ASCONDenoiseLib.scene import mrml

    with private_folder(parent) as folder:
        ndct, ldct = str(folder / "ndct.npy"), str(folder / "ldct.npy")
        job = {"command": "simulate", "input": ndct, "output": ldct, "dose": SAMPLE_DOSE}
        first = 0
        if normal_dose is None:
            phantom = yield {"command": "phantom", "output": ndct, **PHANTOM}
            job |= {name: phantom[name] for name in ("spacing_mm", "photons", "kernel")}
        else:
            voxels = mrml.volume_array(normal_dose)
            first = max(0, (len(voxels) - SAMPLE_SLICES) // 2)
            yield from mrml.write_in_pieces(voxels[first : first + SAMPLE_SLICES], ndct)
            job["spacing_mm"] = mrml.spacing_mm(normal_dose)
        yield job
        images = []
        for path in (ldct, ndct):
            voxels = np.load(path, mmap_mode="r")
            image = mrml.new_image(voxels.shape, voxels.dtype)
            yield from mrml.copy_in_pieces(voxels, mrml.image_array(image))
            images.append(image)
    if normal_dose is None:
        return [_phantom_node(scene, name, image, job["spacing_mm"]) for name, image in zip(names, images, strict=True)]
    nodes = [mrml.new_volume_like(scene, normal_dose, name, image) for name, image in zip(names, images, strict=True)]
    corner = [row[3] + row[2] * first for row in mrml.ijk_to_ras(normal_dose)[:3]]
    for node in nodes:
        node.SetOrigin(corner)
    return nodes


def _phantom_node(scene: Any, name: str, image: Any, spacing_mm: list[float]) -> Any:
    """Axial, the patient on the back, head up; shown in the abdomen window."""
    from ASCONDenoiseLib.scene import mrml

    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    node.SetIJKToRASDirections(-1, 0, 0, 0, -1, 0, 0, 0, 1)
    node.SetSpacing(spacing_mm)
    columns, rows, _ = image.GetDimensions()
    node.SetOrigin(spacing_mm[0] * (columns - 1) / 2, spacing_mm[1] * (rows - 1) / 2, 0)
    node.SetAndObserveImageData(image)
    node.CreateDefaultDisplayNodes()
    mrml.set_window([node], DISPLAY_WINDOWS_HU["abdomen"])
    return node
