"""Crops as other reconstructions show them: pixels, kernels, noise and doses that come out are those asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from training_fixtures import LIMITS

from ASCONDenoiseLib.physics.settings import Kernel
from ASCONTrainingLib.data import reconstruction
from ASCONTrainingLib.data.background import background_cells
from ASCONTrainingLib.data.reconstruction import Reconstructions, measured_kernel
from ASCONTrainingLib.data.set_index import Index, PreparedVolume, write_index
from ASCONTrainingLib.data.training_set import TrainingSet

PIXEL_MM, DOSE = 0.7, 0.25
OWN = Kernel(0.52, 2.2)
"""Of the scan."""
ORDER = 2.0
"""Of the kernels that are drawn in these tests."""


def spectrum(cutoff_px: float, order: float, side: int, ends: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies, cycles per pixel, and the power of a reconstruction's noise there, f exp(-2 (f / cutoff)^order).

    Along rows and columns it ends where the pixels of the scan end.
    """
    axis = np.abs(np.fft.fftfreq(side))
    radius = np.hypot(axis[:, None], axis)
    return radius, radius * np.exp(-2 * (radius / cutoff_px) ** order) * (np.maximum(axis[:, None], axis) <= ends)


def mean_frequency(radius: np.ndarray, power: np.ndarray) -> float:
    inside = (radius > 0.03) & (radius < 0.5)
    return (radius * power)[inside].sum() / power[inside].sum()


def measured_frequency(noise: np.ndarray) -> float:
    """Mean frequency of (N, h, h) noise."""
    side = noise.shape[-1]
    taper = np.outer(np.hanning(side + 2)[1:-1], np.hanning(side + 2)[1:-1])
    power = (np.abs(np.fft.fft2((noise - noise.mean()) * taper)) ** 2).mean(0)
    return mean_frequency(spectrum(1.0, 1.0, side)[0], power)


def some_noise(random: np.random.Generator, shape: tuple[int, int, int], kernel: Kernel = OWN) -> np.ndarray:
    """Noise of SD 1 with the spectrum of a kernel, on a torus."""
    power = spectrum(kernel.cutoff_per_mm * PIXEL_MM, kernel.order, shape[1])[1]
    noise = np.fft.ifft2(np.fft.fft2(random.normal(size=shape)) * np.sqrt(power)).real
    return noise / noise.std()


@pytest.fixture(scope="module")
def a_water_set(tmp_path_factory):
    """12 slices of 256x256 of 40 HU, whose NDCT has noise of 10 HU, and the LDCT as much as a quarter of the dose."""
    folder = tmp_path_factory.mktemp("water")
    random = np.random.default_rng(5)
    ndct = np.rint(40 + 10 * some_noise(random, (12, 256, 256))).astype(np.int16)
    ldct = ndct + np.rint(10 * np.sqrt(3) * some_noise(random, ndct.shape)).astype(np.int16)
    for what, array in (("ndct", ndct), ("ldct", ldct), ("background", background_cells(ndct))):
        np.save(folder / f"water.{what}.npy", array)
    volume = PreparedVolume("water", "P", "train", ndct.shape, (PIXEL_MM, PIXEL_MM, 2.0), DOSE, "water.nrrd")
    write_index(Index("simulate", {}, LIMITS, 1, (volume,)), folder)
    return folder


@pytest.fixture
def one_order(monkeypatch):
    monkeypatch.setattr(reconstruction, "ORDERS", (ORDER, ORDER))


def crops(folder, count=48, **settings) -> tuple[np.ndarray, np.ndarray]:
    """NDCT and noise of many crops, HU, (N, h, h) each."""
    items = TrainingSet(folder, patch=64, augment=False, clip=False, **settings)
    pairs = [items[int(i)] for i in np.linspace(0, len(items) - 1, count)]
    ldct, ndct = (3000 * torch.cat(images).double().numpy() - 1000 for images in zip(*pairs, strict=True))
    return ndct, ldct - ndct


@pytest.mark.parametrize("kernel", [Kernel(0.36, 1.6), OWN, Kernel(0.80, 3.0)])
def test_the_kernel_of_a_pair_is_read_from_its_noise(kernel):
    random = np.random.default_rng(3)
    anatomy = 50 + np.cumsum(random.normal(0, 10, (6, 256, 256)), axis=2)
    # twice as fine, of which every second pixel is taken: what is too fine for the pixels folds back
    fine = Kernel(kernel.cutoff_per_mm / 2, kernel.order)
    noise = 20 * some_noise(random, (6, 512, 512), fine)[:, ::2, ::2]
    found = measured_kernel(anatomy, anatomy + noise, PIXEL_MM)
    # at the highest frequency that pixels have, and at half of it, it lets through as much
    for frequency in (0.25 / PIXEL_MM, 0.5 / PIXEL_MM):
        through = [np.exp(-((frequency / k.cutoff_per_mm) ** k.order)) for k in (found, kernel)]
        assert through[0] == pytest.approx(through[1], abs=0.05)


