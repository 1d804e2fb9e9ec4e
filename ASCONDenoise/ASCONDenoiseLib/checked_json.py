"""JSON into frozen dataclasses, each value checked against the type of its field: cards, jobs and settings alike.

Here only the kind of a value is checked. Bounds belong to the dataclass itself: its `__post_init__` raises FieldError,
which is completed with the value as JSON had it and with the fields around it. Known are int, float, bool, str, None,
list, tuple, dict, Path, Any, unions, Literal and dataclasses within each other.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING
from pathlib import Path
from typing import Any, Literal, TypeVar

T = TypeVar("T")


class FieldError(ValueError):
    """A field is unknown, missing, or of another kind than it should be. Who asked makes the sentence for the user.

    Attributes:
        problem: what is wrong.
        name: the field, with those around it: "scope.doses".
        value: what was there; None where it is missing.
        wanted: what it should be, in words ("a whole number"); of an unknown field, the fields that there are.
        names: all fields that are unknown, or missing; `name` is the first.
    """

    def __init__(
        self,
        problem: Literal["unknown", "missing", "wrong"],
        name: str,
        value: object,
        wanted: str,
        names: Sequence[str] = (),
    ):
        super().__init__(f"{name} is {problem}: {value!r}, wanted: {wanted}")
        self.problem = problem
        self.name = name
        self.value = value
        self.wanted = wanted
        self.names = list(names) or [name]


def parse_json(text: str) -> Any:
    """The value of a JSON text. Raises ValueError, also where lists or objects lie too deep in each other."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("lists or objects lie too deep in each other") from None


def shown(value: object) -> str:
    """A value as an error quotes it: in full where it is short."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:90]}... ({len(text)} characters)"


def from_json(cls: type[T], values: Mapping[str, Any], place: str = "") -> T:
    """The dataclass `cls` with `values`, as JSON has them, in its fields.

    Args:
        cls: a dataclass; fields without a default are required. `field(metadata={"wanted": words})` says in words what
            a value should be, where the type says too little.
        values: field -> value. A whole number fits a float, a list fits a tuple of as many.
        place: goes before the names in errors, e.g. "scope.".

    Raises:
        FieldError: at the first field that is unknown, missing or wrong.
    """
    hints = typing.get_type_hints(cls)
    known = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    if unknown := sorted(map(str, values.keys() - known.keys())):
        names = [place + name for name in unknown]
        raise FieldError("unknown", names[0], values[unknown[0]], ", ".join(place + name for name in known), names)
    required = [f for f in known.values() if f.default is MISSING and f.default_factory is MISSING]
    if missing := [f for f in required if f.name not in values]:
        names = [place + f.name for f in missing]
        raise FieldError("missing", names[0], None, _wanted(hints[missing[0].name], missing[0]), names)
    checked = {name: _checked(value, hints[name], place + name, known[name]) for name, value in values.items()}
    try:
        return cls(**checked)
    except FieldError as error:
        value = values.get(error.name, error.value)
        raise FieldError(error.problem, place + error.name, value, error.wanted) from None


def _checked(value: Any, hint: Any, name: str, described: dataclasses.Field[Any] | None = None) -> Any:
    """`value` as `hint` has it; FieldError where it is something else."""
    wrong = FieldError("wrong", name, value, _wanted(hint, described))
    for option in _options(hint):
        try:
            return _converted(value, option, name, described, wrong)
        except FieldError as error:
            if error.name != name:  # a field of an object in this one
                raise
    raise wrong


def _converted(value: Any, option: Any, name: str, described: dataclasses.Field[Any] | None, wrong: FieldError) -> Any:
    """`value` as one option of a union has it; raises `wrong` where it does not fit."""
    origin, kinds = typing.get_origin(option) or option, typing.get_args(option)
    if option is Any or (option is type(None) and value is None) or (origin is Literal and value in kinds):
        return value
    if dataclasses.is_dataclass(option) and isinstance(value, Mapping):
        return from_json(typing.cast(type, option), value, f"{name}.")
    if origin is tuple and isinstance(value, list | tuple):
        each = kinds[:1] * len(value) if len(kinds) == 2 and kinds[1] is ... else kinds
        if len(each) == len(value):
            return tuple(_checked(item, kind, name, described) for item, kind in zip(value, each, strict=True))
    if origin is list and isinstance(value, list):
        return [_checked(item, kinds[0], name, described) for item in value] if kinds else value
    if origin is dict and isinstance(value, Mapping):
        return dict(value)
    if option is float and type(value) in (int, float) and abs(value) <= sys.float_info.max:
        return float(value)
    if option is Path and type(value) is str and value:
        return Path(value)
    if option in (int, bool, str) and type(value) is option:
        return value
    raise wrong


def _options(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)


def _wanted(hint: Any, described: dataclasses.Field[Any] | None) -> str:
    if described is not None and "wanted" in described.metadata:
        return str(described.metadata["wanted"])
    return " or ".join(_in_words(option) for option in _options(hint))


def _in_words(option: Any) -> str:
    origin = typing.get_origin(option) or option
    if origin is Literal:
        return " or ".join(f'"{value}"' for value in typing.get_args(option))
    return _WORDS.get(origin, "an object")


_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    Path: "a path",
    type(None): "null",
    tuple: "a list of the right length",
    list: "a list",
}
