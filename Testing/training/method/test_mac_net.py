"""MAC-Net: size, first weights, losses against loops typed from the paper, who gets gradients, the moving target."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from ASCONTrainingLib.config.presets import PRESETS
from ASCONTrainingLib.config.settings import MACConfig
from ASCONTrainingLib.method import mac_net, patch_sampling
from ASCONTrainingLib.method.mac_net import DisentangledUNet, MACNet

RELEASED = MACConfig()
PAPER = PRESETS["paper-mayo2016"].mac
SMALL = MACConfig(global_queries=4, local_queries=12)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def a_map(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=seeded(seed))


def images(*shape, seed=0):
    return torch.rand(2, *shape, generator=seeded(seed)).unbind()


def a_mac_net(config=SMALL, seed=0):
    """With projectors that differ between online and target, as after some steps."""
    torch.manual_seed(seed)
    mac = MACNet(config)
    with torch.no_grad():
        for parameter in mac.target.parameters():
            parameter.add_(0.1 * parameter.std() * torch.randn_like(parameter) if parameter.ndim > 1 else 0.01)
    return mac


# The network


def test_the_trunk_has_the_published_number_of_parameters():
    trunk = DisentangledUNet()
    assert sum(p.numel() for p in trunk.parameters()) == 7_822_016
    assert all(layer.bias is None for layer in trunk.modules() if isinstance(layer, nn.Conv2d))


@pytest.mark.parametrize("h, w", [(32, 48), (40, 56)])
def test_features_lie_over_rectangular_images(h, w):
    trunk = DisentangledUNet()
    levels = trunk.levels(torch.rand(2, 1, h, w))
    assert [tuple(level.shape[1:]) for level in levels] == [
        (channels, h // scale, w // scale) for channels, scale in ((64, 1), (128, 2), (256, 4), (256, 8))
    ]
    assert trunk.global_features(levels).shape == (2, 512, h // 16, w // 16)
    assert trunk.local_features(levels).shape == (2, 64, h, w)


def test_the_step_up_from_the_coarsest_level_is_cut():
    trunk = DisentangledUNet()
    trunk.local_features(trunk.levels(torch.rand(2, 1, 32, 32))).sum().backward()
    with_gradient = {name.split(".")[0] for name, p in trunk.named_parameters() if p.grad is not None}
    assert with_gradient == {"enc1", "enc2", "enc3", "enc4", "dec1", "dec2", "dec3"}


def test_the_trunk_computes_what_its_table_says():
    """Every layer once more, by functions, with the trunk's own weights."""
    trunk, x = DisentangledUNet().double(), a_map(2, 1, 32, 48)

    def double(x, stage):
        for conv, norm in ((stage[0], stage[1]), (stage[3], stage[4])):
            x = nn.functional.conv2d(x, conv.weight, padding=1)
            mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
            scaled = (x - mean) / (variance + 1e-5).sqrt() * norm.weight[:, None, None] + norm.bias[:, None, None]
            x = scaled.clamp(min=0)
        return x

    def up(x):
        return nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)(x)

    full = double(x, trunk.enc1)
    half = double(nn.MaxPool2d(2)(full), trunk.enc2)
    quarter = double(nn.MaxPool2d(2)(half), trunk.enc3)
    eighth = double(nn.MaxPool2d(2)(quarter), trunk.enc4)
    f_g = double(nn.MaxPool2d(2)(eighth), trunk.enc5)
    f_l = double(torch.cat((quarter, up(eighth)), 1), trunk.dec1)
    f_l = double(torch.cat((half, up(f_l)), 1), trunk.dec2)
    f_l = double(torch.cat((full, up(f_l)), 1), trunk.dec3)
    levels = trunk.levels(x)
    assert torch.allclose(trunk.global_features(levels), f_g, atol=1e-10)
    assert torch.allclose(trunk.local_features(levels), f_l, atol=1e-10)


