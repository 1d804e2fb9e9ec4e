"""EDCNN's loss: the ResNet-50 carried out by hand, one step, weight files."""

from __future__ import annotations

import copy

import pytest
import torch
from objective_fixtures import a_batch, a_context, a_denoiser, assert_moved_along, seeded
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from ASCONDenoiseLib.errors import InputError
from ASCONTrainingLib.method.objectives import edcnn


@pytest.fixture(scope="module")
def a_resnet() -> edcnn.ResNet50:
    torch.manual_seed(0)
    resnet = edcnn.ResNet50()
    for module in resnet.modules():  # statistics of a file; small last scales keep 50 random layers from exploding
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.2, 0.6)
    return resnet


def test_resnet_50_has_the_layers_and_names_of_its_weight_files(a_resnet):
    """25,557,032 parameters, less 2,049,000 of the classifier."""
    assert sum(p.numel() for p in a_resnet.parameters()) == 25_557_032 - 2_049_000
    names = a_resnet.state_dict().keys()
    assert {"conv1.weight", "bn1.running_var", "layer1.0.downsample.1.weight", "layer3.5.conv2.weight"} <= names
    assert not any(p.requires_grad for p in a_resnet.parameters()) and not a_resnet.train().training


def test_resnet_50_is_its_table_carried_out_by_hand(a_resnet):
    """He et al., Table 1: stages of 3, 4, 6, 3 blocks; the 3x3 of a stage's first block halves, but in the first."""
    state = a_resnet.state_dict()

    def conv(name, x, stride=1):
        weight = state[f"{name}.weight"]
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)

    def norm(name, x):
        mean, variance, weight, bias = (
            state[f"{name}.{what}"][:, None, None] for what in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (variance + 1e-5).sqrt() * weight + bias

    x = torch.rand(1, 1, 64, 64, generator=seeded())
    y = F.max_pool2d(norm("bn1", conv("conv1", torch.cat((x, x, x), 1), 2)).relu(), 3, 2, 1)
    for stage, blocks in enumerate((3, 4, 6, 3), 1):
        for block in range(blocks):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            z = norm(f"{name}.bn1", conv(f"{name}.conv1", y)).relu()
            z = norm(f"{name}.bn2", conv(f"{name}.conv2", z, stride)).relu()
            z = norm(f"{name}.bn3", conv(f"{name}.conv3", z))
            if block == 0:
                y = norm(f"{name}.downsample.1", conv(f"{name}.downsample.0", y, stride))
            y = (y + z).relu()
        found = a_resnet(x)[stage - 1]
        assert torch.allclose(found, y, rtol=1e-3, atol=1e-5) and y.std() > 1e-4
    assert y.shape == (1, 2048, 2, 2)


def test_edcnn_descends_the_compound_loss(a_resnet):
    network = a_denoiser()
    by_hand, (ldct, ndct) = copy.deepcopy(network), a_batch(32)
    values = edcnn.EDCNNObjective(a_context(network), a_resnet).step(ldct, ndct, seeded())
    denoised = by_hand(ldct)
    stages = [((a - b) ** 2).sum() / a.numel() for a, b in zip(a_resnet(denoised), a_resnet(ndct), strict=True)]
    mse = ((denoised - ndct) ** 2).sum() / ndct.numel()
    loss = mse + 0.01 * sum(stages) / 4
    assert values["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert values["mse"] == pytest.approx(mse.item(), rel=1e-5)
    assert values["perceptual"] == pytest.approx((sum(stages) / 4).item(), rel=1e-5)
    assert_moved_along(network, by_hand, loss)


def test_without_weights_edcnn_learns_from_the_mse_and_says_so(caplog):
    network = a_denoiser()
    by_hand, (ldct, ndct) = copy.deepcopy(network), a_batch(16)
    objective = edcnn.make(a_context(network))
    assert "EDCNN learns from the MSE alone" in caplog.text
    values = objective.step(ldct, ndct, seeded())
    assert values["loss"] == values["mse"] and "perceptual" not in values and objective.parts == {}
    assert_moved_along(network, by_hand, ((by_hand(ldct) - ndct) ** 2).mean())


def test_resnet_weights_come_from_a_file_and_others_are_refused(a_resnet, tmp_path):
    state = {**a_resnet.state_dict(), "fc.bias": torch.zeros(3)}
    save_file(state, tmp_path / "resnet50.safetensors")
    loaded = edcnn.make(a_context(a_denoiser(), resnet_weights=str(tmp_path / "resnet50.safetensors"))).resnet
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.state_dict().items())
    with pytest.raises(InputError, match="There is no file .*none.pth"):
        edcnn.load_resnet50(tmp_path / "none.pth")
    for number, other in enumerate(({"conv1.weight": torch.zeros(64, 3, 7, 7)}, [torch.zeros(1)])):
        torch.save(other, tmp_path / f"{number}.pth")
        with pytest.raises(InputError, match=f"{number}.pth cannot be used as ResNet-50 weights"):
            edcnn.load_resnet50(tmp_path / f"{number}.pth")
