"""ALDEN's losses: the contrast and the cross-attention as loops, the balance, one step by hand, our own features."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from objective_fixtures import RATE, a_batch, a_context, a_denoiser, assert_moved_along, seeded
from torch import nn
from torch.nn import functional as F

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.models.networks.esau_net import ESAUNet
from ASCONTrainingLib.method.objectives import alden, alden_own_features


class Blurred:
    """Features that are cheap: three linear maps of blocks of 8x8 pixels."""

    widths = (5, 6, 7)

    def __init__(self):
        self.maps = [torch.randn(width, 64, generator=seeded(width)) for width in self.widths]

    def __call__(self, images):
        blocks = F.unfold(images, 8, stride=8).mT  # (B, N, 64)
        return [blocks @ m.T for m in self.maps]


def tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=seeded(seed)).double()


def contrast_by_loops(denoised, ndct, ldct, t):
    """With all places that differ as negatives, of which there are fewer than 32."""

    def cos(a, b):
        return float(a @ b) / (float(a @ a) * float(b @ b)) ** 0.5

    losses = []
    for b in range(len(denoised)):
        for i in range(denoised.shape[1]):
            own, positive, noisy = denoised[b, i], ndct[b, i], ldct[b, i]
            if cos(noisy, positive) > 0.98:
                continue
            below = math.exp(cos(own, positive) / t) + math.exp(cos(own, noisy) / t)
            for other in ndct[b]:
                if cos(positive, other) < 0.7:
                    below += math.exp(cos(own, other) / t)
            losses.append(-math.log(math.exp(cos(own, positive) / t) / below))
    return sum(losses) / len(losses)


def test_the_contrast_is_that_of_loops_over_places():
    own, ndct, noise = (tokens(2, 9, 4, seed=k) for k in range(3))
    ndct[:, 3] = ndct[:, 2] + 0.1 * ndct[:, 3]  # a place that looks like its neighbour is no negative of it
    ldct = ndct + torch.tensor([0.01, 0.5, 1]).double().repeat(3)[:, None] * noise
    for t in (0.1, 0.5):
        got = alden.semantic_contrast(own, ndct, ldct, seeded(), t)
        assert got.item() == pytest.approx(contrast_by_loops(own, ndct, ldct, t), rel=1e-9)
    assert alden.semantic_contrast(own, ndct, ndct, seeded()).item() == 0  # nothing that noise has changed


def test_at_most_32_places_are_negatives_and_the_generator_draws_them():
    """With orthogonal features: 1 for the positive, 0 for the LDCT and for each of 32 of 99 others."""
    ndct, ldct = torch.eye(100, 200).double()[None], torch.eye(200).double()[None, 100:]
    wanted = math.log(math.exp(10) + 1 + 32) - 10
    assert alden.semantic_contrast(ndct, ndct, ldct, seeded()).item() == pytest.approx(wanted, rel=1e-9)
    own, ndct, ldct = (tokens(1, 100, 20, seed=k) for k in range(3))
    values = [alden.semantic_contrast(own, ndct, ldct, seeded(seed)).item() for seed in (4, 4, 5)]
    assert values[0] == values[1] != values[2]


def test_the_cross_attention_is_that_of_loops_over_pixels_and_tokens():
    torch.manual_seed(0)
    layer = alden.CrossAttention(6, 5).double().eval()
    x, seen = tokens(2, 6, 3, 4), tokens(2, 7, 5, seed=1)
    assert torch.equal(layer(x, seen), x)  # at first it adds nothing
    nn.init.constant_(layer.gamma, 0.7)
    for name in ("query", "key", "value", "project"):
        nn.init.normal_(getattr(layer, name).bias)
    wanted = x.clone()
    for b in range(2):
        for i in range(3):
            for j in range(4):
                q = layer.query.weight[:, :, 0, 0] @ x[b, :, i, j] + layer.query.bias
                found = []
                for head in range(4):
                    part = slice(32 * head, 32 * head + 32)
                    scores, values = [], []
                    for token in seen[b]:
                        token = (token - token.mean()) / (token.var(unbiased=False) + 1e-5).sqrt()
                        key = (layer.key.weight @ token + layer.key.bias)[part]
                        values.append((layer.value.weight @ token + layer.value.bias)[part])
                        scores.append(q[part] @ key / 32**0.5)
                    weights = torch.stack(scores).softmax(0)
                    found.append(sum(w * v for w, v in zip(weights, values, strict=True)))
                y = layer.project.weight[:, :, 0, 0] @ torch.cat(found) + layer.project.bias
                wanted[b, :, i, j] += 0.7 * y
    assert torch.allclose(layer(x, seen), wanted, atol=1e-9)


def test_the_discriminator_is_its_description_carried_out_by_hand():
    torch.manual_seed(0)
    judge = alden.AnatomyAwareDiscriminator((5, 6, 7)).eval()
    for attention in judge.attentions:
        nn.init.constant_(attention.gamma, 0.5)
    x, seen = (
        torch.rand(2, 1, 32, 48, generator=seeded()),
        [torch.rand(2, 4, w, generator=seeded(w)) for w in (5, 6, 7)],
    )
    y = x
    for number, stage in enumerate(judge.stages):
        assert torch.linalg.matrix_norm(stage.weight.flatten(1), 2).item() == pytest.approx(1, abs=0.3)
        y = F.leaky_relu(F.conv2d(y, stage.weight, stage.bias, stride=2, padding=1), 0.2)
        assert y.shape[1] == (64, 128, 256, 512)[number]
        if number:
            y = judge.attentions[number - 1](y, seen[number - 1])
    assert torch.allclose(judge(x, seen), F.conv2d(y, judge.last.weight, judge.last.bias), atol=1e-6)
    assert judge(x, seen).shape == (2, 1, 2, 3)
    assert not torch.allclose(judge(x, seen), judge(x, [s.flip(-1) for s in seen]), atol=1e-4)


def test_the_balance_brings_the_gradient_to_a_tenth_until_step_500_then_measures_it():
    balance = alden.Balance(lambda *norms: list(norms))
    weight = nn.Parameter(torch.tensor([3.0, 4.0]))
    shares = []
    for step in range(702):
        factor = 1 + step / 100  # the adversarial gradient grows: (factor, 0), the other is (0, 2)
        mse, adversarial = 2 * weight[1], factor * weight[0]
        got = balance.weight_of(mse, adversarial, [weight])
        if step % 100 == 0:
            shares.append(balance.share.item())
        assert got.item() == pytest.approx(0.1 * 2 / (1 + min(step // 100, 5)), rel=1e-5), step
    assert shares == pytest.approx([0.1] * 6 + [0.1 * 7 / 6, 0.1 * 8 / 6], rel=1e-5)
    other = alden.Balance(balance.mean)
    other.load_state_dict(balance.state_dict())
    assert other.steps == 702 and other.weight == balance.weight
    assert weight.grad is None


def test_one_step_of_both_networks_is_the_gradient_of_the_losses_typed_from_their_description():
    network, features = a_denoiser(), Blurred()
    torch.manual_seed(0)
    objective = alden.ALDENObjective(a_context(network), features)
    objective.discriminator.eval()
    for attention in objective.discriminator.attentions:
        nn.init.constant_(attention.gamma, 0.5)
    objective.optimizer = torch.optim.SGD(objective.discriminator.parameters(), RATE)
    before, judge = copy.deepcopy(network), copy.deepcopy(objective.discriminator)
    ldct, ndct = a_batch(32)
    values = objective.step(ldct, ndct, seeded(5))

    denoised, anatomy = before(ldct), features(ndct)

    def scores(discriminator, images):  # units of [-160, 240] HU
        return discriminator((3000 * images - 1000 + 160) / 400, anatomy)

    critic = (1 - scores(judge, ndct)).relu().mean() + (1 + scores(judge, denoised.detach())).relu().mean()
    assert values["discriminator"] == pytest.approx(critic.item(), rel=1e-4)
    assert_moved_along(objective.discriminator, judge, critic)
    mse = ((denoised - ndct) ** 2).mean()
    contrast = alden.semantic_contrast(features(denoised)[-1], anatomy[-1], features(ldct)[-1], seeded(5))
    adversarial = -scores(copy.deepcopy(objective.discriminator), denoised).mean()
    norms = []
    for loss in (1000 * mse, adversarial):
        gradients = torch.autograd.grad(loss, list(before.parameters()), retain_graph=True)
        norms.append(math.sqrt(sum(float((g**2).sum()) for g in gradients)))
    weight = 0.1 * norms[0] / norms[1]
    assert values["adversarial_weight"] == pytest.approx(weight, rel=1e-3)
    assert values["adversarial_share"] == pytest.approx(0.1, rel=1e-3)
    loss = 1000 * mse + 0.1 * contrast + weight * adversarial
    for name, wanted in (("mse", mse), ("contrast", contrast), ("adversarial", adversarial), ("loss", loss)):
        assert values[name] == pytest.approx(wanted.item(), rel=1e-3), name
    assert contrast > 0
    assert_moved_along(network, before, loss, rate=RATE)


@pytest.mark.parametrize(("settings", "multiple"), [({}, 8), ({"fold": 2, "channels": 16}, 16)])
def test_our_own_features_are_those_of_the_blocks_of_the_network_at_the_size_of_the_last(settings, multiple):
    torch.manual_seed(0)
    network = ESAUNet(**settings).eval().requires_grad_(False)
    wanted = []
    for block in (network.enc2, network.enc3, network.enc4):
        block.register_forward_hook(lambda _block, _given, output: wanted.append(output.clone()))
    image = torch.rand(1, 1, 4 * multiple, 6 * multiple, generator=seeded())
    network(image)
    features = alden_own_features.ESAUNetFeatures(network)
    width = settings.get("channels", 32)
    assert features.widths == (4 * width, 8 * width, 8 * width)
    maps = list(wanted)
    for channels, got, full, pooled in zip(features.widths, features(image), maps, (4, 2, 1), strict=True):
        assert got.shape == (1, 4 * 6, channels)
        blocks = full.unflatten(3, (-1, pooled)).unflatten(2, (-1, pooled)).mean((3, 5))
        assert torch.allclose(got.mT.unflatten(2, (4, 6)), blocks, atol=1e-5)


def test_the_variant_takes_the_shipped_model_and_never_trains_it():
    objective = alden_own_features.make(a_context(a_denoiser()))
    network = objective.features.network
    before = copy.deepcopy(network.state_dict())
    objective.step(*a_batch(32, 1), seeded())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not any(p.requires_grad for p in network.parameters())


def test_without_a_file_the_sentence_names_the_setting_and_the_variant():
    with pytest.raises(InputError, match="file with them in loss.vit_weights, or set objective to alden_own_features"):
        alden.make(a_context(a_denoiser(), vit_weights=None))
