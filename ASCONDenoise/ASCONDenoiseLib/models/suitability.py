"""Whether a volume is what a model is for: sentences that warn and never refuse. numpy only.

First what every model expects (HU of a CT, not denoised before, axial slices), then what the model has seen in
training, as the scope on its card says. What is not known about a volume or a model raises no warning. Commands, panel
and records all ask here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ASCONDenoiseLib.io.volume import Volume
from ASCONDenoiseLib.models.card import ModelCard, Scope

Translate = Callable[[str], str]

AIR_HU = (-1100.0, -850.0)
SOFT_HU = (-150.0, 150.0)
"""Fat, water and soft tissue, with noise."""

LEAST_FRACTION = 0.005
"""Of voxels that are air, and of those that are soft tissue: a volume with fewer of both is hardly CT of a body."""

LEAST_SPAN_HU = 200.0
"""From fat to enhanced vessels alone it is more; images scaled to 0..1 or -1..1 span less."""

SHARP_KERNELS = re.compile(r"LUNG|BONE|EDGE|ULTRA|DETAIL|^[A-Z]{1,2}[6-9]\d|^FC[35]\d|^Y|^[CDEL]$", re.IGNORECASE)
"""Convolution kernels (0018,1210) for lung and bone: names of GE, numbers of Siemens (B70f, Br64) and of
Canon (FC30, FC52, FC86), letters of Philips."""

OTHER_PARTS = tuple(
    re.compile(words, re.IGNORECASE) for words in ("HEAD|BRAIN|SKULL", "LIMB|EXTREMITY|KNEE|ANKLE|FOOT|HAND|WRIST")
)
"""Heads, and limbs: values of BodyPartExamined (0018,0015), and words of a card."""

DENOISED = re.compile(r"denois|ClariCT|PixelShine", re.IGNORECASE)
"""In names of series: the word, and products that do nothing else."""

THINNER, THICKER = 0.99, 1.5
"""Below so much of the thinnest slices that a model has seen, or above so much of the thickest, slices are new to it.
Headers round, hence not 1; thicker slices have less noise, so of that it bears more."""

MOST_TILT_DEG = 35.0
"""Between the normal of the slices and the patient's long axis: gantries tilt by 30 degrees at most."""

MOST_PIXEL_RATIO = 1.5
"""Of the sides of a pixel: reconstructions have square ones, stacks cut in another direction have not."""


def warnings_of(volume: Volume, name: str, card: ModelCard | None = None, _: Translate = str) -> list[str]:
    """`warnings` of a volume as it was read.

    Args:
        volume: all of it; a sample is looked at.
        name: of its file or folder.
        card: of the model that is to be used.
        _: translates.
    """
    known, geometry = volume.description | {"name": name}, volume.geometry
    return warnings(sample(volume.voxels), geometry.spacing_mm, known, card, _, direction=geometry.direction)


def warnings(
    voxels_hu: np.ndarray,
    spacing_mm: Sequence[float],
    description: Mapping[str, str],
    card: ModelCard | None = None,
    _: Translate = str,
    *,
    direction: Sequence[float] | None = None,
) -> list[str]:
    """Sentences about what does not fit, the gravest first; empty where nothing is seen to be wrong.

    Args:
        voxels_hu: any sample of the volume, e.g. every 4th voxel of 8 slices.
        spacing_mm: (x, y, z).
        description: `volume.Volume.description`, what of it is known; "name" (of a node or file) counts too.
        card: of the model that is to be used; None: what all models expect is all that is checked.
        _: translates.
        direction: `volume.Geometry.direction`, in LPS or RAS; None where it is not known.
    """
    sentences = [_no_ct(voxels_hu, description, _), done_before(description, _), _not_axial(spacing_mm, direction, _)]
    if card is not None:
        sentences += [
            _other_slices(float(spacing_mm[2]), card.scope, _),
            _sharp(description.get("kernel", ""), card.scope, _),
            _other_body_part(description.get("body_part", ""), card.scope, _),
        ]
    return [sentence for sentence in sentences if sentence]


