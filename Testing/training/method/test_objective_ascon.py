"""What one training step does: against the method's sentences carried out by hand, and who is moved by whom."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ASCONDenoiseLib.errors import InputError
from ASCONTrainingLib.config.presets import PRESETS
from ASCONTrainingLib.config.settings import LossConfig, MACConfig, OptimizerConfig, TrainConfig
from ASCONTrainingLib.method import losses
from ASCONTrainingLib.method.mac_net import MACNet
from ASCONTrainingLib.method.objective import NotFiniteError, TrainingContext, frozen
from ASCONTrainingLib.method.objectives import ascon
from ASCONTrainingLib.method.objectives.ascon import ASCONObjective
from ASCONTrainingLib.method.perceptual import VGG19, perceptual_loss

LOSS = LossConfig(mse_weight=3.0, ssim_weight=2.0, mac_weight=0.4, mac_net_loss_weight=0.7)
MAC = MACConfig(global_queries=4, local_queries=12, momentum=0.9)
RATE, MAC_RATE = 0.01, 0.2


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def a_denoiser():
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.LeakyReLU(), nn.Conv2d(4, 1, 3, padding=1))


def a_mac_net(**changes):
    torch.manual_seed(2)
    return MACNet(replace(MAC, **changes))


def a_batch(seed=0):
    return torch.rand(2, 2, 1, 48, 48, generator=seeded(seed)).unbind()


def a_context(network, optimizer=None, loss=LOSS, gradient_clip=None, **options):
    config = TrainConfig(loss=loss, optimizer=OptimizerConfig(gradient_clip=gradient_clip))
    return TrainingContext(
        network, network, optimizer or torch.optim.SGD(network.parameters(), RATE), config, **options
    )


def an_objective(network, mac=None, loss=LOSS, vgg=None, **options):
    learning = None if mac is None else [p for p in mac.parameters() if p.requires_grad]
    mac_optimizer = None if mac is None else torch.optim.SGD(learning, MAC_RATE)
    return ASCONObjective(a_context(network, loss=loss, **options), mac, mac_optimizer, vgg)


def weights(module):
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


def assert_same(module, wanted, **tolerance):
    for name, parameter in module.named_parameters():
        assert torch.allclose(parameter, wanted[name], **tolerance), name


def descend_by_hand(module, loss, rate, *, last=True):
    learning = {name: p for name, p in module.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(loss, list(learning.values()), retain_graph=not last)
    with torch.no_grad():
        for parameter, gradient in zip(learning.values(), gradients, strict=True):
            parameter -= rate * gradient
    return torch.cat([g.flatten() for g in gradients]).double().norm().item()


# The step


def test_a_step_is_the_four_sentences_of_alternate_learning():
    network, mac = a_denoiser(), a_mac_net()
    by_hand, mac_by_hand = copy.deepcopy(network), copy.deepcopy(mac)
    (ldct, ndct), random = a_batch(), seeded(3)
    values = an_objective(network, mac).step(ldct, ndct, seeded(3))

    denoised = by_hand(ldct)
    found = mac_by_hand(denoised.detach(), ndct, random)
    mac_loss = 0.7 * (found["global"] + found["local"])
    mac_norm = descend_by_hand(mac_by_hand, mac_loss, MAC_RATE)
    for mean, now in zip(mac_by_hand.target.parameters(), mac_by_hand.online.parameters(), strict=True):
        mean.data = 0.9 * mean.data + 0.1 * now.data
    after = mac_by_hand(denoised, ndct, random)  # other queries, the new MAC-Net
    mse, ssim = F.mse_loss(denoised, ndct), 1 - losses.ssim(denoised, ndct)
    loss = 3 * mse + 2 * ssim + 0.4 * (after["global"] + after["local"])
    norm = descend_by_hand(by_hand, loss, RATE)

    assert_same(network, weights(by_hand), rtol=1e-5, atol=1e-7)
    assert_same(mac, weights(mac_by_hand), rtol=1e-5, atol=1e-7)
    wanted = {"loss": loss, "mse": mse, "ssim": ssim, "mac_loss": mac_loss, **after}
    wanted = {name: value.item() for name, value in wanted.items()}
    wanted |= {"gradient_norm": norm, "mac_gradient_norm": mac_norm}
    assert values == pytest.approx(wanted, rel=1e-4)
    assert after["local"].item() != found["local"].item()


def test_without_alternate_learning_one_loss_moves_both():
    network, mac = a_denoiser(), a_mac_net(alternate=False)
    by_hand, mac_by_hand = copy.deepcopy(network), copy.deepcopy(mac)
    ldct, ndct = a_batch()
    values = an_objective(network, mac).step(ldct, ndct, seeded(3))

    denoised = by_hand(ldct)
    loss = 0.4 * sum(mac_by_hand(denoised, ndct, seeded(3)).values())
    loss = loss + 3 * F.mse_loss(denoised, ndct) + 2 * (1 - losses.ssim(denoised, ndct))
    norm = descend_by_hand(by_hand, loss, RATE, last=False)
    mac_norm = descend_by_hand(mac_by_hand, loss, MAC_RATE)
    for mean, now in zip(mac_by_hand.target.parameters(), mac_by_hand.online.parameters(), strict=True):
        mean.data = 0.9 * mean.data + 0.1 * now.data
    assert_same(network, weights(by_hand), rtol=1e-5, atol=1e-7)
    assert_same(mac, weights(mac_by_hand), rtol=1e-5, atol=1e-7)
    assert (values["loss"], values["gradient_norm"], values["mac_gradient_norm"]) == pytest.approx(
        (loss.item(), norm, mac_norm), rel=1e-4
    )
    assert "mac_loss" not in values


def test_the_answer_to_lesions_is_a_part_of_the_loss():
    network, (ldct, ndct) = a_denoiser(), a_batch()
    ndct = 0.3 + 0.1 * ndct  # tissue, which lesions lie in
    loss = LossConfig(mse_weight=3.0, ssim_weight=0.0, response_weight=2.0)
    objective = an_objective(network, loss=loss)
    batch = objective._with_lesions(ascon.Batch(ldct, ndct), seeded(4))
    assert batch.lesions.abs().max() > 5 / 3000 and not batch.without.requires_grad
    assert torch.equal(batch.ldct - ldct, (ldct + batch.lesions) - ldct)
    by_hand = copy.deepcopy(network)
    values = objective.step(ldct, ndct, seeded(4))

    denoised = by_hand(ldct + batch.lesions)
    response = losses.response_loss(denoised - by_hand(ldct).detach(), batch.lesions, ldct - ndct)
    total = 3 * F.mse_loss(denoised, ndct + batch.lesions) + 2 * response
    descend_by_hand(by_hand, total, RATE)
    assert_same(network, weights(by_hand), rtol=1e-4, atol=1e-6)
    assert values["response"] == pytest.approx(response.item(), rel=1e-4)
    assert values["loss"] == pytest.approx(total.item(), rel=1e-4)


def test_lesions_wait_for_their_share_of_the_training():
    loss = LossConfig(response_weight=1.0, response_from=0.5)
    for share, there in ((0.4, False), (0.5, True)):
        values = an_objective(a_denoiser(), loss=loss, fraction_done=lambda fraction=share: fraction).step(
            *a_batch(), seeded()
        )
        assert ("response" in values) == there


def test_without_mac_net_a_step_is_one_of_the_pixel_loss():
    network = a_denoiser()
    by_hand, (ldct, ndct) = copy.deepcopy(network), a_batch()
    values = an_objective(network, loss=LossConfig(mse_weight=3.0, ssim_weight=1.0)).step(ldct, ndct, seeded())
    denoised = by_hand(ldct)
    loss = 3 * F.mse_loss(denoised, ndct) + 1 - losses.ssim(denoised, ndct)
    descend_by_hand(by_hand, loss, RATE)
    assert_same(network, weights(by_hand), rtol=1e-5, atol=1e-7)
    assert values.keys() == {"loss", "mse", "ssim", "gradient_norm"}
    assert values["loss"] == pytest.approx(loss.item())


class SGDThatLooks(torch.optim.SGD):
    """Notes who has a gradient when it is asked to step, then takes all gradients away."""

    def watch(self, **modules):
        self.modules, self.seen = modules, []
        return self

    def step(self, closure=None):
        super().step(closure)
        seen = set()
        for name, module in self.modules.items():
            for parameter in module.parameters():
                if parameter.grad is not None:
                    seen.add(name)
                    parameter.grad = None
        self.seen.append(seen)


def test_nobody_gets_a_gradient_who_should_not():
    """Step 2: none for the denoiser. Step 4: none for the online side. Never: for the target."""
    network, mac = a_denoiser(), a_mac_net()
    everyone = {"denoiser": network, "online": mac.online, "predictor": mac.predictor, "target": mac.target}
    optimizer = SGDThatLooks(network.parameters(), RATE).watch(**everyone)
    learning = [*mac.online.parameters(), *mac.predictor.parameters()]
    mac_optimizer = SGDThatLooks(learning, MAC_RATE).watch(**everyone)
    objective = ASCONObjective(a_context(network, optimizer), mac, mac_optimizer)
    before = weights(mac)
    for _ in range(2):
        objective.step(*a_batch(), seeded())
    assert mac_optimizer.seen == [{"online", "predictor"}] * 2
    assert optimizer.seen == [{"denoiser"}] * 2
    assert all(p.requires_grad for p in learning) and not any(p.requires_grad for p in mac.target.parameters())
    moved = {name for name, parameter in mac.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == set(before)  # the target too, by its average


def test_the_gradient_of_mac_net_reaches_the_denoiser():
    """With next to no pixel loss, what moves the denoiser comes through the frozen MAC-Net."""
    network = a_denoiser()
    before = weights(network)
    loss = LossConfig(mse_weight=1e-12, ssim_weight=0, mac_weight=1.0, mac_net_loss_weight=1.0)
    an_objective(network, a_mac_net(), loss).step(*a_batch(), seeded())
    assert all((p - before[name]).abs().max() > 1e-7 for name, p in network.named_parameters())


def test_frozen_gives_back_what_it_took():
    mac = a_mac_net()
    asked = {name: p.requires_grad for name, p in mac.named_parameters()}
    with pytest.raises(KeyError), frozen(mac):
        assert not any(p.requires_grad for p in mac.parameters())
        raise KeyError
    assert {name: p.requires_grad for name, p in mac.named_parameters()} == asked


# Presets and ablations


@pytest.mark.parametrize("preset", ["paper-mayo2016", "paper-mayo2020", "released"])
def test_losses_of_the_presets_are_those_of_their_source(preset):
    config = PRESETS[preset]
    mac = MACNet(replace(config.mac, global_queries=4, local_queries=6))
    v = an_objective(a_denoiser(), mac, config.loss).step(*a_batch(), seeded())
    if preset == "released":
        wanted = 0.05 * (v["global"] + v["local"]) + 10 * (10 * v["mse"] + v["ssim"])
    else:
        wanted = v["global"] + v["local"] + 10 * (v["mse"] + v["ssim"])
    assert v["loss"] == pytest.approx(wanted, rel=1e-5)
    assert config.loss.mac_net_loss_weight == (0.5 if preset == "released" else 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"use_local": False},
        {"use_global": False},
        {"neighbour_matching": False},
        {"hard_negatives": False},
        {"filter_background": True},
        {"window": 13, "candidates": 30},
    ],
)
@pytest.mark.parametrize("alternate", [True, False])
def test_every_switch_trains(changes, alternate):
    mac = a_mac_net(alternate=alternate, **changes)
    values = an_objective(a_denoiser(), mac).step(*a_batch(), seeded())
    assert {"global", "local"} & values.keys() == {
        name for name in ("global", "local") if changes.get(f"use_{name}", True)
    }


def test_image_losses_without_weight_are_left_out():
    loss = LossConfig(mse_weight=1, ssim_weight=0)
    assert an_objective(a_denoiser(), loss=loss).step(*a_batch(), seeded()).keys() == {"loss", "mse", "gradient_norm"}


def test_the_perceptual_loss_joins_with_its_weight():
    torch.manual_seed(0)
    vgg, network = VGG19(), a_denoiser()
    by_hand, (ldct, ndct) = copy.deepcopy(network), a_batch()
    loss = LossConfig(mse_weight=1, ssim_weight=0, perceptual_weight=0.5, vgg_weights="vgg19.safetensors")
    values = an_objective(network, loss=loss, vgg=vgg).step(ldct, ndct, seeded())
    denoised = by_hand(ldct)
    whole = F.mse_loss(denoised, ndct) + 0.5 * perceptual_loss(vgg, denoised, ndct)
    descend_by_hand(by_hand, whole, RATE)
    assert values["loss"] == pytest.approx(whole.item(), rel=1e-5)
    assert_same(network, weights(by_hand), rtol=1e-5, atol=1e-7)
    with pytest.raises(ValueError, match="no VGG-19"):
        an_objective(network, loss=loss)


def test_the_local_mean_joins_with_its_weight():
    network, (ldct, ndct) = a_denoiser(), a_batch()
    loss = LossConfig(mse_weight=1, ssim_weight=0, local_mean_weight=7.0)
    wanted = F.mse_loss(network(ldct), ndct) + 7 * F.avg_pool2d(network(ldct) - ndct, 16).square().mean()
    values = an_objective(network, loss=loss).step(ldct, ndct, seeded())
    assert values["loss"] == pytest.approx(wanted.item(), rel=1e-5)
    assert values["loss"] == pytest.approx(values["mse"] + 7 * values["local_mean"], rel=1e-6)


def test_the_local_mean_joins_from_its_share_on():
    loss = LossConfig(mse_weight=1, ssim_weight=0, local_mean_weight=7.0, local_mean_from=0.6)
    shares = [0.0, 0.59, 0.6, 1.0]
    left = iter(shares)
    objective = an_objective(a_denoiser(), loss=loss, fraction_done=lambda: next(left))
    assert ["local_mean" in objective.step(*a_batch(), seeded()) for _ in shares] == [False, False, True, True]


def test_the_settings_make_the_objective(tmp_path):
    """MAC-Net with plain SGD at its own rate or the denoiser's, VGG-19 from the file that is named."""
    network = a_denoiser()
    optimizer = torch.optim.SGD(network.parameters(), RATE)

    def made(config):
        return ascon.make(TrainingContext(network, network, optimizer, config))

    config = TrainConfig(mac=MAC)
    parts = made(config).parts
    assert parts.keys() == {"mac", "mac_optimizer"} and parts["mac"].config == MAC
    (group,) = parts["mac_optimizer"].param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (2e-4, 0, 0)
    assert [id(p) for p in group["params"]] == [id(p) for p in parts["mac"].parameters() if p.requires_grad]
    own = replace(config, optimizer=OptimizerConfig(mac_learning_rate=0.3))
    assert made(own).parts["mac_optimizer"].param_groups[0]["lr"] == 0.3
    adaptive = made(replace(config, mac=replace(MAC, optimizer="adamw"))).parts["mac_optimizer"]
    (group,) = adaptive.param_groups
    assert isinstance(adaptive, torch.optim.AdamW)
    assert (group["lr"], group["betas"], group["weight_decay"]) == (2e-4, (0.5, 0.999), 0.01)
    weights_file = tmp_path / "vgg19.pt"
    torch.save({name: torch.full_like(w, 0.01) for name, w in VGG19().state_dict().items()}, weights_file)
    loss = LossConfig(perceptual_weight=1.0, vgg_weights=str(weights_file))
    alone = made(replace(config, mac=None, loss=loss))
    assert alone.parts == {} and (alone.vgg.features[0].weight == 0.01).all()


