"""The road from a volume in HU to a denoised volume in HU, with networks whose output is known by heart."""

from __future__ import annotations

import math
import threading
import time

import numpy as np
import pytest
import torch
from model_fixtures import PointNetwork, a_noisy_volume, adds, cuda_error
from noise_fixtures import noise
from torch import nn

from ASCONDenoiseLib.errors import Cancelled, Failure
from ASCONDenoiseLib.imaging.output_rule import blend
from ASCONDenoiseLib.models import inference
from ASCONDenoiseLib.models.files import find_model, load_network
from ASCONDenoiseLib.models.inference import denoise
from ASCONDenoiseLib.models.networks.esau_net import ESAUNet
from ASCONDenoiseLib.physics.phantoms import abdomen

ODD_SHAPES = [(1, 1, 1), (2, 7, 5), (3, 13, 9), (1, 1, 20), (2, 3, 17), (1, 16, 24)]


# ---- HU are sacred


@pytest.mark.parametrize("shape", [(65536, 1, 1), (1873, 7, 5), (561, 13, 9), (4, 128, 128)])
def test_an_identity_network_returns_every_int16_value(shape):
    volume = np.resize(np.arange(-32768, 32768).astype(np.int16), shape)  # the last values come round again
    assert len(np.unique(volume)) == 65536
    result = denoise(volume, PointNetwork(), batch=1024)
    assert result.voxels.dtype == np.int16
    np.testing.assert_array_equal(result.voxels, volume)


@pytest.mark.parametrize("shape", ODD_SHAPES)
@pytest.mark.parametrize("dtype", ["int16", "uint16", "int32", "float32", "float64", ">i2", ">f4"])
@pytest.mark.parametrize("strength", [1.0, 0.3])
def test_an_identity_network_returns_its_input_exactly(shape, dtype, strength):
    volume = a_noisy_volume(shape, dtype)
    before = volume.copy()
    result = denoise(volume, PointNetwork(), strength=strength)
    assert result.voxels.dtype == volume.dtype
    np.testing.assert_array_equal(result.voxels, before)
    np.testing.assert_array_equal(volume, before)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "uint32"])
def test_values_far_outside_are_kept_to_the_last_bit(dtype):
    limits = np.finfo(dtype) if dtype.startswith("f") else np.iinfo(dtype)
    volume = np.array([[[limits.max, 2**24 + 1, 2**31 - 1, limits.min or 2**30 + 1, 100]]], dtype)
    result = denoise(volume, adds(5)).voxels
    np.testing.assert_array_equal(result[..., :4], volume[..., :4])
    assert result[0, 0, 4] == pytest.approx(105, abs=1e-3)


def test_the_network_sees_the_clipped_window_in_unit_range():
    network = PointNetwork()
    denoise(np.array([[[-3024, -1024, -1001, -1000, 500, 2000, 2001, 3071]]], np.int16), network)
    seen = network.inputs[0][0, 0, 0].tolist()
    assert seen == [0, 0, 0, 0, 0.5, 1, 1, 1]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (-3024, -3024),  # padding
        (-1025, -1025),
        (-1024, -1024),
        (-1023, -1013),  # noisy air: clipped for the network, and treated like the rest
        (-1010, -1000),
        (-1000, -990),
        (0, 10),
        (777, 777),  # this scan's padding value
        (778, 788),
        (1995, 2005),  # nothing is cut off
        (1999, 2009),
        (2000, 2000),  # metal
        (2001, 2001),
        (32767, 32767),
    ],
)
def test_the_output_rule(before, after):
    volume = np.full((1, 2, 3), before, np.int16)
    np.testing.assert_array_equal(denoise(volume, adds(10), padding_hu=777).voxels, after)


