"""A preview: the axial slice in sight, denoised alone, in a volume of one slice that the views show over the LDCT."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ASCONDenoiseLib.imaging.output_rule import blend
from ASCONDenoiseLib.scene.operations import Operation, hand_over, private_folder
from ASCONDenoiseLib.scene.provenance import set_provenance, set_strength
from ASCONDenoiseLib.scene.volumes import ijk_to_ras_matrix, make_like, new_volume_like
from ASCONDenoiseLib.scene.voxels import image_array, new_image, volume_array


@dataclass
class Preview:
    """One denoised slice.

    Attributes:
        input: volume node, the LDCT.
        index: of the slice.
        node: volume node of this slice alone. No list of volumes shows it, and no scene is saved with it.
        voxels: (1, H, W), the LDCT.
        full: (1, H, W), denoised at strength 1.
        facts: the worker's result: model, device, precision, seconds, notes.
    """

    input: Any
    index: int
    node: Any
    voxels: np.ndarray
    full: np.ndarray
    facts: dict[str, Any]

    def show_strength(self, strength: float) -> None:
        """Changes the strength, which takes some milliseconds."""
        blend(self.voxels, self.full, strength, out=image_array(self.node.GetImageData()))
        self.node.GetImageData().GetPointData().GetScalars().Modified()
        set_strength(self.node, strength)
        name = f"{self.input.GetName()} preview: slice {self.index + 1}, {100 * strength:.0f} %"
        self.node.SetName(name)  # Slicer writes it into the corner of the view
        self.node.Modified()


def preview(
    source: Any,
    index: int,
    node: Any,
    *,
    model: str,
    device: str,
    strength: Callable[[], float],
    file_for_instance: Callable[[str], str] | None,
    parent: str,
) -> Operation:
    """Denoises one slice of a volume; returns a Preview.

    Args:
        source: volume node, the LDCT.
        index: of the slice.
        node: of an earlier preview, which becomes this one; None: a new one.
        model, device, strength, file_for_instance, parent: as in `operations.denoise`.
    """
    with private_folder(parent) as folder:
        files = {name: str(folder / f"{name}.npy") for name in ("ldct", "full")}
        voxels = volume_array(source)[index : index + 1].copy()
        padding_hu = yield from hand_over(source, files["ldct"], file_for_instance, voxels)
        facts = yield {
            "command": "denoise",
            "input": files["ldct"],
            "output": files["full"],
            "model": model,
            "device": device,
            "padding_hu": padding_hu,
        }
        del facts["noise_by_strength"]  # of one slice: none
        full = np.load(files["full"])
    image = new_image(voxels.shape, voxels.dtype)
    image_array(image)[...] = voxels  # the strength follows
    if node is None or node.GetScene() is None:
        node = new_volume_like(source.GetScene(), source, f"{source.GetName()} preview", image, passing=True)
    else:
        make_like(node, source, image)
    node.SetOrigin(ijk_to_ras_matrix(source).MultiplyPoint((0, 0, index, 1))[:3])
    set_provenance(node, source, facts)
    made = Preview(source, index, node, voxels, full, facts)
    made.show_strength(strength())
    return made
