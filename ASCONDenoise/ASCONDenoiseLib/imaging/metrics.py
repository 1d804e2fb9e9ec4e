"""Image quality against a reference: PSNR, RMSE and SSIM per slice, CNR. Every number carries its window and range."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.imaging.hounsfield import DISPLAY_WINDOWS_HU, TRAINING_WINDOW_HU


@dataclass(frozen=True)
class Scale:
    """The units of a comparison.

    Attributes:
        name: as tables show it.
        window_hu: lowest and highest HU; images are clipped to it.
        unit_hu: HU of one unit.
    """

    name: str
    window_hu: tuple[float, float]
    unit_hu: float = 1.0

    @property
    def data_range(self) -> float:
        return (self.window_hu[1] - self.window_hu[0]) / self.unit_hu

    def describe(self) -> str:
        low, high = self.window_hu
        unit = " HU" if self.unit_hu == 1 else ""
        return f"{self.name} units: window [{low:g}, {high:g}] HU, data range {self.data_range:g}{unit}"


PAPER = Scale("paper", TRAINING_WINDOW_HU, TRAINING_WINDOW_HU[1] - TRAINING_WINDOW_HU[0])
"""The training window as [0, 1]: the units of the paper's tables."""
ABDOMEN = Scale("abdomen", DISPLAY_WINDOWS_HU["abdomen"])
"""The paper's display window, in HU; any other is Scale(name, window_hu)."""


@dataclass(frozen=True)
class SliceMetrics:
    """The metrics of one slice.

    Attributes:
        index: of the slice, from 0.
        psnr_db: infinite where nothing differs.
        ssim: 0 to 1.
        rmse: in the scale's units.
        rmse_hu: in HU.
    """

    index: int
    psnr_db: float
    ssim: float
    rmse: float
    rmse_hu: float


METRICS = ("psnr_db", "ssim", "rmse", "rmse_hu")


@dataclass(frozen=True)
class Comparison:
    """The metrics of all slices of one volume in one scale.

    Attributes:
        name: of the volume that is compared with the reference.
        scale: the units.
        clip_test: whether that volume is clipped to the window, too.
        rows: the slices.
    """

    name: str
    scale: Scale
    clip_test: bool
    rows: tuple[SliceMetrics, ...]

    def mean_sd(self, metric: str) -> tuple[float, float]:
        """Return mean and sample standard deviation over slices of one of METRICS (the deviation of one value is nan).

        Infinite PSNR is left out where any is finite: one blank slice, identical in both, would make the mean infinite.
        """
        values = np.array([getattr(row, metric) for row in self.rows])
        values = values[np.isfinite(values)] if np.isfinite(values).any() else values[:1]
        return float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else float("nan")

    @property
    def identical_slices(self) -> int:
        return sum(row.rmse == 0 for row in self.rows)

    def describe(self) -> str:
        return f"{self.scale.describe()}, {'both' if self.clip_test else 'only the reference'} clipped to it"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, which has no infinity: infinite PSNR, undefined deviations are None."""
        summary = {metric: self.mean_sd(metric) for metric in METRICS}
        return {
            "name": self.name,
            "scale": self.scale.name,
            "window_hu": list(self.scale.window_hu),
            "data_range": self.scale.data_range,
            "clip_test": self.clip_test,
            "identical_slices": self.identical_slices,
            "mean": {metric: _finite(mean) for metric, (mean, _) in summary.items()},
            "sd": {metric: _finite(sd) for metric, (_, sd) in summary.items()},
            "slices": [{key: _finite(value) for key, value in asdict(row).items()} for row in self.rows],
        }


def compare(
    reference_hu: np.ndarray, test_hu: np.ndarray, scale: Scale = PAPER, *, name: str = "test", clip_test: bool = True
) -> Comparison:
    """Compare two volumes slice by slice; the memory is that of a few slices.

    Args:
        reference_hu: (S, H, W).
        test_hu: (S, H, W).
        scale: the units.
        name: of the test volume.
        clip_test: False leaves the test volume as it is, as the paper does with predictions; padding below the window
            then swamps everything.

    Raises:
        InputError: shapes differ, sides are below 11 or values are not finite.
    """
    shape = np.shape(reference_hu)
    if len(shape) != 3 or shape != np.shape(test_hu) or 0 in shape:
        raise InputError(
            "Two volumes of the same slices, rows and columns are needed; "
            f"the reference has shape {shape}, the volume '{name}' {np.shape(test_hu)}."
        )
    if min(shape[1:]) < 11:
        raise InputError(f"SSIM's window is 11 x 11 pixels, larger than slices of {shape[1]} x {shape[2]}.")
    rows = [_slice_metrics(i, reference_hu[i], test_hu[i], scale, clip_test) for i in range(shape[0])]
    return Comparison(name, scale, clip_test, tuple(rows))


def _slice_metrics(index: int, reference: np.ndarray, test: np.ndarray, scale: Scale, clip_test: bool) -> SliceMetrics:
    a, b = (np.asarray(image, np.float64) for image in (reference, test))
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise InputError(
            f"Slice {index + 1} holds values that are not finite (NaN or infinity); mend it or leave it out."
        )
    low, high = scale.window_hu
    a = (a.clip(low, high) - low) / scale.unit_hu
    b = ((b.clip(low, high) if clip_test else b) - low) / scale.unit_hu
    rmse = float(np.sqrt(np.mean((a - b) ** 2)))
    psnr_db = float(20 * np.log10(scale.data_range / rmse)) if rmse > 0 else float("inf")
    return SliceMetrics(index, psnr_db, ssim(a, b, scale.data_range), rmse, rmse * scale.unit_hu)


def ssim(reference: np.ndarray, test: np.ndarray, data_range: float) -> float:
    """Return the structural similarity: 11x11 Gaussian window of sigma 1.5, K1 0.01, K2 0.03.

    Reflected borders, no crop, the map clamped to [0, 1], then its mean (Wang et al. 2004, IEEE TIP 13(4):600).

    Args:
        reference: (H, W).
        test: (H, W).
        data_range: highest less lowest possible value.
    """
    from skimage.metrics import structural_similarity

    _, similarity = structural_similarity(
        reference, test, data_range=data_range, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
    )
    return float(similarity.clip(0, 1).mean())


def cnr(image_hu: np.ndarray, mask_1: np.ndarray, mask_2: np.ndarray) -> float:
    """Return the contrast-to-noise ratio |m1 - m2| / sqrt((s1^2 + s2^2) / 2); infinite where there is no noise.

    Args:
        image_hu: (...) of any shape.
        mask_1: where one region is, of the same shape.
        mask_2: where the other is.

    Raises:
        InputError: a mask has another shape or fewer than 2 voxels.
    """
    regions = []
    for which, mask in (("first", mask_1), ("second", mask_2)):
        if np.shape(mask) != np.shape(image_hu) or np.count_nonzero(mask) < 2:
            raise InputError(f"The {which} region needs at least 2 voxels, in a mask of the image's shape.")
        regions.append(image_hu[np.asarray(mask, bool)].astype(np.float64))
    contrast = abs(regions[0].mean() - regions[1].mean())
    noise = np.sqrt((regions[0].var(ddof=1) + regions[1].var(ddof=1)) / 2)
    return float(contrast / noise) if noise > 0 else float("inf")


def _finite(value: float | int) -> float | int | None:
    return value if np.isfinite(value) else None