def test_the_difference_is_that_to_the_clipped_value():
    """x + s (G(c) - c) with G(c) = 0.5 everywhere, that is 500 HU; not x + s (G(c) - x)."""
    volume = np.array([[[-1020.0, -1000.0, 0.0, 400.0]]])
    flat = PointNetwork(lambda x: torch.full_like(x, 0.5))
    np.testing.assert_allclose(denoise(volume, flat).voxels[0, 0], [480, 500, 500, 500], atol=1e-4)
    half = denoise(volume, flat, strength=0.5).voxels[0, 0]
    np.testing.assert_allclose(half, [-1020 + 750, -1000 + 750, 250, 450], atol=1e-4)


@pytest.mark.parametrize("padding_hu", [None, 0.0, -0.5])
def test_padding_in_floating_point(padding_hu):
    volume = np.array([[[0.0, -0.5, 3.25]]], np.float32)
    expected = np.where(volume == padding_hu, volume, volume + 7)
    np.testing.assert_allclose(denoise(volume, adds(7), padding_hu=padding_hu).voxels, expected, atol=1e-3)


@pytest.mark.parametrize(
    ("added_hu", "strength", "expected"),
    [(0.4, 1, 0), (0.6, 1, 1), (-0.4, 1, 0), (-0.6, 1, -1), (10, 0.26, 3), (10, 0.24, 2), (-10, 0.26, -3), (1, 0.4, 0)],
)
@pytest.mark.parametrize("start", [-900, -7, 0, 8, 1500])
def test_integers_are_rounded_to_nearest(added_hu, strength, expected, start):
    volume = np.full((1, 3, 3), start, np.int16)
    np.testing.assert_array_equal(denoise(volume, adds(added_hu), strength=strength).voxels, start + expected)


def test_integers_stay_in_their_range():
    assert denoise(np.full((1, 1, 1), 3, np.uint16), adds(-10)).voxels.item() == 0
    assert denoise(np.full((1, 1, 1), 120, np.int8), adds(20)).voxels.item() == 127


@pytest.mark.parametrize("dtype", ["int16", "float32", "float64"])
def test_against_a_naive_loop(dtype):
    volume = a_noisy_volume((3, 13, 9), dtype)
    result = denoise(volume, PointNetwork(lambda x: 0.9 * x * x), strength=0.7, padding_hu=40).voxels
    for index in np.ndindex(volume.shape):
        x = float(volume[index])
        c = (min(max(x, -1000), 2000) + 1000) / 3000
        y = x if x <= -1024 or x >= 2000 or x == 40 else x + 0.7 * 3000 * (0.9 * c * c - c)
        if dtype != "int16":
            assert result[index] == pytest.approx(y, abs=1e-3)
        elif abs(y - math.floor(y) - 0.5) > 1e-3:  # nearer to a tie, fp32 decides
            assert result[index] == math.floor(y + 0.5)


@pytest.mark.parametrize("dtype", ["int16", "float32", "float64"])
def test_strength_0_is_a_copy_without_the_network(dtype):
    volume = a_noisy_volume((2, 5, 3), dtype)
    volume.flat[0] = -0.0
    network, seen = PointNetwork(), []
    result = denoise(volume, network, strength=0, progress=lambda *done: seen.append(done))
    assert result.voxels.tobytes() == volume.tobytes() and not np.shares_memory(result.voxels, volume)
    assert network.batches == [] and seen == [(2, 2)]
    assert result.device == "none" and "not run" in result.notes[0]


def test_a_range_of_padding_values_is_kept():
    """PixelPaddingRangeLimit, above -1024 HU too."""
    volume = np.array([[[-1024, -1010, -1000, -999, 0, 40]]], np.int16)
    found = denoise(volume, adds(10), padding_hu=(-1024.0, -1000.0)).voxels
    np.testing.assert_array_equal(found, [[[-1024, -1010, -1000, -989, 10, 50]]])


# ---- the border of the scan circle


