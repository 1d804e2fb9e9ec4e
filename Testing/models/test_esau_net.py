"""ESAU-Net against the method's numbers, and against NumPy loops typed from its description."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from plain_esau_net import plain
from torch.utils.flop_counter import FlopCounterMode

from ASCONDenoiseLib.models.networks import channel_attention
from ASCONDenoiseLib.models.networks.channel_attention import ChannelAttention, pointwise
from ASCONDenoiseLib.models.networks.esau_net import ESAUBlock, ESAUNet


@pytest.fixture(scope="module")
def a_network() -> ESAUNet:
    torch.manual_seed(0)
    return ESAUNet()


def numbers(module: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: w.detach().numpy().astype(np.float64) for name, w in module.state_dict().items()}


def naive_conv(x: np.ndarray, kernels: np.ndarray) -> np.ndarray:
    """x (C, H, W), kernels (out, C, k, k), k odd; zeros outside the image."""
    channels, height, width = x.shape
    k = kernels.shape[2]
    out = np.zeros((len(kernels), height, width))
    for o in range(len(kernels)):
        for row in range(height):
            for column in range(width):
                total = 0.0
                for c in range(channels):
                    for i in range(k):
                        for j in range(k):
                            r, s = row + i - k // 2, column + j - k // 2
                            if 0 <= r < height and 0 <= s < width:
                                total += kernels[o, c, i, j] * x[c, r, s]
                out[o, row, column] = total
    return out


def naive_depthwise(x: np.ndarray, kernels: np.ndarray) -> np.ndarray:
    return np.concatenate([naive_conv(x[c : c + 1], kernels[c : c + 1]) for c in range(len(x))])


def naive_leaky(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, 0.01 * x)


def naive_attention(x: np.ndarray, w: dict[str, np.ndarray], heads: int, prefix: str = "") -> np.ndarray:
    channels, height, width = x.shape
    qkv = naive_depthwise(naive_conv(x, w[prefix + "qkv_pointwise.weight"]), w[prefix + "qkv_depthwise.weight"])
    q, k, v = (
        part.reshape(channels, height * width) for part in (qkv[:channels], qkv[channels:-channels], qkv[-channels:])
    )
    out = np.zeros((channels, height * width))
    each = channels // heads
    for head in range(heads):
        mine = range(head * each, (head + 1) * each)
        for a in mine:
            scores = []
            for b in mine:
                cosine = sum(q[a] * k[b]) / (math.sqrt(sum(q[a] ** 2)) * math.sqrt(sum(k[b] ** 2)))
                scores.append(math.exp(cosine * w[prefix + "temperature"][head, 0, 0]))
            for b, score in zip(mine, scores, strict=True):
                out[a] += score / sum(scores) * v[b]
    return naive_conv(out.reshape(x.shape), w[prefix + "project.weight"])


def naive_block(x: np.ndarray, w: dict[str, np.ndarray], heads: int) -> np.ndarray:
    f = x + naive_attention(x, w, heads, "attention.")
    y = naive_leaky(naive_conv(f, w["conv1.weight"]))
    y = naive_leaky(naive_conv(y, w["conv2.weight"]))
    return y + (naive_conv(f, w["identity.weight"]) if "identity.weight" in w else f)


@pytest.mark.parametrize(
    ("channels", "heads", "height", "width"), [(4, 1, 6, 6), (4, 2, 5, 7), (6, 3, 1, 3), (8, 4, 3, 1), (8, 8, 2, 5)]
)
def test_attention_equals_loops(channels, heads, height, width):
    torch.manual_seed(channels * heads)
    attention = ChannelAttention(channels, heads).double()
    torch.nn.init.uniform_(attention.temperature, 0.5, 5)  # one of its own per head
    x = torch.randn(2, channels, height, width, dtype=torch.float64)
    found = attention(x).detach().numpy()
    for image, result in zip(x.numpy(), found, strict=True):
        np.testing.assert_allclose(result, image + naive_attention(image, numbers(attention), heads), atol=1e-10)


@pytest.mark.parametrize(
    ("channels_in", "channels_out", "heads", "between", "height", "width"),
    [(4, 6, 2, None, 5, 7), (4, 4, 2, 8, 3, 4), (6, 2, 1, None, 1, 5), (4, 4, 4, None, 4, 1)],
)
def test_block_equals_loops(channels_in, channels_out, heads, between, height, width):
    torch.manual_seed(channels_in + channels_out)
    block = ESAUBlock(channels_in, channels_out, heads, between)
    torch.nn.init.uniform_(block.attention.temperature, 0.5, 5)
    x = torch.randn(1, channels_in, height, width)
    expected = naive_block(x[0].numpy().astype(np.float64), numbers(block), heads)
    np.testing.assert_allclose(block(x)[0].detach().numpy(), expected, atol=1e-5)


LAYOUTS = [torch.contiguous_format, torch.channels_last]


def with_gradients(module: torch.nn.Module, x: torch.Tensor, slope: torch.Tensor) -> dict[str, torch.Tensor]:
    """The output of a module, and the gradients of (output * slope).sum() in its input and each of its weights."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    module.zero_grad()
    y = module(x)
    (y * slope).sum().backward()
    return {"output": y.detach(), "input": x.grad} | {name: w.grad for name, w in module.named_parameters()}


