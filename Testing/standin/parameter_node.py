"""`slicer.parameterNodeWrapper`: typed parameters in a scripted module node, bound to widgets.

Parameters are bool, int, float, str, an enum, a MRML node class, or one of these or None. The names in the node, the
defaults, the checks and the widgets that each type can be bound to are those of a real Slicer; parameter packs, lists,
paths, colours and `Any` are refused. As in a real Slicer, a wrapper keeps each value until the node's ModifiedEvent: a
change that comes with reference events alone, as at the end of an import, shows only in a new wrapper.
"""

import enum
import types
import typing
import weakref
from dataclasses import dataclass

import slicer
import vtk

from .pythonqt import class_for

SlicerParameterNamePropertyName = "SlicerParameterName"


class Default:
    """The value of a parameter that was never set."""

    def __init__(self, value=None, *, generator=None):
        self._value, self._generator = value, generator

    @property
    def value(self):
        return self._generator() if self._generator else self._value


@dataclass
class Decimals:
    value: int


@dataclass
class SingleStep:
    value: float


class Validator:
    """Raises ValueError for a value that may not be."""

    def validate(self, value):
        raise NotImplementedError

    def refuse(self, value, wrong):
        if wrong:
            raise ValueError(f"Value {value!r} does not fit {self!r}")


@dataclass
class WithinRange(Validator):
    minimum: float
    maximum: float

    def validate(self, value):
        self.refuse(value, not self.minimum <= value <= self.maximum)


@dataclass
class Minimum(Validator):
    minimum: float

    def validate(self, value):
        self.refuse(value, value < self.minimum)


@dataclass
class Maximum(Validator):
    maximum: float

    def validate(self, value):
        self.refuse(value, value > self.maximum)


@dataclass
class Choice(Validator):
    choices: list

    def validate(self, value):
        self.refuse(value, value not in self.choices)


# -- one parameter in the node -----------------------------------------------------------------------------------------


def _is_node(kind):
    return isinstance(kind, type) and issubclass(kind, slicer.vtkMRMLNode)


class _Slot:
    """How values of one type (`str`, `float`, a node class, ...) are kept in the node."""

    def __init__(self, kind):
        is_enum = isinstance(kind, type) and issubclass(kind, enum.Enum)
        if not (kind in (bool, int, float, str, type(None)) or is_enum or _is_node(kind)):
            raise TypeError(f"Unable to create serializer for type {kind} (or the stand-in does not offer it)")
        self.kind, self.is_enum = kind, is_enum

    def check(self, value):
        if self.kind is type(None):
            if value is not None:
                raise ValueError("Value must be None")
        elif value is None and not (_is_node(self.kind) or self.is_enum):
            raise ValueError("Value must not be None")
        else:
            wanted = (int, float) if self.kind is float else self.kind
            if value is not None and not isinstance(value, wanted):
                raise TypeError(f"Value must be of type {wanted}, is {value!r}")

    def default(self):
        if self.kind is type(None) or _is_node(self.kind):
            return None
        return next(iter(self.kind)) if self.is_enum else 0 if self.kind in (int, float) else self.kind()

    def write(self, node, name, value):
        if _is_node(self.kind):
            node.SetParameter(name, "")
            node.SetNodeReferenceID(name, value.GetID() if value is not None else None)
        else:
            node.SetParameter(name, "True" if self.kind is type(None) else value.name if self.is_enum else str(value))

    def read(self, node, name):
        if _is_node(self.kind):
            return node.GetNodeReference(name)
        text = node.GetParameter(name)
        if self.kind in (bool, type(None)):
            return text == "True" if self.kind is bool else None
        if self.is_enum:
            if text not in self.kind.__members__:
                raise ValueError(f"Found {text!r} in parameter node but it is not a name in {self.kind!r}")
            return self.kind[text]
        return self.kind(text)

    def remove(self, node, name):
        node.UnsetParameter(name)
        if _is_node(self.kind):
            node.RemoveNodeReferenceIDs(name)