def a_cut_body(padding_hu: int, noise_hu: float = 30.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A body larger than the scan circle, without and with noise, (2, 192, 192), and how deep a pixel lies."""
    truth = abdomen(3, (2, 288, 288), (0.8, 0.8, 3.0)).voxels_hu[:, 60:252, 48:240]
    y, x = np.mgrid[:192, :192] - 95.5
    depth_px = 90 - np.hypot(x, y)
    noisy = truth + noise(truth.shape, noise_hu, seed=1, kernel=0.25)
    return truth, np.where(depth_px >= 0, np.rint(noisy), padding_hu).astype(np.int16), depth_px


@pytest.mark.parametrize("padding_hu", [-1024, -2048, -3024])
def test_nothing_rings_where_the_scan_circle_cuts_the_body(padding_hu, monkeypatch):
    network, _ = load_network(find_model(None))
    truth, volume, depth_px = a_cut_body(padding_hu)

    def error_sd(low_px: float, high_px: float) -> float:
        error_hu = denoise(volume, network, precision="fp32", device="cpu").voxels - truth
        return float(error_hu[:, (depth_px >= low_px) & (depth_px < high_px)].std())

    result = denoise(volume, network, precision="fp32", device="cpu").voxels
    assert (result[:, depth_px < 0] == padding_hu).all()
    border = error_sd(0, 2)
    assert border < 1.2 * error_sd(10, 90)
    monkeypatch.setattr(inference, "continued", lambda x, padding: x)
    assert error_sd(0, 2) > 1.05 * border  # with the padding as it is; what it was worth has sunk with better models


@pytest.mark.parametrize("noise_hu", [15.0, 30.0])
@pytest.mark.parametrize("model", ["best", "fast"])
def test_nothing_rings_with_the_shipped_models(model, noise_hu):
    network, _ = load_network(find_model(model))
    truth, volume, depth_px = a_cut_body(-2048, noise_hu)
    error_hu = denoise(volume, network, precision="fp32", device="cpu").voxels - truth
    border, interior = (error_hu[:, (depth_px >= a) & (depth_px < b)].std() for a, b in ((0, 2), (10, 90)))
    assert border < 1.2 * interior


def test_what_the_network_is_shown_beyond_the_border():
    volume = np.full((1, 16, 24), 40, np.int16)
    volume[:, :, 16:] = -2048
    volume[0, :, 13:16] = [100, 200, 300]
    network = PointNetwork()
    np.testing.assert_array_equal(denoise(volume, network).voxels, volume)
    seen = network.inputs[0][0, 0, 4].numpy() * 3000 - 1000
    np.testing.assert_allclose(seen[12:24], [40, 100, 200, 300, 300, 200, 100, 40, 40, 40, 40, 40], atol=1e-3)


# ---- sizes, batches, arrays


@pytest.mark.parametrize("shape", ODD_SHAPES)
def test_padding_reflects_to_the_right_and_below(shape):
    volume = a_noisy_volume(shape, "float32").clip(-1000, 1999)
    network = PointNetwork()
    denoise(volume, network, batch=len(volume))

    def reflected(position: int, length: int) -> int:
        while not 0 <= position < length and length > 1:
            position = -position if position < 0 else 2 * (length - 1) - position
        return position if length > 1 else 0

    _, height, width = shape
    seen = network.inputs[0][:, 0].numpy() * 3000 - 1000
    assert seen.shape[1] - height < 8 and seen.shape[2] - width < 8
    for row in range(seen.shape[1]):
        for column in range(seen.shape[2]):
            expected = volume[:, reflected(row, height), reflected(column, width)]
            np.testing.assert_allclose(seen[:, row, column], expected, atol=1e-3)


def test_a_network_without_side_multiple_gets_the_slice_as_it_is():
    convolution = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    with torch.no_grad():
        convolution.weight.zero_()[0, 0, 1, 0] = 1  # moves the image one column to the right
    volume = a_noisy_volume((2, 5, 7), "float64").clip(-1000, 1999)
    moved = np.pad(volume, ((0, 0), (0, 0), (1, 0)), constant_values=-1000)[:, :, :-1]
    np.testing.assert_allclose(denoise(volume, convolution).voxels, moved, atol=1e-3)


@pytest.mark.parametrize("batch", [1, 2, 3, 7, 100])
def test_the_batch_changes_nothing(batch):
    torch.manual_seed(0)
    volume = a_noisy_volume((7, 9, 14), "float32")
    network = ESAUNet()
    expected = denoise(volume, network, precision="fp32").voxels
    assert np.abs(expected - volume).max() > 1  # an untrained network makes a difference
    found = denoise(volume, network, precision="fp32", batch=batch).voxels
    np.testing.assert_allclose(found, expected, atol=5e-3)
    pointwise = adds(3)
    np.testing.assert_array_equal(
        denoise(volume, pointwise, batch=batch).voxels, denoise(volume, adds(3), batch=1).voxels
    )
    assert pointwise.batches == [batch] * (7 // batch) + [7 % batch] * (7 % batch > 0)


def test_one_slice_at_a_time_on_a_cpu():
    network = PointNetwork()
    assert denoise(a_noisy_volume((3, 8, 8), "int16"), network, device="cpu").device == "cpu"
    assert network.batches == [1, 1, 1]


def test_esau_net_gets_the_volume_as_it_would_directly():
    """The whole road against four lines: normalise, network, back, difference."""
    torch.manual_seed(0)
    network = ESAUNet().eval()
    volume = a_noisy_volume((2, 16, 24), "float64").clip(-1000, 1999)
    with torch.inference_mode():
        direct = network(torch.from_numpy((volume.astype(np.float32) + 1000) / 3000)[:, None])[:, 0].numpy()
    found = denoise(volume, network, precision="fp32").voxels
    np.testing.assert_allclose(found, direct * 3000.0 - 1000, atol=5e-3)


def as_fortran(volume, _):
    return np.asfortranarray(volume)


def as_reversed(volume, _):
    return volume[::-1, ::-1, ::-1].copy()[::-1, ::-1, ::-1]


def as_every_other(volume, _):
    return np.repeat(volume, 2, axis=2)[..., ::2]


def as_read_only(volume, _):
    volume = volume.copy()
    volume.flags.writeable = False
    return volume


def as_memory_map(volume, folder):
    np.save(folder / "in.npy", volume)
    return np.load(folder / "in.npy", mmap_mode="r")


@pytest.mark.parametrize("arrange", [as_fortran, as_reversed, as_every_other, as_read_only, as_memory_map])
@pytest.mark.parametrize("dtype", ["int16", "float32"])
@pytest.mark.parametrize("shape", [(3, 5, 7), (2, 8, 16)])
def test_any_array_may_come_in(tmp_path, arrange, dtype, shape):
    volume = a_noisy_volume(shape, dtype)
    expected = denoise(volume, adds(3)).voxels
    np.testing.assert_array_equal(denoise(arrange(volume, tmp_path), adds(3)).voxels, expected)


@pytest.mark.parametrize("strength", [0, 1])
def test_the_result_can_go_into_a_file_that_is_mapped_to_memory(tmp_path, strength):
    volume = a_noisy_volume((3, 5, 7), "int16")
    out = np.lib.format.open_memmap(tmp_path / "out.npy", "w+", np.int16, volume.shape)
    result = denoise(volume, adds(3), strength=strength, out=out)
    assert result.voxels is out
    out.flush()
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), denoise(volume, adds(3 * strength)).voxels)


def test_the_result_can_replace_the_input():
    volume = a_noisy_volume((5, 4, 4), "int16")
    expected = denoise(volume, adds(3)).voxels
    denoise(volume, adds(3), batch=2, out=volume)
    np.testing.assert_array_equal(volume, expected)


def test_the_network_trains_on_as_before():
    network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)).train()
    network[1].eval()  # frozen statistics
    layout = network[0].weight.stride()
    denoise(a_noisy_volume((1, 4, 4), "int16"), network)
    assert network.training and network[0].training and not network[1].training
    assert network[0].weight.stride() == layout and network[0].weight.requires_grad
    network(torch.rand(1, 1, 4, 4)).sum().backward()


# ---- progress, cancelling, memory


def test_progress_counts_each_slice():
    seen = []
    denoise(a_noisy_volume((5, 4, 4), "int16"), PointNetwork(), batch=2, progress=lambda *done: seen.append(done))
    assert seen == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]


def test_cancel_is_asked_before_each_batch():
    network, seen = adds(1), []
    volume = np.zeros((5, 4, 4), np.int16)
    out = np.full_like(volume, 99)
    with pytest.raises(Cancelled, match="after 4 of 5 slices"):
        denoise(
            volume,
            network,
            batch=2,
            progress=lambda done, _: seen.append(done),
            cancelled=lambda: len(seen) >= 3,
            out=out,
        )
    assert network.batches == [2, 2]
    assert out[:, 0, 0].tolist() == [1, 1, 1, 1, 99]


MEMORY_ERRORS = [
    cuda_error,
    lambda: RuntimeError("MPS backend out of memory (MPS allocated: 5.00 GB, other allocations: 1 GB)."),
    lambda: RuntimeError("[enforce fail at alloc_cpu.cpp] data. DefaultCPUAllocator: not enough memory: you tried"),
    lambda: RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes. Error code 12"),
    lambda: RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    lambda: RuntimeError("std::bad_alloc"),
    MemoryError,
]


@pytest.mark.parametrize("error", MEMORY_ERRORS)
def test_out_of_memory_halves_the_batch(error, caplog):
    def function(x: torch.Tensor) -> torch.Tensor:
        if len(x) > 2:
            raise error()
        return x + 4 / 3000

    network = PointNetwork(function)
    volume = a_noisy_volume((11, 4, 4), "int16")
    result = denoise(volume, network, batch=9)
    np.testing.assert_array_equal(result.voxels, denoise(volume, adds(4)).voxels)
    assert network.batches == [9, 4, 2, 2, 2, 2, 2, 1]
    assert result.notes == ("out of memory on cpu: batch halved to 4", "out of memory on cpu: batch halved to 2")
    assert result.device == "cpu"
    assert [record.message for record in caplog.records] == list(result.notes)


def test_a_real_allocation_that_fails_is_understood():
    def function(x: torch.Tensor) -> torch.Tensor:
        return torch.empty(2**50) if len(x) > 1 else x

    assert denoise(a_noisy_volume((2, 4, 4), "int16"), PointNetwork(function), batch=2).notes


def test_out_of_memory_on_a_gpu_falls_back_to_the_cpu(monkeypatch):
    """A device without memory stands for the GPU: torch's "meta"."""
    monkeypatch.setattr(inference, "pick_device", lambda name: torch.device("meta"))
    devices = []

    def function(x: torch.Tensor) -> torch.Tensor:
        devices.append((x.device.type, len(x)))
        if x.is_meta:
            raise cuda_error()
        return x + 4 / 3000

    volume = a_noisy_volume((5, 4, 4), "int16")
    result = denoise(volume, PointNetwork(function), batch=4)
    monkeypatch.undo()
    np.testing.assert_array_equal(result.voxels, denoise(volume, adds(4), device="cpu").voxels)
    assert devices == [("meta", 4), ("meta", 2), ("meta", 1)] + [("cpu", 1)] * 5
    assert result.device == "meta, then cpu"
    assert result.notes[-1] == "out of memory on meta with one slice: fell back to the CPU"
    assert len(result.notes) == 3


def test_too_little_memory_for_one_slice_is_an_error():
    def function(x: torch.Tensor) -> torch.Tensor:
        raise MemoryError

    with pytest.raises(Failure, match="not enough memory to denoise one slice of 6 x 4 pixels"):
        denoise(np.zeros((2, 6, 4), np.int16), PointNetwork(function), batch=2)


def test_another_error_of_the_network_is_not_taken_for_lack_of_memory():
    def function(x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("device-side assert triggered")

    with pytest.raises(RuntimeError, match="device-side assert"):
        denoise(np.zeros((2, 4, 4), np.int16), PointNetwork(function), batch=2)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_output_that_is_not_finite_is_an_error(value):
    def function(x: torch.Tensor) -> torch.Tensor:
        x[1, 0, 3, 3] = value
        return x

    with pytest.raises(Failure, match="slice 2 is not finite"):
        denoise(np.zeros((2, 4, 4), np.int16), PointNetwork(function), batch=2)


@pytest.mark.parametrize(
    ("free_gb", "sides", "expected"),
    [
        (0.1, (512, 512), 1),
        (6.5, (512, 512), 2),
        (80, (512, 512), 8),
        (80, (256, 128), 64),
        (80, (1024, 1024), 2),
        (80, (2048, 2048), 1),
    ],
)
def test_a_gpus_batch_comes_from_its_free_memory_and_the_pixels(monkeypatch, free_gb, sides, expected):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(free_gb * 1e9) - 500, 10**12))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 800)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 300)
    assert inference._default_batch(torch.device("cuda", 0), sides) == expected


