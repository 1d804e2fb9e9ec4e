"""What one step of each peer's training does: its losses from loops and sentences of the papers, and who is moved."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from ASCONDenoiseLib.models import files as models
from ASCONTrainingLib.config.presets import PRESETS
from ASCONTrainingLib.config.settings import ConfigError, TrainConfig
from ASCONTrainingLib.method.objectives import cncl, du_gan, edcnn, wgan_vgg
from ASCONTrainingLib.method.objectives.setup import NotFiniteError, Setup
from ASCONTrainingLib.method.perceptual import VGG19, WeightsFileError
from ASCONTrainingLib.trainer.distributed import Processes
from ASCONTrainingLib.trainer.training_state import Learner

RATE = 0.01


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def a_batch(side: int = 32, count: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    ldct, ndct = torch.rand(2, count, 1, side, side, generator=seeded(1)).unbind()
    return ldct, ndct


def a_denoiser() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.LeakyReLU(), nn.Conv2d(4, 1, 3, padding=1))


def a_setup(
    network: nn.Module, patch: int | None = 64, rate: float = RATE, growth: tuple = (), **weight_files: str
) -> Setup:
    """With plain SGD, so that one step tells the gradient."""
    config = TrainConfig(mac=None, patch=patch, growth=growth)
    loss = SimpleNamespace(**{"vgg_weights": None, "resnet_weights": None} | weight_files)
    config = SimpleNamespace(**{**vars(config), "loss": loss, "stages": config.stages})
    return Setup(network, network, torch.optim.SGD(network.parameters(), rate), config)


def assert_moved_along(module: nn.Module, before: nn.Module, loss: torch.Tensor, rate: float = RATE) -> None:
    """`module` is `before` after one SGD step down the gradient of `loss`, computed with `before`."""
    learning = dict(before.named_parameters())
    gradients = torch.autograd.grad(loss, list(learning.values()), retain_graph=True)
    for (name, parameter), gradient in zip(module.named_parameters(), gradients, strict=True):
        wanted = learning[name] - rate * gradient
        assert torch.allclose(parameter, wanted, rtol=1e-4, atol=1e-6), name
    assert sum(g.abs().sum() for g in gradients) > 0


# ----------------------------------------------------------------------------------------------------------- EDCNN


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
    values = edcnn.EDCNNObjective(a_setup(network), a_resnet).step(ldct, ndct, seeded())
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
    objective = edcnn.make(a_setup(network))
    assert "EDCNN learns from the MSE alone" in caplog.text
    values = objective.step(ldct, ndct, seeded())
    assert values["loss"] == values["mse"] and "perceptual" not in values and objective.parts == {}
    assert_moved_along(network, by_hand, ((by_hand(ldct) - ndct) ** 2).mean())


def test_resnet_weights_come_from_a_file_and_others_are_refused(a_resnet, tmp_path):
    state = {**a_resnet.state_dict(), "fc.bias": torch.zeros(3)}
    save_file(state, tmp_path / "resnet50.safetensors")
    loaded = edcnn.make(a_setup(a_denoiser(), resnet_weights=str(tmp_path / "resnet50.safetensors"))).resnet
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.state_dict().items())
    with pytest.raises(WeightsFileError, match="There is no file .*none.pth"):
        edcnn.load_resnet50(tmp_path / "none.pth")
    for number, other in enumerate(({"conv1.weight": torch.zeros(64, 3, 7, 7)}, [torch.zeros(1)])):
        torch.save(other, tmp_path / f"{number}.pth")
        with pytest.raises(WeightsFileError, match=f"{number}.pth cannot be used as ResNet-50 weights"):
            edcnn.load_resnet50(tmp_path / f"{number}.pth")


# ------------------------------------------------------------------------------------------------------------ CNCL


class TwoHeaded(nn.Module):
    """A small network that predicts content and noise, as CNCL's does in training."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.both = nn.Conv2d(1, 2, 3, padding=1)

    def complements(self, x):
        return self.both(x)

    def forward(self, x):
        return self.complements(x)


