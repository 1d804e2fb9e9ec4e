"""DU-GAN's losses in both domains: Sobel, CutMix and the U-Net discriminator carried out by hand."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from objective_fixtures import RATE, a_batch, a_context, a_denoiser, assert_moved_along, seeded
from torch import nn
from torch.nn import functional as F

from ASCONDenoiseLib.errors import InputError
from ASCONTrainingLib.method.objectives import du_gan


def test_the_gradient_is_sobels():
    image = np.random.default_rng(0).random((6, 7))
    padded = np.pad(image, 1)
    wanted = np.empty_like(image)
    for r in range(6):
        for c in range(7):
            (a, b, p), (d, _, f), (g, h, k) = padded[r : r + 3, c : c + 3]
            x, y = (a + 2 * d + g - p - 2 * f - k) / 4, (a + 2 * b + p - g - 2 * h - k) / 4
            wanted[r, c] = math.sqrt(x * x + y * y + 1e-4)
    found = du_gan.gradient_size(torch.from_numpy(image)[None, None])
    assert np.allclose(found[0, 0].numpy(), wanted)


def test_losses_see_units_of_600_hu():
    unit = (torch.tensor([-1000.0, -300.0, 0.0, 300.0]) + 1000) / 3000
    assert du_gan.to_window(unit).tolist() == pytest.approx([-700 / 600, 0, 0.5, 1], abs=1e-5)


def test_cutmix_cuts_boxes_of_uniform_share_anywhere():
    masks = torch.stack([du_gan.cutmix_mask((1, 1, 40, 60), random) for random in [seeded(5)] for _ in range(3000)])
    for mask in masks[:200]:  # a box: rows and columns of zeros cross
        rows, columns = (mask == 0).any(1), (mask == 0).any(0)
        assert torch.equal(mask == 0, rows[:, None] & columns[None, :])
    # the share of a box with side lengths sqrt(u) and a centre anywhere, cut off at the border, each side by itself:
    side = np.random.default_rng(0).random((2, 200_000))
    centre, length = np.random.default_rng(1).random(200_000), np.sqrt(side[0])
    inside = np.minimum(centre + length / 2, 1) - np.maximum(centre - length / 2, 0)
    assert (masks[:, 20] == 0).float().mean().item() == pytest.approx(
        np.mean(inside * (np.abs(side[1] - 0.5) < length / 2)), abs=0.02
    )
    share = np.array([np.mean([1 - mask.mean().item() for mask in masks])])
    other = np.random.default_rng(2).random(200_000)
    inside_too = np.minimum(other + length / 2, 1) - np.maximum(other - length / 2, 0)
    assert share[0] == pytest.approx(np.mean(inside * inside_too), abs=0.02)


def dual_scores(discriminator: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The U-Net discriminator once more, with the weights that its spectral normalisation gives."""

    def conv(layer, x, **options):
        return F.conv2d(x, layer.weight, layer.bias, **options)

    def double(layers, x):
        for k in (0, 2):
            x = conv(layers[k], x, padding=1)
            x = torch.where(x > 0, x, 0.2 * x)
        return x

    skips = []
    for k, down in enumerate(discriminator.down):
        skips.append(double(down.convs, x))
        if k < 6:
            x = conv(down.halve, skips[-1], stride=2, padding=1) + conv(down.shortcut, x, stride=2)
        else:
            x = skips[-1] + conv(down.shortcut, x)
    x = x + double(discriminator.middle, x)
    whole = F.linear(F.leaky_relu(x, 0.2).mean((2, 3)), discriminator.whole.weight, discriminator.whole.bias)
    for k, up in enumerate(discriminator.up):
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        x = double(up.convs, torch.cat((x, skips[5 - k]), 1)) + conv(up.shortcut, x)
    return whole, conv(discriminator.pixels, x)


def test_the_discriminators_have_as_many_weights_as_published(monkeypatch):
    """57,213,839 in the authors' implementation."""
    monkeypatch.setattr(du_gan, "spectral_norm", lambda layer: layer)  # costs seconds and adds no weights
    with torch.device("meta"):
        assert sum(p.numel() for p in du_gan.UNetDiscriminator().parameters()) == 57_213_839


@pytest.mark.usefixtures("thin_discriminators")
def test_the_discriminator_is_a_spectrally_normalised_u_net():
    """Layer by layer; the largest singular value of each normalised kernel is about 1."""
    torch.manual_seed(0)
    discriminator = du_gan.UNetDiscriminator().train()
    x = torch.rand(2, 1, 128, 64, generator=seeded())
    with torch.no_grad():
        for _ in range(30):
            discriminator(x)  # power iterations
        discriminator.eval()
        whole, pixels = discriminator(x)
        whole_by_hand, pixels_by_hand = dual_scores(discriminator, x)
        assert torch.allclose(whole, whole_by_hand, rtol=1e-4, atol=1e-6)
        assert torch.allclose(pixels, pixels_by_hand, rtol=1e-4, atol=1e-6)
        assert whole.shape == (2, 1) and pixels.shape == x.shape
        for name, layer in discriminator.named_modules():
            if isinstance(layer, nn.Conv2d):
                largest = torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item()
                normalised = layer.out_channels > 1 and layer.in_channels > 1
                assert (abs(largest - 1) < 0.1) == normalised, (name, largest)


class Judge(nn.Module):
    """A small stand-in for a discriminator: it has both judgements, and no state that a call changes."""

    def __init__(self, seed: int):
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(1, 1, 3, padding=1)
        self.whole = nn.Linear(1, 1)

    def forward(self, x):
        y = self.conv(x).tanh()
        return self.whole(y.mean((2, 3))), y


