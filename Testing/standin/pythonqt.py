"""PythonQt's manners over PySide6: every class in `api.json` becomes a strict wrapper class.

The rules are those of PythonQt's own source (README.md lists them). What a real Slicer would refuse is refused with the
same kind of error. What it would swallow (a None that becomes the text "None", a connection to a signal that does not
exist) happens here too, and is warned of as `PythonQtTrap`, which tests turn into an error.
"""

import functools
import math
import operator
import re
import sys
import types
import warnings
import weakref
from functools import cache

import shiboken6
from PySide6 import QtCore

from .inventory import (
    API,
    EnumValue,
    chain,
    enum_class,
    enum_type,
    enum_value,
    find,
    implementation,
    signature,
)
from .tool_tips import wrap_tool_tip
from .traps import swallow, trap

SPECIAL: dict[str, object] = {}  # "Class.method" -> function(wrapper, *arguments); differences.py fills it
_classes: dict[str, type] = {}
_connections: dict[int, list[tuple]] = {}  # C++ address of the sender -> (signal, callable, Qt's connection)
_wrappers: weakref.WeakValueDictionary = weakref.WeakValueDictionary()


class Refused(Exception):  # noqa: N818
    """An argument that no conversion fits."""


# -- conversions -------------------------------------------------------------------------------------------------------

INTEGERS = dict.fromkeys(("int", "uint", "unsigned int"), 32) | dict.fromkeys(("short", "ushort", "QChar"), 16)
INTEGERS |= dict.fromkeys(("long", "ulong", "qint64", "quint64", "qlonglong", "qulonglong", "qsizetype", "size_t"), 64)
INTEGERS |= dict.fromkeys(("char", "uchar"), 8)
FLOATS = ("double", "float", "qreal")
TEXTS = ("QString", "QAnyStringView", "QStringView", "QLatin1String")
IMPLICIT = {"QColor": ("GlobalColor",), "QCursor": ("CursorShape",)}  # the only conversions by constructor
IMPLICIT |= {name: ("GlobalColor", "QColor") for name in ("QBrush", "QPen")}
LISTS = re.compile(r"(?:QList|QVector)<(.*)>$|(\w+)List$")


def to_text(value: object) -> tuple[str, int]:
    if isinstance(value, str):
        return value, 0
    if value is None or isinstance(value, (Wrapper, Method, Signal, list, tuple, bytes)) or callable(value):
        trap(f"{value!r} is handed over where a text is wanted: Slicer takes str() of it, {str(value)!r}")
    return str(value), 1


def to_list(value: object, kind: str, owner: str) -> tuple[list, int]:
    if isinstance(value, str) and kind == "QString":
        trap(f"a str is handed over where a list of texts is wanted: Slicer takes {value!r} apart into letters")
        return list(value), 1
    if not isinstance(value, (list, tuple)):
        raise Refused
    converted = [convert(item, kind, owner) for item in value]
    return [item for item, _ in converted], max((loose for _, loose in converted), default=0)


def to_number(value: object, kind: str) -> tuple[int | float, int]:
    if isinstance(value, (str, bytes)):
        raise Refused
    try:
        if kind in FLOATS:
            return float(value), 0 if type(value) is float else 1
        number = math.floor(value) if isinstance(value, float) else operator.index(value)
    except (TypeError, ValueError, OverflowError):
        raise Refused from None
    bits, unsigned = INTEGERS[kind], kind.startswith(("u", "qu", "size_t"))
    if not (0 if unsigned else -(2 ** (bits - 1))) <= number < 2 ** (bits if unsigned else bits - 1):
        raise Refused
    return number, 0 if type(value) is int else 1


def to_object(value: object, kind: str) -> tuple[object, int]:
    pointer, name = kind.endswith("*"), kind.rstrip("*& ")
    if pointer and (value is None or (type(value) is int and value == 0)):
        return None, 0 if value is None else 1
    if isinstance(value, Wrapper) and name in chain(type(value)._api):
        return value._alive(ValueError), 0
    if isinstance(value, (EnumValue, Wrapper)) and type(value).__name__ in IMPLICIT.get(name, ()):
        source = "QColor" if isinstance(value, Wrapper) else "Qt::" + type(value).__name__
        return implementation(name)(convert(value, source)[0]), 1
    if name.startswith("vtk") and hasattr(value, "IsA") and value.IsA(name):
        return value, 0
    raise Refused