def patch_judgement(discriminator: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Four halvings by 4x4 convolutions, the last three normalised per image and channel; then zeros on the left and
    above, and one channel."""
    weights = iter(discriminator.parameters())
    for number in range(4):
        x = F.conv2d(x, next(weights), next(weights), stride=2, padding=1)
        if number:
            mean = x.mean((2, 3), keepdim=True)
            x = (x - mean) / (((x - mean) ** 2).mean((2, 3), keepdim=True) + 1e-5).sqrt()
        x = torch.where(x > 0, x, 0.2 * x)
    return F.conv2d(F.pad(x, (1, 0, 1, 0)), next(weights), padding=1)


def test_cncl_descends_l1_of_content_and_noise_and_the_adversarial_loss():
    torch.manual_seed(0)
    network, discriminator = TwoHeaded(), cncl.PatchDiscriminator()
    assert sum(p.numel() for p in discriminator.parameters()) == 2_764_736  # the authors' implementation
    by_hand, judge = copy.deepcopy(network), copy.deepcopy(discriminator)
    optimizer = torch.optim.SGD(discriminator.parameters(), RATE)
    ldct, ndct = a_batch(32)
    values = cncl.CNCLObjective(a_setup(network), discriminator, optimizer).step(ldct, ndct, seeded())

    content, noise = by_hand(ldct).unbind(1)
    l1_content = sum(abs(a - b) for a, b in zip(content.flatten(), ndct.flatten(), strict=True)) / ndct.numel()
    l1_noise = (noise - (ldct - ndct)[:, 0]).abs().mean()
    judged = patch_judgement(judge, torch.stack((content, noise, ldct[:, 0]), 1))
    assert judged.shape == (2, 1, 2, 2)
    adversarial = ((judged - 1) ** 2).mean()
    loss = adversarial + 100 * (l1_content + l1_noise) / 2
    assert values["loss"] == pytest.approx(loss.item(), rel=1e-4)
    assert (values["l1"], values["adversarial"]) == pytest.approx(
        (((l1_content + l1_noise) / 2).item(), adversarial.item()), rel=1e-4
    )
    assert_moved_along(network, by_hand, loss)

    real = patch_judgement(judge, torch.cat((ndct, ldct - ndct, ldct), 1))
    false = patch_judgement(judge, torch.stack((content, noise, ldct[:, 0]), 1).detach())
    wanted = 0.5 * (((real - 1) ** 2).mean() + (false**2).mean())
    assert values["discriminator"] == pytest.approx(wanted.item(), rel=1e-4)
    assert_moved_along(discriminator, judge, wanted)


def test_cncl_needs_a_network_with_two_predictions_and_trains_its_own():
    with pytest.raises(ConfigError, match="set network to cncl"):
        cncl.make(a_setup(a_denoiser()))
    torch.manual_seed(0)
    network = models.ARCHITECTURES["cncl"]().train()
    objective = cncl.make(a_setup(network, rate=1e-4))
    first, *_, last = [objective.step(*a_batch(32), seeded())["l1"] for _ in range(4)]
    assert last < first
    assert set(objective.parts) == {"discriminator", "discriminator_optimizer"}


# ---------------------------------------------------------------------------------------------------------- DU-GAN


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


def dual_judgement(discriminator: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
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


@pytest.fixture
def thin_discriminators(monkeypatch):
    """The same layers with fewer channels, for speed."""
    monkeypatch.setattr(du_gan, "WIDTH", 4)
    monkeypatch.setattr(du_gan, "WIDEST", 32)


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
        whole_by_hand, pixels_by_hand = dual_judgement(discriminator, x)
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


def a_du_gan(network: nn.Module) -> du_gan.DUGANObjective:
    judges = TwoJudges()
    optimizers = {n: torch.optim.SGD(getattr(judges, n).parameters(), RATE) for n in ("image", "gradient")}
    return du_gan.DUGANObjective(a_setup(network), judges, optimizers)


@pytest.mark.parametrize("mixed", [False, True])
def test_du_gan_is_its_losses_in_both_domains(mixed, monkeypatch):
    network = a_denoiser()
    objective, by_hand, (ldct, ndct) = a_du_gan(network), copy.deepcopy(network), a_batch(16)
    judges = copy.deepcopy(objective.discriminators)
    monkeypatch.setattr(du_gan, "CUTMIX_WARM_UP", 1)
    monkeypatch.setattr(du_gan, "CUTMIX_SHARE", float(mixed))
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
            loss = loss + ((mp - torch.where(mask > 0, rp, fp)) ** 2).mean()
        assert values["image" if name == "image" else "gradient_domain"] == pytest.approx(loss.item(), rel=1e-4)
        assert_moved_along(now, judge, loss)
        whole, pixels = copy.deepcopy(now)(f)  # after its step
        adversarial = adversarial + ((whole - 1) ** 2).mean() + ((pixels - 1) ** 2).mean()
    mse = ((real - false) ** 2).mean()
    gradient = (du_gan.gradient_size(real) - du_gan.gradient_size(false)).abs().mean()
    total = mse + 20 * gradient + 0.1 * adversarial
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
def test_du_gan_trains_with_its_own_discriminators_on_patches_that_fit():
    with pytest.raises(ConfigError, match="multiples of 64; got patches of 48"):
        du_gan.make(a_setup(a_denoiser(), patch=48))
    with pytest.raises(ConfigError, match="multiples of 64; got patches of 96"):
        du_gan.make(a_setup(a_denoiser(), growth=((0.5, 128, 1), (0.7, 96, 1))))
    torch.manual_seed(0)
    objective = du_gan.make(a_setup(a_denoiser(), rate=1e-4))
    before = copy.deepcopy(objective.discriminators.state_dict())
    values = [objective.step(*a_batch(64, 1), seeded()) for _ in range(2)]
    assert all(math.isfinite(number) for number in values[-1].values()) and values[1]["loss"] != values[0]["loss"]
    after = objective.discriminators.state_dict()
    for name in ("image", "gradient"):
        assert not torch.equal(after[f"{name}.pixels.weight"], before[f"{name}.pixels.weight"])
    assert set(objective.parts) == {"discriminators", "image_optimizer", "gradient_optimizer"}


# -------------------------------------------------------------------------------------------------------- WGAN-VGG


@pytest.fixture(scope="module")
def a_vgg_file(tmp_path_factory) -> str:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("vgg") / "vgg19.safetensors"
    save_file(VGG19().state_dict(), path)
    return str(path)


def a_quadratic_critic() -> nn.Module:
    """D(x) = sum(w x^2) per image, whose gradient 2 w x is known."""

    class Critic(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.rand(32, 32, generator=seeded(9)) / 30)

        def forward(self, x):
            return (self.w * x * x).sum((1, 2, 3))[:, None]

    return Critic()


def test_the_gradient_penalty_is_that_of_a_gradient_known_by_formula():
    critic = a_quadratic_critic()
    x = torch.rand(3, 1, 32, 32, generator=seeded())
    sizes = [
        math.sqrt(sum((2 * critic.w[0, 0].new_tensor(w) * v) ** 2 for w, v in pairs))
        for pairs in (zip(critic.w.flatten().tolist(), image.flatten().tolist(), strict=True) for image in x)
    ]
    found = wgan_vgg.gradient_penalty(critic, x)
    assert found.item() == pytest.approx(sum((size - 1) ** 2 for size in sizes) / 3, rel=1e-4)
    by_formula = (((2 * critic.w * x).flatten(1).norm(dim=1) - 1) ** 2).mean()
    wanted = torch.autograd.grad(by_formula, critic.w)[0]
    assert torch.allclose(torch.autograd.grad(found, critic.w)[0], wanted, rtol=1e-4, atol=1e-6)


def test_the_critic_takes_four_steps_and_then_the_denoiser_one(a_vgg_file):
    network, critic = a_denoiser(), a_quadratic_critic()
    by_hand, judge = copy.deepcopy(network), copy.deepcopy(critic)
    vgg = wgan_vgg.load_vgg19(a_vgg_file)
    optimizer = torch.optim.SGD(critic.parameters(), RATE)
    ldct, ndct = a_batch(32)
    values = wgan_vgg.WGANVGGObjective(a_setup(network), critic, optimizer, vgg).step(ldct, ndct, seeded(4))

    random, denoised = seeded(4), by_hand(ldct)
    for _ in range(4):
        share = torch.rand(2, 1, 1, 1, generator=random)
        between = share * ndct + (1 - share) * denoised.detach()
        penalty = (((2 * judge.w * between).flatten(1).norm(dim=1) - 1) ** 2).mean()
        distance = judge(ndct).mean() - judge(denoised.detach()).mean()
        (slope,) = torch.autograd.grad(-distance + 10 * penalty, judge.w)
        judge.w.data -= RATE * slope
    assert (values["distance"], values["penalty"]) == pytest.approx((distance.item(), penalty.item()), rel=1e-3)
    assert torch.allclose(critic.w, judge.w, rtol=1e-4, atol=1e-6)
    features = ((vgg(denoised) - vgg(ndct)) ** 2).mean()
    loss = -judge(denoised).mean() + 0.1 * features
    assert values["loss"] == pytest.approx(loss.item(), rel=1e-4)
    assert_moved_along(network, by_hand, loss)


def test_the_critic_is_its_description_by_hand():
    torch.manual_seed(0)
    critic = wgan_vgg.Critic(32)
    assert (
        sum(p.numel() for p in wgan_vgg.Critic(64).parameters())
        == sum((9 * a + 1) * b for a, b in ((1, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256)))
        + (8 * 8 * 256 + 1) * 1024
        + 1025
    )
    x = torch.rand(2, 1, 32, 32, generator=seeded())
    weights, y = iter(critic.parameters()), x
    for stride in (1, 2, 1, 2, 1, 2):
        y = F.leaky_relu(F.conv2d(y, next(weights), next(weights), stride=stride, padding=1), 0.2)
    y = F.leaky_relu(F.linear(y.flatten(1), next(weights), next(weights)), 0.2)
    assert torch.allclose(critic(x), F.linear(y, next(weights), next(weights)), rtol=1e-4, atol=1e-6)


@pytest.mark.skipif(not hasattr(torch.amp, "GradScaler"), reason="PyTorch before 2.3 scales gradients on CUDA only")
def test_a_scaler_does_not_stop_the_critic_after_its_first_step(a_vgg_file):
    """In fp16 the critic's optimiser takes four steps before the denoiser's takes one."""
    networks, found = [copy.deepcopy(a_denoiser()) for _ in range(2)], []
    for network, scaler in zip(networks, (None, torch.amp.GradScaler("cpu", init_scale=1024.0)), strict=True):
        setup = replace(a_setup(network, patch=32), scaler=scaler)
        critic = a_quadratic_critic()
        optimizer = torch.optim.SGD(critic.parameters(), RATE)
        objective = wgan_vgg.WGANVGGObjective(setup, critic, optimizer, wgan_vgg.load_vgg19(a_vgg_file))
        found.append([objective.step(*a_batch(32), seeded()) for _ in range(2)])
    assert found[1][1] == pytest.approx(found[0][1], rel=1e-3)
    assert torch.allclose(networks[0][0].weight, networks[1][0].weight, rtol=1e-4, atol=1e-6)


def test_wgan_vgg_needs_its_weights_file_and_one_size_of_patch(a_vgg_file):
    with pytest.raises(WeightsFileError, match="name a file with them in loss.vgg_weights"):
        wgan_vgg.make(a_setup(a_denoiser()))
    for patch in (None, 60, 256):
        with pytest.raises(ConfigError, match=f"the setting patch is {patch}"):
            wgan_vgg.make(a_setup(a_denoiser(), patch=patch, vgg_weights=a_vgg_file))
    torch.manual_seed(0)
    objective = wgan_vgg.make(a_setup(models.ARCHITECTURES["wgan_vgg"](), patch=32, vgg_weights=a_vgg_file, rate=1e-4))
    values = objective.step(*a_batch(32), seeded())
    assert all(math.isfinite(number) for number in values.values())


# ------------------------------------------------------------------------------------------------------------- all


@pytest.mark.usefixtures("thin_discriminators")
@pytest.mark.parametrize("peer", ["edcnn", "cncl", "du_gan", "wgan_vgg"])
def test_a_batch_that_is_not_finite_stops_the_step_before_the_denoiser_moves(peer, a_vgg_file):
    network = TwoHeaded() if peer == "cncl" else a_denoiser()
    setup = a_setup(network, patch=64, vgg_weights=a_vgg_file)
    torch.manual_seed(0)
    objective = {"edcnn": edcnn, "cncl": cncl, "du_gan": du_gan, "wgan_vgg": wgan_vgg}[peer].make(setup)
    before = copy.deepcopy(network.state_dict())
    ldct, ndct = a_batch(64, 1)
    with pytest.raises(NotFiniteError):
        objective.step(ldct, torch.full_like(ndct, torch.inf), seeded())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.usefixtures("thin_discriminators")
@pytest.mark.parametrize("peer", ["cncl", "du_gan", "wgan_vgg"])
def test_a_step_after_a_restored_checkpoint_is_the_same_bit_for_bit(peer, a_vgg_file):
    """Everything that the next step depends on is in the denoiser, its optimiser, the generator and `parts`."""

    side = 32 if peer == "wgan_vgg" else 64

    def fresh():
        torch.manual_seed(6)
        network = TwoHeaded() if peer == "cncl" else a_denoiser()
        setup = a_setup(network, patch=side, vgg_weights=a_vgg_file)
        setup = replace(setup, optimizer=torch.optim.AdamW(network.parameters()))
        return network, setup, {"cncl": cncl, "du_gan": du_gan, "wgan_vgg": wgan_vgg}[peer].make(setup)

    batch = a_batch(side, 1)
    network, setup, objective = fresh()
    random = seeded(8)
    objective.step(*batch, random)
    saved = copy.deepcopy((network.state_dict(), setup.optimizer.state_dict(), random.get_state()))
    parts = copy.deepcopy({name: part.state_dict() for name, part in objective.parts.items()})
    wanted = objective.step(*batch, random)

    network, setup, objective = fresh()
    network.load_state_dict(saved[0])
    setup.optimizer.load_state_dict(saved[1])
    random = seeded()
    random.set_state(saved[2])
    for name, part in objective.parts.items():
        part.load_state_dict(parts[name])
    assert objective.step(*batch, random) == wanted


@pytest.mark.usefixtures("thin_discriminators")
@pytest.mark.parametrize("peer", ["unet", "red_cnn", "edcnn", "cncl", "du_gan", "wgan_vgg"])
def test_each_preset_trains_its_network_with_its_objective(peer, a_vgg_file):
    """In the precision of the preset; what is saved gives an image, and is another network than at the start."""
    config = PRESETS[peer].changed(
        {"batch": 1, "patch": 64 if peer == "du_gan" else 32, "loss.vgg_weights": a_vgg_file}
    )
    learner = Learner(config, Processes("cpu"))
    before = copy.deepcopy(learner.network.state_dict())
    ldct, ndct = a_batch(config.patch, 1)
    values = [learner.learn(ldct, ndct, share) for share in (0.1, 0.2)]
    assert all(math.isfinite(number) for step in values for number in step.values())
    assert config.network == peer and config.mac is None
    assert any(not torch.equal(tensor, before[name]) for name, tensor in learner.network.state_dict().items())
    with torch.no_grad():
        assert learner.result.eval()(ldct).shape == ldct.shape
