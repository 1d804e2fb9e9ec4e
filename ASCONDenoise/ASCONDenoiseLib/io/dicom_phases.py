"""Series that hold several volumes of one place: the phases of a heart or a breath, the passes of a perfusion.

PS3.3: C.7.6.16.2.2.6 and C.7.6.16.2.2.2 (temporal position), C.7.6.18.3 (cardiac trigger), C.7.6.1 (acquisition).
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from ASCONDenoiseLib.io.dicom_headers import DicomImage, as_text

TELLING = (
    "TemporalPositionIdentifier", "TemporalPositionIndex", "NominalPercentageOfCardiacPhase", "TriggerTime",
    "AcquisitionNumber",
)  # fmt: skip
"""What may number the phases, the most telling first."""


def phases(images: list[DicomImage]) -> tuple[list[list[DicomImage]], str]:
    """The images of each phase, in the order of time, and what tells them apart.

    A number does where each phase has every place once, and all have the same places. Where there is one volume, or
    no telling, all images are one phase, told by "".
    """
    places = [tuple(np.round(image.numbers("ImagePositionPatient", 3), 2)) for image in images]
    if max(Counter(places).values()) == 1:
        return [images], ""
    for keyword in TELLING:
        found: dict[float, list[int]] = {}
        for number, image in enumerate(images):
            try:
                found.setdefault(float(as_text(image.get(keyword))), []).append(number)
            except ValueError:  # absent
                break
        else:
            its_places = [sorted(places[number] for number in numbers) for numbers in found.values()]
            once = all(len(set(those)) == len(those) for those in its_places)
            if len(found) > 1 and once and all(those == its_places[0] for those in its_places):
                return [[images[number] for number in found[value]] for value in sorted(found)], keyword
    return [images], ""