class _Parameter:
    """One annotated name of the class: its slots (several for a union), checks and default."""

    def __init__(self, name, annotated, default):
        kind, *notes = typing.get_args(typing.Annotated[annotated, None])[:-1]
        self.name, self.annotated, self.kind, self.notes = name, annotated, kind, notes
        self.union = typing.get_origin(kind) in (typing.Union, types.UnionType)
        self.slots = [_Slot(k) for k in (typing.get_args(kind) if self.union else (kind,))]
        self.validators = [n() if isinstance(n, type) else n for n in notes if isinstance(n, (Validator, type))]
        optional = self.union and len(self.slots) == 2 and self.slots[1].kind is type(None)
        found = default or next((n for n in notes if isinstance(n, Default)), None)
        self.default = found or Default(None if optional else self.slots[0].default())

    def key(self, number):
        return f"{self.name}.{number}" if self.union else self.name

    def is_in(self, node):
        return any(node.HasParameter(self.key(n)) for n in range(len(self.slots)))

    def write(self, node, value):
        if not self.union:
            self.slots[0].check(value)
        for validator in self.validators:
            validator.validate(value)
        failure = None
        for number, slot in enumerate(self.slots):
            try:
                if self.union and (value is None) != (slot.kind is type(None)):
                    raise TypeError(f"Unable to write value {value!r}")
                slot.check(value)
            except (TypeError, ValueError) as error:
                failure = error
                continue
            with slicer.util.NodeModify(node):
                for n, other in enumerate(self.slots if self.union else []):
                    other.remove(node, self.key(n))
                slot.write(node, self.key(number), value)
            return
        raise failure

    def read(self, node):
        if not self.is_in(node):
            self.write(node, self.default.value)
        number = next(n for n in range(len(self.slots)) if node.HasParameter(self.key(n)))
        return self.slots[number].read(node, self.key(number))

    def note(self, kind):
        return next((n for n in self.notes if isinstance(n, kind)), None)


class _Kept:
    """The value of a parameter in one node, read again only at the node's ModifiedEvent and after writing."""

    def __init__(self, parameter, node):
        self.parameter, self.node, self._writing = parameter, node, False
        self.value = parameter.read(node)
        own = weakref.ref(self)  # the observer must not keep it
        self._tag = node.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: own()._modified())

    def __del__(self):
        self.node.RemoveObserver(self._tag)

    def _modified(self):
        if not self._writing:
            self.value = self.parameter.read(self.node)

    def write(self, value):
        self._writing = True
        try:
            with slicer.util.NodeModify(self.node):
                self.parameter.write(self.node, value)
                self.value = self.parameter.read(self.node)  # before other observers ask for it
        finally:
            self._writing = False


# -- one parameter on a widget -----------------------------------------------------------------------------------------