def test_first_weights():
    torch.manual_seed(0)
    mac = MACNet(RELEASED)
    convs = torch.cat([m.weight.flatten() for m in mac.online.trunk.modules() if isinstance(m, nn.Conv2d)])
    assert convs.mean().abs() < 1e-4 and convs.std().item() == pytest.approx(0.02, rel=0.01)
    norms = [m for m in mac.online.trunk.modules() if isinstance(m, nn.BatchNorm2d)]
    weights = torch.cat([m.weight for m in norms])
    assert weights.mean().item() == pytest.approx(1, abs=0.003) and weights.std().item() == pytest.approx(0.02, rel=0.1)
    assert all(not m.bias.any() for m in norms)
    for projector in (mac.online.project_global, mac.online.project_local):
        for layer in (m for m in projector if isinstance(m, nn.Linear)):
            xavier = 0.02 * math.sqrt(2 / (layer.in_features + layer.out_features))
            assert layer.weight.std().item() == pytest.approx(xavier, rel=0.03) and not layer.bias.any()
    assert torch.equal(mac.online.project_global[1].weight, torch.ones(1024))  # BatchNorm1d: as PyTorch makes it
    uniform = 1 / math.sqrt(256)  # the predictor too
    assert mac.predictor[0].weight.abs().max().item() == pytest.approx(uniform, rel=0.001)
    assert mac.predictor[0].bias.any()
    for ours, theirs in zip(mac.online.parameters(), mac.target.parameters(), strict=True):
        assert torch.equal(ours, theirs) and ours.data_ptr() != theirs.data_ptr()


@pytest.mark.parametrize("h, w", [(24, 32), (32, 36), (16, 16)])
def test_images_that_do_not_fit_are_refused_with_their_size(h, w):
    with pytest.raises(ValueError, match=rf"multiples of 8 and at least 32 pixels.*{h}, {w}"):
        MACNet(SMALL)(*images(2, 1, h, w), seeded())
    with pytest.raises(ValueError, match="one size"):
        MACNet(SMALL)(torch.rand(2, 1, 32, 32), torch.rand(2, 1, 32, 40), seeded())


# The two losses, one query after the other


def naive_linear(layer, rows):
    return rows @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()


def naive_mlp(mlp, rows):
    """Linear, BatchNorm over the rows where there is one, ReLU, Linear."""
    hidden = naive_linear(mlp[0], rows)
    if isinstance(mlp[1], nn.BatchNorm1d):
        hidden = (hidden - hidden.mean(0)) / np.sqrt(hidden.var(0) + mlp[1].eps)
        hidden = hidden * mlp[1].weight.detach().numpy() + mlp[1].bias.detach().numpy()
    return naive_linear(mlp[-1], np.maximum(hidden, 0))


def naive_neighbours(place, shape, reach):
    """Places no more than `reach` rows and columns away, in rows; none outside of the image."""
    row, column = divmod(place, shape[1])
    return [
        r * shape[1] + c
        for r in range(max(0, row - reach), min(shape[0], row + reach + 1))
        for c in range(max(0, column - reach), min(shape[1], column + reach + 1))
        if (r, c) != (row, column)
    ]


def naive_most_similar(pixels, place, places, count):
    """By equation 2; sorted() keeps the order of equals."""

    def similarity(j):
        return pixels[place] @ pixels[j] / (np.linalg.norm(pixels[place]) * np.linalg.norm(pixels[j]))

    return sorted(places, key=similarity, reverse=True)[:count]


