"""Carry over what the stand-in needs from an inventory of a real Slicer's Python API: `python collect.py FOLDER`.

FOLDER holds qt.json, ctk.json and slicer.json, one entry per class with its module, bases, constructors, properties,
methods, signals and enums. Names that only one of Qt 5 and Qt 6 has are left out: the panel must run in both.
"""

import json
import re
import sys
from pathlib import Path

CLASSES = """
QObject QCoreApplication QGuiApplication QApplication QWidget QFrame QDialog QMainWindow QDockWidget QStatusBar QLabel
QAbstractButton QPushButton QToolButton QCheckBox QRadioButton QGroupBox QButtonGroup QComboBox QAbstractSlider
QSlider QAbstractSpinBox QSpinBox QDoubleSpinBox QLineEdit QProgressBar QAbstractScrollArea QScrollArea QScrollBar
QTextEdit QPlainTextEdit QTextBrowser QTabWidget QStackedWidget QSplitter QAbstractItemView QTableView QTableWidget
QTableWidgetItem QListView QListWidget QListWidgetItem QHeaderView QMenu QAction QActionGroup QShortcut QToolTip
QMessageBox QFileDialog QProgressDialog QDialogButtonBox QLayout QLayoutItem QBoxLayout QVBoxLayout QHBoxLayout
QGridLayout QFormLayout QSpacerItem QSizePolicy QTimer QIODevice QIODeviceBase QProcess QProcessEnvironment QByteArray
QFile QFileDevice QFileInfo QDir QUrl QSettings QStandardPaths QSysInfo QLocale QDateTime QEvent QInputEvent
QMouseEvent QSinglePointEvent QKeyEvent QCloseEvent QResizeEvent QPaintEvent Qt QPoint QPointF QSize QRect QMargins
QColor QFont QFontMetrics QFontDatabase QIcon QPixmap QImage QPalette QPainter QPen QBrush QCursor QKeySequence
QClipboard QDesktopServices QItemSelectionModel QModelIndex QRegularExpression QUiLoader QPaintDevice QEventLoop
QElapsedTimer QToolBar QSignalBlocker QMimeData PythonQtInstanceWrapper QThread ctkCollapsibleButton
ctkSliderWidget ctkDoubleSlider ctkComboBox ctkMessageBox
ctkLayoutManager ctkLayoutFactory ctkVTKAbstractView ctkVTKSliceView ctkDICOMDatabase qMRMLWidget
qMRMLNodeComboBox qMRMLSliderWidget qMRMLLayoutManager qMRMLSliceWidget qMRMLSliceView qMRMLViewControllerBar
qMRMLSliceControllerWidget qSlicerWidget qSlicerLayoutManager qSlicerApplication qSlicerCoreApplication
qSlicerCommandOptions qSlicerCoreCommandOptions ctkCommandLineParser qSlicerAbstractCoreModule qSlicerAbstractModule
qSlicerLoadableModule qSlicerScriptedLoadableModule qSlicerAbstractModuleWidget qSlicerScriptedLoadableModuleWidget
qSlicerModuleManager qSlicerModuleFactoryManager qSlicerAbstractModuleFactoryManager qSlicerCoreIOManager
qSlicerIOManager qSlicerMainWindow qSlicerModuleSelectorToolBar qMRMLAbstractViewWidget qMRMLPlotWidget
qMRMLPlotView qMRMLPlotViewControllerWidget qMRMLCheckableNodeComboBox
""".split()


def lean(signature: str) -> str:
    """`void setText(QString text)` -> `void setText(QString)`; a default value stays as a bare `=`."""
    head, _, arguments = signature.partition("(")
    arguments = arguments.rpartition(")")[0]
    parts, depth = [""], 0
    for character in arguments:
        depth += (character in "<({") - (character in ">)}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    kept = []
    for part in filter(str.strip, parts):
        kind, equals, _ = part.strip().partition("=")
        words = re.sub(r"([*&])(\w)", r"\1 \2", kind.strip()).rsplit(" ", 1)
        name_follows = len(words) == 2 and re.fullmatch(r"\w+", words[1]) and words[0] not in ("unsigned", "const")
        kept.append((words[0] if name_follows else kind.strip()) + ("=" if equals else ""))
    return f"{head.strip()}({', '.join(kept)})"


def in_both(values: list[str]) -> list[str]:
    return [value for value in values if "[qt5]" not in value and "[qt6]" not in value]


def fact(entry: dict) -> dict:
    methods = {name: in_both(found) for name, found in entry.get("methods", {}).items()}
    kept = {
        "module": entry["module"],
        "creatable": entry["creatable"],
        "bases": entry["bases"],
        "constructors": [lean(text) for text in in_both(entry.get("constructors", []))],
        "properties": {name: kind for name, kind in entry.get("properties", {}).items() if in_both([kind])},
        "methods": {name: [lean(text) for text in found] for name, found in methods.items() if found},
        "signals": in_both(entry.get("signals", [])),
        "enums": {name: in_both(values) for name, values in entry.get("enums", {}).items()},
    }
    return {key: value for key, value in kept.items() if value or key in ("module", "creatable", "bases")}


def main(folder: Path) -> None:
    found = {}
    for name in ("qt", "ctk", "slicer"):
        found |= json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    wanted, facts = list(CLASSES), {}
    while wanted:  # bases come along
        name = wanted.pop()
        if name in facts or name not in found:
            if name not in found:
                print("not in the inventory:", name)
            continue
        facts[name] = fact(found[name])
        wanted += facts[name]["bases"]
    lines = [f"{json.dumps(name)}: {json.dumps(facts[name], separators=(',', ':'))}" for name in sorted(facts)]
    Path(__file__).with_name("api.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