def test_a_network_of_several_outputs_needs_its_own_objective():
    with pytest.raises(InputError, match="gives 2 channels in training, and the objective ascon takes 1"):
        an_objective(nn.Conv2d(1, 2, 3, padding=1)).step(*a_batch(), seeded())


def test_mac_net_and_its_optimiser_come_together():
    network = a_denoiser()
    with pytest.raises(ValueError, match="together"):
        ASCONObjective(a_context(network), a_mac_net())


# Numbers that are none


def test_a_loss_that_is_not_finite_moves_nothing():
    network, mac = a_denoiser(), a_mac_net()
    before, mac_before = weights(network), weights(mac)
    ldct, ndct = a_batch()
    ldct[0, 0, 20, 20] = torch.nan
    with pytest.raises(NotFiniteError, match="loss of the MAC-Net is nan"):
        an_objective(network, mac).step(ldct, ndct, seeded())
    with pytest.raises(NotFiniteError, match="loss of the denoiser is nan"):
        an_objective(network).step(ldct, ndct, seeded())
    assert_same(network, before, rtol=0, atol=0)
    assert_same(mac, mac_before, rtol=0, atol=0)


def test_a_gradient_that_is_not_finite_moves_nothing():
    network = a_denoiser()
    before = weights(network)
    network[0].weight.register_hook(lambda gradient: gradient / 0)
    with pytest.raises(NotFiniteError, match="gradient of the denoiser"):
        an_objective(network).step(*a_batch(), seeded())
    assert_same(network, before, rtol=0, atol=0)