def naive_global_loss(mac, online_map, target_map, queries, counted, neighbours):
    """Section 2.3, patch-wise module."""
    shape = target_map.shape[-2:]
    online_g, target_g = [], []
    for b in range(len(target_map)):
        target = target_map[b].flatten(1).T.numpy()
        online = online_map[b].flatten(1).T.numpy()
        for i in queries.tolist():
            positives = naive_most_similar(target, i, naive_neighbours(i, shape, 1), neighbours)
            target_g.append(np.mean([target[i], *(target[j] for j in positives)], axis=0))
            online_g.append(np.mean([online[i], *(online[j] for j in positives)], axis=0))
    z = naive_mlp(mac.target.project_global, np.array(target_g))
    q = naive_mlp(mac.predictor, naive_mlp(mac.online.project_global, np.array(online_g)))
    losses = [2 - 2 * (a @ b) / (np.linalg.norm(a) * np.linalg.norm(b)) for a, b in zip(q, z, strict=True)]
    return np.mean([x for x, c in zip(losses, counted.flatten().tolist(), strict=True) if c])


def naive_local_loss(mac, online_map, target_map, queries, counted, choose):
    """Section 2.3, pixel-wise module; choose(n, pixels) gives the negatives of the n-th query."""
    losses = []
    for b in range(len(target_map)):
        target = target_map[b].flatten(1).T.numpy()
        online = online_map[b].flatten(1).T.numpy()
        for n, i in enumerate(queries.tolist()):
            if not counted[b, n]:
                continue
            rows = {
                "v'": naive_mlp(mac.online.project_local, online[i]),
                "v": naive_mlp(mac.target.project_local, target[i]),
            }
            rows = {name: row / np.linalg.norm(row) for name, row in rows.items()}
            alike = np.exp(rows["v'"] @ rows["v"] / mac.config.temperature)
            others = 0
            for j in choose(n, target):
                negative = naive_mlp(mac.target.project_local, target[j])
                others += np.exp(rows["v'"] @ negative / np.linalg.norm(negative) / mac.config.temperature)
            losses.append(-np.log(alike / (alike + others)))
    return np.mean(losses)


ALL = torch.ones(2, 100, dtype=torch.bool)
SOME = torch.rand(2, 100, generator=seeded(5)) > 0.3


@pytest.mark.parametrize("neighbours, counted", [(4, None), (4, SOME), (8, None), (0, None)])
@pytest.mark.parametrize("shape", [(5, 7), (2, 2), (3, 2)])
def test_global_loss_is_that_of_a_loop_at_every_place(shape, neighbours, counted):
    """Corners have 3 neighbours, edges 5; 0 stands for: no neighbour patch_sampling."""
    config = replace(SMALL, neighbours=neighbours or 4, neighbour_matching=neighbours > 0)
    mac = a_mac_net(config).double()
    online_map, target_map = a_map(2, 512, *shape), a_map(2, 512, *shape, seed=1)
    queries = torch.arange(shape[0] * shape[1]).flip(0)
    counted = None if counted is None else counted[:, : len(queries)]
    ours = mac.global_loss(online_map, target_map, queries, counted)
    naive = naive_global_loss(
        mac, online_map, target_map, queries, (counted if counted is not None else ALL[:, : len(queries)]), neighbours
    )
    assert ours.item() == pytest.approx(naive, rel=1e-9)


