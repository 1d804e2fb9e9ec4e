"""bf16: what a mixed copy is, where it is fast, and that it is used only where it is faithful."""

from __future__ import annotations

import gc
import math
import weakref

import numpy as np
import pytest
import torch
from model_fixtures import PointNetwork, cuda_error
from torch import nn

from ASCONDenoiseLib.models import inference, mixed_precision
from ASCONDenoiseLib.models.files import find_model, load_network
from ASCONDenoiseLib.models.inference import denoise
from ASCONDenoiseLib.models.mixed_precision import mixed_copy
from ASCONDenoiseLib.models.networks.esau_net import ESAUNet


def test_a_mixed_copy_keeps_the_image_path_in_fp32():
    torch.manual_seed(0)
    a_network = ESAUNet()
    before = {name: w.clone() for name, w in a_network.state_dict().items()}
    mixed = mixed_copy(a_network, torch.bfloat16)
    precise = {name for name, w in mixed.state_dict().items() if w.dtype == torch.float32}
    first_attention = {name for name in precise if name.startswith("enc1.attention.")}
    rest = {name.split(".", 1)[1] for name in precise - first_attention if name.count(".") > 1}
    patterns = {"*.project", "enc1.attention.*"}
    assert {name.removesuffix(".weight") for name in precise} >= set(ESAUNet.PRECISE_LAYERS) - patterns
    assert len(first_attention) == 4  # what it sees is nearly the image itself
    assert rest == {"attention.temperature", "attention.project.weight", "identity.weight"}
    assert len([name for name in precise if "identity" in name]) == 2
    for name, w in a_network.state_dict().items():
        assert w.dtype == torch.float32 and torch.equal(w, before[name])
    x = torch.rand(1, 1, 16, 24)
    seen = []
    mixed.dec3.attention.register_forward_hook(lambda _, inputs, out: seen.append(out.dtype))
    mixed.dec2.attention.register_forward_hook(lambda _, inputs, out: seen.append(out.dtype))
    with torch.inference_mode():
        features = mixed.features(x)
        assert mixed.last(features).dtype == features.dtype == torch.float32
        assert seen == [torch.bfloat16, torch.float32]
        exact = a_network(x)
        assert 0 < float((mixed(x) - exact).abs().max()) < 0.01 * float(exact.abs().max())


class Rounding(PointNetwork):
    """A network whose mixed copy is off by a constant, or by one pixel."""

    PRECISE_LAYERS = ()

    def __init__(self, off_hu: float, pixels: int | None = None):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.off_hu, self.pixels, self.copies = off_hu, pixels, 0

    def mixed(self, dtype):
        assert dtype == torch.bfloat16
        self.copies += 1
        off = torch.zeros(160 * 160)
        off_hu, off[: self.pixels] = self.off_hu, self.off_hu / 3000
        return PointNetwork(lambda x: x + (off.view(160, 160) if x.shape[-1] == 160 else off_hu / 3000))


@pytest.fixture
def with_bf16(monkeypatch):
    monkeypatch.setattr(mixed_precision, "mixed_dtype", lambda device: torch.bfloat16)
    monkeypatch.setattr(mixed_precision, "mixed_copy", lambda network, dtype: network.mixed(dtype))


@pytest.mark.parametrize(
    ("off_hu", "pixels", "faithful"),
    [(0.45, None, True), (0.55, None, False), (4.9, 240, True), (5.2, 1, False), (math.nan, 1, False)],
)
def test_bf16_is_chosen_where_it_is_faithful(with_bf16, off_hu, pixels, faithful):
    volume = np.full((2, 8, 8), 40, np.float32)
    network = Rounding(off_hu, pixels)
    result = denoise(volume, network)
    assert network.copies == 1  # chosen once
    assert result.precision == (mixed_precision.MIXED if faithful else "fp32")
    assert len(result.notes) == (not faithful) and all("bf16 would change" in note for note in result.notes)
    np.testing.assert_allclose(result.voxels, 40 + off_hu if faithful else 40, atol=1e-3)


@pytest.mark.parametrize(("off_hu", "faithful"), [(0.1, True), (1, False)])
def test_a_warm_network_is_tried_once_until_its_weights_change(with_bf16, off_hu, faithful):
    volume = np.full((1, 8, 8), 40, np.float32)
    network = Rounding(off_hu)
    results = [denoise(volume, network) for _ in range(3)]
    assert network.copies == 1
    assert {result.precision for result in results} == {mixed_precision.MIXED if faithful else "fp32"}
    assert {len(result.notes) for result in results} == {int(not faithful)}  # each result says it
    torch.optim.SGD([network.weight], lr=1).step()  # without a gradient: nothing changes
    denoise(volume, network)
    assert network.copies == 1
    network.weight.sum().backward()
    torch.optim.AdamW([network.weight]).step()
    denoise(volume, network)
    denoise(volume, network)
    assert network.copies == 2
    network.load_state_dict({"weight": torch.ones(3)})
    denoise(volume, network)
    assert network.copies == 3
    gone = weakref.ref(network)
    del network
    gc.collect()
    assert gone() is None  # the memory of the trial keeps no network alive