def sample(voxels: np.ndarray, slices: int = 8) -> np.ndarray:
    """Every 4th row and column of some evenly spaced slices (S, H, W): enough for `warnings`, as a view."""
    return voxels[:: max(1, len(voxels) // slices), ::4, ::4]


def _no_ct(voxels_hu: np.ndarray, description: Mapping[str, str], _: Translate) -> str:
    modality = description.get("modality", "CT")
    if modality != "CT":
        return _("This is {modality}, not CT: the result will mean nothing.").format(modality=modality)
    voxels = voxels_hu[np.isfinite(voxels_hu)] if voxels_hu.dtype.kind == "f" else voxels_hu
    if voxels.size == 0:
        return ""
    low, high = float(voxels.min()), float(voxels.max())
    if high - low < LEAST_SPAN_HU:
        return _("The values ({low:g} to {high:g}) span too little for a CT in HU.").format(low=low, high=high)
    if low >= 0:
        return _("No value is below 0, so these are hardly HU. Is it a CT, with its rescaling applied?")
    fractions = [np.count_nonzero((voxels >= a) & (voxels <= b)) / voxels.size for a, b in (AIR_HU, SOFT_HU)]
    if max(fractions) < LEAST_FRACTION:
        return _("Hardly any voxel has the HU of air or of soft tissue. Is it a CT in HU?")
    return ""


def done_before(description: Mapping[str, str], _: Translate = str) -> str:
    """A sentence where the volume has been denoised already, by its name or description; empty otherwise.

    Args:
        description: as `warnings` has it.
        _: translates.
    """
    names = " ".join(description.get(name, "") for name in ("name", "series_description"))
    if DENOISED.search(names):
        return _("By its name, this has been denoised already; a second time takes detail away.")
    return ""


def _not_axial(spacing_mm: Sequence[float], direction: Sequence[float] | None, _: Translate) -> str:
    if direction is not None:
        normal = np.abs(np.reshape(direction, (3, 3))[:, 2])
        normal = normal / max(float(np.linalg.norm(normal)), 1e-9)
        if normal[2] < math.cos(math.radians(MOST_TILT_DEG)):
            upright = max(normal[:2]) > math.cos(math.radians(MOST_TILT_DEG))
            plane = (_("sagittal") if normal[0] > normal[1] else _("coronal")) if upright else _("oblique")
            text = _("Its slices are {plane}, and models learn from axial ones, whose noise is another.")
            return text.format(plane=plane)
    x, y = (float(mm) for mm in spacing_mm[:2])
    if max(x, y) > MOST_PIXEL_RATIO * min(x, y):
        text = _("Its pixels of {x:g} x {y:g} mm are not square, as those of axial CT slices are.")
        return text.format(x=round(x, 3), y=round(y, 3))
    return ""


def _other_slices(mm: float, scope: Scope, _: Translate) -> str:
    if scope.slice_mm is None:
        return ""
    thinnest, thickest = scope.slice_mm
    if mm < THINNER * thinnest:
        text = _("Its slices of {mm:g} mm are thinner than those that the model has seen ({least:g} mm or more).")
    elif mm > THICKER * thickest:
        text = _("Its slices of {mm:g} mm are much thicker than those that the model has seen ({most:g} mm or less).")
    else:
        return ""
    return text.format(mm=round(mm, 2), least=thinnest, most=thickest)


def _sharp(kernel: str, scope: Scope, _: Translate) -> str:
    if scope.sharp_kernels is not False or not SHARP_KERNELS.search(kernel.strip()):
        return ""
    sentence = _("The kernel {kernel} is sharper than those that the model has seen.").format(kernel=kernel.strip())
    if not scope.sharp_kernel_shift_hu:
        return sentence
    shifts = ", ".join(f"{_(tissue)} {hu:+.1f} HU" for tissue, hu in scope.sharp_kernel_shift_hu.items())
    return f"{sentence} " + _("Expect shifts as on such a kernel at full strength: {shifts}.").format(shifts=shifts)


def _other_body_part(body_part: str, scope: Scope, _: Translate) -> str:
    seen = ", ".join(scope.body_parts)
    if seen and any(part.search(body_part) and not part.search(seen) for part in OTHER_PARTS):
        return _("The model was not trained on this part of the body ({part}).").format(part=body_part)
    return ""
