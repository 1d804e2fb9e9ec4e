"""The scanner: its rays through a slice, the photons behind the patient, and the reconstruction of a slice.

Coordinates in a slice: x along columns, y along rows, both in mm from the middle of the image. A ray (theta, t) is
the line x cos(theta) + y sin(theta) = t. A fan-beam ray of view beta and fan angle gamma is theta = beta - gamma,
t = D sin(gamma), with D the distance from source to isocentre.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn import functional as F

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.physics.settings import DoseSettings, Kernel

MU_WATER_PER_MM = 0.0195
"""Linear attenuation of water at 68 keV, the mean energy of a filtered 120 kVp beam."""
HU_PER_ATTENUATION = 1000 / MU_WATER_PER_MM

PIXELS_MM = (0.02, 20.0)
"""Smallest and largest pixel that a slice of a CT may have; detectors are 0.6 mm apart."""

SLICES_AT_ONCE = 8
"""Slices projected together: the geometry of a view is worked out once for all of them."""


@dataclass(frozen=True)
class Scanner:
    """The rays of one slice: angles of the views and places on the detector, for an image of a given extent.

    Attributes:
        fan: whether the beam is a fan; else its rays are parallel.
        source_mm: distance from the source to the isocentre (fan).
        views: per full turn (fan) or half turn (parallel).
        detectors: rays of a view.
        detector_mm: distance of two rays at the isocentre.
    """

    fan: bool
    source_mm: float
    views: int
    detectors: int
    detector_mm: float

    @property
    def angles(self) -> torch.Tensor:
        """(V,) radians: beta over a full turn (fan) or theta over a half turn (parallel)."""
        turn = 2 * math.pi if self.fan else math.pi
        return torch.arange(self.views, dtype=torch.float64) * (turn / self.views)

    @property
    def places_mm(self) -> torch.Tensor:
        """(N,) place of each detector: t (parallel), or the arc gamma * D (fan), in mm at the isocentre."""
        return (torch.arange(self.detectors, dtype=torch.float64) - (self.detectors - 1) / 2) * self.detector_mm

    def rays(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(V, N) theta in radians and (V, N) t in mm of all rays."""
        beta, place = self.angles[:, None], self.places_mm[None, :]
        if not self.fan:
            return beta.expand(-1, self.detectors), place.expand(self.views, -1)
        gamma = place / self.source_mm
        return beta - gamma, (self.source_mm * torch.sin(gamma)).expand(self.views, -1)


def scanner_for(shape: tuple[int, int], pixel_mm: tuple[float, float], settings: DoseSettings) -> Scanner:
    """Return the scanner whose rays cover a slice, corners included.

    Args:
        shape: rows and columns of the slice.
        pixel_mm: (x, y) size of a pixel.
        settings: geometry, views, distances of source and rays.

    Raises:
        InputError: the pixels are not those of a CT, or the slice reaches the source.
    """
    least, most = PIXELS_MM
    if not least <= min(pixel_mm) <= max(pixel_mm) <= most:
        x, y = (f"{mm:g}" for mm in pixel_mm)
        raise InputError(
            f"The pixels are {x} x {y} mm: only CT slices with pixels of {least:g} to {most:g} mm are scanned."
        )
    radius = math.hypot(shape[1] * pixel_mm[0], shape[0] * pixel_mm[1]) / 2 + 2 * settings.detector_mm
    fan = settings.geometry == "fan"
    if radius > 0.95 * settings.source_mm:
        reach = f"The image reaches {radius:.0f} mm from its middle and the source is {settings.source_mm:.0f} mm away"
        if fan:
            raise InputError(f"{reach}; enlarge source_mm or choose the parallel geometry.")
        if radius > 2 * settings.source_mm:
            raise InputError(f"{reach}: no slice of a CT is as large. Check the size of its pixels.")
    half_mm = settings.source_mm * math.asin(radius / settings.source_mm) if fan else radius
    detectors = 2 * math.ceil(half_mm / settings.detector_mm) + 1
    return Scanner(fan, settings.source_mm, settings.views, detectors, settings.detector_mm)