@pytest.mark.parametrize("counted", [None, SOME])
@pytest.mark.parametrize("window, temperature", [(7, 1.0), (5, 0.1)])
@pytest.mark.parametrize("shape", [(6, 9), (2, 3)])
def test_local_loss_with_hard_negatives_is_that_of_a_loop_at_every_place(shape, window, temperature, counted):
    """The implementation's negatives: the most similar of all in the window; corners have fewer than 24."""
    mac = a_mac_net(replace(SMALL, window=window, temperature=temperature)).double()
    online_map, target_map = a_map(2, 64, *shape), a_map(2, 64, *shape, seed=1)
    queries = torch.arange(shape[0] * shape[1]).flip(0)
    counted = None if counted is None else counted[:, : len(queries)]

    def hardest(n, pixels):
        place = queries[n].item()
        return naive_most_similar(pixels, place, naive_neighbours(place, shape, window // 2), 24)

    ours = mac.local_loss(online_map, target_map, queries, seeded(), counted)
    naive = naive_local_loss(mac, online_map, target_map, queries, counted if counted is not None else ALL, hardest)
    assert ours.item() == pytest.approx(naive, rel=1e-9)


@pytest.mark.parametrize("hard", [True, False])
def test_local_loss_with_random_candidates_is_that_of_a_loop(hard):
    """The paper's negatives: the most similar of some drawn nearer than 7 pixels; without hard ones: 24 drawn."""
    mac = a_mac_net(replace(SMALL, window=13, candidates=30, hard_negatives=hard)).double()
    shape = (9, 8)
    online_map, target_map = a_map(2, 64, *shape), a_map(2, 64, *shape, seed=1)
    queries = torch.arange(72)
    near = patch_sampling.windows(queries, shape, 13)
    places, inside = patch_sampling.draw_candidates(*near, 30 if hard else 24, seeded(3))

    def chosen(n, pixels):
        drawn = places[n][inside[n]].tolist()
        assert set(drawn) <= set(naive_neighbours(n, shape, 6))
        drawn = [j for j in naive_neighbours(n, shape, 6) if j in drawn]
        return naive_most_similar(pixels, n, drawn, 24) if hard else drawn

    ours = mac.local_loss(online_map, target_map, queries, seeded(3))
    assert ours.item() == pytest.approx(naive_local_loss(mac, online_map, target_map, queries, ALL, chosen), rel=1e-9)


def test_identical_features_give_what_can_be_said_without_a_computer():
    """All negatives are as near as the positive: log(1 + 24) inside, log(1 + 15) at a corner."""
    mac = MACNet(SMALL).double()
    same = torch.ones(1, 64, 20, 20, dtype=torch.float64)
    for place, negatives in ((10 * 20 + 10, 24), (0, 15), (3, 24)):
        loss = mac.local_loss(same, same, torch.tensor([place]), seeded())
        assert loss.item() == pytest.approx(math.log(1 + negatives))


def test_the_presets_choose_negatives_as_their_source_does():
    """Features get less similar with every column: released = the nearest 24 of 48; paper = of 48 drawn from 168."""
    angle = torch.arange(40, dtype=torch.float64) * 0.01
    features = torch.stack((angle.cos(), angle.sin()))[None, :, None].expand(1, 2, 40, 40)
    query = torch.tensor([20 * 40 + 20])
    places, inside = MACNet(RELEASED)._negatives(features, query, seeded())
    assert inside.all() and places.shape == (1, 1, 24)
    away = (places[0, 0] % 40 - 20).abs()
    assert sorted(away.tolist()) == [0] * 6 + [1] * 14 + [2] * 4
    assert (places[0, 0] // 40 - 20).abs().max() == 3

    mac, reach, shares = MACNet(PAPER), 0, []
    for seed in range(20):
        places, _ = mac._negatives(features, query, seeded(seed))
        down, right = (places[0, 0] // 40 - 20).abs(), (places[0, 0] % 40 - 20).abs()
        assert len(set(places.flatten().tolist())) == 24
        reach = max(reach, down.max().item())
        shares.append((right <= 3).double().mean().item())
    assert reach == 6 and np.mean(shares) > 0.9  # the nearer half of the drawn columns


# The whole: what is drawn, what is ranked, who gets gradients


def test_forward_is_its_two_losses_on_the_features_of_its_trunks():
    mac, (denoised, ndct) = a_mac_net().double(), images(2, 1, 40, 56)
    denoised, ndct = denoised.double(), ndct.double()
    random = seeded(7)
    global_queries, _ = patch_sampling.draw_queries(4, 2 * 3, random)
    local_queries, _ = patch_sampling.draw_queries(12, 40 * 56, random)
    online, target = mac.online.trunk, mac.target.trunk
    levels, target_levels = online.levels(denoised), target.levels(ndct)
    found = mac(denoised, ndct, seeded(7))
    assert (
        found["global"].item()
        == mac.global_loss(online.global_features(levels), target.global_features(target_levels), global_queries).item()
    )
    assert (
        found["local"].item()
        == mac.local_loss(
            online.local_features(levels), target.local_features(target_levels), local_queries, random
        ).item()
    )
    assert found.keys() == {"global", "local"}


def test_queries_are_drawn_from_the_generator_and_afresh_each_time(monkeypatch):
    drawn, draw = [], patch_sampling.draw_queries
    monkeypatch.setattr(patch_sampling, "draw_queries", lambda *a: drawn.append(draw(*a)[0].tolist()) or draw(*a))
    mac, pair, random = MACNet(SMALL), images(2, 1, 64, 64), seeded()
    state = torch.get_rng_state()
    mac(*pair, random)
    mac(*pair, random)
    assert [len(places) for places in drawn] == [4, 12, 4, 12]
    assert drawn[0] != drawn[2] and drawn[1] != drawn[3]
    assert torch.equal(state, torch.get_rng_state())


def test_rankings_are_computed_once_and_on_the_features_of_the_target(monkeypatch):
    ranked, rank = [], patch_sampling.most_similar
    monkeypatch.setattr(patch_sampling, "most_similar", lambda *a: ranked.append(a[0]) or rank(*a))
    mac, (denoised, ndct) = a_mac_net(), images(2, 1, 48, 64)
    mac(denoised, ndct, seeded())
    levels = mac.target.trunk.levels(ndct)
    assert len(ranked) == 2
    assert torch.equal(ranked[0], mac.target.trunk.global_features(levels))
    assert torch.equal(ranked[1], mac.target.trunk.local_features(levels))


def test_background_is_left_out_of_the_queries(monkeypatch):
    """Body in the middle columns only: of F_l's pixels, and of F_g's patches whose mean is above the threshold."""
    ndct = torch.zeros(2, 1, 48, 64)
    ndct[0, :, :, 16:35] = 0.4  # the third column of patches has 3 of 16 columns with body: mean 0.075
    ndct[1, :, :, 16:33] = 0.4  # here 1 of 16: mean 0.025
    drawn, draw = [], patch_sampling.draw_queries
    monkeypatch.setattr(patch_sampling, "draw_queries", lambda *a: drawn.append(draw(*a)) or drawn[-1])
    config = MACConfig(global_queries=100, local_queries=10_000, filter_background=True)
    MACNet(config)(torch.rand_like(ndct), ndct, seeded())
    (patches, patches_counted), (pixels, pixels_counted) = drawn
    assert sorted(patches.tolist()) == [r * 4 + c for r in range(3) for c in (1, 2)]
    assert sorted(pixels.tolist()) == [r * 64 + c for r in range(48) for c in range(16, 35)]
    assert torch.equal(patches_counted, torch.stack((patches % 4 < 3, patches % 4 < 2)))
    assert torch.equal(pixels_counted, torch.stack((pixels % 64 < 35, pixels % 64 < 33)))

    drawn.clear()
    MACNet(replace(config, filter_background=False))(torch.rand_like(ndct), ndct, seeded())
    assert [len(places) for places, _ in drawn] == [12, 48 * 64]
    assert all(counted is None for _, counted in drawn)


@pytest.mark.parametrize("use_global, use_local", [(True, True), (True, False), (False, True)])
def test_every_parameter_that_asks_for_a_gradient_gets_one_and_the_target_none(use_global, use_local):
    mac = MACNet(replace(SMALL, use_global=use_global, use_local=use_local))
    denoised, ndct = (x.requires_grad_() for x in images(2, 1, 48, 48))
    found = mac(denoised, ndct, seeded())
    assert found.keys() == {name for name, used in (("global", use_global), ("local", use_local)) if used}
    sum(found.values()).backward()
    for name, parameter in mac.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        assert parameter.requires_grad is False or not name.startswith("target")
    assert mac.online.trunk.enc1[0].weight.requires_grad
    assert mac.online.trunk.enc5[0].weight.requires_grad == mac.predictor[0].weight.requires_grad == use_global
    assert (
        mac.online.trunk.dec3[0].weight.requires_grad == mac.online.project_local[0].weight.requires_grad == use_local
    )
    assert denoised.grad.abs().sum() > 0 and ndct.grad is None


@pytest.mark.parametrize("loss", ["global", "local"])
def test_gradient_on_features_is_that_of_finite_differences(loss):
    mac = a_mac_net(replace(SMALL, temperature=0.5)).double()
    queries = torch.arange(12)
    if loss == "global":
        target = a_map(2, 512, 3, 4)
        start = a_map(2, 512, 3, 4, seed=1)
        value = lambda online: mac.global_loss(online, target, queries, SOME[:, :12])  # noqa: E731
    else:
        target = a_map(2, 64, 3, 4)
        start = a_map(2, 64, 3, 4, seed=1)
        value = lambda online: mac.local_loss(online, target, queries, seeded(), SOME[:, :12])  # noqa: E731
    assert torch.autograd.gradcheck(value, [start.requires_grad_()], fast_mode=True)


@pytest.mark.parametrize("loss", ["global", "local"])
def test_gradient_on_the_image_is_that_of_finite_differences(loss):
    """Along a random direction; the step is small, for ReLU and max-pooling have kinks everywhere."""
    mac, (denoised, ndct) = a_mac_net().double(), images(1, 1, 48, 64)
    denoised, ndct, way = denoised.double().requires_grad_(), ndct.double(), a_map(1, 1, 48, 64, seed=3)
    (gradient,) = torch.autograd.grad(mac(denoised, ndct, seeded())[loss], denoised)
    with torch.no_grad():
        above, below = (mac(denoised + step * way, ndct, seeded())[loss].item() for step in (1e-7, -1e-7))
    assert (gradient * way).sum().item() == pytest.approx((above - below) / 2e-7, rel=1e-5)


# The target


def test_the_target_follows_by_hand():
    mac = a_mac_net()
    online, before = (copy.deepcopy(dict(net.named_parameters())) for net in (mac.online, mac.target))
    buffers = copy.deepcopy(dict(mac.target.named_buffers()))
    mac.update_target(0.9)
    for name, after in mac.target.named_parameters():
        assert torch.allclose(after, 0.9 * before[name] + 0.1 * online[name], rtol=1e-6, atol=1e-9)
    assert all(torch.equal(now, online[name]) for name, now in mac.online.named_parameters())
    assert all(torch.equal(now, buffers[name]) for name, now in mac.target.named_buffers())


def test_buffers_of_batch_norm_have_no_say():
    """Both copies use the statistics of the batch."""
    mac, pair = a_mac_net(), images(2, 1, 32, 32)
    first = mac(*pair, seeded())
    for name, buffer in mac.named_buffers():
        if "running" in name:
            buffer.fill_(7)
    again = mac(*pair, seeded())
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_channels_last_and_autocast_change_little():
    mac, pair = a_mac_net(), images(2, 1, 32, 48)
    first = mac(*pair, seeded())
    same = mac.to(memory_format=torch.channels_last)(*(x.to(memory_format=torch.channels_last) for x in pair), seeded())
    assert all(torch.allclose(first[name], same[name], rtol=1e-4) for name in first)
    half = mac(*pair, seeded(), lambda: torch.autocast("cpu", torch.bfloat16))
    assert all(half[name].dtype == torch.float32 for name in first)
    assert all(torch.allclose(first[name], half[name], rtol=0.05) for name in first)


def test_patch_is_the_side_of_a_position_of_the_coarsest_map():
    trunk = DisentangledUNet()
    assert trunk.global_features(trunk.levels(torch.rand(1, 1, 64, 64))).shape[-1] * mac_net.PATCH == 64