def convert(value: object, kind: str, owner: str = "") -> tuple[object, int]:
    """(what Qt is given, 0 for an exact and 1 for a loose fit) or `Refused`."""
    kind = {"qSlicerIO::IOFileType": "QString", "qSlicerIO::IOProperties": "QVariantMap"}.get(kind, kind)
    if kind == "bool":
        return bool(value), 0 if isinstance(value, bool) else 1
    if kind in INTEGERS or kind in FLOATS:
        number, loose = to_number(value, kind)
        return (chr(number) if kind == "QChar" else number), loose
    if kind in TEXTS:
        return to_text(value)
    if kind in ("QByteArray", "char*") and isinstance(value, (str, bytes)):
        raw = value.encode() if isinstance(value, str) else value
        return (raw if kind == "QByteArray" else raw.decode()), 0
    variants = {"QVariant": object, "QVariantMap": dict, "QVariantHash": dict, "QVariantList": (list, tuple)}
    if isinstance(value, variants.get(kind, ())):
        return unwrap(value), 0
    listed = LISTS.match(kind)
    if listed:
        return to_list(value, listed[1] or listed[2], owner)
    enum = enum_type(kind, owner)
    if enum is not None:
        exact = isinstance(value, EnumValue) and type(value).__name__ == kind.rpartition("::")[2]
        return enum(to_number(value, "qint64")[0]), 0 if exact else 1
    return to_object(value, kind)


def unwrap(value: object) -> object:
    """As a QVariant: wrappers give their Qt object, containers are gone through."""
    if isinstance(value, Wrapper):
        return value._alive(ValueError)
    if isinstance(value, EnumValue):
        return int(value)
    if isinstance(value, (list, tuple)):
        return [unwrap(item) for item in value]
    return {str(k): unwrap(v) for k, v in value.items()} if isinstance(value, dict) else value


def wrap(value: object, kind: str = "") -> object:
    """What Python code in Slicer sees of a value that comes from Qt: wrappers, own enums, tuples for lists."""
    if value is None:
        return "" if kind in TEXTS else () if LISTS.match(kind) else None
    if isinstance(value, (list, tuple)):
        return tuple(wrap(item) for item in value)
    if isinstance(value, dict):
        return {key: wrap(item) for key, item in value.items()}
    if hasattr(type(value), "__members__"):  # an enum of PySide's
        owner, _, enum = type(value).__qualname__.rpartition(".")
        known = enum in API.get(owner, {}).get("enums", {})
        return enum_class(owner, enum)(value.value) if known else value.value
    if not isinstance(value, shiboken6.Object):
        return value
    pointer = shiboken6.getCppPointer(value)[0] if isinstance(value, QtCore.QObject) else None
    known = _wrappers.get(pointer)
    if known is not None and known._o is value:
        return known
    name = next((c.__name__ for c in type(value).__mro__ if c.__name__ in API), None)
    if name is None:
        raise AttributeError(f"{type(value).__name__} is not offered by the stand-in")
    cls = class_for(name)
    wrapper = cls.__new__(cls)
    wrapper._adopt(value, owned=False)
    return wrapper


def choose(signatures: tuple[str, ...], arguments: tuple, owner: str, what: str) -> tuple[list, str, bool]:
    """The overload that fits: the first that fits exactly, else the first that fits at all, else ValueError."""
    loose_fit = None
    for text in signatures:
        result, wanted, static = signature(text)
        if not sum(not optional for _, optional in wanted) <= len(arguments) <= len(wanted):
            continue
        with warnings.catch_warnings(record=True) as traps:
            warnings.simplefilter("always")
            try:
                fit = [convert(a, kind, owner) for a, (kind, _) in zip(arguments, wanted, strict=False)]
            except Refused:
                continue
        found = [value for value, _ in fit], result, static, traps
        if not any(loose for _, loose in fit):
            return found[:3]
        loose_fit = loose_fit or found
    if loose_fit is None:
        given = ", ".join(type(a).__name__ for a in arguments)
        raise ValueError(f"Could not find matching overload for given arguments: {what}({given}); known: {signatures}")
    for caught in loose_fit[3]:
        trap(str(caught.message))
    return loose_fit[:3]


# -- methods and signals -----------------------------------------------------------------------------------------------


