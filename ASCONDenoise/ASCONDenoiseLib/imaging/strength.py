"""How strong to denoise: the noise that each strength leaves, and the strength that leaves so much noise.

The output x + s (G - x) is linear in the strength s, so its variance in a window is a quadratic in s, known for all s
from the variances of x and G and their covariance: var = (1 - s)^2 Var(x) + 2 s (1 - s) Cov(x, G) + s^2 Var(G).
Nothing is blended to know it. The noise is that of `noise.noise_hu`: the median over windows of flat soft tissue.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.imaging.output_rule import check_strength

DEFAULT_STRENGTH = 1.0
"""Of command and library, where nobody chooses."""

PANEL_STRENGTH_PERCENT = 100.0
"""Of the panel, until the user moves the slider: the error is least and a disc seen best there, see docs/model.md."""

TARGETS = ("all", "half-noise", "normal-dose")
"""What a strength may be chosen for: all the noise that was found, half of the noise, the noise of the normal dose."""

SLICES = 12
"""So many slices, evenly spaced, are measured at most: a few hundred windows tell the noise to 2 %."""


@dataclass(frozen=True)
class NoiseByStrength:
    """The noise that is left at each strength.

    Attributes:
        sd_hu: standard deviation at strengths 0, 0.01, ... 1.
    """

    sd_hu: tuple[float, ...]

    def at(self, strength: float) -> float:
        """Tell the noise in HU at a strength from 0 to 1."""
        check_strength(strength)
        return float(np.interp(strength, np.linspace(0, 1, len(self.sd_hu)), self.sd_hu))

    def strength_for(self, sd_hu: float) -> float:
        """Choose the least strength, in whole percent, that leaves no more than this noise; else that of the least."""
        enough = np.flatnonzero(np.asarray(self.sd_hu) <= sd_hu + 1e-9)
        chosen = enough[0] if len(enough) else int(np.argmin(self.sd_hu))
        return float(chosen) / (len(self.sd_hu) - 1)


@dataclass(frozen=True)
class Target:
    """What a strength is chosen for.

    Attributes:
        name: one of TARGETS.
        dose: of the scan, as a fraction of the normal dose; needed for "normal-dose" alone.
    """

    name: str
    dose: float | None = None

    def __post_init__(self) -> None:
        if self.name not in TARGETS:
            raise InputError(f'There is no target "{self.name}" of the strength. Choose {", ".join(TARGETS)}.')
        if self.dose is not None and not 0 < self.dose <= 1:
            raise InputError(f"The dose is a fraction of the normal dose, above 0 and up to 1; got {self.dose:g}.")
        if self.name == "normal-dose" and self.dose is None:
            raise InputError(
                "To leave as much noise as the normal dose has, the dose of this scan must be known, and no file says "
                "it. Give it as a fraction of the normal dose, e.g. 0.25."
            )

    def wanted_hu(self, before_hu: float) -> float:
        """Tell the noise that is wanted of a scan with `before_hu`: quantum noise goes with 1 / sqrt(dose)."""
        if self.name == "half-noise":
            return before_hu / 2
        return before_hu * float(np.sqrt(self.dose)) if self.dose is not None and self.name == "normal-dose" else 0.0

    def strength(self, noise: NoiseByStrength | None) -> tuple[float, str]:
        """Choose the strength for this target; with a sentence for the user where the target is missed, else ""."""
        if self.name == "all":
            return 1.0, ""
        if noise is None:
            return 1.0, (
                f"the strength for {self.name} is not known, since there is no flat soft tissue to measure noise in: "
                "100 % was taken"
            )
        before = noise.at(0)
        wanted = self.wanted_hu(before)
        strength = noise.strength_for(wanted)
        if noise.at(strength) <= wanted + 0.005 * before:
            return strength, ""
        return strength, (
            f"the target {self.name} is {wanted:.1f} HU, and the model leaves {noise.at(strength):.1f} HU at least"
        )


def noise_by_strength(
    voxels_hu: np.ndarray, denoised_hu: np.ndarray, spacing_mm: tuple[float, float, float]
) -> NoiseByStrength | None:
    """Measure the noise that each strength leaves, in the windows of `noise.noise_hu` in the input.

    Args:
        voxels_hu: (S, H, W) the input.
        denoised_hu: (S, H, W) the result of strength 1.
        spacing_mm: (x, y, z).

    Returns:
        None where there are too few windows.
    """
    from ASCONDenoiseLib.imaging.noise import MIN_WINDOWS, flat_soft_tissue_windows, window_variance

    total = len(voxels_hu)
    chosen = np.unique(np.linspace(0, total - 1, min(total, SLICES)).round().astype(int))
    before, after = (np.asarray(voxels[chosen], np.float32) for voxels in (voxels_hu, denoised_hu))
    centres = flat_soft_tissue_windows(before, spacing_mm)
    if len(centres) < MIN_WINDOWS:
        return None
    none, full = window_variance(before, centres), window_variance(after, centres)
    twice_covariance = none + full - window_variance(after - before, centres)
    strengths = np.linspace(0, 1, 101)[:, None]
    variances = (1 - strengths) ** 2 * none + strengths * (1 - strengths) * twice_covariance + strengths**2 * full
    return NoiseByStrength(tuple(np.sqrt(np.maximum(np.median(variances, axis=1), 0)).tolist()))