class TwoJudges(nn.Module):
    def __init__(self):
        super().__init__()
        self.image, self.gradient = Judge(4), Judge(5)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))


PUBLISHED = {
    "defaults": {"mse": 1, "gradient": 20, "image": 0.1, "gradient_domain": 0.1, "consistency": 1, "rate": 1e-4},
    "script": {
        "mse": 5.034293425614828,
        "gradient": 35.310016043755894,
        "image": 0.14178356036938378,
        "gradient_domain": 0.11960717521104237,
        "consistency": 5.08720932695335,
        "rate": 7.122979672016055e-05,
    },
}
"""The authors' defaults, and their script train_dugan.sh."""


def a_du_gan(network: nn.Module, weights: str = "defaults") -> du_gan.DUGANObjective:
    judges = TwoJudges()
    optimizers = {n: torch.optim.SGD(getattr(judges, n).parameters(), RATE) for n in ("image", "gradient")}
    return du_gan.DUGANObjective(a_context(network, du_gan=weights), judges, optimizers)


@pytest.mark.parametrize("weights", ["defaults", "script"])
@pytest.mark.parametrize("mixed", [False, True])
def test_du_gan_is_its_losses_in_both_domains(weights, mixed, monkeypatch):
    network, published = a_denoiser(), PUBLISHED[weights]
    objective, by_hand, (ldct, ndct) = a_du_gan(network, weights), copy.deepcopy(network), a_batch(16)
    judges = copy.deepcopy(objective.discriminators)
    monkeypatch.setattr(du_gan, "CUTMIX_WARM_UP", 1)
    objective.weights = replace(objective.weights, cutmix=float(mixed))
    values = objective.step(ldct, ndct, seeded(7))

    random = seeded(7)
    torch.rand((), generator=random)  # whether to mix
    denoised = by_hand(ldct)
    real, false, source = ((3000 * x - 1000 + 300) / 600 for x in (ndct, denoised, ldct))
    adversarial = 0
    for name, (r, f, s) in {
        "image": (real, false, source),
        "gradient": tuple(du_gan.gradient_size(x) for x in (real, false, source)),
    }.items():
        judge, now = getattr(judges, name), getattr(objective.discriminators, name)
        (rw, rp), (fw, fp), (sw, sp) = judge(r), judge(f.detach()), judge(s)
        loss = sum(((j - 1) ** 2).mean() for j in (rw, rp)) + sum((j**2).mean() for j in (fw, fp, sw, sp))
        if mixed:
            mask = du_gan.cutmix_mask(r.shape, random)
            mw, mp = judge(torch.where(mask > 0, r, f.detach()))
            loss = loss + (mw**2).mean() + ((mp - mask) ** 2).mean()
            loss = loss + published["consistency"] * ((mp - torch.where(mask > 0, rp, fp)) ** 2).mean()
        domain = "image" if name == "image" else "gradient_domain"
        assert values[domain] == pytest.approx(loss.item(), rel=1e-4)
        assert_moved_along(now, judge, loss)
        whole, pixels = copy.deepcopy(now)(f)  # after its step
        adversarial = adversarial + published[domain] * (((whole - 1) ** 2).mean() + ((pixels - 1) ** 2).mean())
    mse = ((real - false) ** 2).mean()
    gradient = (du_gan.gradient_size(real) - du_gan.gradient_size(false)).abs().mean()
    total = published["mse"] * mse + published["gradient"] * gradient + adversarial
    assert values["loss"] == pytest.approx(total.item(), rel=1e-4)
    assert_moved_along(network, by_hand, total)


def test_cutmix_comes_more_often_until_it_is_warm_and_resumes_where_it_stood():
    objective, other = a_du_gan(a_denoiser()), a_du_gan(a_denoiser())
    random = seeded()
    mixed = np.array([objective._mixes(random) for _ in range(4000)])
    assert mixed[:500].mean() == pytest.approx(0.125, abs=0.05) and mixed[1000:].mean() == pytest.approx(0.5, abs=0.04)
    other.parts["discriminators"].load_state_dict(objective.parts["discriminators"].state_dict())
    assert other.discriminators.steps == 4000


@pytest.mark.usefixtures("thin_discriminators")
@pytest.mark.parametrize("weights", ["defaults", "script"])
def test_the_setting_chooses_rate_and_cutmix(weights):
    objective = du_gan.make(a_context(a_denoiser(), du_gan=weights))
    for name in ("image", "gradient"):
        assert objective.optimizers[name].param_groups[0]["lr"] == PUBLISHED[weights]["rate"]
    assert objective.weights.cutmix == {"defaults": 0.5, "script": 0.7615524094697519}[weights]


@pytest.mark.usefixtures("thin_discriminators")
def test_du_gan_trains_with_its_own_discriminators_on_patches_that_fit():
    with pytest.raises(InputError, match="multiples of 64; got patches of 48"):
        du_gan.make(a_context(a_denoiser(), patch=48))
    with pytest.raises(InputError, match="multiples of 64; got patches of 96"):
        du_gan.make(a_context(a_denoiser(), growth=((0.5, 128, 1), (0.7, 96, 1))))
    torch.manual_seed(0)
    objective = du_gan.make(a_context(a_denoiser(), rate=1e-4))
    before = copy.deepcopy(objective.discriminators.state_dict())
    values = [objective.step(*a_batch(64, 1), seeded()) for _ in range(2)]
    assert all(math.isfinite(number) for number in values[-1].values()) and values[1]["loss"] != values[0]["loss"]
    after = objective.discriminators.state_dict()
    for name in ("image", "gradient"):
        assert not torch.equal(after[f"{name}.pixels.weight"], before[f"{name}.pixels.weight"])
    assert set(objective.parts) == {"discriminators", "image_optimizer", "gradient_optimizer"}
