"""The voxels of volume nodes as arrays, and work on them in pieces that do not hold Slicer's main thread.

Arrays are (S, H, W) in HU and share the memory of their node: nothing is copied unless the name says so.

Whatever touches every slice is a generator: it works for `budget_s`, then yields the number of slices done, so that
Slicer's event loop gets its turn. Call `next` on it in each tick of a timer, until StopIteration.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk
from vtk.util import numpy_support

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.imaging.output_rule import blend

Plane = tuple[int | slice, ...]
"""Indexes (S, H, W) voxels: (s,) is a slice, (:, r) a row of each slice, (:, :, c) a column of each."""

BUDGET_S = 0.03
"""How long a piece of work holds the main thread; its last slice may make it longer."""


def volume_array(node: slicer.vtkMRMLScalarVolumeNode) -> np.ndarray:
    """The voxels of a volume node, (S, H, W): a view, which stays valid when the node or the scene is removed.

    Call `voxels_modified` after writing to it. Raises InputError where the node holds no volume of single numbers.
    """
    image = node.GetImageData()
    if image is None or 0 in image.GetDimensions() or image.GetPointData().GetScalars() is None:
        raise InputError(f'The volume "{node.GetName()}" holds no image. Load it again, or choose another.')
    if node.IsA("vtkMRMLLabelMapVolumeNode") or image.GetNumberOfScalarComponents() != 1:
        raise InputError(f'The volume "{node.GetName()}" is a label map or a colour image. Choose a CT volume.')
    return image_array(image)


def image_array(image: vtk.vtkImageData) -> np.ndarray:
    """The voxels of an image of one component, (S, H, W), as a view."""
    columns, rows, slices = image.GetDimensions()
    return numpy_support.vtk_to_numpy(image.GetPointData().GetScalars()).reshape(slices, rows, columns)


def new_image(shape: tuple[int, int, int], dtype: np.dtype | type | str) -> vtk.vtkImageData:
    """An image for (S, H, W) voxels, which are not initialised, so that this takes no time."""
    image = vtk.vtkImageData()
    image.SetDimensions(*reversed(shape))
    image.AllocateScalars(numpy_support.get_vtk_array_type(np.dtype(dtype)), 1)
    return image


def voxels_modified(node: slicer.vtkMRMLScalarVolumeNode) -> None:
    """Tells everything that shows the volume that its voxels have changed."""
    node.GetImageData().GetPointData().GetScalars().Modified()
    node.StorableModified()  # so that Slicer asks whether to save it
    node.Modified()


def copy_in_pieces(source: np.ndarray, target: np.ndarray, *, budget_s: float = BUDGET_S) -> Iterator[int]:
    """Copies (S, H, W) voxels slice by slice; yields how many slices are done."""

    def copy(s: int) -> None:
        target[s] = source[s]

    return _in_pieces(copy, None, source, target, budget_s)


def write_in_pieces(voxels: np.ndarray, path: str | Path, *, budget_s: float = BUDGET_S) -> Iterator[int]:
    """Writes voxels to an .npy file for the worker; yields how many slices are done. The file is whole at the end."""
    file = np.lib.format.open_memmap(path, mode="w+", dtype=voxels.dtype, shape=voxels.shape)
    yield from copy_in_pieces(voxels, file, budget_s=budget_s)


def blend_in_pieces(
    voxels: np.ndarray,
    denoised: np.ndarray,
    target: np.ndarray,
    strength: float,
    planes: Iterable[int | Plane] | None = None,
    *,
    budget_s: float = BUDGET_S,
) -> Iterator[int]:
    """Applies `output_rule.blend` slice by slice; yields how many slices are done.

    Args:
        voxels: the input, (S, H, W) HU.
        denoised: the result of strength 1, of the same shape.
        target: where the result goes.
        strength: 0 to 1.
        planes: which slices or planes to blend, about 5 ms for one of 512 x 512; None: all slices.
        budget_s: how long each piece may take.
    """

    def blend_one(plane: int | Plane) -> None:
        blend(voxels[plane], denoised[plane], strength, out=target[plane])

    return _in_pieces(blend_one, planes, voxels, target, budget_s)


def subtract_in_pieces(
    minuend: np.ndarray,
    subtrahend: np.ndarray,
    target: np.ndarray,
    planes: Iterable[int | Plane] | None = None,
    *,
    budget_s: float = BUDGET_S,
) -> Iterator[int]:
    """Puts minuend - subtrahend into `target`, whose type `difference_dtype` gives; yields how many slices are done.

    Args:
        minuend, subtrahend, target: (S, H, W).
        planes, budget_s: as in `blend_in_pieces`.
    """
    limits = np.iinfo(target.dtype) if target.dtype.kind == "i" else None

    def subtract(plane: int | Plane) -> None:
        difference = np.subtract(minuend[plane], subtrahend[plane], dtype=np.int64 if limits else np.float64)
        target[plane] = difference.clip(limits.min, limits.max) if limits else difference

    return _in_pieces(subtract, planes, minuend, target, budget_s)


def difference_dtype(voxels: np.ndarray) -> np.dtype:
    """The type of a difference of such volumes: int16 for CT of 16 bits (values beyond its range are clipped)."""
    return np.dtype(np.int16 if voxels.dtype.kind in "iu" and voxels.dtype.itemsize <= 2 else np.float32)


def _in_pieces(
    step: Callable[[Any], None],
    planes: Iterable[int | Plane] | None,
    source: np.ndarray,
    target: np.ndarray,
    budget_s: float,
) -> Iterator[int]:
    if source.shape != target.shape:
        raise InputError(f"The volumes differ in size: {source.shape} and {target.shape} slices, rows, columns.")
    return _steps(step, list(range(len(source)) if planes is None else planes), budget_s)


def _steps(step: Callable[[Any], None], planes: list[int | Plane], budget_s: float) -> Iterator[int]:
    started = time.monotonic()
    for done, plane in enumerate(planes, start=1):
        step(plane)
        if time.monotonic() - started >= budget_s and done < len(planes):
            yield done
            started = time.monotonic()  # the time that the application took in between does not count
    yield len(planes)