class Method:
    """A method, bound to an object or not."""

    def __init__(self, owner: str, name: str, signatures: tuple[str, ...], bound: "Wrapper | None") -> None:
        self._owner, self._name, self._signatures, self._bound = owner, name, signatures, bound

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Method) and (self._bound, self._name) == (other._bound, other._name)

    def __hash__(self) -> int:
        return hash((id(self._bound), self._name))

    def __call__(self, *arguments: object, **keywords: object) -> object:
        what = f"{self._owner}.{self._name}"
        if keywords:
            raise ValueError(f"{what} does not support kwargs")
        bound, unbound = self._bound, False
        statics = [s for s in self._signatures if s.startswith("static ")]
        if bound is None and not statics:
            if not arguments or not isinstance(arguments[0], Wrapper):
                raise ValueError(f"{what} is called without an object")
            bound, unbound, arguments = arguments[0], True, arguments[1:]
        for name in (f"{c}.{self._name}" for c in chain(self._owner)):
            if name in SPECIAL:
                return SPECIAL[name](bound, *arguments)
        target = None if bound is None else bound._alive(ValueError, what)
        signatures = tuple(statics) if bound is None else self._signatures
        converted, result, static = choose(signatures, arguments, self._owner, what)
        if unbound and type(bound)._qt is not type(bound):  # the base's own function, not the override in Python
            function = functools.partial(getattr(implementation(type(bound)._api), self._name), target)
        else:
            holder = implementation(self._owner) if target is None or static else target
            function = getattr(holder, self._name, None) or getattr(holder, self._name + "_", None)  # raise_, print_
        if function is None:
            raise AttributeError(f"{what} is not offered by the stand-in")
        if re.match("(add|insert|set)[A-Z]", self._name) and not re.search(NOT_OWNING, self._name):  # Qt takes it over
            for argument in (a for a in arguments if isinstance(a, Wrapper)):
                object.__setattr__(argument, "_owned", False)
        try:
            value = function(*converted)
        except TypeError as error:
            raise ValueError(f"{what}: {error}") from error
        return None if result == "void" else wrap(value, result)


NOT_OWNING = "Menu$|Buddy$|DefaultAction$|^addActions?$|Model$|Validator$|Completer$|Button$|^setProcess|^setParent$"


class Signal:
    """`widget.clicked`: connect, disconnect and emit, for the overload that is declared first."""

    def __init__(self, sender: "Wrapper", name: str, signatures: tuple[str, ...]) -> None:
        # QProcess.finished is (int) first in Qt 5 and (int, ExitStatus) in Qt 6: only the shorter one works in both.
        first = "finished(int)" if "finished(int)" in signatures else signatures[0]
        self._sender, self._name, self._signature = sender, name, first

    def connect(self, *arguments: object) -> bool:
        if len(arguments) != 1 or not callable(arguments[0]):
            raise ValueError(f"{self._name}.connect takes one callable")
        return join(self._sender, self._signature, arguments[0])

    def disconnect(self, *arguments: object) -> bool:
        return part(self._sender, self._signature, *arguments)

    def emit(self, *arguments: object) -> None:
        values, *_ = choose(("void " + self._signature,), arguments, type(self._sender)._api, self._name)
        getattr(self._sender._alive(ValueError), self._name).emit(*values)


def normalised(text: str) -> str:
    text = re.sub(r"\bconst\b|&", "", str(text.decode() if isinstance(text, bytes) else text))
    return re.sub(r"\s+", "", text)


def known_signal(sender: "Wrapper", text: str) -> str | None:
    """The declared signal that a connection string names, or None after a warning, as PythonQt does."""
    wanted = normalised(text)
    found = find(type(sender)._api, wanted.split("(")[0])
    every = [s for c in chain(type(sender)._api) for s in API[c].get("signals", [])]
    if found is None or wanted not in map(normalised, every):
        print(f"signal {wanted} does not exist on {type(sender)._api}", file=sys.stderr)
        trap(f"signal {wanted} does not exist on {type(sender)._api}: connect() returns False and nothing is connected")
        return None
    return wanted


def arity(function: object) -> int | None:
    """How many arguments a slot is given: all that a function or bound method declares; None = everything there is."""
    code = getattr(function, "__code__", None) or getattr(getattr(function, "__func__", None), "__code__", None)
    if not isinstance(function, (types.FunctionType, types.MethodType)) or code is None or code.co_flags & 0x04:
        return None
    return code.co_argcount - isinstance(function, types.MethodType)


