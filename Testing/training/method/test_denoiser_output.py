"""The last layer in fp32 and the rule of the product."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from trainer_fixtures import CPU
from training_fixtures import Tiny

from ASCONDenoiseLib.imaging import hounsfield
from ASCONDenoiseLib.models import inference
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