def test_the_gradient_is_clipped_to_its_limit_and_only_the_denoisers():
    network, mac = a_denoiser(), a_mac_net()
    free, free_mac = copy.deepcopy(network), copy.deepcopy(mac)
    before = weights(network)
    wanted = an_objective(free, free_mac).step(*a_batch(), seeded())
    values = an_objective(network, mac, gradient_clip=1e-3).step(*a_batch(), seeded())
    assert values == pytest.approx(wanted, rel=1e-6)  # norms before clipping
    moved = torch.cat([(p - before[name]).flatten() for name, p in network.named_parameters()]).norm()
    assert moved.item() == pytest.approx(RATE * 1e-3, rel=1e-2)
    assert_same(mac, weights(free_mac), rtol=0, atol=0)


# Precision, repetition, several processes


def test_losses_keep_fp32_under_autocast():
    seen = []
    network = a_denoiser()
    network.register_forward_hook(lambda module, x, y: seen.append(y.dtype))
    full = an_objective(copy.deepcopy(network), a_mac_net()).step(*a_batch(), seeded())
    half = an_objective(network, a_mac_net(), autocast=lambda: torch.autocast("cpu", torch.bfloat16))
    values = half.step(*a_batch(), seeded())
    assert seen[-1] == torch.bfloat16
    assert values["local"] == pytest.approx(full["local"], rel=0.05)
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in network.parameters())


