"""Methods that PythonQt offers otherwise than Qt does; importing this file puts them in place."""

import sys
import weakref

import shiboken6
from PySide6 import QtCore, QtWidgets

from .inventory import API, chain, find, signature
from .pythonqt import SPECIAL, Signal, Wrapper, choose, join, known_signal, normalised, part, unwrap, wrap
from .tool_tips import wrap_tool_tip
from .traps import trap


def _connect(sender: Wrapper | None, *arguments: object) -> bool:
    if sender is None or isinstance(arguments[0], Wrapper):  # QObject.connect(sender, ...)
        sender, arguments = arguments[0], arguments[1:]
    if len(arguments) not in (2, 3):
        raise ValueError("connect takes a signal and a callable, or a signal, a receiver and a slot")
    text = known_signal(sender, arguments[0])
    if text is None:
        return False
    if len(arguments) == 2:
        if not callable(arguments[1]):
            raise ValueError(f"connect({text}): {arguments[1]!r} can not be called")
        return join(sender, text, arguments[1])
    receiver, slot = arguments[1], normalised(arguments[2])
    name, wanted = slot.split("(")[0], [kind for kind, _ in signature("void " + slot)[1]]
    found = find(type(receiver)._api, name)
    declared = [signature(s if found[0] == "method" else "void " + s)[1] for s in found[1]] if found else []
    if not any([k for k, _ in d][: len(wanted)] == wanted and all(o for _, o in d[len(wanted) :]) for d in declared):
        print(f"slot {slot} does not exist on {type(receiver)._api}", file=sys.stderr)
        trap(f"slot {slot} does not exist on {type(receiver)._api}: connect() returns False and nothing is connected")
        return False
    count, reference = len(wanted), weakref.ref(receiver._alive(ValueError))

    def call(*values: object) -> None:
        target = wrap(reference())
        member = getattr(target, name)
        (member.emit if isinstance(member, Signal) else member)(*values[:count])

    return join(sender, text, call)


def _disconnect(sender: Wrapper | None, *arguments: object) -> bool:
    if sender is None or isinstance(arguments[0], Wrapper):
        sender, arguments = arguments[0], arguments[1:]
    text = known_signal(sender, arguments[0])
    return text is not None and part(sender, text, *arguments[1:2])


def _find_children(wrapper: Wrapper, kind: object, name: object = "", *, first: bool = False) -> object:
    if not (isinstance(kind, str) or (isinstance(kind, type) and issubclass(kind, Wrapper))):
        raise ValueError("findChildren takes a class or a class name")
    wanted = kind if isinstance(kind, str) else kind._api
    children = wrapper._alive(ValueError).findChildren(QtCore.QObject)
    matching = [c for c in children if wanted in {k.__name__ for k in type(c).__mro__} or c.inherits(wanted)]
    if isinstance(name, Wrapper):
        matching = [c for c in matching if name._o.match(c.objectName()).hasMatch()]
    elif name:
        matching = [c for c in matching if c.objectName() == name]
    return (wrap(matching[0]) if matching else None) if first else tuple(wrap(c) for c in matching)


def _single_shot(_timer: object, msec: object, receiver: object, member: str | None = None) -> None:
    if member is None and not callable(receiver):
        raise ValueError("singleShot takes milliseconds and a callable")
    timer = QtCore.QTimer(QtCore.QCoreApplication.instance())
    timer.setSingleShot(True)
    wrapped = wrap(timer)
    join(wrapped, "timeout()", timer.deleteLater)
    _connect(wrapped, "timeout()", receiver, *([] if member is None else [member]))
    timer.start(int(msec))


def _file_dialog(name: str):
    """PySide answers (path, filter); PythonQt the path alone."""

    def ask(_dialog: object, *arguments: object) -> object:
        converted, *_ = choose(API["QFileDialog"]["methods"][name], arguments, "QFileDialog", name)
        return wrap(getattr(QtWidgets.QFileDialog, name)(*converted)[0])

    return ask


def _delete(wrapper: Wrapper) -> None:
    shiboken6.delete(wrapper._alive(ValueError))


def _set_property(wrapper: Wrapper, name: str, value: object) -> bool:
    done = wrapper._alive(ValueError).setProperty(name, unwrap(value))
    if name == "toolTip":
        wrap_tool_tip(wrapper._o)
    return done


def _set_tool_tip(wrapper: Wrapper, text: str) -> None:
    wrapper.toolTip = text


SPECIAL |= {
    "QObject.connect": _connect,
    "QObject.disconnect": _disconnect,
    "QObject.findChildren": _find_children,
    "QObject.findChild": lambda w, *a: _find_children(w, *a, first=True),
    "QObject.property": lambda w, name: wrap(w._alive(ValueError).property(name)),
    "QObject.setProperty": _set_property,
    "QWidget.setToolTip": _set_tool_tip,
    "QTimer.singleShot": _single_shot,
    "QByteArray.data": lambda w: bytes(w._o.data()),
    **{f"QFileDialog.{n}": _file_dialog(n) for n in ("getOpenFileName", "getOpenFileNames", "getSaveFileName")},
    "QApplication.exec": lambda *_: QtWidgets.QApplication.exec(),
    "PythonQtInstanceWrapper.delete": _delete,
    "PythonQtInstanceWrapper.className": lambda w: w._api,
    "PythonQtInstanceWrapper.inherits": lambda w, name: name in chain(w._api),
    "PythonQtInstanceWrapper.help": lambda w: print(w._api),
}
