"""The picture of a finished series: its middle slice before, after, and what was taken away."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom

from ASCONDenoiseLib.io.reading import read_volume
from ASCONDenoiseLib.reports.pictures import Panel, side_by_side_png

DIFFERENCE_HU = 50.0
"""Shown from minus to plus this: noise of clinical scans, 10 to 30 HU, is seen."""


def draw(originals: Path, result: Path, png: Path) -> None:
    """Draw it from files.

    Args:
        originals: folder of the source's objects, each file named after its SOP instance UID.
        result: folder of the derived series.
        png: the picture.

    Raises:
        AsconError: a file cannot be read.
    """
    files = sorted(result.glob("*.dcm"))
    after_file = files[len(files) // 2]
    source = pydicom.dcmread(after_file, stop_before_pixels=True).SourceImageSequence[0]
    before = read_volume(originals / f"{source.ReferencedSOPInstanceUID}.dcm")
    after = read_volume(after_file)
    before_hu = before.voxels[int(source.get("ReferencedFrameNumber", 1)) - 1 if len(before.voxels) > 1 else 0]
    after_hu = after.voxels[0]
    difference_hu = after_hu.astype(np.float32) - before_hu
    panels = [Panel("before", before_hu), Panel("after", after_hu), Panel("difference", difference_hu, difference=True)]
    side_by_side_png(panels, png, spacing_mm=after.geometry.spacing_mm, difference_hu=DIFFERENCE_HU)