def test_a_batch_larger_than_the_main_memory_is_lowered_at_once(monkeypatch):
    needed = inference.BYTES_PER_PIXEL * 16
    monkeypatch.setattr(inference, "free_main_memory", lambda: 3 * needed)
    network = PointNetwork()
    result = denoise(a_noisy_volume((7, 4, 4), "int16"), network, precision="fp32", batch=100_000)
    assert network.batches == [3, 3, 1] and "batch lowered to 3" in result.notes[0]
    for free, batches in ((7 * needed, [7]), (None, [7]), (0, [1] * 7)):
        monkeypatch.setattr(inference, "free_main_memory", lambda free=free: free)
        network = PointNetwork()
        result = denoise(a_noisy_volume((7, 4, 4), "int16"), network, precision="fp32", batch=100_000)
        assert network.batches == batches and bool(result.notes) == (free == 0)


def test_one_ahead_makes_the_next_batch_while_one_is_used():
    made = [threading.Event() for _ in range(3)]

    def batches():
        for i, event in enumerate(made):
            event.set()
            yield (i,)

    for i, batch in enumerate(inference._one_ahead(batches())):
        assert batch == (i,)
        assert all(event.wait(10) for event in made[: i + 2])
        time.sleep(0.05)
        assert not any(event.is_set() for event in made[i + 2 :])


