"""The panel's work as generators that never hold Slicer's main thread for long.

Each yields a number after a piece of work of some milliseconds, or a dictionary: a job for the worker
(worker/ lists them), whose result is sent back. The caller runs the event loop in between. To cancel, throw an
exception into the generator: no node and no file is left that was not there before.
"""

from __future__ import annotations

import importlib
import itertools
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ASCONDenoiseLib.imaging.hounsfield import DISPLAY_WINDOWS_HU
from ASCONDenoiseLib.imaging.strength import NoiseByStrength, Target
from ASCONDenoiseLib.scene import anatomy_nodes
from ASCONDenoiseLib.scene.body import difference_limit
from ASCONDenoiseLib.scene.compare_layout import shown_planes
from ASCONDenoiseLib.scene.display import set_window, show_as_difference
from ASCONDenoiseLib.scene.provenance import provenance_sentence, set_provenance, set_strength
from ASCONDenoiseLib.scene.volumes import (
    ijk_to_ras,
    instance_uids,
    make_like,
    new_volume_like,
    read_padding_hu,
    spacing_mm,
)
from ASCONDenoiseLib.scene.voxels import (
    blend_in_pieces,
    copy_in_pieces,
    difference_dtype,
    image_array,
    new_image,
    subtract_in_pieces,
    volume_array,
    voxels_modified,
    write_in_pieces,
)

Operation = Generator[int | dict[str, Any], Any, Any]
"""Yields slices done (int) or a job for the worker (dict), is sent the job's result, returns what it made."""

SAMPLE_SLICES = 24
"""Of the sample data: enough to scroll through, simulated in about a minute without a GPU."""

SAMPLE_DOSE = 0.25

PHANTOM: dict[str, Any] = {"shape": [SAMPLE_SLICES, 256, 256], "spacing_mm": [1.4, 1.4, 3.0]}


@dataclass
class Run:
    """One denoised volume whose strength can still be changed: its nodes, its files, and how it was made.

    Attributes:
        folder: of the voxels' files.
        input: volume node, the LDCT.
        reference: volume node, the NDCT, or None.
        output: volume node, the denoised CT.
        difference: volume node of denoised less LDCT, or None.
        strength: of `output`, 0 to 1.
        measured: the strength for which the numbers were measured; None: not yet.
        facts: the worker's result: model, device, precision, seconds, notes, warnings, times.
        noise: what each strength leaves of the noise, or None.
    """

    folder: Path
    input: Any
    reference: Any = None
    output: Any = None
    difference: Any = None
    strength: float = 1.0
    measured: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    noise: NoiseByStrength | None = None

    def file(self, name: str) -> str:
        """Path of the voxels called "ldct", "ndct", "full" (of strength 1), "blended" or "shown"."""
        return str(self.folder / f"{name}.npy")

    def voxels(self, name: str) -> np.ndarray:
        """The same, memory-mapped, (S, H, W). Don't keep it: Windows removes no file that is mapped."""
        return np.load(self.file(name), mmap_mode="r")

    def nodes(self) -> list[Any]:
        """The nodes without which it is of no use."""
        return [self.input, self.output]

    def remove_files(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def private_folder(parent: str, *, keep: bool = False) -> Generator[Path, None, None]:
    """A new folder that only this user may read; removed at the end, or, with `keep`, only after an error."""
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
    facts: dict[str, Any] | None = None,
) -> Operation:
    """Denoises a volume; returns a Run. The output node appears, or changes, only at the end and as a whole.

    Args:
        source: volume node, the LDCT.
        output: the volume node that becomes the result; None: a new one, "<source> denoised".
        reference: volume node, the NDCT, kept for the numbers; or None.
        model: path of the model file.
        device: "auto", "cpu", "cuda", ...
        strength: called at the end, since the user may change it meanwhile.
        file_for_instance: SOP instance UID -> DICOM file, from which the padding value is read; or None.
        parent: where the temporary folder is made.
        facts: of the source, `volumes.suitability_facts`; with them the result records the warnings.
    """
    with private_folder(parent, keep=True) as folder:
        run = Run(folder, source, reference, output)
        voxels = volume_array(source)
        padding_hu = yield from hand_over(source, run.file("ldct"), file_for_instance, voxels)
        run.facts = yield {
            "command": "denoise",
            "input": run.file("ldct"),
            "output": run.file("full"),
            "model": model,
            "device": device,
            "padding_hu": padding_hu,
            "facts": facts,
        }
        if sd_hu := run.facts.pop("noise_by_strength", None):
            run.noise = NoiseByStrength(tuple(sd_hu))
        run.strength = strength()
        image = new_image(voxels.shape, voxels.dtype)
        target = image_array(image)
        if run.strength == 1:
            yield from copy_in_pieces(run.voxels("full"), target)
        else:
            yield from blend_in_pieces(run.voxels("ldct"), run.voxels("full"), target, run.strength)
        if output is None:
            run.output = new_volume_like(source.GetScene(), source, f"{source.GetName()} denoised", image)
        else:
            make_like(output, source, image)
        set_provenance(run.output, source, {**run.facts, "strength": run.strength})
    return run


