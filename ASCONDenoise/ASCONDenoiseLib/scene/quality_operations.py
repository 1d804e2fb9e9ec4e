"""The panel's work on image quality in pieces; see `operations`: a generator yields a piece of work or a job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ASCONDenoiseLib.scene.operations import Operation, Run, images_request
from ASCONDenoiseLib.scene.volumes import make_like, new_volume_like
from ASCONDenoiseLib.scene.voxels import copy_in_pieces, image_array, new_image

MAPS = ("noise-ldct", "noise-denoised", "consistency")


def inspect(run: Run) -> Operation:
    """Measures a result in all places; returns the worker's answer. The maps stay with the result's files."""
    request = yield from images_request(run)
    folder = run.folder / "maps"
    folder.mkdir(exist_ok=True)
    return (yield {"command": "inspect", **request, "maps": str(folder)})


def map_node(run: Run, name: str, title: str, node: Any = None) -> Operation:
    """A map of the last `inspect` as a volume node; returns it.

    Args:
        run: the result.
        name: one of MAPS.
        title: name of a new node.
        node: the volume node that becomes the map; None: a new one.
    """
    values = np.load(run.folder / "maps" / f"{name}.npy", mmap_mode="r")
    image = new_image(values.shape, values.dtype)
    yield from copy_in_pieces(values, image_array(image))
    if node is None or node.GetScene() is None:
        return new_volume_like(run.output.GetScene(), run.output, title, image)
    make_like(node, run.output, image)
    node.SetName(title)
    return node


def report(run: Run, path: Path, name: str, made: dict[str, str], warning: str) -> Operation:
    """Writes the page about a result; returns the worker's answer.

    Args:
        run: the result.
        path: of the page, which is replaced.
        name: of the scan.
        made: how the result came about.
        warning: of whether it suits the model.
    """
    request = yield from images_request(run)
    return (yield {"command": "report", **request, "path": str(path), "name": name, "made": made, "warning": warning})