def line_integrals(image: torch.Tensor, pixel_mm: tuple[float, float], scanner: Scanner) -> torch.Tensor:
    """Integrate along all rays, which are sampled every half pixel with bilinear interpolation.

    Args:
        image: (B, H, W) attenuation per mm; 0 outside.
        pixel_mm: (x, y) size of a pixel.
        scanner: the rays.

    Returns:
        (B, V, N), without unit.
    """
    b, h, w = image.shape
    device = image.device
    step = min(pixel_mm) / 2
    reach = math.hypot(w * pixel_mm[0], h * pixel_mm[1]) / 2
    along = torch.arange(-reach, reach + step, step, device=device)
    thetas, places = (r.to(device, torch.float32) for r in scanner.rays())
    integrals = torch.empty(b, scanner.views, scanner.detectors, device=device)
    for view in range(scanner.views):
        cos, sin = torch.cos(thetas[view])[:, None], torch.sin(thetas[view])[:, None]
        t = places[view][:, None]
        x = (t * cos - along * sin) * (2 / (w * pixel_mm[0]))  # -1 and 1 are the image's outer edges
        y = (t * sin + along * cos) * (2 / (h * pixel_mm[1]))
        samples = F.grid_sample(image[None], torch.stack((x, y), -1)[None], align_corners=False)  # (1, B, N, steps)
        integrals[:, view] = samples[0].sum(-1) * step
    return integrals


def filtered_back_projection(
    sinogram: torch.Tensor, shape: tuple[int, int], pixel_mm: tuple[float, float], scanner: Scanner, kernel: Kernel
) -> torch.Tensor:
    """Reconstruct line integrals (Kak & Slaney, chapter 3).

    Args:
        sinogram: (B, V, N) line integrals.
        shape: rows and columns of the image.
        pixel_mm: (x, y) size of a pixel.
        scanner: the rays.
        kernel: the filter's.

    Returns:
        (B, H, W) attenuation per mm.
    """
    b, views, detectors = sinogram.shape
    device = sinogram.device
    filtered = _filter(sinogram, scanner, kernel).permute(1, 2, 0).reshape(views * detectors, b).contiguous()
    h, w = shape
    x = ((torch.arange(w, device=device) - (w - 1) / 2) * pixel_mm[0]).repeat(h)  # (H*W,)
    y = ((torch.arange(h, device=device) - (h - 1) / 2) * pixel_mm[1]).repeat_interleave(w)
    image = torch.zeros(h * w, b, device=device)
    angles = scanner.angles.to(device, torch.float32)
    for view in range(views):
        cos, sin = torch.cos(angles[view]), torch.sin(angles[view])
        across = x * cos + y * sin
        if scanner.fan:
            depth = scanner.source_mm + y * cos - x * sin
            place = scanner.source_mm * torch.atan2(across, depth)
            weight = 1 / (depth**2 + across**2)  # 1 / L^2
        else:
            place, weight = across, torch.ones_like(across)
        index = (place / scanner.detector_mm + (detectors - 1) / 2).clamp(0, detectors - 1.001)
        left = index.long()
        right = index - left  # weight of the right neighbour
        # embedding_bag is a fused gather with weights: both neighbours on the detector, all slices of the batch at once
        image += F.embedding_bag(
            torch.stack((left, left + 1), 1) + view * detectors,
            filtered,
            per_sample_weights=torch.stack(((1 - right) * weight, right * weight), 1),
            mode="sum",
        )
    # of a full turn of fan beams every ray is measured twice; the fan filter's factor 1/2 accounts for it
    turn = 2 * math.pi if scanner.fan else math.pi
    return (image * (turn / views)).T.reshape(b, h, w)


