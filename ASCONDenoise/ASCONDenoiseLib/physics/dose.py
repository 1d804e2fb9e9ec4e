"""Low-dose CT from normal-dose CT: projection-domain noise insertion, on torch (CPU or CUDA).

The way of the Mayo data sets (Yu et al., J Comput Assist Tomogr 36:477, 2012): the image is projected, each ray gets
the noise that separates the low from the normal dose, that noise alone is reconstructed and added to the image.
The scan itself tells how much (its photons, from the noise measured in soft tissue) and which texture (its kernel,
from the noise power spectrum), so "quarter dose" means a quarter of this scan's dose.

Coordinates in a slice: x along columns, y along rows, both in mm from the middle of the image. A ray (theta, t) is
the line x cos(theta) + y sin(theta) = t. A fan-beam ray of view beta and fan angle gamma is theta = beta - gamma,
t = D sin(gamma), with D the distance from source to isocentre.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn import functional as F

from ASCONDenoiseLib.imaging import hounsfield
from ASCONDenoiseLib.imaging.image_quality import flat_soft_tissue_windows, window_variance

MU_WATER_PER_MM = 0.0195
"""Linear attenuation of water at 68 keV, the mean energy of a filtered 120 kVp beam."""

BATCH = 8  # slices projected together: the geometry of a view is worked out once for all of them
CALIBRATION_SLICES = 12
CALIBRATION_WINDOWS = 12  # flat soft tissue windows that a slice needs to be measured


class DoseError(ValueError):
    """The dose cannot be simulated with these settings on this image; the text says why and what to do."""


@dataclass(frozen=True)
class Kernel:
    """Reconstruction kernel: the ramp filter times exp(-(f / cutoff)^order), f in cycles per mm at the isocentre."""

    cutoff_per_mm: float
    order: float


KERNELS = {"soft": Kernel(0.36, 1.6), "standard": Kernel(0.52, 2.2), "sharp": Kernel(0.80, 3.0)}


@dataclass(frozen=True)
class DoseSettings:
    """One low-dose scan. Lengths in mm, measured at the isocentre unless said otherwise."""

    dose: float = 0.25  # fraction of the normal dose, 0 < dose <= 1
    geometry: str = "fan"  # or "parallel"
    views: int = 984  # per full turn (fan) or half turn (parallel)
    detector_mm: float = 0.6  # distance of two rays at the isocentre
    source_mm: float = 595.0  # source to isocentre (fan)
    kernel: str | Kernel = "scan"  # "scan" = fitted to the scan's own noise, a name in KERNELS, or a Kernel
    photons: float | None = None  # per ray in air at normal dose, middle of the fan; None = from the scan's own noise
    electronic_noise: float = 0.0  # SD of the detector's own noise per ray, in photons
    bowtie_edge: float = 0.2  # share of the photons that the bow-tie filter lets through at bowtie_mm; 1 = no filter
    bowtie_mm: float = 250.0  # distance from the isocentre where the bow-tie filter is thickest
    tube_current: tuple[float, ...] = (1.0,)  # relative tube current over a full turn, any number of points
    current_modulation: float = 0.0  # photons grow with the view's mean attenuation to this power (0.5 minimises noise)
    seed: int = 0

    def __post_init__(self):
        if not 0 < self.dose <= 1:
            raise DoseError(f"The dose must be above 0 and at most 1 (a fraction of the normal dose); got {self.dose}.")
        if self.geometry not in ("fan", "parallel"):
            raise DoseError(f'The geometry must be "fan" or "parallel"; got "{self.geometry}".')
        if isinstance(self.kernel, str) and self.kernel not in ("scan", *KERNELS):
            raise DoseError(f'Unknown kernel "{self.kernel}"; choose one of: scan, {", ".join(KERNELS)}.')
        if self.photons is not None and not self.photons > 0:
            raise DoseError(f"The number of photons per ray must be above 0; got {self.photons}.")
        if not 0 <= self.electronic_noise < math.inf:
            raise DoseError(f"The electronic noise must be 0 or more photons; got {self.electronic_noise}.")
        if not 0 <= self.current_modulation <= 1:
            raise DoseError(f"The modulation of the tube current must be from 0 to 1; got {self.current_modulation}.")
        if not 0 < self.bowtie_edge <= 1:
            raise DoseError(f"The bow-tie filter's transmission must be above 0 and at most 1; got {self.bowtie_edge}.")
        if min(self.tube_current, default=0) <= 0:
            raise DoseError("The tube current profile needs at least one value, all above 0.")


@dataclass(frozen=True)
class Simulation:
    """A simulated low-dose volume and what it was made with."""

    voxels: np.ndarray  # (S, H, W) HU, the input's dtype
    photons: np.ndarray  # (S,) per ray in air at normal dose
    kernel: Kernel


# --------------------------------------------------------------------------------------------- geometry and projection


@dataclass(frozen=True)
class Scanner:
    """The rays of one slice: angles of the views and places on the detector, for an image of a given extent."""

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
    """The scanner whose rays cover a slice of (rows, columns) with pixels of (x, y) mm, corners included.

    Raises DoseError where the slice reaches the source.
    """
    radius = math.hypot(shape[1] * pixel_mm[0], shape[0] * pixel_mm[1]) / 2 + 2 * settings.detector_mm
    fan = settings.geometry == "fan"
    if fan and radius > 0.95 * settings.source_mm:
        raise DoseError(
            f"The image reaches {radius:.0f} mm from its middle and the source is {settings.source_mm:.0f} mm away; "
            "enlarge source_mm or choose the parallel geometry."
        )
    half_mm = settings.source_mm * math.asin(radius / settings.source_mm) if fan else radius
    detectors = 2 * math.ceil(half_mm / settings.detector_mm) + 1
    return Scanner(fan, settings.source_mm, settings.views, detectors, settings.detector_mm)


def line_integrals(image: torch.Tensor, pixel_mm: tuple[float, float], scanner: Scanner) -> torch.Tensor:
    """Integrals of `image` (B, H, W), per mm, along all rays of `scanner`: (B, V, N), without unit.

    Each ray is sampled every half pixel with bilinear interpolation; outside the image is 0.
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
    """Reconstruct (B, V, N) line integrals to (B, H, W), per mm (Kak & Slaney, chapter 3)."""
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
        share = index - left
        # embedding_bag is a fused gather with weights: both neighbours on the detector, all slices of the batch at once
        image += F.embedding_bag(
            torch.stack((left, left + 1), 1) + view * detectors,
            filtered,
            per_sample_weights=torch.stack(((1 - share) * weight, share * weight), 1),
            mode="sum",
        )
    # of a full turn of fan beams every ray is measured twice; the fan filter's factor 1/2 accounts for it
    turn = 2 * math.pi if scanner.fan else math.pi
    return (image * (turn / views)).T.reshape(b, h, w)