def join(sender: "Wrapper", text: str, function: object) -> bool:
    """Connect a declared signal to a callable. Qt keeps the callable until the sender dies."""
    target = sender._alive(ValueError)
    inner = text[text.index("(") + 1 : -1]
    count, limit = (inner.count(",") + 1 if inner else 0), arity(function)

    def receiver(*values: object) -> None:
        try:
            function(*[wrap(v) for v in values[:count]][:limit])
        except BaseException as error:  # noqa: BLE001
            swallow(error)

    qt_text = re.sub(r"vtk\w+\*|qSlicerIO::IOProperties", "PyObject", text)
    meta = target.metaObject()
    if meta.indexOfSignal(qt_text) >= 0:
        connection = QtCore.QObject.connect(target, QtCore.SIGNAL(qt_text), receiver)
    else:
        connection = getattr(target, text.split("(")[0]).connect(receiver)
    pointer = shiboken6.getCppPointer(target)[0]
    if pointer not in _connections:
        _connections[pointer] = []
        target.destroyed.connect(lambda: _connections.pop(pointer, None))
    _connections[pointer].append((normalised(text), function, connection))
    return True


def part(sender: "Wrapper", text: str, function: object = None) -> bool:
    """Undo one connection to `function`, or all when no function is given."""
    held = _connections.get(shiboken6.getCppPointer(sender._alive(ValueError))[0], [])
    matching = [c for c in held if c[0] == normalised(text) and (function is None or c[1] == function)]
    for entry in matching[: None if function is None else 1]:
        QtCore.QObject.disconnect(entry[2])
        held.remove(entry)
    return bool(matching)


# -- classes and objects -----------------------------------------------------------------------------------------------


class ClassMeta(type):
    """Names on the class itself: enums, static methods, methods without their object."""

    def __getattr__(cls, name: str):
        found = None if name.startswith("__") else find(cls._api, name)
        if found is None:
            raise AttributeError(f"type object {cls._api} has no attribute {name}")
        kind, detail, owner = found
        if kind == "method":
            return Method(cls._api, name if name in API[owner].get("methods", {}) else name.rstrip("_"), detail, None)
        if kind == "enum value":
            return enum_value(owner, detail, name)
        if kind == "enum type":
            return enum_class(owner, name)
        trap(f"{cls._api}.{name} on the class is an empty dummy, not a value")
        return cls.__new__(cls)


class Wrapper(metaclass=ClassMeta):
    _api, _qt, _o, _owned = "PythonQtInstanceWrapper", None, None, False

    def __init__(self, *arguments: object, **keywords: object) -> None:
        name = self._api
        if keywords:
            raise ValueError(f"{name} does not support kwargs")
        if not API[name]["creatable"]:
            raise ValueError(f"{name} can not be made in Python")
        base = implementation(name)
        if base is None:
            raise AttributeError(f"{name} is not offered by the stand-in")
        converted, *_ = choose(tuple("void " + c for c in API[name]["constructors"]), arguments, name, name)
        if type(self) is not self._qt:
            base = with_overrides(type(self), base, weakref.ref(self))
        self._adopt(base(*converted), owned=True)
        if type(self) is not self._qt and isinstance(self._o, QtCore.QObject) and self._o.parent() is not None:
            self._o._python = self  # lives as long as the C++ object

    def _adopt(self, target: object, owned: bool) -> None:
        object.__setattr__(self, "_o", target)
        object.__setattr__(self, "_owned", owned)
        if isinstance(target, QtCore.QObject):
            _wrappers[shiboken6.getCppPointer(target)[0]] = self

    def _alive(self, error: type, what: str = "") -> object:
        if self._o is None or not shiboken6.isValid(self._o):
            raise error(f"{what or 'access'} on a destroyed {self._api} object")
        return self._o

    def __getattr__(self, name: str):
        found = None if name.startswith("__") else find(self._api, name)
        if found is None:
            return self._dynamic(name)
        kind, detail, owner = found
        if kind == "property":
            return wrap(read(self._alive(ValueError), name), detail.split(" (")[0])
        if kind == "method":
            declared = any(name in API[c].get("methods", {}) for c in chain(self._api))
            return Method(self._api, name if declared else name[:-1], detail, self)
        if kind == "signal":
            return Signal(self, name, detail)
        return enum_value(owner, detail, name) if kind == "enum value" else enum_class(owner, name)

    def _dynamic(self, name: str):
        target = self._o
        if isinstance(target, QtCore.QObject) and shiboken6.isValid(target):
            if name.encode() in [bytes(n.data()) for n in target.dynamicPropertyNames()]:
                return wrap(target.property(name))
            for child in target.children():
                if child.objectName() == name:
                    return wrap(child)
        raise AttributeError(f"{self._api} has no attribute named {name!r}")

    def __setattr__(self, name: str, value: object) -> None:
        found = find(self._api, name)
        if found is None:
            target = self._o
            dynamic = isinstance(target, QtCore.QObject) and shiboken6.isValid(target)
            if dynamic and name.encode() in [bytes(n.data()) for n in target.dynamicPropertyNames()]:
                target.setProperty(name, unwrap(value))
            elif type(self) is self._qt:
                raise AttributeError(f"{self._api}.{name}: creating new attributes on C++ objects is not allowed")
            else:
                object.__setattr__(self, name, value)
            return
        kind, detail, owner = found
        if kind != "property":
            raise AttributeError(f"{kind} {self._api}.{name} can not be overwritten")
        target = self._alive(AttributeError)
        if "read-only" in detail:
            raise AttributeError(f"property {name} of {self._api} is not writable")
        try:
            converted, _ = convert(value, detail.split(" (")[0], owner)
        except Refused:
            raise AttributeError(f"property {name} of type {detail} of {self._api} was given {value!r}") from None
        write(target, name, converted)

    def __eq__(self, other: object) -> bool:
        if other is None:
            return self._o is None or not shiboken6.isValid(self._o)
        return isinstance(other, Wrapper) and (
            self._o is other._o or (not isinstance(self._o, QtCore.QObject) and self._o == other._o)
        )

    def __hash__(self) -> int:
        return id(self._o)

    def __bool__(self) -> bool:
        return self._o is not None and shiboken6.isValid(self._o)

    def __repr__(self) -> str:
        return f"{self._api} (stand-in at {id(self._o):#x})"

    def __del__(self) -> None:
        target = self._o
        if QtCore is None or not self._owned:  # the interpreter is going down
            return
        if isinstance(target, QtCore.QObject) and shiboken6.isValid(target) and target.parent() is None:
            shiboken6.delete(target)