class _Connector:
    """Reads and writes a widget as a value of the parameter's type. The pairs are those that a real Slicer knows."""

    def __init__(self, widget, parameter):
        self.widget, self.parameter, name = widget, parameter, type(widget).__name__
        kind = parameter.kind
        exact = type(widget) is class_for(name) if isinstance(name, str) and name in WIDGETS else False
        offered = WIDGETS.get(name) if exact else None
        fits = offered is not None and (kind in offered[0] if isinstance(offered[0], tuple) else offered[0](parameter))
        if not fits:
            raise RuntimeError(
                f"Unable to create GUI connector from datatype '{kind}' to widget type '{type(widget)}'."
            )
        self.signal, self.property = offered[1], offered[2]
        self.choices = None
        getattr(self, "_prepare_" + offered[3], lambda: None)()

    def _prepare_push(self):
        if not self.widget.checkable:
            raise RuntimeError("a push button that is bound to a bool must be checkable")

    def _prepare_range(self):
        within, low, high = (self.parameter.note(k) for k in (WithinRange, Minimum, Maximum))
        name = type(self.widget).__name__
        if name in ("QSlider", "ctkSliderWidget", "qMRMLSliderWidget") and not (within or (low and high)):
            raise RuntimeError(f"Cannot have a connection to {name} where the type is unbounded.")
        decimals, step = self.parameter.note(Decimals), self.parameter.note(SingleStep)
        if name not in ("ctkDoubleSlider", "QSlider", "QSpinBox") and (self.parameter.kind is int or decimals):
            self.widget.decimals = 0 if self.parameter.kind is int else decimals.value
        if step:
            self.widget.singleStep = step.value
        whole = name in ("QSlider", "QSpinBox")
        bounds = (-(2**31), 2**31 - 1) if whole else (float("-inf"), float("inf"))
        self.widget.minimum = within.minimum if within else low.minimum if low else bounds[0]
        self.widget.maximum = within.maximum if within else high.maximum if high else bounds[1]

    def _prepare_choice(self):
        if isinstance(self.parameter.kind, type) and issubclass(self.parameter.kind, enum.Enum):
            label = getattr(self.parameter.kind, "label", lambda value: value.name)
            self.choices = [(label(value), value) for value in self.parameter.kind]
        else:
            choice = self.parameter.note(Choice)
            if choice is None:
                raise RuntimeError("ComboBoxToStringableConnector requires the Choice annotation to be used.")
            self.choices = [(str(value), value) for value in choice.choices]
        self.widget.clear()
        for text, _ in self.choices:
            self.widget.addItem(text)

    def _prepare_node(self):
        self.widget.nodeTypes = [s.kind().GetClassName() for s in self.parameter.slots if _is_node(s.kind)]

    def read(self):
        if self.choices is not None:
            return self.choices[self.widget.currentIndex][1]
        if self.property == "currentNode":
            return self.widget.currentNode()
        value = getattr(self.widget, self.property)
        return self.parameter.kind(value) if self.parameter.kind is int else value

    def write(self, value):
        if self.choices is not None:
            self.widget.currentIndex = [choice for _, choice in self.choices].index(value)
        elif self.property == "currentNode":
            self.widget.setCurrentNode(value)
        elif self.property == "text" and self.widget.text == value:
            pass  # the cursor stays where it is
        else:
            setattr(self.widget, self.property, value)

    def connect(self, callback):
        self.callback = callback
        if self.signal:
            getattr(self.widget, self.signal).connect(self._changed)

    def disconnect(self):
        self.callback = None
        if self.signal:
            getattr(self.widget, self.signal).disconnect(self._changed)

    def _changed(self):
        if self.callback:
            self.callback()


def _choosable(parameter):
    kind = parameter.kind
    return kind in (int, float, str, bool) or (isinstance(kind, type) and issubclass(kind, enum.Enum))


def _nodes_only(parameter):
    return all(_is_node(s.kind) or s.kind is type(None) for s in parameter.slots)


_RANGE = ((float, int), "valueChanged", "value", "range")
WIDGETS = {  # class: (types, signal, property, preparation)
    "QCheckBox": ((bool,), "stateChanged", "checked", ""),
    "QPushButton": ((bool,), "toggled", "checked", "push"),
    "QSlider": ((int,), "valueChanged", "value", "range"),
    "QSpinBox": ((int,), "valueChanged", "value", "range"),
    "QDoubleSpinBox": _RANGE,
    "ctkSliderWidget": _RANGE,
    "qMRMLSliderWidget": _RANGE,
    "ctkDoubleSlider": _RANGE,
    "QComboBox": (_choosable, "currentIndexChanged", "currentIndex", "choice"),
    "ctkComboBox": (_choosable, "currentIndexChanged", "currentIndex", "choice"),
    "QLineEdit": ((str,), "textChanged", "text", ""),
    "QLabel": ((str,), None, "text", ""),
    "QTextEdit": ((str,), "textChanged", "plainText", ""),
    "qMRMLNodeComboBox": (_nodes_only, "currentNodeChanged", "currentNode", "node"),
}


# -- the wrapper -------------------------------------------------------------------------------------------------------