def _filter(sinogram: torch.Tensor, scanner: Scanner, kernel: Kernel) -> torch.Tensor:
    """(B, V, N) line integrals -> filtered projections, same shape."""
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


# -------------------------------------------------------------------------------------------------------------- physics


def attenuation_per_mm(voxels_hu: torch.Tensor) -> torch.Tensor:
    """HU -> linear attenuation per mm; air, padding and anything below -1000 HU attenuate nothing."""
    return (1 + voxels_hu / 1000).clamp(min=0) * MU_WATER_PER_MM


def simulate(
    voxels_hu: np.ndarray,
    spacing_mm: tuple[float, float, float],
    settings: DoseSettings = DoseSettings(),
    *,
    device: str | torch.device = "cpu",
    padding_hu: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Simulation:
    """The same scan at `settings.dose` of its dose.

    Args:
        voxels_hu: (S, H, W) normal-dose image. Padding keeps its value (`hounsfield.padding_mask`).
        spacing_mm: (x, y, z) distance of columns, rows and slices.
        progress: called with (slices done, slices in all).

    Slices get independent noise. The added noise has no mean, and (1/d - 1) times the variance of the normal-dose
    scan; electronic noise adds its (1/d^2 - 1). Raises DoseError where the settings do not fit the image, or where
    the scan has no flat soft tissue to measure its noise in and `photons` is not given.
    """
    photons, kernel = calibrate(voxels_hu, spacing_mm, settings, device=device)
    d = settings.dose
    out = _insert(
        voxels_hu, spacing_mm, settings, photons, kernel, 1 / d - 1, 1 / d**2 - 1, device, padding_hu, progress
    )
    return Simulation(out, photons, kernel)


def noise_factor(dose: float, wanted: float) -> float:
    """Factor on the noise of an LDCT simulated at `dose` that gives it the variance of dose `wanted`.

    Inserted noise has the variance 1 / dose - 1 in units of the NDCT's own.
    """
    return math.sqrt((1 / wanted - 1) / (1 / dose - 1))


def scan(
    voxels_hu: np.ndarray,
    spacing_mm: tuple[float, float, float],
    settings: DoseSettings,
    *,
    device: str | torch.device = "cpu",
) -> np.ndarray:
    """A noise-free phantom (S, H, W) as a scan at normal dose shows it: all the noise of `settings.photons`.

    Raises DoseError where `photons` or the kernel is left to be measured: a phantom has no noise to measure.
    """
    if settings.photons is None or settings.kernel == "scan":
        raise DoseError("A noise-free phantom has no noise to measure; set photons and kernel.")
    photons = np.full(len(voxels_hu), settings.photons)
    return _insert(voxels_hu, spacing_mm, settings, photons, _kernel(settings), 1.0, 1.0, device, None, None)


def _insert(
    voxels_hu, spacing_mm, settings, photons, kernel, quantum, electronic, device, padding_hu, progress
) -> np.ndarray:
    """Add noise of variance quantum / photons + electronic * (SD / photons)^2 per ray, reconstructed with `kernel`."""
    out = np.empty_like(voxels_hu)
    scanner = scanner_for(voxels_hu.shape[1:], spacing_mm[:2], settings)
    for first in range(0, len(voxels_hu), BATCH):
        part = slice(first, min(first + BATCH, len(voxels_hu)))
        image = torch.from_numpy(np.ascontiguousarray(voxels_hu[part], np.float32)).to(device)
        rays = _rays_noise(image, spacing_mm, settings, scanner, photons[part], quantum, electronic, first)
        noise = filtered_back_projection(rays, image.shape[1:], spacing_mm[:2], scanner, kernel)
        noisy = (image + noise * (1000 / MU_WATER_PER_MM)).cpu().numpy()
        out[part] = _like(noisy, voxels_hu[part], padding_hu)
        if progress:
            progress(part.stop, len(voxels_hu))
    return out


def _rays_noise(image, spacing_mm, settings, scanner, photons, quantum, electronic, first_slice) -> torch.Tensor:
    """(B, H, W) HU -> (B, V, N) noise of the line integrals. Each slice has its own seed, whatever the batch."""
    counts = _photons_behind(image, spacing_mm, settings, scanner)
    counts = counts * torch.from_numpy(np.asarray(photons, np.float32)).to(counts)[:, None, None]
    noise = torch.zeros_like(counts)
    for i, count in enumerate(counts):
        random = torch.Generator().manual_seed((settings.seed * 1_000_003 + first_slice + i) % 2**63)
        if quantum > 0:
            # n counts of expectation m stand for -ln(n / m), to first order (m - n) / m: no bias, variance 1 / m,
            # skewed as counts are. The clamp keeps a ray that lets nothing through finite.
            mean = (count / quantum).clamp(min=1).cpu()
            noise[i] += ((mean - torch.poisson(mean, generator=random)) / mean).to(noise)
        if electronic > 0 and settings.electronic_noise > 0:
            sd = settings.electronic_noise * math.sqrt(electronic) / count.clamp(min=1)
            noise[i] += sd * torch.randn(count.shape, generator=random).to(sd)
    return noise


def _photons_behind(image, spacing_mm, settings, scanner) -> torch.Tensor:
    """(B, V, N) share of a ray's photons in air that reach the detector: object, bow-tie filter and tube current."""
    integrals = _smooth_integrals(attenuation_per_mm(image), spacing_mm[:2], scanner)
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


def _smooth_integrals(mu, pixel_mm, scanner) -> torch.Tensor:
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


def _like(noisy: np.ndarray, original: np.ndarray, padding_hu: float | None) -> np.ndarray:
    """Rounded to the dtype of `original`; its padding kept."""
    if np.issubdtype(original.dtype, np.integer):
        limits = np.iinfo(original.dtype)
        noisy = np.rint(noisy).clip(limits.min, limits.max)
    keep = np.stack([hounsfield.padding_mask(image, padding_hu) for image in original])
    return np.where(keep, original, noisy.astype(original.dtype))


# ---------------------------------------------------------------------------------------------------------- calibration


NPS_WINDOW_PX = 16  # small, so that many regions hold no anatomy
CALIBRATION_TISSUE_HU = (-30.0, 130.0)  # soft tissue and water, so that phantoms can be calibrated too


def calibrate(
    voxels_hu: np.ndarray,
    spacing_mm: tuple[float, float, float],
    settings: DoseSettings,
    *,
    device: str | torch.device = "cpu",
) -> tuple[np.ndarray, Kernel]:
    """Photons per ray in air at normal dose, (S,), and the kernel: as set, or as the scan's own noise shows them.

    A reference scan of the same anatomy is simulated; the photons are those that make its noise equal to the scan's,
    in the same flat soft tissue windows. Up to CALIBRATION_SLICES slices are measured, the others interpolated, so a
    tube current that follows the patient along z is found too. Raises DoseError where there is nothing to measure.
    """
    kernel = measure_kernel(voxels_hu, spacing_mm) if settings.kernel == "scan" else _kernel(settings)
    if settings.photons is not None:
        return np.full(len(voxels_hu), float(settings.photons)), kernel
    chosen = np.unique(np.linspace(0, len(voxels_hu) - 1, CALIBRATION_SLICES).round().astype(int))
    part = np.ascontiguousarray(voxels_hu[chosen], np.float32)
    centres = flat_soft_tissue_windows(part, spacing_mm, tissue_hu=CALIBRATION_TISSUE_HU)
    centres = centres[np.bincount(centres[:, 0], minlength=len(part))[centres[:, 0]] >= CALIBRATION_WINDOWS]
    used = np.unique(centres[:, 0])
    measured = _noise_variance(window_variance(part, centres), centres[:, 0], used)
    if not len(used) or not measured.min() > 1e-6:  # HU^2; rounding to whole HU alone makes 0.08
        raise DoseError(
            "The scan's own noise cannot be measured: no noisy, flat soft tissue was found. "
            "Give the number of photons per ray at normal dose (photons)."
        )
    quantum, electronic = _reference_variance(part, spacing_mm, settings, kernel, centres, used, device)
    # measured = quantum / n + electronic / n^2, solved for the photons n
    photons = (quantum + np.sqrt(quantum**2 + 4 * measured * electronic)) / (2 * measured)
    weights = np.bincount(centres[:, 0])[used]
    return _along_z(chosen[used], photons, weights, len(voxels_hu)), kernel


def _noise_variance(variances: np.ndarray, slices: np.ndarray, used: np.ndarray) -> np.ndarray:
    """(2, len(used)) lower quartile and median of the variances of each slice's windows."""
    return np.array([np.quantile(variances[slices == s], (0.25, 0.5)) for s in used]).reshape(-1, 2).T


def _reference_variance(part, spacing_mm, settings, kernel, centres, used, device) -> tuple[np.ndarray, np.ndarray]:
    """As `_noise_variance`, of quantum noise at 1 photon per ray and of electronic noise likewise, simulated."""
    half = replace(settings, views=max(1, settings.views // 2))  # twice the noise per view, the same in the image
    scanner = scanner_for(part.shape[1:], spacing_mm[:2], half)
    repeats = math.ceil(CALIBRATION_SLICES / len(used))
    random = torch.Generator().manual_seed(settings.seed)
    share = scanner.views / settings.views

    def variance(power: float, factor: float) -> np.ndarray:
        jobs = np.repeat(used, repeats)
        windows = []
        for first in range(0, len(jobs), BATCH):
            job = jobs[first : first + BATCH]
            counts = _photons_behind(torch.from_numpy(part[job]).to(device), spacing_mm, half, scanner)
            noise = torch.randn(counts.shape, generator=random).to(counts) * counts**power
            image = filtered_back_projection(noise, part.shape[1:], spacing_mm[:2], scanner, kernel).cpu().numpy()
            for s, n in zip(job, image, strict=True):
                windows.append((s, window_variance(n[None], centres[centres[:, 0] == s] * [0, 1, 1])))
        slices = np.concatenate([np.full(len(v), s) for s, v in windows])
        scale = factor * share * (1000 / MU_WATER_PER_MM) ** 2
        return _noise_variance(np.concatenate([v for _, v in windows]) * scale, slices, used)

    quantum = variance(-0.5, 1.0)
    return quantum, variance(-1.0, settings.electronic_noise**2) if settings.electronic_noise else 0 * quantum


def _along_z(slices: np.ndarray, photons: np.ndarray, weights: np.ndarray, count: int) -> np.ndarray:
    """(2, n) photons by both quantiles of n slices -> (count,): smooth, since one slice alone is measured to some 5 %.

    Anatomy in a window can only add to its variance, so of the two quantiles the one with less noise is taken.
    """
    log = np.log(photons)
    log = log[np.argmax(log @ weights)]
    distance = slices[:, None] - slices[None, :]
    reach = max(1.0, count / CALIBRATION_SLICES)
    share = np.exp(-0.5 * (distance / reach) ** 2) * weights
    smooth = (share @ log) / share.sum(1)
    return np.exp(np.interp(np.arange(count), slices, smooth))


def _kernel(settings: DoseSettings) -> Kernel:
    return settings.kernel if isinstance(settings.kernel, Kernel) else KERNELS[settings.kernel]


def measure_kernel(voxels_hu: np.ndarray, spacing_mm: tuple[float, float, float]) -> Kernel:
    """The kernel whose noise power spectrum, f * exp(-2 (f / cutoff)^order), fits that of flat soft tissue best.

    White noise through the ramp and a filter H has the power f * H^2. Where there is too little flat soft tissue for a
    spectrum, the kernel is "standard".
    """
    from scipy.optimize import curve_fit

    side, pixel_mm = NPS_WINDOW_PX, max(spacing_mm[:2])
    power = _noise_power(voxels_hu, spacing_mm, side)
    if power is None or not power.max() > 0:
        return KERNELS["standard"]
    fine = 4 * side  # the expected periodogram of a tapered region is the spectrum smeared by the taper's own
    fy, fx = _frequencies(fine, spacing_mm)
    turns = (-1, 0, 1)  # frequencies beyond the pixels' own fold back into the spectrum
    folded = [np.hypot(fy + i / spacing_mm[1], fx + j / spacing_mm[0]) for i in turns for j in turns]
    taper = np.fft.fft2(_taper(side), (fine, fine))
    overlap = np.fft.ifft2(np.abs(taper) ** 2).real

    def expected(kernel: Kernel) -> np.ndarray:
        power = sum(f * np.exp(-2 * (f / kernel.cutoff_per_mm) ** kernel.order) for f in folded)
        return np.fft.fft2(np.fft.ifft2(power).real * overlap).real[::4, ::4]

    radius = np.hypot(*_frequencies(side, spacing_mm))
    # anatomy hides in the lowest frequencies
    use = (radius > max(0.15, 2.5 / (side * pixel_mm))) & (radius < 0.5 / pixel_mm)

    def model(_, height, cutoff, order):
        return height * expected(Kernel(cutoff, order))[use]

    scale = power[use].max() / expected(KERNELS["standard"])[use].max()
    try:
        bounds = ((0, 0.15, 1), (np.inf, 3, 8))
        (_, cutoff, order), _ = curve_fit(model, radius[use], power[use] / scale, p0=(1, 0.5, 2), bounds=bounds)
    except RuntimeError:  # no convergence
        return KERNELS["standard"]
    return Kernel(float(cutoff), float(order))


def _frequencies(side: int, spacing_mm) -> list[np.ndarray]:
    """Frequencies along y and x, cycles per mm, of a (side, side) spectrum."""
    return np.meshgrid(np.fft.fftfreq(side, spacing_mm[1]), np.fft.fftfreq(side, spacing_mm[0]), indexing="ij")


def _taper(side: int) -> np.ndarray:
    hann = np.hanning(side + 2)[1:-1]
    return np.outer(hann, hann)


def _noise_power(voxels_hu, spacing_mm, side: int) -> np.ndarray | None:
    """(side, side) lower quartile of the tapered periodograms of flat soft tissue; None where there is too little."""
    chosen = np.unique(np.linspace(0, len(voxels_hu) - 1, 2 * CALIBRATION_SLICES).round().astype(int))
    part = np.asarray(voxels_hu[chosen], np.float32)
    centres = flat_soft_tissue_windows(part, spacing_mm, window_px=side, tissue_hu=CALIBRATION_TISSUE_HU)
    if len(centres) < 12:
        return None
    taper = _taper(side)
    periodograms = []
    for s, row, column in centres:
        top, left = row - side // 2, column - side // 2
        region = part[s, top : top + side, left : left + side]
        mean = (region * taper).sum() / taper.sum()
        periodograms.append(np.abs(np.fft.fft2((region - mean) * taper)) ** 2)
    # the lower quartile forgives regions with anatomy in them; all frequencies share its factor to the mean
    return np.quantile(periodograms, 0.25, axis=0)
