"""What a model has seen: cards give warnings about scans, whatever these are called. A model at several strengths."""

from __future__ import annotations

import numpy as np
import pytest
from evaluation_fixtures import a_card_of

from ASCONDenoiseLib.errors import InputError
from ASCONTrainingLib.evaluation.volumes import REMEMBERED, Candidate, at_strengths, warnings_about


def test_scans_that_chose_a_model_and_cards_that_are_silent_give_warnings():
    of = {f"P{n}": f"{n}" * 16 for n in range(4)}
    cards = {
        "chosen": a_card_of("chosen", train=[of["P0"]], validation=[of["P2"]]),
        "silent": a_card_of("silent"),
        "clean": a_card_of("clean", train=[of["P0"], of["P1"]]),
        "begun": a_card_of("begun", train=[of["P1"]], unlisted=["an older model"]),
        "phantoms": a_card_of("phantoms", train=[]),
    }
    warnings = warnings_about(cards, {of["P2"]: "P2", of["P3"]: "P3"}, False)
    assert len(warnings) == 3 and "was chosen by 1 of these 2 scans (P2)" in warnings[0]
    assert "card of silent does not list" in warnings[1] and "begun began with an older model" in warnings[2]
    assert warnings_about(cards, {}, False) == []  # a set of phantoms


def test_strengths_are_the_products_and_the_network_runs_once():
    runs = []

    def halved(ldct, spacing_mm):
        runs.append(spacing_mm)
        return ldct // 2

    card = a_card_of("a")
    found = at_strengths({"A": Candidate(halved, card, "a"), "B": Candidate(lambda x, _: x)}, [50, 75, 100])
    assert list(found) == ["A, 50 %", "A, 75 %", "A", "B, 50 %", "B, 75 %", "B"]
    assert found["A, 50 %"].card is card and found["A"].note == "a"
    volumes = [np.full((2, 3, 4), 100 * (n + 1), np.int16) for n in range(REMEMBERED)]
    for percent, name in ((50, "A, 50 %"), (75, "A, 75 %"), (100, "A")):
        for volume in volumes:
            expected = np.rint(volume * (1 - percent / 200)).astype(np.int16)
            np.testing.assert_array_equal(found[name].run(volume, (1, 1, 1)), expected)
            assert found[name].run(volume, (1, 1, 1)).dtype == np.int16
    assert len(runs) == REMEMBERED
    found["A"].run(volumes[0] + 1, (1, 1, 1))
    found["A"].run(volumes[0], (1, 1, 1))  # the oldest was let go
    assert len(runs) == REMEMBERED + 2
    with pytest.raises(InputError, match="0 to 1"):
        at_strengths(found, [101])