def test_without_noise_to_measure_the_kernel_is_the_standard_one():
    still = np.zeros((2, 64, 64), np.int16)
    assert measured_kernel(still, still, PIXEL_MM) == reconstruction.KERNELS[reconstruction.STANDARD_KERNEL]


@pytest.mark.parametrize("pixel_mm", [0.45, 0.7, 1.0])
@pytest.mark.parametrize("cutoff", [0.2, 0.4, 0.8])
def test_noise_has_the_mean_frequency_of_the_kernel_and_pixel_asked_for(a_water_set, one_order, pixel_mm, cutoff):
    ndct, noise = crops(a_water_set, reconstructions=Reconstructions((pixel_mm, pixel_mm), (cutoff, cutoff)))
    step = pixel_mm / PIXEL_MM
    ends = min(0.5, 0.5 * step)  # where the scan's pixels end
    wanted = mean_frequency(*spectrum(min(cutoff, ends) if step < 1 else cutoff, ORDER, 64, ends))
    for images in (noise, ndct):  # both have it: they stay of one reconstruction
        assert measured_frequency(images) == pytest.approx(wanted, rel=0.05)
    assert ndct.mean() == pytest.approx(40, abs=0.2) and noise.mean() == pytest.approx(0, abs=0.3)
    assert noise.std() / ndct.std() == pytest.approx(np.sqrt(1 / DOSE - 1), rel=0.05)  # and of one dose


@pytest.mark.parametrize("cutoff", [0.25, 0.5])
def test_noise_has_the_sd_that_the_kernels_say(a_water_set, one_order, cutoff):
    _, noise = crops(a_water_set, reconstructions=Reconstructions(None, (cutoff, cutoff)))
    powers = [spectrum(cutoff, ORDER, 64)[1].sum(), spectrum(OWN.cutoff_per_mm * PIXEL_MM, OWN.order, 64)[1].sum()]
    assert noise.std() == pytest.approx(10 * np.sqrt(3) * np.sqrt(powers[0] / powers[1]), rel=0.06)


@pytest.mark.parametrize("pixel_mm", [0.4, 0.5, 0.9, 1.0])
def test_anatomy_has_its_size_in_the_new_pixels(pixel_mm):
    """A blurred disc of 20 mm stays one of 20 mm, at its place."""
    rows, columns = np.mgrid[:256, :256] * PIXEL_MM
    disc = 100 / (1 + np.exp((np.hypot(rows - 90, columns - 80) - 10) / 0.7))
    plan = Reconstructions((pixel_mm, pixel_mm)).draw(64, 256, PIXEL_MM, None, np.random.default_rng(0))
    step = plan.source_side / plan.side
    assert step * PIXEL_MM == pytest.approx(pixel_mm, rel=0.01)
    top, left = 72, 58
    square = slice(top, top + plan.source_side), slice(left, left + plan.source_side)
    found, noise = plan.of(disc[square].astype(np.float32), np.zeros((plan.source_side,) * 2, np.float32))
    assert found.shape == (64, 64) and not noise.any()
    at = (np.arange(64) + plan.margin + 0.5) * step - 0.5  # in pixels of the scan
    y, x = np.meshgrid((top + at) * PIXEL_MM, (left + at) * PIXEL_MM, indexing="ij")
    assert np.allclose(found, 100 / (1 + np.exp((np.hypot(y - 90, x - 80) - 10) / 0.7)), atol=1.0)


def test_pixels_and_kernels_cover_their_ranges_evenly():
    random, pixels, cutoffs = np.random.default_rng(1), [], []
    for _ in range(400):
        plan = Reconstructions((0.4, 1.0), (0.2, 0.8)).draw(64, 512, 0.4, Kernel(9.0, 2.0), random)
        pixels.append(0.4 * plan.source_side / plan.side)
        cutoffs.append(np.interp(1, -np.log(plan.response[0]), np.arange(len(plan.response)) / (2 * plan.side)))
    assert 0.395 < min(pixels) < 0.41 and 0.97 < max(pixels) < 1.005
    assert np.median(pixels) == pytest.approx(np.sqrt(0.4), rel=0.08)
    assert 0.195 < min(cutoffs) < 0.22 and np.median(cutoffs) == pytest.approx(0.4, rel=0.1)