class _Methods:
    """What every wrapped class has besides its parameters."""

    def __init__(self, parameterNode, prefix=None):
        if prefix is not None:
            raise NotImplementedError("the stand-in does not offer a prefix")
        self.parameterNode, self._guis, self._next, self._updating = parameterNode, {}, 0, False
        for parameter in self.allParameters.values():
            if not parameter.is_in(parameterNode):
                parameter.write(parameterNode, parameter.default.value)
        self._kept = {name: _Kept(parameter, parameterNode) for name, parameter in self.allParameters.items()}

    def isCached(self, name):
        self._known(name)
        return True  # what is not cached in a real Slicer (lists, colours) is refused

    def _known(self, name):
        if name not in self.allParameters:
            raise ValueError(f"Cannot find a param with the given name: {name}")
        return self.allParameters[name]

    def default(self, name):
        return self._known(name).default

    def dataType(self, name):
        return self._known(name).annotated

    def getValue(self, name):
        self._known(name)
        return self._kept[name].value

    def setValue(self, name, value):
        self._known(name)
        self._kept[name].write(value)

    def StartModify(self):
        return self.parameterNode.StartModify()

    def EndModify(self, was):
        return self.parameterNode.EndModify(was)

    def Modified(self):
        self.parameterNode.Modified()

    def AddObserver(self, event, callback, priority=0.0):
        return self.parameterNode.AddObserver(event, callback, priority)

    def RemoveObserver(self, tag):
        self.parameterNode.RemoveObserver(tag)

    def connectGui(self, gui):
        widgets = gui.findChildren(class_for("QWidget")) if hasattr(gui, "isWidgetType") else vars(gui).values()
        names = [(w.property(SlicerParameterNamePropertyName), w) for w in widgets]
        return self.connectParametersToGui({name: widget for name, widget in names if name})

    def connectParametersToGui(self, mapping):
        connectors = {name: _Connector(widget, self._known(name)) for name, widget in mapping.items()}

        def changed(name):
            with slicer.util.NodeModify(self):
                if not self._updating:
                    self.setValue(name, connectors[name].read())

        for name, connector in connectors.items():
            connector.write(self.getValue(name))
            connector.connect(lambda name=name: changed(name))
        tag, self._next = self._next, self._next + 1
        observer = self.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: self._update())
        self._guis[tag] = (connectors, observer)
        return tag

    def _update(self):
        if self._updating:
            return
        self._updating = True
        try:
            with slicer.util.NodeModify(self):
                for connectors, _ in self._guis.values():
                    for name, connector in connectors.items():
                        connector.write(self.getValue(name))
        finally:
            self._updating = False

    def disconnectGui(self, tag):
        if tag in self._guis:
            connectors, observer = self._guis.pop(tag)
            for connector in connectors.values():
                connector.disconnect()
            self.RemoveObserver(observer)


def _wrap(cls):
    parameters = {}
    for name, annotated in typing.get_type_hints(cls, include_extras=True).items():
        default = Default(getattr(cls, name)) if hasattr(cls, name) else None
        if hasattr(_Methods, name) or name in ("parameterNode", "allParameters"):
            raise ValueError(f"Cannot use reserved name '{name}' in a parameterNodeWrapper")
        parameters[name] = _Parameter(name, annotated, default)
        setattr(cls, name, property(lambda s, n=name: s.getValue(n), lambda s, v, n=name: s.setValue(n, v)))
    for name, member in vars(_Methods).items():
        if callable(member):
            setattr(cls, name, member)
    cls.allParameters, cls._is_parameter_node_wrapper = parameters, True
    return cls


def parameterNodeWrapper(classtype=None):
    """Class decorator: every annotated name becomes a parameter."""
    return _wrap if classtype is None else _wrap(classtype)


def isParameterNodeWrapper(thing):
    return getattr(thing, "_is_parameter_node_wrapper", False)


def findChildWidgetForParameter(widget, parameter):
    children = widget.findChildren(class_for("QWidget"))
    return next((w for w in children if w.property(SlicerParameterNamePropertyName) == parameter), None)
