"""How well a disc can be seen: the detectability index d' of model observers.

Two observers. The non-prewhitening matched filter with an eye filter (NPWE) needs the signal and the spectrum of the
noise only, and follows human readers in CT (AAPM TG-233; Solomon et al., Med Phys 42:2048, 2015). The channelised
Hotelling observer (CHO) needs realisations with and without the signal, and knows the noise's correlations as they are.
Neither has internal noise: d' of a reader is lower. d' = 1 is seen in 76 % of two-alternative choices, d' = 2 in 92 %.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from scipy import special

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.imaging.transfer import TransferFunction

VIEWING_MM = 475.0
"""From the eye to the screen."""
SCREEN_MM, FIELD_MM = 300.0, 350.0
"""A field of view of the second fills the first."""
POINTS = 4096
CHANNELS = 6


class Spectrum(Protocol):
    """The radial curve of a noise power spectrum: `noise_spectrum.NoisePowerSpectrum` or `Texture`."""

    @property
    def frequency(self) -> np.ndarray | tuple[float, ...]: ...

    @property
    def power(self) -> np.ndarray | tuple[float, ...]: ...


def eye_filter(frequency_per_mm: np.ndarray) -> np.ndarray:
    """Return the eye's response (r^1.5 exp(-0.98 r^0.68))^2, r in cycles per degree, 1 where it is highest.

    Eckstein et al., Opt Express 11:460, 2003, as TG-233 has it; an image of FIELD_MM fills SCREEN_MM, VIEWING_MM away.
    """
    r = np.abs(frequency_per_mm) * FIELD_MM / SCREEN_MM * VIEWING_MM * np.pi / 180
    best = (1.5 / (0.98 * 0.68)) ** (1 / 0.68)
    response: np.ndarray = _response(r) / _response(np.array(best))
    return response


def _response(cycles_per_degree: np.ndarray) -> np.ndarray:
    response: np.ndarray = (cycles_per_degree**1.5 * np.exp(-0.98 * cycles_per_degree**0.68)) ** 2
    return response


def npwe(
    diameter_mm: float,
    contrast_hu: float,
    spectrum: Spectrum,
    transfer: TransferFunction | None = None,
    *,
    eye: bool = True,
) -> float:
    """Return d' of a disc from the noise power spectrum and the TTF, both taken as the same in all directions.

    d'^2 = [int |W|^2 T^2 E^2]^2 / int |W|^2 T^2 E^4 N over the plane of frequencies (TG-233), W the disc's transform
    C R J1(2 pi R f) / f, T the TTF, E the eye filter, N the spectrum, up to its highest frequency.

    Args:
        diameter_mm: of the disc.
        contrast_hu: of the disc.
        spectrum: of the noise; below its lowest frequency it is taken as constant.
        transfer: measured at about that contrast; None for an image that blurs nothing.
        eye: False for the observer without an eye filter.

    Raises:
        InputError: the disc has no size, or the noise no power.
    """
    if not diameter_mm > 0:
        raise InputError(f"A disc needs a diameter above 0; got {diameter_mm} mm.")
    nodes, powers = np.asarray(spectrum.frequency, float), np.asarray(spectrum.power, float)
    f = (np.arange(POINTS) + 0.5) * nodes[-1] / POINTS
    signal = contrast_hu * diameter_mm / 2 * special.j1(np.pi * diameter_mm * f) / f
    if transfer is not None:
        signal = signal * np.interp(f, transfer.frequency, transfer.ttf, right=0.0)
    return _ratio(signal**2, np.interp(f, nodes, powers), eye_filter(f) if eye else np.ones_like(f), f)


def npwe_of_response(
    response_hu: np.ndarray, power_2d: np.ndarray, spacing_mm: tuple[float, ...], *, eye: bool = True
) -> float:
    """Return d' of the same observer for a signal as the image shows it, and noise that may differ by direction.

    Args:
        response_hu: (n, n) mean of images with the signal less that of images without it.
        power_2d: (n, n) HU^2 mm^2 on `np.fft.fftfreq` axes, of `noise_spectrum.nps`.
        spacing_mm: (x, y, ...).
        eye: False for the observer without an eye filter.

    Raises:
        InputError: the two are not of one square shape, or the noise has no power.
    """
    if np.ndim(response_hu) != 2 or np.shape(response_hu) != np.shape(power_2d):
        raise InputError(f"Response and spectrum differ in shape: {np.shape(response_hu)} and {np.shape(power_2d)}.")
    n, (dx, dy) = len(response_hu), spacing_mm[:2]
    f = np.hypot(np.fft.fftfreq(n, dy)[:, None], np.fft.fftfreq(n, dx)[None, :])
    power_of_signal = np.abs(np.fft.fft2(response_hu) * dx * dy) ** 2
    cell = np.full_like(f, 1 / (2 * np.pi * n * dx * n * dy))
    return _ratio(power_of_signal, power_2d, eye_filter(f) if eye else np.ones_like(f), cell, step=1.0)


def _ratio(
    signal: np.ndarray, noise: np.ndarray, eye: np.ndarray, area: np.ndarray, step: float | None = None
) -> float:
    """d' of spectra of signal and noise; 2 pi `area` `step` is the part of the plane that each value stands for."""
    step = float(area[1] - area[0]) if step is None else step
    weight = 2 * np.pi * area * step
    seen, disturbed = (weight * signal * eye**2).sum(), (weight * signal * eye**4 * noise).sum()
    if not disturbed > 0:
        raise InputError("The noise has no power where the signal has: its detectability is without limit.")
    return float(seen / np.sqrt(disturbed))