def largest_relative_difference(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    assert found.keys() == expected.keys()
    return max(float((found[name] - e).abs().max() / e.abs().max()) for name, e in expected.items())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-11), (torch.float32, 1e-4)])
@pytest.mark.parametrize(
    ("batch", "channels", "heads", "height", "width"),
    [(1, 4, 1, 6, 6), (2, 8, 2, 5, 7), (3, 6, 3, 1, 13), (2, 8, 8, 11, 1), (1, 64, 2, 33, 29), (2, 1, 1, 4, 3)],
)
def test_attention_and_its_gradients_equal_the_plain_formula(
    layout, dtype, bound, batch, channels, heads, height, width
):
    torch.manual_seed(height)
    attention = ChannelAttention(channels, heads).to(dtype).to(memory_format=layout)
    torch.nn.init.uniform_(attention.temperature, 0.5, 20)
    x = torch.randn(batch, channels, height, width, dtype=dtype).to(memory_format=layout)
    slope = torch.randn_like(x)
    expected = with_gradients(plain(attention), x, slope)
    if channels == 1:  # a softmax of one value is 1: what is before it has no gradient but rounding
        expected = {name: e for name, e in expected.items() if name != "temperature"}
    found = with_gradients(attention, x, slope)
    assert largest_relative_difference({name: found[name] for name in expected}, expected) < bound


