"""Patch-DML, TSC-Net and ALDEN stop before a weight moves where a batch is not finite; names say what a variant is."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from objective_fixtures import a_batch, a_context, a_denoiser, seeded

from ASCONDenoiseLib.models.networks.patch_dml import PatchDML
from ASCONDenoiseLib.models.networks.tsc_net import TSCNet
from ASCONTrainingLib.config.presets import PEERS, PRESETS
from ASCONTrainingLib.method.objective import NotFiniteError
from ASCONTrainingLib.method.objectives import alden_own_features, patch_dml, tsc_net_latent


@pytest.mark.parametrize(
    ("make", "network", "fraction"),
    [
        (patch_dml.make, PatchDML, 0.5),
        (tsc_net_latent.make, lambda: TSCNet(8, 2), 0.0),
        (tsc_net_latent.make, lambda: TSCNet(8, 2), 0.5),
        (alden_own_features.make, a_denoiser, 0.5),
    ],
)
def test_a_batch_that_is_not_finite_stops_the_step_before_anything_moves(make, network, fraction):
    torch.manual_seed(0)
    network = network()
    objective = make(replace(a_context(network), fraction_done=lambda: fraction))
    learning = [*network.parameters(), *(p for part in objective.parts.values() for p in _parameters(part))]
    before = copy.deepcopy(learning)
    ldct, ndct = a_batch(32)
    with pytest.raises(NotFiniteError):
        objective.step(ldct, torch.full_like(ndct, torch.inf), seeded())
    assert all(torch.equal(now, then) for now, then in zip(learning, before, strict=True))


def _parameters(part: object) -> list[torch.nn.Parameter]:
    return list(part.parameters()) if isinstance(part, torch.nn.Module) else []


def test_a_variant_with_features_of_our_own_has_a_name_of_its_own_and_the_rest_of_the_method():
    for name, variant in (("alden", "alden_own_features"), ("tsc_net", "tsc_net_latent")):
        assert PEERS[variant] == replace(PEERS[name], objective=variant)
        assert PRESETS[variant].preset == variant != PRESETS[name].preset


def test_the_settings_are_those_of_the_papers_and_their_code():
    dml, tsc, alden = (PRESETS[name] for name in ("patch_dml", "tsc_net", "alden"))
    assert (dml.batch, dml.unpaired, dml.patch, dml.precision) == (8, True, None, "fp32")
    assert (dml.optimizer.learning_rate, dml.optimizer.betas) == (2e-4, (0.5, 0.999))
    assert (tsc.optimizer.learning_rate, tsc.optimizer.betas) == (1e-4, (0.9, 0.999))
    assert (alden.optimizer.learning_rate, alden.optimizer.betas) == (1e-4, (0.5, 0.999))
    assert (alden.network, alden.patch, alden.growth) == ("esau_net", 128, ())