def test_slices_too_small_for_large_pixels_get_smaller_ones():
    plan = Reconstructions((1.0, 1.0)).draw(64, 100, 0.5, None, np.random.default_rng(0))
    assert (plan.source_side, plan.side, plan.margin) == (100, 64, 0)


def test_a_filter_on_the_noise_alone_leaves_the_ndct_and_the_sd(a_water_set, one_order):
    plain = crops(a_water_set, reconstructions=Reconstructions((PIXEL_MM, PIXEL_MM)))
    ndct, noise = crops(a_water_set, reconstructions=Reconstructions((PIXEL_MM, PIXEL_MM), None, (0.2, 0.2)))
    assert np.allclose(ndct, plain[0], atol=1e-3)
    assert noise.std() == pytest.approx(plain[1].std(), rel=0.05)
    assert measured_frequency(noise) < 0.75 * measured_frequency(plain[1])


def test_doses_reach_from_the_lowest_to_the_ndct_itself(a_water_set):
    ndct, noise = crops(a_water_set, 600, doses=(0.05, 1.0), max_background=1.1)
    doses = 1 / (1 + (noise.std((1, 2)) / 10) ** 2)
    assert 0.04 < doses.min() < 0.06 and 0.9 < doses.max() <= 1
    assert np.median(doses) == pytest.approx(np.sqrt(0.05), rel=0.2)
    assert np.array_equal(*(crops(a_water_set, 5, doses=(0.9999999, 1.0))[0], crops(a_water_set, 5)[0]))


def test_noise_stays_between_its_bounds_as_far_as_doses_go(a_water_set):
    ndct, noise = crops(a_water_set, 300, doses=(0.05, 1.0), noise_hu=(15, 30))
    sd = np.sqrt(10**2 + noise.var((1, 2)))
    assert 14 < sd.min() < 16.5 and 28 < sd.max() < 31
    sd = np.sqrt(10**2 + crops(a_water_set, 30, doses=(0.5, 1.0), noise_hu=(60, 80))[1].var((1, 2)))
    assert sd == pytest.approx(10 / np.sqrt(0.5), rel=0.1)  # the nearest that there is
    assert not crops(a_water_set, 30, doses=(0.5, 1.0), noise_hu=(1, 5))[1].any()


def test_crops_are_a_pure_function_of_seed_epoch_turn_and_index(a_water_set):
    settings = {
        "patch": 64,
        "doses": (0.05, 1.0),
        "noise_hu": (2.0, 80.0),
        "lesions": 3.0,
        "reconstructions": Reconstructions((0.4, 1.0), (0.2, 0.8), (0.2, 0.8)),
    }
    keys = [(epoch, turn, index) for epoch in range(2) for turn in range(2) for index in (0, 7, 400)]
    first, again = (TrainingSet(a_water_set, **settings, seed=7) for _ in range(2))
    forwards = {key: first[key] for key in keys}
    backwards = {key: again[key] for key in reversed(keys)}
    assert all(torch.equal(a, b) for key in keys for a, b in zip(forwards[key], backwards[key], strict=True))
    other = TrainingSet(a_water_set, **settings, seed=8)
    for different in (other[0, 0, 7], first[1, 0, 7], first[0, 1, 7]):
        assert not torch.equal(different[0], forwards[0, 0, 7][0])


@pytest.mark.parametrize(("body", "reach"), [(40, 8), (-700, 0)], ids=["body", "lung"])
def test_padding_becomes_air_and_the_body_that_it_cuts_goes_on(a_water_set, tmp_path, body, reach):
    """As inference shows it: mirrored at the border for a few pixels."""
    for path in a_water_set.iterdir():
        array = np.load(path) if path.suffix == ".npy" else None
        if array is not None and "dct" in path.name:
            array = array + np.int16(body - 40)
            array[:, :, :128] = -3024
            np.save(tmp_path / path.name, array)
        else:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    items = TrainingSet(
        tmp_path, patch=64, augment=False, clip=False, reconstructions=Reconstructions((PIXEL_MM, PIXEL_MM))
    )
    index = int(np.flatnonzero((items.table[:, 2] == 64) & (items.table[:, 3] == 96))[0])
    ldct, ndct = (3000 * image[0].double().numpy() - 1000 for image in items[index])
    border = 128 - 96
    for image in (ldct, ndct):
        outside, inside = image[:, :border][:, ::-1], image[:, border:]
        assert np.allclose(outside[:, :reach], inside[:, :reach], atol=0.05)
        assert np.allclose(outside[:, reach:], -1000, atol=0.05)
    assert (ldct - ndct)[:, border:].std() == pytest.approx(10 * np.sqrt(3), rel=0.1)