def hand_over(source: Any, file: str, file_for_instance: Callable[[str], str] | None, voxels: np.ndarray) -> Operation:
    """Writes voxels of a volume node to a file for the worker; returns its padding value in HU, or None."""
    padding_hu = None
    if instance_uids(source):
        yield from _imported("ASCONDenoiseLib.io.dicom_reader")
        padding_hu = read_padding_hu(source, file_for_instance)
    yield from write_in_pieces(voxels, file)
    return padding_hu


def _imported(module: str) -> Operation:
    """Imports a module in a thread, since that may take long."""
    thread = threading.Thread(target=importlib.import_module, args=(module,))
    thread.start()
    while thread.is_alive():
        thread.join(0.005)
        yield 0


def blend_shown(run: Run, strength: float, views: list[Any]) -> None:
    """Changes the strength of the slices, rows and columns that the views (slice nodes) show, at once."""
    shown = shown_planes(run.output, views)
    voxels = volume_array(run.output)
    for _ in blend_in_pieces(run.voxels("ldct"), run.voxels("full"), voxels, strength, shown):
        pass
    voxels_modified(run.output)
    if run.difference is not None:
        for _ in subtract_in_pieces(voxels, run.voxels("ldct"), volume_array(run.difference), shown):
            pass
        voxels_modified(run.difference)


def blend_all(run: Run, strength: float, target: Target | None = None) -> Operation:
    """Changes the strength of the whole result, which the worker blends, to what it is for; returns the Run."""
    yield {
        "command": "blend",
        "input": run.file("ldct"),
        "denoised": run.file("full"),
        "output": run.file("blended"),
        "strength": strength,
    }
    voxels = volume_array(run.output)
    yield from copy_in_pieces(run.voxels("blended"), voxels)
    run.strength = strength
    set_strength(run.output, strength, target)
    voxels_modified(run.output)
    if run.difference is not None:
        yield from subtract_in_pieces(voxels, run.voxels("ldct"), volume_array(run.difference))
        voxels_modified(run.difference)
    return run


def difference(run: Run, limit_hu: float | None, node: Any = None) -> Operation:
    """Denoised less LDCT as a volume node in diverging colours, `run.difference`; returns it.

    Args:
        run: the result.
        limit_hu: the colours reach from -limit to +limit; None: as far as suits the difference, `window_of` tells.
        node: the volume node that becomes the difference; None: a new one.
    """
    denoised = volume_array(run.output)
    image = new_image(denoised.shape, difference_dtype(denoised))
    yield from subtract_in_pieces(denoised, run.voxels("ldct"), image_array(image))
    if node is None or node.GetScene() is None:
        name = f"{run.output.GetName()} difference"
        node = new_volume_like(run.output.GetScene(), run.output, name, image)
    else:
        make_like(node, run.output, image)
    show_as_difference(node, difference_limit(node, run.input) if limit_hu is None else limit_hu)
    run.difference = node
    return node


def images_request(run: Run) -> Operation:
    """Hands a result as it is now, and its NDCT, over to the worker; returns what a job needs to find them."""
    yield from write_in_pieces(volume_array(run.output), run.file("shown"))
    reference = None
    if run.reference is not None and run.reference.GetScene() is not None:
        reference = run.file("ndct")
        yield from write_in_pieces(volume_array(run.reference), reference)
    return {
        "input": run.file("ldct"),
        "denoised": run.file("shown"),
        "reference": reference,
        "spacing_mm": spacing_mm(run.output),
    }


