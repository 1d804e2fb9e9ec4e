"""Splits: those of the paper, those of a file, and those by chance."""

from __future__ import annotations

import pytest

from ASCONDenoiseLib.errors import InputError
from ASCONTrainingLib.data.splits import MAYO_2016, MAYO_2020, automatic_split, read_split


@pytest.mark.parametrize(
    ("split", "train", "test"),
    [
        (MAYO_2016, "L067 L096 L109 L143 L192 L286 L291 L310", "L333 L506"),
        (
            MAYO_2020,
            "L107 L114 L116 L125 L131 L134 L145 L150 L160 L170 L175 L178 L186 L187 L193 L203",
            "L110 L123 L148 L179",
        ),
    ],
)
def test_published_splits_are_those_of_the_paper(split, train, test):
    assert sorted(split["train"] + split["validation"]) == train.split()
    assert split["test"] == test.split()
    assert split["validation"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '{"train": ["A", "B", "C"], "validation": ["B"], "test": ["C"]}',
            r"2 patients in more than one split \(B, C\)",
        ),
        ('{"train": ["A"], "test": []}', "no split file"),
        ("not JSON", "no split file"),
        ('["A"]', "no split file"),
    ],
)
def test_wrong_split_file_is_refused(tmp_path, content, message):
    (tmp_path / "split.json").write_text(content)
    with pytest.raises(InputError, match=message):
        read_split(tmp_path / "split.json")


def test_a_set_may_be_for_measuring_alone(tmp_path):
    (tmp_path / "split.json").write_text('{"train": [], "validation": [], "test": ["A"]}')
    assert read_split(tmp_path / "split.json") == {"train": [], "validation": [], "test": ["A"]}


@pytest.mark.parametrize(
    ("n", "sizes"), [(1, (1, 0, 0)), (2, (1, 1, 0)), (3, (1, 1, 1)), (10, (8, 1, 1)), (40, (32, 4, 4))]
)
def test_automatic_split_shares_patients(n, sizes):
    patients = [f"case{i}" for i in range(n)]
    split = automatic_split(patients)
    assert tuple(map(len, split.values())) == sizes
    assert sorted(sum(split.values(), [])) == sorted(patients)
    assert automatic_split(patients[::-1]) == split
    assert n < 10 or automatic_split(patients, seed=1) != split