@pytest.mark.parametrize("layout", LAYOUTS)
def test_network_and_its_gradients_equal_the_plain_network(a_network, layout):
    torch.manual_seed(5)
    network = ESAUNet().double().to(memory_format=layout)
    network.load_state_dict(a_network.state_dict())
    x = torch.rand(2, 1, 24, 40, dtype=torch.float64).contiguous(memory_format=layout)
    slope = torch.randn_like(x)
    expected = with_gradients(plain(network), x, slope)
    assert largest_relative_difference(with_gradients(network, x, slope), expected) < 1e-9


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("height", "width"), [(8, 8), (8, 136), (88, 40)])
def test_network_equals_the_plain_network_in_fp32(a_network, layout, height, width):
    x = torch.rand(2, 1, height, width)
    with torch.inference_mode():
        expected = plain(a_network)(x)
        network = ESAUNet().to(memory_format=layout)
        network.load_state_dict(a_network.state_dict())
        found = network(x.contiguous(memory_format=layout))
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("batch", "height", "width"), [(1, 21, 5), (2, 16, 9), (1, 9, 13), (1, 8, 3)])
def test_strips_of_rows_change_nothing(monkeypatch, layout, batch, height, width):
    """8 rows at a time, the last of them a rest; with gradients the image is taken whole."""
    monkeypatch.setattr(channel_attention, "STRIP_VALUES", 1)
    torch.manual_seed(height)
    attention = ChannelAttention(8, 2).double().to(memory_format=layout)
    torch.nn.init.uniform_(attention.temperature, 0.5, 20)
    x = torch.randn(batch, 8, height, width, dtype=torch.float64).contiguous(memory_format=layout)
    whole = attention(x).detach()
    strips = []
    strip = channel_attention._strip
    monkeypatch.setattr(channel_attention, "_strip", lambda *args: strips.append(args[1:3]) or strip(*args))
    with torch.inference_mode():
        found = attention(x)
    assert strips == [(first, 8) for first in range(0, height, 8)] * 2  # q and k, then v
    torch.testing.assert_close(found, whole, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_stays_as_it_is(a_network, layout):
    """No layout is changed inside a block: on a CPU that cost a third of the time."""
    block = ESAUNet().enc2.to(memory_format=layout)
    x = torch.rand(1, 64, 8, 16).contiguous(memory_format=layout)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            for found in (block.attention(x), block(x)):  # is_contiguous() overlooks the stride of a batch of one
                assert found.stride() == torch.empty(found.shape).contiguous(memory_format=layout).stride()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_folded_pixels_get_the_layout_of_the_weights(a_network, layout):
    """An image of one channel has both layouts."""
    network, seen = ESAUNet(fold=2, channels=8).to(memory_format=layout), []
    for block in (network.enc1, network.enc2, network.dec3):
        block.register_forward_hook(lambda _, inputs, out: seen.extend([*inputs, out]))
    with torch.no_grad():
        network(torch.rand(1, 1, 32, 48))
    assert len(seen) == 6 and all(maps.is_contiguous(memory_format=layout) for maps in seen)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_1x1_convolution_is_onednns_on_one_thread_too(layout, dtype):
    """Where torch by itself takes BLAS."""
    x = torch.randn(1, 16, 40, 48, dtype=dtype).to(memory_format=layout)
    weight = torch.randn(8, 16, 1, 1, dtype=dtype)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode(), torch.profiler.profile() as profile:
            found = pointwise(x, weight)
    finally:
        torch.set_num_threads(threads)
    assert torch.allclose(found, torch.einsum("bchw,dc->bdhw", x, weight[:, :, 0, 0]), atol=1e-4)
    if dtype == torch.float32 and channel_attention.ONEDNN_IS_FASTEST:
        assert "aten::mkldnn_convolution" in {event.key for event in profile.key_averages()}


def test_channels_of_zeros_have_a_finite_gradient():
    """A norm of 0 has no derivative; like torch's own normalisation, ours has a smallest norm."""
    attention = ChannelAttention(4, 2)
    x = torch.zeros(1, 4, 5, 3)
    found = with_gradients(attention, x, torch.ones_like(x))
    assert all(bool(torch.isfinite(values).all()) for values in found.values())
    assert bool((found["output"] == 0).all())


def test_temperature_starts_at_one(a_network):
    temperatures = [w for name, w in a_network.named_parameters() if name.endswith("temperature")]
    assert [len(t) for t in temperatures] == [1, 2, 4, 8, 4, 2, 1]  # heads of each stage
    assert all(bool((t == 1).all()) for t in temperatures)


def test_number_of_parameters_and_no_bias(a_network):
    assert sum(w.numel() for w in a_network.parameters()) == 4_914_230
    assert not [name for name, _ in a_network.named_parameters() if "bias" in name]


def test_operations_for_one_slice():
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        plain(ESAUNet())(torch.empty(1, 1, 512, 512))
    assert counter.get_total_flops() / 1e9 == pytest.approx(207.7, abs=0.05)


def test_operations_saved_by_the_attention_are_those_of_a_v():
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        ESAUNet()(torch.empty(1, 1, 512, 512))
    stages = [(32, 1, 512), (64, 2, 256), (128, 4, 128), (256, 8, 64), (256, 4, 128), (128, 2, 256), (64, 1, 512)]
    saved = sum(2 * channels * channels // heads * side**2 for channels, heads, side in stages)
    assert counter.get_total_flops() / 1e9 == pytest.approx(207.7 - saved / 1e9, abs=0.06)


def test_stages_have_the_channels_and_scales_of_the_method(a_network):
    """(channels, downscaling) after each stage; the decoder's stages are given the sum of two maps, not a stack."""
    seen = {}
    hooks = [
        stage.register_forward_hook(lambda _, inputs, out, name=name: seen.update({name: (inputs[0].shape, out.shape)}))
        for name, stage in a_network.named_children()
    ]
    with torch.inference_mode():
        a_network(torch.rand(1, 1, 32, 48))
    for hook in hooks:
        hook.remove()
    expected = {
        "stem": (1, 32, 1),
        "enc1": (32, 64, 1),
        "enc2": (64, 128, 2),
        "enc3": (128, 256, 4),
        "enc4": (256, 256, 8),
        "dec1": (256, 128, 4),
        "dec2": (128, 64, 2),
        "dec3": (64, 32, 1),
        "head": (32, 32, 1),
        "last": (32, 1, 1),
    }
    assert seen == {
        name: ((1, channels_in, 32 // scale, 48 // scale), (1, channels_out, 32 // scale, 48 // scale))
        for name, (channels_in, channels_out, scale) in expected.items()
    }


def naive_double(x: np.ndarray) -> np.ndarray:
    """(C, H, W) -> (C, 2H, 2W), bilinear; the corner pixels of both grids coincide."""
    _, height, width = x.shape
    out = np.zeros((len(x), 2 * height, 2 * width))
    for row in range(2 * height):
        for column in range(2 * width):
            r, s = row * (height - 1) / (2 * height - 1), column * (width - 1) / (2 * width - 1)
            r0, s0 = min(int(r), max(height - 2, 0)), min(int(s), max(width - 2, 0))
            r1, s1 = min(r0 + 1, height - 1), min(s0 + 1, width - 1)
            upper = x[:, r0, s0] * (1 - (s - s0)) + x[:, r0, s1] * (s - s0)
            lower = x[:, r1, s0] * (1 - (s - s0)) + x[:, r1, s1] * (s - s0)
            out[:, row, column] = upper * (1 - (r - r0)) + lower * (r - r0)
    return out


def naive_halve(x: np.ndarray) -> np.ndarray:
    _, height, width = x.shape
    return np.stack(
        [[x[:, r : r + 2, s : s + 2].max(axis=(1, 2)) for s in range(0, width, 2)] for r in range(0, height, 2)]
    ).transpose(2, 0, 1)


def test_features_follow_the_table_of_stages(a_network):
    """The paths between blocks (pooling, doubling, skips, head) by hand; the blocks are proved above."""
    x = np.random.default_rng(3).random((1, 16, 24))
    network = ESAUNet().double()
    network.load_state_dict(a_network.state_dict())
    w = numbers(network)

    def stage(name: str, maps: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return getattr(network, name)(torch.from_numpy(maps)[None])[0].numpy()

    e1 = stage("enc1", naive_leaky(naive_conv(x, w["stem.weight"])))
    e2 = stage("enc2", naive_halve(e1))
    e3 = stage("enc3", naive_halve(e2))
    e4 = stage("enc4", naive_halve(e3))
    d = stage("dec1", naive_double(e4) + e3)
    d = stage("dec2", naive_double(d) + e2)
    d = stage("dec3", naive_double(d) + e1)
    features = naive_leaky(stage("head", d))
    with torch.inference_mode():
        np.testing.assert_allclose(network.features(torch.from_numpy(x)[None])[0], features, atol=1e-10)
        np.testing.assert_allclose(network(torch.from_numpy(x)[None])[0], stage("last", features), atol=1e-10)


def test_each_slice_of_a_batch_is_treated_alone(a_network):
    x = torch.rand(3, 1, 16, 16)
    with torch.inference_mode():
        together = a_network(x)
        for i in range(3):
            torch.testing.assert_close(together[i : i + 1], a_network(x[i : i + 1]), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("height", "width"), [(12, 16), (16, 12), (1, 8), (9, 9)])
def test_sides_that_are_no_multiple_of_8_are_refused(a_network, height, width):
    with pytest.raises(ValueError, match=rf"multiples of 8; got \({height}, {width}\)"):
        a_network(torch.rand(1, 1, height, width))


def test_every_parameter_learns():
    torch.manual_seed(1)
    network = ESAUNet()
    network(torch.rand(2, 1, 32, 32)).square().mean().backward()
    idle = [name for name, w in network.named_parameters() if w.grad is None or not bool((w.grad != 0).any())]
    assert idle == []


def test_names_in_a_model_file(a_network):
    """Model files depend on these names."""
    names = list(a_network.state_dict())
    assert names[0] == "stem.weight"
    assert [name for name in names if name.startswith("enc1.")] == [
        "enc1.attention.temperature",
        "enc1.attention.qkv_pointwise.weight",
        "enc1.attention.qkv_depthwise.weight",
        "enc1.attention.project.weight",
        "enc1.conv1.weight",
        "enc1.conv2.weight",
        "enc1.identity.weight",
    ]
    assert "enc4.identity.weight" not in names  # 256 -> 256: the identity path is the input itself
    assert names[-2:] == ["head.weight", "last.weight"]