def measure(run: Run) -> Operation:
    """Measures a result as it is now; returns the worker's answer and the "strength" that was measured."""
    request = yield from images_request(run)
    measured = yield {"command": "measure", **request}
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
    facts: dict[str, Any] | None = None,
    translate: Callable[[str], str] = str,
) -> Operation:
    """Clusters a volume by a model's features; returns the segmentation node, from which `anatomy_nodes` finds the
    table and the chart. All nodes appear at the end.

    Args:
        source: the volume node.
        before: an earlier segmentation node, used again where it is of the same volume; or None.
        clusters: how many.
        points: how many the scatter plot shows.
        model, device, file_for_instance, parent, facts: as in `denoise`.
        translate: a function that translates texts.
    """
    with private_folder(parent) as folder:
        files = {name: str(folder / name) for name in ("ldct.npy", "labels.npy", "points.npz")}
        padding_hu = yield from hand_over(source, files["ldct.npy"], file_for_instance, volume_array(source))
        found = yield {
            "command": "cluster",
            "input": files["ldct.npy"],
            "output": files["labels.npy"],
            "points_output": files["points.npz"],
            "spacing_mm": spacing_mm(source),
            "model": model,
            "device": device,
            "padding_hu": padding_hu,
            "clusters": clusters,
            "points": points,
            "facts": facts,
        }
        image = anatomy_nodes.new_label_image(source)
        yield from copy_in_pieces(np.load(files["labels.npy"], mmap_mode="r"), image_array(image))
        with np.load(files["points.npz"]) as arrays:
            sample_points = dict(arrays)
    if before is not None and (before.GetScene() is None or anatomy_nodes.volume_of(before) is not source):
        before = None
    return anatomy_nodes.show_anatomy(source, image, found, sample_points, before, translate)


def save_dicom(volume: Any, files: list[str], folder: str, *, parent: str) -> Operation:
    """Writes a volume as a DICOM series into a new folder; returns the worker's answer.

    Args:
        volume: the volume node.
        files: the DICOM series it is derived from.
        folder: the new folder.
        parent: as in `denoise`.
    """
    with private_folder(parent) as temporary:
        voxels = str(temporary / "voxels.npy")
        yield from write_in_pieces(volume_array(volume), voxels)
        return (
            yield {
                "command": "export",
                "input": voxels,
                "files": files,
                "ijk_to_ras": ijk_to_ras(volume),
                "folder": folder,
                "description": provenance_sentence(volume),
            }
        )


def new_folder(parent: str, name: str) -> Path:
    """A folder of `parent` that is not there yet, named after a volume."""
    name = re.sub(r"[^\w .()+-]", "_", name).strip(" .") or "denoised"
    folders = (Path(parent) / (f"{name} {i}" if i else name) for i in itertools.count())
    return next(folder for folder in folders if not folder.exists())


def sample(
    scene: Any, normal_dose: Any, names: tuple[str, str], *, parent: str, phantom_shape: Sequence[int] | None = None
) -> Operation:
    """Makes sample data; returns [LDCT, NDCT] volume nodes: slices of normal dose and their simulated quarter dose.

    Args:
        scene: gets the nodes.
        normal_dose: volume node whose middle slices are taken; None: a phantom.
        names: of the two nodes.
        parent: as in `denoise`.
        phantom_shape: slices, rows and columns; None: as PHANTOM has them.
    """
    with private_folder(parent) as folder:
        ndct, ldct = str(folder / "ndct.npy"), str(folder / "ldct.npy")
        job: dict[str, Any] = {"command": "simulate", "input": ndct, "output": ldct, "dose": SAMPLE_DOSE}
        first = 0
        if normal_dose is None:
            shape = list(phantom_shape or PHANTOM["shape"])
            phantom = yield {"command": "phantom", "output": ndct, **PHANTOM, "shape": shape}
            job |= {name: phantom[name] for name in ("spacing_mm", "photons", "kernel")}
        else:
            voxels = volume_array(normal_dose)
            first = max(0, (len(voxels) - SAMPLE_SLICES) // 2)
            yield from write_in_pieces(voxels[first : first + SAMPLE_SLICES], ndct)
            job["spacing_mm"] = spacing_mm(normal_dose)
        yield job
        images = []
        for path in (ldct, ndct):
            voxels = np.load(path, mmap_mode="r")
            image = new_image(voxels.shape, voxels.dtype)
            yield from copy_in_pieces(voxels, image_array(image))
            images.append(image)
    if normal_dose is None:
        return [_phantom_node(scene, name, image, job["spacing_mm"]) for name, image in zip(names, images, strict=True)]
    nodes = [new_volume_like(scene, normal_dose, name, image) for name, image in zip(names, images, strict=True)]
    corner = [row[3] + row[2] * first for row in ijk_to_ras(normal_dose)[:3]]
    for node in nodes:
        node.SetOrigin(corner)
    return nodes


def _phantom_node(scene: Any, name: str, image: Any, spacing_mm: list[float]) -> Any:
    """Axial, the patient on the back, head up; shown in the abdomen window."""
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    node.SetIJKToRASDirections(-1, 0, 0, 0, -1, 0, 0, 0, 1)
    node.SetSpacing(spacing_mm)
    columns, rows, _ = image.GetDimensions()
    node.SetOrigin(spacing_mm[0] * (columns - 1) / 2, spacing_mm[1] * (rows - 1) / 2, 0)
    node.SetAndObserveImageData(image)
    node.CreateDefaultDisplayNodes()
    set_window([node], DISPLAY_WINDOWS_HU["abdomen"])
    return node
