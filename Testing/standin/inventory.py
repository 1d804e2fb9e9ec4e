"""What a real Slicer offers, read from `api.json`: members, signatures, enums, and the PySide classes behind them."""

import json
import re
from functools import cache
from pathlib import Path

from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets

API = json.loads(Path(__file__).with_name("api.json").read_text(encoding="utf-8"))
IMPLEMENTATIONS: dict[str, type] = {}  # class name -> PySide class, for what Qt itself does not have


@cache
def chain(name: str) -> tuple[str, ...]:
    """The class and its bases, nearest first."""
    line = [name] if name in API else []
    for base in API.get(name, {"bases": []})["bases"]:
        line += [found for found in chain(base) if found not in line]
    return tuple(line)


@cache
def find(name: str, member: str) -> tuple | None:
    """(kind, detail, owner) in PythonQt's order: property, method, signal, enum value, enum type, name less `_`."""
    line = [c for c in chain(name) if c != "PythonQtInstanceWrapper"]
    if member in API["PythonQtInstanceWrapper"]["methods"]:
        return "method", tuple(API["PythonQtInstanceWrapper"]["methods"][member]), "PythonQtInstanceWrapper"
    for c in line:
        if member in API[c].get("properties", {}):
            return "property", API[c]["properties"][member], c
    methods = [(s, c) for c in line for s in API[c].get("methods", {}).get(member, [])]
    signals = [(s, c) for c in line for s in API[c].get("signals", []) if s.split("(")[0] == member]
    if methods:
        return "method", tuple(s for s, _ in methods), methods[0][1]
    if signals:
        return "signal", tuple(s for s, _ in signals), signals[0][1]
    for c in line:
        for enum, values in API[c].get("enums", {}).items():
            if member in values:
                return "enum value", enum, c
    for c in line:
        if member in API[c].get("enums", {}):
            return "enum type", member, c
    return find(name, member[:-1]) if re.search(r"[^_]_$", member) else None


@cache
def signature(text: str) -> tuple[str, tuple[tuple[str, bool], ...], bool]:
    """`static int f(QString, QList<int>=)` -> ("int", (("QString", False), ("QList<int>", True)), True)."""
    head, _, rest = text.partition("(")
    parts, depth = [], 0
    for piece in rest[: rest.rindex(")")].split(","):
        if depth:
            parts[-1] += "," + piece
        elif piece.strip():
            parts.append(piece.strip())
        depth += piece.count("<") - piece.count(">")
    static = head.startswith("static ")
    result = head.removeprefix("static ").rpartition(" ")[0]
    return result, tuple((p.removesuffix("=").strip(), p.endswith("=")) for p in parts), static


@cache
def implementation(name: str) -> type | None:
    """The PySide class behind a wrapper class."""
    if name in IMPLEMENTATIONS:
        return IMPLEMENTATIONS[name]
    return next((getattr(m, name) for m in (QtCore, QtGui, QtWidgets, QtUiTools) if hasattr(m, name)), None)


@cache
def enum_type(kind: str, owner: str = "") -> type | None:
    """PySide's enum for a C++ enum or flags type: `Qt::Alignment` -> Qt.AlignmentFlag."""
    scope, _, name = kind.rpartition("::")
    for c in [scope] if scope else chain(owner):
        if name not in API.get(c, {}).get("enums", {}):
            continue
        base = implementation(c)
        for guess in (name, name.removesuffix("s"), name + "Flag", {"WindowFlags": "WindowType"}.get(name, name)):
            found = getattr(base, guess, None)
            if isinstance(found, type) and hasattr(found, "__members__"):
                return found
    return None


class EnumValue(int):
    """One value of one enum: an int of its own class, as PythonQt makes them."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({int(self)})"


class EnumMeta(type):
    def __getattr__(cls, name: str):
        if name in cls.__dict__.get("_values", ()):
            return enum_value(cls._owner, cls.__name__, name)
        raise AttributeError(f"{cls._owner}.{cls.__name__} has no value {name}")

    def __setattr__(cls, name: str, value: object) -> None:
        raise AttributeError(f"{cls.__name__}.{name} can not be overwritten")


@cache
def enum_class(owner: str, enum: str) -> type:
    return EnumMeta(enum, (EnumValue,), {"_owner": owner, "_values": tuple(API[owner]["enums"][enum])})


@cache
def enum_value(owner: str, enum: str, name: str) -> EnumValue:
    """A value's number: PySide's own for Qt; place in the list for CTK's and Slicer's classes."""
    base = implementation(owner)
    holder = enum_type(f"{owner}::{enum}") or base
    member = getattr(holder, name, getattr(base, name, None))
    if member is None and owner.startswith("Q"):
        raise AttributeError(f"{owner}.{name} is not offered by the stand-in")
    number = API[owner]["enums"][enum].index(name) if member is None else getattr(member, "value", member)
    return enum_class(owner, enum)(number)