def laguerre_gauss(side_px: int, spacing_mm: tuple[float, ...], width_mm: float, count: int = CHANNELS) -> np.ndarray:
    """Return Laguerre-Gauss channels, for round signals in the middle (Gallas and Barrett, JOSA A 20:1725, 2003).

    sqrt(2) / a exp(-pi r^2 / a^2) L_j(2 pi r^2 / a^2): orthonormal over the plane.

    Args:
        side_px: n of the images (n, n).
        spacing_mm: (x, y, ...).
        width_mm: a; that of the signal, about.
        count: of the channels.

    Returns:
        (count, n, n).
    """
    y, x = (np.indices((side_px, side_px)) - (side_px - 1) / 2) * np.array(spacing_mm[1::-1])[:, None, None]
    q = 2 * np.pi * (x**2 + y**2) / width_mm**2
    shape = np.sqrt(2) / width_mm * np.exp(-q / 2)
    return np.stack([shape * special.eval_laguerre(j, q) for j in range(count)])


def cho(
    present_hu: np.ndarray, absent_hu: np.ndarray, spacing_mm: tuple[float, ...], width_mm: float, count: int = CHANNELS
) -> float:
    """Return d' of the channelised Hotelling observer, from realisations.

    d'^2 = (mean difference of the channels' outputs)' K^-1 (the same), K their covariance, of both sets together. A
    finite number of images makes that too large; the expectation of the excess is taken off (Hotelling's T^2 is an F
    distribution), so d' of a signal that is not there is 0 on average.

    Args:
        present_hu: (N, n, n) images with the signal in the middle.
        absent_hu: (M, n, n) images without.
        spacing_mm: (x, y, ...).
        width_mm: of the channels; the signal's diameter, about.
        count: of the channels.

    Returns:
        d', not below 0.

    Raises:
        InputError: there are too few images for so many channels, or shapes differ.
    """
    n, m = len(present_hu), len(absent_hu)
    freedom = n + m - 2
    if np.shape(present_hu)[1:] != np.shape(absent_hu)[1:] or np.ndim(present_hu) != 3:
        raise InputError(f"Images of one shape are needed; got {np.shape(present_hu)} and {np.shape(absent_hu)}.")
    if min(n, m) < 2 or freedom <= count + 1:
        raise InputError(f"{count} channels need more than {count + 3} images together; got {n} and {m}.")
    channels = laguerre_gauss(np.shape(present_hu)[1], spacing_mm, width_mm, count).reshape(count, -1)
    outputs = [np.asarray(images, float).reshape(len(images), -1) @ channels.T for images in (present_hu, absent_hu)]
    difference = outputs[0].mean(0) - outputs[1].mean(0)
    spread = [v - v.mean(0) for v in outputs]
    covariance = (spread[0].T @ spread[0] + spread[1].T @ spread[1]) / freedom
    squared = float(difference @ np.linalg.solve(covariance, difference))
    unbiased = squared * (freedom - count - 1) / freedom - count * (1 / n + 1 / m)
    return float(np.sqrt(max(unbiased, 0.0)))