def _filter(sinogram: torch.Tensor, scanner: Scanner, kernel: Kernel) -> torch.Tensor:
    """Filter line integrals (B, V, N) along the detector."""
    n, step = scanner.detectors, scanner.detector_mm
    size = 2 ** math.ceil(math.log2(2 * n))
    lag = torch.arange(size, dtype=torch.float64)
    lag = torch.minimum(lag, size - lag)
    # band-limited ramp in space (Kak & Slaney, eq. 61), free of the offset that a ramp sampled in frequency has
    ramp = torch.where(lag % 2 == 1, -1 / (math.pi * lag.clamp(min=1) * step) ** 2, torch.zeros(()).double())
    ramp[0] = 1 / (4 * step**2)
    frequency = torch.fft.rfftfreq(size, step, dtype=torch.float64)
    response = torch.exp(-((frequency / kernel.cutoff_per_mm) ** kernel.order))
    response = response / torch.sinc(frequency * step) ** 2  # what linear interpolation will take away
    spectrum = torch.fft.rfft(ramp).real * response * step
    if scanner.fan:
        space = torch.fft.irfft(spectrum, size)
        gamma = (lag * step / scanner.source_mm).clamp(max=math.pi / 2)
        spectrum = torch.fft.rfft(space / torch.sinc(gamma / math.pi) ** 2 / 2).real
        place = scanner.places_mm / scanner.source_mm
        # dgamma = dt / D and h(gamma) = D^2 h(t): together with the weight D cos(gamma) this makes D^2 cos(gamma)
        sinogram = sinogram * (torch.cos(place) * scanner.source_mm**2).to(sinogram)
    return torch.fft.irfft(torch.fft.rfft(sinogram, size) * spectrum.to(sinogram), size)[..., :n]


def attenuation_per_mm(voxels_hu: torch.Tensor) -> torch.Tensor:
    """Turn HU into linear attenuation per mm; air, padding and anything below -1000 HU attenuate nothing."""
    return (1 + voxels_hu / 1000).clamp(min=0) * MU_WATER_PER_MM


def photons_behind(
    image_hu: torch.Tensor, pixel_mm: tuple[float, float], settings: DoseSettings, scanner: Scanner
) -> torch.Tensor:
    """Return the fraction of a ray's photons in air that reach the detector: (B, H, W) HU -> (B, V, N).

    Args:
        image_hu: (B, H, W) what lies between source and detector.
        pixel_mm: (x, y) size of a pixel.
        settings: bow-tie filter and tube current.
        scanner: the rays.
    """
    integrals = _smooth_integrals(attenuation_per_mm(image_hu), pixel_mm, scanner)
    if settings.current_modulation > 0:
        height = integrals.amax(-1, keepdim=True) * settings.current_modulation
        integrals = integrals - (height - torch.logsumexp(height, 1, keepdim=True) + math.log(scanner.views))
    angles, places = (r.to(integrals.device, torch.float32) for r in scanner.rays())
    across = (places / settings.bowtie_mm).clamp(-1, 1)
    bowtie = settings.bowtie_edge ** (1 - torch.sqrt(1 - across**2))
    turn = np.linspace(0, 2 * math.pi, len(settings.tube_current) + 1)
    profile = (*settings.tube_current, settings.tube_current[0])
    current = torch.from_numpy(np.interp(scanner.angles.numpy(), turn, profile)).to(integrals)
    return torch.exp(-integrals) * bowtie * (current / current.mean())[:, None]


def _smooth_integrals(mu: torch.Tensor, pixel_mm: tuple[float, float], scanner: Scanner) -> torch.Tensor:
    """`line_integrals` on a coarse grid, interpolated to all rays: noise depends on them only through their size."""
    h, w = mu.shape[1:]
    coarse_shape = tuple(max(1, round(side * mm / max(mm, 1.5))) for side, mm in ((h, pixel_mm[1]), (w, pixel_mm[0])))
    coarse_mu = F.interpolate(mu[:, None], size=coarse_shape, mode="area")[:, 0]
    coarse_pixel_mm = (pixel_mm[0] * w / coarse_shape[1], pixel_mm[1] * h / coarse_shape[0])
    detectors = max(2, math.ceil(scanner.detectors * scanner.detector_mm / 2))
    detector_mm = scanner.detector_mm * (scanner.detectors - 1) / (detectors - 1)
    views = max(4, scanner.views // 5)
    coarse = replace(scanner, views=views, detectors=detectors, detector_mm=detector_mm)
    rays = line_integrals(coarse_mu, coarse_pixel_mm, coarse)
    # the view after the last is the first again: mirrored after the half turn of parallel rays
    after = rays[:, :1] if scanner.fan else rays[:, :1].flip(-1)
    rays = torch.cat((rays, after), 1)[:, None]
    size = (scanner.views + 1, scanner.detectors)
    return F.interpolate(rays, size=size, mode="bilinear", align_corners=True)[:, 0, :-1]
