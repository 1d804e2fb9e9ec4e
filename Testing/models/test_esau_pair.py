"""The pair of ESAU-Nets: where the two differ by more than noise does, and what it makes of both images."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from model_fixtures import SPOT_SIDE, a_card, noise_with_a_spot
from plain_esau_net import PlainNet, plain
from scipy.ndimage import gaussian_filter, maximum_filter, uniform_filter
from torch.special import erf

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.models import mixed_precision
from ASCONDenoiseLib.models.files import load_network, save_model
from ASCONDenoiseLib.models.networks import anatomy_of, build, esau_pair, has_features, image_of
from ASCONDenoiseLib.models.networks.esau_pair import HU, ESAUPair, at_edges, in_little_noise, significance


def significance_of(image: np.ndarray) -> np.ndarray:
    return significance(torch.from_numpy(image)[None, None], 2.5)[0, 0].numpy()


def test_significance_is_that_of_scipys_filters_away_from_the_border():
    image = noise_with_a_spot(4.0)
    expected = np.zeros_like(image)
    for size in esau_pair.SIZES:
        band = gaussian_filter(image, size, truncate=3) - gaussian_filter(image, 2.5 * size, truncate=3)
        rms = np.sqrt(uniform_filter(band**2, esau_pair.NEIGHBOURHOOD))
        spots = np.clip((np.abs(band) / rms - 2.5) / 1.0, 0, 1)
        wide = maximum_filter(spots, 2 * round(2 * size) + 1)
        expected = np.maximum(expected, gaussian_filter(wide, size, truncate=3))
    inside = slice(80, 112)  # beyond the reach of the mean and of the filters
    assert np.abs(significance_of(image) - expected)[inside, inside].max() < 0.02
    assert expected[inside, inside].max() > 0.9


@pytest.mark.parametrize("shape", [(1, 1, 150, 70), (2, 1, 64, 33), (1, 1, 3, 5)])
@pytest.mark.parametrize("sd", [0.5, 3.2, 8.0, np.inf])
def test_a_mean_of_blocks_is_that_of_all_rows(shape, sd):
    """Up to the border, where it is the mean of what there is."""
    image = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    reach = esau_pair.NEIGHBOURHOOD // 2 if sd == np.inf else np.ceil(3 * sd)
    expected = image.double()
    for _ in range(2):
        distance = torch.arange(expected.shape[-2]) - torch.arange(expected.shape[-2])[:, None]
        weights = torch.exp(-0.5 * (distance.double() / sd) ** 2) * (distance.abs() <= reach)
        expected = (weights @ expected / weights.sum(1, keepdim=True)).mT
    assert torch.allclose(esau_pair._averaged(image, sd), expected.float(), atol=1e-6)


@pytest.mark.parametrize("reach", [1, 2, 4, 6])
def test_a_widened_spot_is_a_pools(reach):
    image = torch.rand(2, 1, 40, 9)
    pooled = torch.nn.functional.max_pool2d(image, 2 * reach + 1, 1, reach)
    assert torch.equal(esau_pair._widened(image, reach), pooled)


def test_a_lesion_stands_out_and_noise_does_not():
    alone, with_spot = significance_of(noise_with_a_spot(0)), significance_of(noise_with_a_spot(4.0))
    assert alone.mean() < 0.15 and with_spot[SPOT_SIDE // 2, SPOT_SIDE // 2] > 0.95
    beside = with_spot[: SPOT_SIDE // 4].mean()
    assert beside == pytest.approx(alone[: SPOT_SIDE // 4].mean(), abs=1e-3)
    assert significance_of(np.zeros((16, 24))).max() == 0  # of nothing, in an image smaller than the filters


def test_an_edge_counts_by_its_steepness_over_the_noise():
    side = 96
    step = 50 * HU * (1 + erf((torch.arange(side) - 47.5) / (1.5 * 2**0.5)))  # 100 HU, blurred by 1.5 pixels
    image = step.expand(side, side)[None, None]
    noise = torch.randn(1, 1, side, side, generator=torch.Generator().manual_seed(0)) * 5 * HU
    steepest = 100 / np.sqrt(2 * np.pi * (1.5**2 + 1)) / 5  # after the Gaussian of one pixel
    share = at_edges(image, noise, steepest - 4)[0, 0]
    assert share[16:-16, 47:49].min() > 0.8 and share[:, :40].max() < 1e-6 and share[:, -40:].max() < 1e-6
    assert at_edges(image, noise, steepest + 0.5).max() < 0.2  # the noise scatters by some tenths
    assert torch.allclose(at_edges(image.mT, noise.mT, 4.0).mT, at_edges(image, noise, 4.0), atol=1e-6)
    assert at_edges(torch.zeros_like(noise), noise * 0, 4.0).max() == 0


@pytest.mark.parametrize(("noise_hu", "share"), [(4.0, 1.0), (9.0, 1.0), (10.8, 0.5), (12.5, 0.0), (40.0, 0.0)])
def test_little_noise_is_measured_beside_structure(noise_hu, share):
    removed = torch.randn(1, 1, 130, 130, generator=torch.Generator().manual_seed(0)) * noise_hu * HU
    structure = torch.zeros_like(removed)
    structure[..., 60:70, :] = 1
    removed[..., 60:70, :] = 300 * HU
    found = in_little_noise(removed, structure, 12.0)
    assert found.mean() == pytest.approx(share, abs=0.05)
    assert in_little_noise(removed, torch.ones_like(removed), 12.0).isfinite().all()


@pytest.fixture
def pair():
    torch.manual_seed(0)
    network = build("esau_pair", {"residual": True, "fold": 2, "channels": 8}).eval()
    for one in (network.error, network.lesions):
        torch.nn.init.normal_(one.last.weight, std=0.02)
    return network


def test_it_is_the_first_network_plus_what_stands_out_of_the_second(pair):
    x = torch.rand(2, 1, 64, 48)
    with torch.no_grad():
        first, second = pair.error(x), pair.lesions(x)
        assert torch.allclose(pair(x), first + significance(second - first, 2.5) * (second - first), atol=1e-6)
        assert torch.equal(pair(x), image_of(pair, pair.features(x), x))
        pair.lesions.load_state_dict(pair.error.state_dict())
        assert torch.equal(pair(x), pair.error(x))  # nothing stands out where there is no difference
    with pytest.raises(ValueError, match="multiples of 16"):
        pair(torch.rand(1, 1, 40, 48))


@pytest.mark.parametrize("rule", [{"edges_from": 2.0}, {"little_noise_hu": 12.0, "little_noise_share": 0.5}])
def test_edges_and_little_noise_are_asked_for_by_its_settings(pair, rule):
    x = 0.3 + torch.rand(1, 1, 64, 48) * 0.01  # noise of some 9 HU
    x[..., 24:] += 0.1
    ruled = ESAUPair.of(pair.error, pair.lesions, significant_from=3.0, **rule)
    with torch.no_grad():
        first, more = pair.error(x), pair.lesions(x) - pair.error(x)
        share = significance(more, 3.0)
        besides = at_edges(first, more, 2.0) if "edges_from" in rule else 0.5 * in_little_noise(x - first, share, 12.0)
        assert torch.allclose(ruled(x), first + torch.maximum(share, besides) * more, atol=1e-6)
        assert (besides > share + 0.1).any() and not (besides > share + 0.1).all()


def test_its_settings_are_checked_and_its_gradient_is_finite(pair):
    for wrong in (
        {"edges_from": -1.0},
        {"little_noise_hu": float("nan")},
        {"little_noise_share": 1.1},
        {"significant_from": "much"},
    ):
        with pytest.raises(InputError, match="cannot be made with the settings"):
            build("esau_pair", {"fold": 2, "channels": 8, **wrong})
    ruled = ESAUPair.of(pair.error, pair.error, edges_from=2.0, little_noise_hu=12.0)  # which differ by nothing
    ruled(torch.full((1, 1, 32, 32), 0.4)).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in ruled.parameters())


def test_it_is_what_two_plain_networks_make_of_it(pair):
    """The networks as the paper writes them, folded and with the residual."""
    x = torch.rand(1, 1, 48, 64)
    slow = plain(pair)
    assert type(slow.error) is type(slow.lesions) is PlainNet
    with torch.no_grad():
        assert torch.allclose(slow(x), pair(x), atol=1e-5)
        assert torch.allclose(slow.error(x), pair.error(x), atol=1e-5)


def test_two_models_become_one(pair, tmp_path):
    """As docs/training.md has it."""
    settings = {"residual": True, "fold": 2, "channels": 8}
    for name, network in (("t", pair.error), ("r", pair.lesions)):
        save_model(
            network, a_card(name=name, architecture="esau_net", settings=settings), tmp_path / f"{name}.safetensors"
        )
    (t, card), (r, _) = load_network(tmp_path / "t.safetensors"), load_network(tmp_path / "r.safetensors")
    rules = {"significant_from": 2.75, "edges_from": 2.0, "little_noise_hu": 10.0}
    made = ESAUPair.of(t, r, **rules)
    card = replace(card, name="pair", architecture="esau_pair", settings=rules | card.settings)
    save_model(made, card, tmp_path / "pair.safetensors")
    network, card = load_network(tmp_path / "pair.safetensors")
    x = 0.3 + torch.rand(1, 1, 32, 32) * 0.01
    with torch.no_grad():
        assert torch.equal(network(x), made(x)) and card.architecture == "esau_pair"
        assert not torch.equal(made(x), pair(x))
    with pytest.raises(InputError, match="cannot be made with the settings"):
        build("esau_pair", {"fold": 2, "width": 8})


def test_its_features_are_those_of_both_and_hold_the_image(pair):
    """Each is weighed by its own last layer, and by half, in variance: two that are alike count as one."""
    x = torch.rand(1, 1, 32, 32)
    with torch.no_grad():
        features = pair.features(x)
        assert has_features(pair) and features.shape == (1, 16, 16, 16)
        anatomy = anatomy_of(pair, features, pair(x))
    assert anatomy.shape == (1, 17, 32, 32) and torch.equal(anatomy[:, :1], pair(x))
    norm = (pair.lesions.last.weight.square().sum((0, 2, 3)) / 2).sqrt()
    assert torch.allclose(anatomy[0, 9:, ::2, ::2], features[0, 8:] * norm[:, None, None])


def test_both_networks_keep_their_image_path_in_fp32(pair):
    of_one = set(mixed_precision.lowered_layers(build("esau_net", {"residual": True, "fold": 2, "channels": 8})))
    lowered = set(mixed_precision.lowered_layers(pair))
    assert lowered == {f"{name}.{layer}" for name in ("error", "lesions") for layer in of_one} and of_one
