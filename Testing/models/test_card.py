"""Model cards: what they tell, and that none can be made whose values are out of bounds."""

from __future__ import annotations

import pytest
from model_fixtures import a_card

from ASCONDenoiseLib.checked_json import FieldError
from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.models.card import ModelCard, Scope


@pytest.mark.parametrize(
    ("metrics", "scans"),
    [
        ({}, {}),
        ({"training": "long"}, {}),
        ({"training": {"scans": 3}}, {}),
        ({"training": {"patients": {"train": ["0123456789ab"]}}}, {}),  # names, as older cards have them: not scans
        (
            {"training": {"scans": {"train": ["a", "b"], "validation": [], "note": "x"}}},
            {"train": ["a", "b"], "validation": []},
        ),
    ],
)
def test_a_card_tells_the_scans_that_it_lists(metrics, scans):
    assert a_card(metrics=metrics).scans == scans


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("licence", {"licence": ""}),
        ("window_hu", {"window_hu": (2000.0, -1000.0)}),
        ("sha256", {"sha256": "ab"}),
        ("sha256", {"sha256": "AB" * 32}),
    ],
)
def test_no_card_is_made_whose_values_are_out_of_bounds(name, values):
    with pytest.raises(FieldError) as caught:
        a_card(**values)
    assert (caught.value.problem, caught.value.name, caught.value.value) == ("wrong", name, values[name])


@pytest.mark.parametrize(
    "values",
    [
        {"doses": (0.0, 0.5)},
        {"doses": (0.1, 25.0)},
        {"slice_mm": (5.0, 2.5)},
        {"sharp_kernel_shift_hu": {"fat": float("nan")}},
        {"sharp_kernel_shift_hu": {"fat": "5"}},
    ],
)
def test_no_scope_is_made_whose_values_are_out_of_bounds(values):
    with pytest.raises(FieldError, match=next(iter(values))):
        Scope(**values)


def test_a_card_that_is_read_has_the_hash_of_its_weights():
    with pytest.raises(
        InputError, match="^It has a wrong value for \"sha256\": ''. It should be 64 hexadecimal digits.$"
    ):
        ModelCard.from_json(a_card().to_json(), "It")
    card = a_card(sha256="ab" * 32)
    assert ModelCard.from_json(card.to_json()) == card