def test_one_ahead_hands_on_the_error_after_the_batches_before_it():
    def batches():
        yield (0,)
        raise Cancelled("enough")

    seen = []
    with pytest.raises(Cancelled, match="enough"):
        seen.extend(inference._one_ahead(batches()))
    seen.extend(inference._one_ahead(iter([(1,), (2,)])))
    assert seen == [(0,), (1,), (2,)]


# ---- bad input


@pytest.mark.parametrize("shape", [(0, 4, 4), (2, 0, 4), (4, 4), (1, 2, 4, 4), ()])
def test_what_is_no_volume_is_refused(shape):
    with pytest.raises(ValueError, match="one or more slices, rows and columns; got the shape"):
        denoise(np.zeros(shape, np.int16), PointNetwork())


@pytest.mark.parametrize("dtype", ["bool", "complex64", "U3", "object"])
def test_voxels_that_are_no_numbers_are_refused(dtype):
    with pytest.raises(ValueError, match="HU; got the type"):
        denoise(np.zeros((1, 2, 2), dtype), PointNetwork())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_voxels_that_are_not_finite_are_refused_before_anything_happens(value, dtype):
    volume = np.zeros((3, 4, 4), dtype)
    volume[1, 2, 3] = value
    network, out = PointNetwork(), np.full((3, 4, 4), 99, dtype)
    with pytest.raises(ValueError, match="Slice 2 .* not finite"):
        denoise(volume, network, out=out)
    assert network.batches == [] and (out == 99).all()