def with_overrides(cls: type, base: type, wrapper: weakref.ref) -> type:
    """A PySide class whose virtual functions call those that a Python subclass of a wrapper class defines."""

    def forward(name: str):
        def call(_target: object, *values: object) -> object:
            return unwrap(getattr(wrapper(), name)(*[wrap(value) for value in values]))

        return call

    names = {n for c in cls.__mro__ if not issubclass(cls._qt, c) for n in vars(c) if not n.startswith("_")}
    return type(base)(base.__name__, (base,), {n: forward(n) for n in names if hasattr(base, n)})


def class_for(name: str) -> type:
    """The wrapper class for a class of the inventory."""
    if name not in _classes:
        bases = tuple(class_for(b) for b in API[name]["bases"]) or (Wrapper,)
        cls = ClassMeta(name, bases, {"_api": name, "__module__": API[name]["module"]})
        cls._qt = cls
        _classes[name] = cls
    return _classes[name]


@cache
def accessors(cls: type, name: str) -> tuple[str | None, str | None]:
    """Names of the getter and the setter behind a property."""
    big = name[0].upper() + name[1:]
    getters = [g for g in (name, "is" + big, "has" + big, "to" + big) if hasattr(cls, g)]
    return next(iter(getters), None), f"set{big}" if hasattr(cls, f"set{big}") else None


def read(target: object, name: str) -> object:
    if name == "name":
        name = "objectName"
    getter, _ = accessors(type(target), name)
    if getter is None and name in getattr(target, "__dict__", {}):
        getter = name
    if getter is None:
        if isinstance(target, QtCore.QObject) and target.metaObject().indexOfProperty(name) >= 0:
            return target.property(name)
        raise AttributeError(f"{type(target).__name__}.{name} is not offered by the stand-in")
    value = getattr(target, getter)
    return value() if callable(value) else value


def write(target: object, name: str, value: object) -> None:
    if name == "name":
        name = "objectName"
    _, setter = accessors(type(target), name)
    if setter is not None:
        getattr(target, setter)(value)
    elif name in getattr(target, "__dict__", {}) or isinstance(getattr(type(target), name, None), QtCore.Property):
        setattr(target, name, value)
    elif not target.setProperty(name, value):
        raise AttributeError(f"{type(target).__name__}.{name} is not offered by the stand-in")
    if name == "toolTip":
        wrap_tool_tip(target)


def module(name: str, doc: str) -> types.ModuleType:
    """A module `qt` or `ctk` whose names are the inventory's, made at first use."""
    made = types.ModuleType(name, doc)

    def lookup(attribute: str):
        if API.get(attribute, {}).get("module") == name and attribute != "PythonQtInstanceWrapper":
            return class_for(attribute)
        raise AttributeError(f"module {name!r} has no attribute {attribute!r} (or the stand-in does not offer it)")

    made.__getattr__ = lookup
    made.__all__ = [c for c, facts in API.items() if facts["module"] == name]
    return made
