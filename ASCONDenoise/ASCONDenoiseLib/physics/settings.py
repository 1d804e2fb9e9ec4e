"""How a scan is made: dose, geometry of the scanner, kernel, photons; and what phantoms are scanned with.

Nothing in here needs torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ASCONDenoiseLib.errors import InputError

PHANTOM_PHOTONS = {"abdomen": 1.5e6, "chest": 6e5, "head": 1.5e6}
"""Photons per ray in air that give a phantom the noise of a routine scan: some 12 HU in soft tissue, 5 in a brain."""

ASSUMED_PHOTONS = 4e5
"""The same for a scan whose own noise cannot be measured."""

LEAST_DOSE = 1e-4
"""Of the normal dose; with less, nothing of a patient is left in an image."""

PHOTONS = (1.0, 1e12)
"""Fewest and most per ray in air at normal dose; scanners have some 1e5 to 1e7."""

PLAUSIBLE_PHOTONS = (5e3, 1e7)
"""Of those, what scans of patients have, from a limb at low dose to thick slices of a large patient."""

CALIBRATION_SLICES = 12
"""Slices of a scan in which its photons are measured."""

WINDOWS_PER_SLICE = 12
"""Flat soft tissue windows that a slice, or the whole spectrum, needs to be measured."""

CALIBRATION_TISSUE_HU = (-30.0, 130.0)
"""Soft tissue and water, so that phantoms can be calibrated too."""

LEAST_BOWTIE_EDGE = 1e-6

MOST_ELECTRONIC_NOISE = 1e6
"""Photons, far beyond any detector: products with it stay finite."""

STANDARD_KERNEL = "standard"
"""The kernel of phantoms, and of a scan whose own noise cannot be measured."""


@dataclass(frozen=True)
class Kernel:
    """Reconstruction kernel: the ramp filter times exp(-(f / cutoff)^order), f in cycles per mm at the isocentre."""

    cutoff_per_mm: float
    order: float


ORDERS = (1.8, 6.0)
"""Least and highest order of a kernel that is measured: below, noise is far coarser than a ramp filter makes it."""

KERNELS = {"soft": Kernel(0.36, 1.8), "standard": Kernel(0.52, 2.2), "sharp": Kernel(0.80, 3.0)}


@dataclass(frozen=True)
class DoseSettings:
    """One low-dose scan. Lengths in mm, measured at the isocentre unless said otherwise.

    Attributes:
        dose: fraction of the normal dose, 0 < dose <= 1.
        geometry: "fan" or "parallel".
        views: per full turn (fan) or half turn (parallel).
        detector_mm: distance of two rays at the isocentre.
        source_mm: distance from the source to the isocentre (fan).
        kernel: "scan" to fit it to the scan's own noise, a name in KERNELS, or a Kernel.
        photons: per ray in air at normal dose, in the middle of the fan; None to measure them in the scan's own noise.
        electronic_noise: standard deviation of the detector's own noise per ray, in photons.
        bowtie_edge: fraction of the photons that the bow-tie filter lets through at `bowtie_mm`; 1 means no filter.
        bowtie_mm: distance from the isocentre where the bow-tie filter is thickest.
        tube_current: relative tube current over a full turn, any number of points.
        current_modulation: photons grow with the view's mean attenuation to this power (0.5 minimises the noise).
        seed: of the noise.
    """

    dose: float = 0.25
    geometry: str = "fan"
    views: int = 984
    detector_mm: float = 0.6
    source_mm: float = 595.0
    kernel: str | Kernel = "scan"
    photons: float | None = None
    electronic_noise: float = 0.0
    bowtie_edge: float = 0.2
    bowtie_mm: float = 250.0
    tube_current: tuple[float, ...] = (1.0,)
    current_modulation: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.dose <= 1:
            raise InputError(
                f"The dose must be above 0 and at most 1 (a fraction of the normal dose); got {self.dose}."
            )
        if self.dose < LEAST_DOSE:
            raise InputError(f"A dose below {LEAST_DOSE:g} of the normal one leaves nothing to see; got {self.dose}.")
        if self.geometry not in ("fan", "parallel"):
            raise InputError(f'The geometry must be "fan" or "parallel"; got "{self.geometry}".')
        if isinstance(self.kernel, str) and self.kernel not in ("scan", *KERNELS):
            raise InputError(f'Unknown kernel "{self.kernel}"; choose one of: scan, {", ".join(KERNELS)}.')
        if self.photons is not None and not self.photons > 0:
            raise InputError(f"The number of photons per ray must be above 0; got {self.photons}.")
        least, most = PHOTONS
        if self.photons is not None and not least <= self.photons <= most:
            raise InputError(f"No scanner has {self.photons:g} photons per ray: choose {least:g} to {most:g}.")
        if not 0 <= self.electronic_noise < math.inf:
            raise InputError(f"The electronic noise must be 0 or more photons; got {self.electronic_noise}.")
        if self.electronic_noise > MOST_ELECTRONIC_NOISE:
            raise InputError(
                f"The electronic noise of a detector is at most {MOST_ELECTRONIC_NOISE:g} photons; got "
                f"{self.electronic_noise:g}."
            )
        if abs(self.seed) >= 2**63:
            raise InputError(f"A seed has 63 bits at most; got {self.seed}.")
        if not 0 <= self.current_modulation <= 1:
            raise InputError(f"The modulation of the tube current must be from 0 to 1; got {self.current_modulation}.")
        if 0 < self.bowtie_edge < LEAST_BOWTIE_EDGE:
            raise InputError(
                f"A bow-tie filter lets {LEAST_BOWTIE_EDGE:g} of the photons through or more; got {self.bowtie_edge:g}."
            )
        if not 0 < self.bowtie_edge <= 1:
            raise InputError(
                f"The bow-tie filter's transmission must be above 0 and at most 1; got {self.bowtie_edge}."
            )
        if min(self.tube_current, default=0) <= 0:
            raise InputError("The tube current profile needs at least one value, all above 0.")

    @property
    def named_kernel(self) -> Kernel:
        """The kernel, where it is not left to be measured."""
        return self.kernel if isinstance(self.kernel, Kernel) else KERNELS[self.kernel]


QUARTER_DOSE = DoseSettings()


def phantom_settings(kind: str) -> DoseSettings:
    """Return the settings of a phantom's scan at normal dose; `kind` is a name in PHANTOM_PHOTONS."""
    return DoseSettings(photons=PHANTOM_PHOTONS[kind], kernel=STANDARD_KERNEL)