@pytest.mark.parametrize("strength", [-0.01, 1.01, math.nan, math.inf])
def test_strength_is_from_0_to_1(strength):
    with pytest.raises(ValueError, match="from 0 to 1"):
        denoise(np.zeros((1, 4, 4), np.int16), PointNetwork(), strength=strength)


@pytest.mark.parametrize("batch", [0, -1])
def test_a_batch_has_a_slice(batch):
    with pytest.raises(ValueError, match="1 slice or more"):
        denoise(np.zeros((1, 4, 4), np.int16), PointNetwork(), batch=batch)


@pytest.mark.parametrize(("shape", "dtype"), [((1, 4, 5), "int16"), ((1, 4, 4), "float32")])
def test_an_output_array_of_another_kind_is_refused(shape, dtype):
    with pytest.raises(ValueError, match="differ in shape or type"):
        denoise(np.zeros((1, 4, 4), np.int16), PointNetwork(), out=np.zeros(shape, dtype))


# ---- features, blending


@pytest.mark.parametrize("batch", [None, 2])
@pytest.mark.parametrize("strength", [1, 0.5, 0])
def test_features_are_the_networks_own_for_each_slice(batch, strength):
    torch.manual_seed(0)
    network = ESAUNet().eval()
    volume = a_noisy_volume((3, 13, 24), "int16").clip(-1000)
    found = []

    def see(index, features, denoised_hu):
        found.append((index, features.copy(), denoised_hu.copy()))

    common = {"strength": strength, "batch": batch, "precision": "fp32"}
    result = denoise(volume, network, see_features=see, **common)
    np.testing.assert_array_equal(result.voxels, denoise(volume, network, **common).voxels)
    assert [index for index, _, _ in found] == [0, 1, 2]
    for index, features, denoised_hu in found:
        unit = (volume[index].clip(-1000, 2000).astype(np.float32) + 1000) / 3000
        unit = np.pad(unit, ((0, 3), (0, 0)), mode="reflect")
        with torch.inference_mode():
            direct = network.features(torch.from_numpy(unit)[None, None])[0, :, :13].numpy()
        assert features.dtype == np.float32
        np.testing.assert_allclose(features, direct, atol=1e-5)
        np.testing.assert_array_equal(denoised_hu, result.voxels[index])


