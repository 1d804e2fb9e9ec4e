"""JSON into dataclasses: what fits, and what is said of what does not."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from ASCONDenoiseLib.checked_json import FieldError, from_json


@dataclass(frozen=True)
class Inner:
    doses: tuple[float, float] | None = None

    def __post_init__(self):
        if self.doses and self.doses[0] > self.doses[1]:
            raise FieldError("wrong", "doses", self.doses, "rising")


@dataclass(frozen=True)
class Outer:
    name: str
    count: int = 1
    rate: float = 0.5
    flag: bool = False
    path: Path | None = None
    sizes: tuple[int, ...] = ()
    names: list[str] = field(default_factory=list, metadata={"wanted": "a list of names"})
    kind: Literal["a", "b"] = "a"
    inner: Inner = field(default_factory=Inner)
    rest: dict[str, Any] = field(default_factory=dict)
    anything: Any = None

    def __post_init__(self):
        if self.count < 1:
            raise FieldError("wrong", "count", self.count, "1 or more")


def test_values_of_every_kind():
    given = {"name": "n", "count": 3, "rate": 2, "flag": True, "path": "/a", "sizes": [1, 2], "names": ["x"]}
    given |= {"kind": "b", "inner": {"doses": [0, 1]}, "rest": {"a": 1}, "anything": [None]}
    made = from_json(Outer, given)
    assert made == Outer("n", 3, 2.0, True, Path("/a"), (1, 2), ["x"], "b", Inner((0.0, 1.0)), {"a": 1}, [None])
    assert type(made.rate) is float and type(made.inner.doses[0]) is float
    assert from_json(Outer, {"name": "n"}) == Outer("n")


@pytest.mark.parametrize(
    ("values", "problem", "name", "wanted"),
    [
        ({}, "missing", "name", "a text"),
        ({"name": "n", "count": 0}, "wrong", "count", "1 or more"),
        ({"name": "n", "inner": {"doses": [2, 1]}}, "wrong", "inner.doses", "rising"),
        ({"name": "n", "nmae": 1}, "unknown", "nmae", "name, count"),
        ({"name": 3}, "wrong", "name", "a text"),
        ({"name": "n", "count": True}, "wrong", "count", "a whole number"),
        ({"name": "n", "count": 1.0}, "wrong", "count", "a whole number"),
        ({"name": "n", "rate": float("nan")}, "wrong", "rate", "a number"),
        ({"name": "n", "rate": "1"}, "wrong", "rate", "a number"),
        ({"name": "n", "names": ["x", 1]}, "wrong", "names", "a list of names"),
        ({"name": "n", "kind": "c"}, "wrong", "kind", '"a" or "b"'),
        ({"name": "n", "path": ""}, "wrong", "path", "a path or null"),
        ({"name": "n", "inner": 1}, "wrong", "inner", "an object"),
        ({"name": "n", "inner": {"doses": [1]}}, "wrong", "inner.doses", "a list of the right length or null"),
        ({"name": "n", "inner": {"dose": [1, 2]}}, "unknown", "inner.dose", "inner.doses"),
    ],
)
def test_what_does_not_fit_is_named(values, problem, name, wanted):
    with pytest.raises(FieldError) as caught:
        from_json(Outer, values, "")
    assert (caught.value.problem, caught.value.name) == (problem, name) and wanted in caught.value.wanted


def test_all_that_is_unknown_or_missing_is_named():
    with pytest.raises(FieldError) as caught:
        from_json(Outer, {"name": "n", "inner": {"b": 1, "a": 2}})
    assert caught.value.names == ["inner.a", "inner.b"]


@pytest.mark.parametrize("doses", [[2, 1], [1, "2"], [1, 10**400]])
def test_a_wrong_value_is_told_as_a_whole_and_as_json_has_it(doses):
    with pytest.raises(FieldError) as caught:
        from_json(Outer, {"name": "n", "inner": {"doses": doses}})
    assert caught.value.value == doses
