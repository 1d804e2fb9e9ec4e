"""What a model has seen: cards give warnings about scans, whatever these are called."""

from __future__ import annotations

from evaluation_fixtures import a_card_of

from ASCONTrainingLib.evaluation.volumes import warnings_about


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