@pytest.mark.skipif(not hasattr(torch.amp, "GradScaler"), reason="PyTorch before 2.3 scales gradients on CUDA only")
def test_a_scaler_changes_nothing_but_skips_infinite_gradients():
    network, mac = a_denoiser(), a_mac_net()
    plain, plain_mac = copy.deepcopy(network), copy.deepcopy(mac)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    wanted = an_objective(plain, plain_mac).step(*a_batch(), seeded())
    assert an_objective(network, mac, scaler=scaler).step(*a_batch(), seeded()) == pytest.approx(wanted, rel=1e-4)
    assert_same(network, weights(plain), rtol=1e-5, atol=1e-7)
    assert_same(mac, weights(plain_mac), rtol=1e-5, atol=1e-7)

    before = weights(network)
    network[0].weight.register_hook(lambda gradient: gradient / 0)
    an_objective(network, mac, scaler=scaler).step(*a_batch(), seeded())
    assert_same(network, before, rtol=0, atol=0)
    assert scaler.get_scale() == 512


def test_the_same_generator_gives_the_same_steps_and_no_other_chance_has_a_say():
    def trained(global_seed):
        network, mac = a_denoiser(), a_mac_net()
        objective, random = an_objective(network, mac), seeded(5)
        torch.manual_seed(global_seed)
        return [objective.step(*a_batch(i), random) for i in range(2)], weights(network) | weights(mac)

    (values, end), (again, end_again) = trained(0), trained(1)
    assert values == again
    assert all(torch.equal(end[name], end_again[name]) for name in end)