def test_another_device_has_another_trial_and_both_precisions_are_told(monkeypatch):
    """fp32 is a part of the name of the mixed precision; both must be there. "meta" stands for a GPU."""

    class OnGPU(PointNetwork):
        PRECISE_LAYERS = ()

    monkeypatch.setattr(inference, "pick_device", lambda name: torch.device("meta"))
    monkeypatch.setattr(
        mixed_precision, "mixed_dtype", lambda device: torch.bfloat16 if device.type == "meta" else None
    )

    def fail(x):
        raise cuda_error()

    trial = mixed_precision.Trial((torch.device("meta"), []), PointNetwork(fail), 0.1, 0.1)
    network = OnGPU()
    monkeypatch.setitem(mixed_precision.trials, network, trial)
    result = denoise(np.full((2, 8, 8), 40, np.int16), network)
    assert result.device == "meta, then cpu"
    assert result.precision == f"{mixed_precision.MIXED}, then fp32"
    np.testing.assert_array_equal(result.voxels, 40)


def test_the_precision_asked_for_is_used(with_bf16):
    volume = np.full((1, 8, 8), 40, np.float32)
    network = Rounding(100)
    assert denoise(volume, network, precision="fp32").precision == "fp32" and network.copies == 0
    asked = denoise(volume, network, precision="bf16")  # not checked
    assert asked.precision == mixed_precision.MIXED and asked.voxels.mean() == pytest.approx(140, abs=1e-3)
    assert denoise(volume, PointNetwork()).precision == "fp32"  # it has no bf16 form
    with pytest.raises(ValueError, match="PointNetwork has no bf16 form"):
        denoise(volume, PointNetwork(), precision="bf16")
    with pytest.raises(ValueError, match='no precision "fp16". Choose auto, fp32, bf16'):
        denoise(volume, network, precision="fp16")


@pytest.mark.parametrize(
    ("flags", "isa", "expected"),
    [
        ((True, False), None, torch.bfloat16),
        ((False, True), None, torch.bfloat16),
        ((False, False), None, None),
        ((None, None), None, None),  # an older torch cannot say
        ((True, True), "AVX2", None),
        ((True, True), "avx512_core", None),
        ((True, True), "AVX512_CORE_BF16", torch.bfloat16),
        ((True, True), "ALL", torch.bfloat16),
    ],
)
def test_bf16_on_a_cpu_needs_its_instructions(monkeypatch, flags, isa, expected):
    for name, flag in zip(("_is_avx512_bf16_supported", "_is_amx_tile_supported"), flags, strict=True):
        if flag is None:
            monkeypatch.delattr(torch.cpu, name, raising=False)
        else:
            monkeypatch.setattr(torch.cpu, name, lambda flag=flag: flag, raising=False)
    for variable in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(variable, raising=False)
    if isa:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", isa)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert mixed_precision.mixed_dtype(torch.device("cpu")) == expected


@pytest.mark.parametrize(
    ("capability", "expected"), [((7, 5), None), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)]
)
def test_bf16_on_a_gpu_needs_ampere(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert mixed_precision.mixed_dtype(torch.device("cuda", 0)) == expected
    assert mixed_precision.mixed_dtype(torch.device("mps")) is None


@pytest.mark.parametrize("model", ["fast", None])
def test_bf16_of_the_models_that_come_with_it_costs_what_the_trial_says(model):
    """A tenth of an HU. The emulation of bf16 on a CPU without it gives the same rounding."""
    network, _ = load_network(find_model(model))
    y, x = np.mgrid[:144, :136] - 70.0
    volume = np.where(np.hypot(x, y) < 60, 40.0, -1000.0) + np.where(np.hypot(x + 20, y) < 15, 760, 0)
    volume = (volume + np.random.default_rng(1).normal(0, 25, (2, *volume.shape))).astype(np.float32)
    exact = denoise(volume, network, precision="fp32", device="cpu").voxels
    fast = denoise(volume, network, precision="bf16", device="cpu").voxels
    difference = fast - exact
    rms_hu = np.sqrt((difference**2).mean())
    assert 0 < rms_hu < 0.13 and abs(difference).max() < 2
    assert abs(difference.mean()) < 0.01
    assert next(network.parameters()).dtype == torch.float32  # the network itself is as before

    def run(tried, unit):
        with torch.inference_mode():
            return tried(torch.from_numpy(unit)[:, None]).numpy()

    tried_hu, _ = mixed_precision._cost(network, mixed_copy(network, torch.bfloat16), run)
    assert tried_hu == pytest.approx(rms_hu, rel=0.3)


@pytest.mark.parametrize(
    ("device", "dtype", "residual", "fits"),
    [
        ("cuda", torch.bfloat16, True, True),
        ("cuda", None, True, False),  # before Ampere
        ("cuda", torch.bfloat16, False, False),  # the image itself goes through its layers
        ("cpu", torch.bfloat16, True, False),
    ],
)
def test_residual_networks_take_tf32_on_cuda(monkeypatch, device, dtype, residual, fits):
    monkeypatch.setattr(mixed_precision, "mixed_dtype", lambda device: dtype)
    monkeypatch.setattr(inference, "device_title", str)
    where, network = torch.device(device), ESAUNet(residual=residual)
    assert mixed_precision.fits_tf32(network, where) == fits
    if fits:
        assert mixed_precision.chosen(network, where, "auto", run=None) == (network, "")  # nothing is tried
    for precision in mixed_precision.PRECISIONS:
        runner = inference._Runner(network, where, 1, precision, None, with_features=False)
        assert runner._tf32 == (fits and precision == "auto")


@pytest.mark.parametrize("tf32", [True, False])
def test_tf32_is_on_where_the_result_says_so(monkeypatch, tf32):
    monkeypatch.setattr(inference._Runner, "_tf32", tf32)
    seen = []
    network = PointNetwork(lambda x: seen.append(torch.backends.cudnn.allow_tf32) or x)
    result = denoise(np.zeros((1, 8, 8), np.float32), network, device="cpu")
    assert seen == [tf32] and result.precision == (mixed_precision.TF32 if tf32 else "fp32")
