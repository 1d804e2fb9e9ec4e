"""What keeps fp32 in a training with bf16, and the rule of the product."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import distributed, nn
from trainer_fixtures import CPU
from training_fixtures import Tiny

from ASCONDenoiseLib.imaging import hounsfield
from ASCONDenoiseLib.models import inference, mixed_precision
from ASCONDenoiseLib.models.files import find_model, load_network
from ASCONDenoiseLib.models.mixed_precision import mixed_copy
from ASCONDenoiseLib.models.networks import ARCHITECTURES
from ASCONTrainingLib.method.denoiser_output import MixedPrecision, ProductOutput


def test_last_layer_keeps_fp32_under_autocast():
    """With bfloat16 up to the end an image near 1 is known to 1 / 256, 12 HU; here only the features are."""
    torch.manual_seed(0)
    network, x = Tiny(), torch.rand(2, 1, 16, 16)
    nn.init.ones_(network.last.bias)
    exact = network(x)
    with torch.autocast("cpu", torch.bfloat16):
        coarse, kept = network(x), MixedPrecision(network)(x)
        features = network.features(x)
    assert coarse.dtype == torch.bfloat16 and features.dtype == torch.bfloat16 and kept.dtype == torch.float32
    assert torch.equal(kept, network.last(features.float()))
    assert not torch.equal(kept, kept.bfloat16().float())
    assert 2 * (kept - exact).abs().max() < (coarse - exact).abs().max()


def test_product_output_is_what_inference_makes_of_the_network():
    """Air whose noise is cut off, metal, and what lies in the window, against the product's own inference."""
    torch.manual_seed(0)
    network = Tiny().eval()
    x_hu = np.random.default_rng(0).integers(-1000, 3000, (1, 32, 32)).astype(np.float32)
    x_hu[:, :8] = -1010  # below the window, above padding
    wanted = inference.denoise(x_hu, network, device=CPU).voxels
    with torch.no_grad():
        found = ProductOutput(network)(torch.from_numpy(hounsfield.to_unit(x_hu))[:, None])
    assert np.allclose(hounsfield.to_hu(found[:, 0].numpy()), wanted, atol=1e-2)
    assert (x_hu >= 2000).any() and np.abs(wanted - x_hu)[x_hu < 2000].max() > 100


def test_bf16_in_training_is_bf16_in_inference():
    """ESAU-Net's bf16 form is that of inference, with gradients that are those of fp32 as far as bf16 goes."""
    torch.manual_seed(0)
    network = ARCHITECTURES["esau_net"](channels=8)
    x = torch.rand(1, 1, 32, 32).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        found = MixedPrecision(network)(x)
    wanted = mixed_copy(network, torch.bfloat16)(x)
    assert found.dtype == torch.float32 and torch.allclose(found, wanted, atol=1e-6)
    assert not torch.equal(wanted, network(x))
    weights = list(network.parameters())
    half = torch.autograd.grad(found.square().mean(), weights)
    full = torch.autograd.grad(network(x).square().mean(), weights)
    assert all(grad.dtype == torch.float32 for grad in half)
    for a, b in zip(half, full, strict=True):
        assert (a - b).norm() < 0.1 * b.norm() + 1e-5


@pytest.mark.parametrize("model", ["best", "fast"])
def test_bf16_in_training_is_near_to_fp32_with_the_weights_that_ship(model):
    """A tenth of an HU on the phantom that inference asks; autocast alone costs eight times as much."""
    network, _ = load_network(find_model(model))
    hu = mixed_precision._phantom_hu()
    x = torch.from_numpy(hounsfield.to_unit(hu))[None, None].contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        exact = network(x)
        with torch.autocast("cpu", torch.bfloat16):
            mixed, coarse = MixedPrecision(network)(x), network(x)
    error_hu = [3000 * (image - exact).square().mean().sqrt().item() for image in (mixed, coarse)]
    assert error_hu[0] < 0.13 and error_hu[1] > 7 * error_hu[0]
    assert 3000 * abs((mixed - exact).mean().item()) < 0.01


def test_bf16_in_training_gives_gradients_to_several_processes(tmp_path):
    """DistributedDataParallel finds the gradient of every weight, though the network runs with copies of them."""
    torch.manual_seed(0)
    network = ARCHITECTURES["esau_net"](channels=8)
    x = torch.rand(1, 1, 16, 16).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        loss = MixedPrecision(network)(x).square().mean()
    wanted = torch.autograd.grad(loss, list(network.parameters()))
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/processes", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(MixedPrecision(network))
        for _ in range(2):  # the second step would fail if a gradient of the first had not come
            network.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16):
                wrapped(x).square().mean().backward()
    finally:
        distributed.destroy_process_group()
    for parameter, gradient in zip(network.parameters(), wanted, strict=True):
        assert torch.allclose(parameter.grad, gradient, rtol=1e-4, atol=1e-6)