def test_a_network_without_features_is_named():
    with pytest.raises(ValueError, match="PointNetwork has no features"):
        denoise(np.zeros((1, 4, 4), np.int16), PointNetwork(), see_features=lambda *_: None)


@pytest.mark.parametrize("dtype", ["int16", "int32", "float32"])
@pytest.mark.parametrize("strength", [0, 0.25, 0.5, 0.9, 1])
def test_blending_is_what_a_weaker_run_gives(dtype, strength):
    volume = a_noisy_volume((3, 9, 13), dtype)
    network = PointNetwork(lambda x: 0.9 * x * x)
    full = denoise(volume, network).voxels
    weaker = denoise(volume, network, strength=strength).voxels.astype(np.float64)
    blended = blend(volume, full, strength)
    assert blended.dtype == volume.dtype
    np.testing.assert_allclose(blended, weaker, atol=1e-3 if strength in (0, 1) or dtype == "float32" else 1)
    with pytest.raises(ValueError, match="from 0 to 1"):
        blend(volume, full, 1.5)
    with pytest.raises(ValueError, match="differ in shape or type"):
        blend(volume, full[1:], strength)


def test_on_a_cpu_weights_and_images_have_one_layout():
    """Weights in another layout than the image's are laid out anew in each layer: a third of a small network's time."""
    network = ESAUNet(residual=True, fold=2, channels=8)
    seen = []
    network.enc2.register_forward_hook(lambda _, inputs, out: seen.extend([*inputs, out]))
    denoise(np.zeros((1, 40, 48), np.int16), network, device="cpu", precision="fp32")
    maps = [*seen, *(w for w in network.parameters() if w.ndim == 4)]
    assert seen and all(m.is_contiguous(memory_format=torch.channels_last) for m in maps)