@pytest.fixture
def a_process_group():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("changes", [{}, {"alternate": False}, {"use_local": False}, {"use_global": False}])
def test_wrapped_for_several_processes_the_steps_are_the_same(a_process_group, changes):
    """DistributedDataParallel raises in the second step where a parameter that asks for a gradient got none."""
    network, mac = a_denoiser(), a_mac_net(**changes)
    alone, mac_alone = copy.deepcopy(network), copy.deepcopy(mac)
    parallel = nn.parallel.DistributedDataParallel
    objectives = an_objective(parallel(network), mac, wrap=parallel), an_objective(alone, mac_alone)
    for seed in range(3):
        values, wanted = (objective.step(*a_batch(seed), seeded(seed)) for objective in objectives)
        assert values == wanted
    assert_same(network, weights(alone), rtol=0, atol=0)
    assert_same(mac, weights(mac_alone), rtol=0, atol=0)


def test_mac_net_learns_and_the_denoiser_with_it():
    """Some steps on one batch: both losses fall."""
    torch.manual_seed(0)
    ndct = F.avg_pool2d(torch.rand(2, 1, 52, 52), 5, 1)  # smooth
    ldct = ndct + 0.1 * torch.randn_like(ndct)
    network = a_denoiser()
    mac, optimizer = a_mac_net(), torch.optim.AdamW(network.parameters(), 5e-3)
    learning = [p for p in mac.parameters() if p.requires_grad]
    objective = ASCONObjective(a_context(network, optimizer), mac, torch.optim.SGD(learning, MAC_RATE))
    random = seeded()
    values = [objective.step(ldct, ndct, random) for _ in range(12)]
    assert values[-1]["mse"] < 0.3 * values[0]["mse"]
    assert values[-1]["mac_loss"] < values[0]["mac_loss"]
