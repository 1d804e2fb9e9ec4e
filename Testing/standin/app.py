"""`slicer.app` and what hangs on it: scene and logics, modules and their panels, main window, reading of volumes."""

import importlib.util
import os
import platform
import sys
import tempfile
import types
from pathlib import Path

import slicer
import vtk
from PySide6 import QtCore, QtWidgets
from PySide6.QtCore import Property, Signal

from .layout_manager import qSlicerLayoutManager
from .pythonqt import SPECIAL, wrap
from .traps import swallow
from .widgets import ctkDICOMDatabase, offered, qSlicerWidget, stored

LOGICS = {"volumes": "vtkSlicerVolumesLogic", "colors": "vtkSlicerColorLogic", "models": "vtkSlicerModelsLogic"}
LOGICS |= {"tables": "vtkSlicerTablesLogic", "plots": "vtkSlicerPlotsLogic", "markups": "vtkSlicerMarkupsLogic"}
LOGICS |= {"segmentations": "vtkSlicerSegmentationsModuleLogic", "transforms": "vtkSlicerTransformLogic"}


@offered
class qSlicerCommandOptions(QtCore.QObject):
    testingEnabled, noMainWindow = stored(bool, True, "testing"), stored(bool, False, "noMainWindow")
    runPythonAndExit = stored(bool, True, "runPythonAndExit")


@offered
class qSlicerLoadableModule(QtCore.QObject):
    """A built-in module: a name and its logic."""

    def __init__(self, name, logic):
        super().__init__()
        self.name, self._logic, self.path = name, logic, ""
        self.title = name

    def logic(self):
        return self._logic

    def mrmlScene(self):
        return slicer.mrmlScene

    def widgetRepresentation(self):
        return None


@offered
class qSlicerScriptedLoadableModule(QtCore.QObject):
    """A scripted module: what its Python class wrote on its parent, and its one panel."""

    def __init__(self, name="", path=""):
        super().__init__()
        self.name, self.path = name, str(path)
        self.title = self.helpText = self.acknowledgementText = ""
        self.categories, self.dependencies, self.contributors, self.associatedNodeTypes = [], [], [], []
        self.icon, self.hidden, self.index, self.extensions = None, False, -1, {}
        self._panel, self.widgetRepresentationCreationEnabled = None, True

    def logic(self):
        return None

    def mrmlScene(self):
        return slicer.mrmlScene

    def widgetRepresentation(self):
        if self._panel is None:
            self._panel = qSlicerScriptedLoadableModuleWidget(None, self)
            self._panel.reload()
        return self._panel


@offered
class qSlicerScriptedLoadableModuleWidget(qSlicerWidget):
    def __init__(self, parent=None, module=None):
        super().__init__(parent)
        self._module, self._python, self.isEntered = module, None, False
        QtWidgets.QVBoxLayout(self)
        self.setMRMLScene(slicer.mrmlScene)

    @property
    def moduleName(self):
        return self._module.name

    def module(self):
        return self._module

    def self(self):
        return self._python

    def reload(self):
        """Make the Python widget anew, from what is in sys.modules now, and set it up."""
        name = self._module.name + "Widget"
        self._python = getattr(sys.modules[self._module.name], name)(wrap(self))
        setattr(slicer.modules, name, self._python)
        self._python.setup()

    def _tell(self, event):
        self.isEntered = event == "enter"
        if hasattr(self._python, event):
            try:
                getattr(self._python, event)()
            except Exception as error:  # noqa: BLE001
                swallow(error)

    def enter(self):
        self._tell("enter")

    def exit(self):
        self._tell("exit")


@offered
class qSlicerModuleFactoryManager(QtCore.QObject):
    modulesRegistered, moduleLoaded, moduleAboutToBeUnloaded = Signal(list), Signal(str), Signal(str)

    def __init__(self):
        super().__init__()
        self._paths, self._loaded = {}, {}

    def unloadModules(self):
        """As when Slicer quits: modules go in the reverse order of loading, and a scripted module whose name comes
        early in the alphabet is loaded before, so unloaded after, the built-in ones that it does not depend on. Each
        has left `slicer.modules` by the time that its panels hear of it."""
        for name in slicer.app._o._manager._built_in:
            vars(slicer.modules).pop(name, None)
        for name in reversed(list(self._loaded)):
            for gone in (name + "Instance", name + "Widget", name.lower()):
                vars(slicer.modules).pop(gone, None)
            self.moduleAboutToBeUnloaded.emit(name)
            del self._loaded[name]

    def registerModule(self, info):
        self._paths[info.completeBaseName()] = Path(info.absoluteFilePath())

    def isRegistered(self, name):
        return name in self._paths

    def registeredModuleNames(self):
        return list(self._paths)

    def loadModules(self, names=None):
        """Import each file as the module of its name, and make its class on a module object, as the factory does."""
        for name in names if names is not None else list(self._paths):
            path = self._paths[name]
            if str(path.parent) not in sys.path:
                sys.path.append(str(path.parent))
            spec = importlib.util.spec_from_file_location(name, path)
            sys.modules[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(sys.modules[name])
            module = self._loaded[name] = qSlicerScriptedLoadableModule(name, path)
            instance = getattr(sys.modules[name], name)(wrap(module))
            if hasattr(instance, "setup"):
                instance.setup()
            setattr(slicer.modules, name + "Instance", instance)
            setattr(slicer.modules, name.lower(), wrap(module))
            setattr(slicer.moduleNames, name, name)
        return True

    def isLoaded(self, name):
        return name in self._loaded

    def loadedModule(self, name):
        return self._loaded.get(name)

    def loadedModuleNames(self):
        return list(self._loaded)


@offered
class qSlicerModuleManager(QtCore.QObject):
    moduleLoaded, moduleAboutToBeUnloaded = Signal(str), Signal(str)

    def __init__(self):
        super().__init__()
        self._factory = qSlicerModuleFactoryManager()
        self._factory.moduleAboutToBeUnloaded.connect(self.moduleAboutToBeUnloaded)
        self._built_in = {}

    def factoryManager(self):
        return self._factory

    def module(self, name):
        return self._factory.loadedModule(name) or self._built_in.get(name.lower())

    def modulesNames(self):
        return [*self._factory.loadedModuleNames(), *(m.name for m in self._built_in.values())]


@offered
class qSlicerIOManager(QtCore.QObject):
    newFileLoaded = Signal(object)

    def loadNodes(self, kind, parameters, nodes=None, messages=None):
        """Volumes only, by the Volumes module's logic."""
        if kind != "VolumeFile":
            return False
        path = parameters["fileName"]
        name = parameters.get("name") or Path(path).name.split(".")[0]
        logic = slicer.app.moduleManager().module("Volumes").logic()
        options = int(bool(parameters.get("labelmap"))) + 2 * int(bool(parameters.get("singleFile")))
        node = logic.AddArchetypeVolume(path, name, options)
        if node is None:
            return False
        if nodes is not None:
            nodes.AddItem(node)
        if parameters.get("show", True):
            slicer.util.setSliceViewerLayers(background=node, fit=True)
        return True


@offered
class qSlicerModuleSelectorToolBar(QtWidgets.QToolBar):
    moduleSelected = Signal(str)
    _name = ""

    def selectModule(self, name):
        manager = slicer.app._o._manager
        for old, event in ((self._name, "exit"), (name, "enter")):
            module = manager.module(old)
            if module is not None and module.widgetRepresentation() is not None:
                panel = module.widgetRepresentation()
                if event == "enter":
                    area = self.parent().panel
                    area.takeWidget()  # a panel outlives its turn in the dock
                    area.setWidget(panel)
                    area.setMinimumWidth(panel.minimumSizeHint().width() + 20)
                getattr(panel, event)()
        self._name = name
        self.moduleSelected.emit(name)

    selectedModule = Property(str, lambda self: self._name, selectModule)


@offered
class qSlicerMainWindow(QtWidgets.QMainWindow):
    initialWindowShown = Signal()

    def __init__(self, parent=None):
        super().__init__(parent)
        self.setObjectName("qSlicerMainWindow")
        self._selector = qSlicerModuleSelectorToolBar(self)
        dock = QtWidgets.QDockWidget(self)
        dock.setObjectName("PanelDockWidget")
        self.panel = QtWidgets.QScrollArea(dock)
        self.panel.setWidgetResizable(True)
        self.panel.setHorizontalScrollBarPolicy(QtCore.Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        dock.setWidget(self.panel)
        self.addDockWidget(QtCore.Qt.DockWidgetArea.LeftDockWidgetArea, dock)
        self.setCentralWidget(QtWidgets.QFrame(self))

    def moduleSelector(self):
        return self._selector


@offered
class qSlicerApplication(QtWidgets.QApplication):
    mrmlSceneChanged, startupCompleted = Signal(object), Signal()
    renderPaused = Signal(bool)

    def __init__(self):
        super().__init__(["ASCON tests"])
        self.setOrganizationName("ASCON stand-in")
        self.setApplicationName("Slicer")
        self.setQuitOnLastWindowClosed(False)
        self._options = qSlicerCommandOptions()
        # Slicer keeps its settings in INI files, which return numbers and truth values as texts.
        self._folder = tempfile.TemporaryDirectory(prefix="slicer-standin-", ignore_cleanup_errors=True)
        self.temporaryPath = self._folder.name
        self.slicerHome = self.extensionsInstallPath = self._folder.name
        for scope in (QtCore.QSettings.Scope.UserScope, QtCore.QSettings.Scope.SystemScope):
            for kind in (QtCore.QSettings.Format.NativeFormat, QtCore.QSettings.Format.IniFormat):
                QtCore.QSettings.setPath(kind, scope, self.temporaryPath)
        QtCore.QSettings.setDefaultFormat(QtCore.QSettings.Format.IniFormat)
        self._settings = QtCore.QSettings()
        self.revision, self.repositoryRevision, self.os = "0", "0", {"darwin": "macosx"}.get(sys.platform, "linux")
        self.launcherExecutableFilePath = ""  # as where no launcher started Slicer
        self.arch, self.platform = platform.machine(), f"{self.os}-{platform.machine()}"
        self.majorVersion, self.minorVersion = 5, 13
        self.documentationBaseUrl = "https://slicer.readthedocs.io/"

    def start(self):
        """Scene, logics, layout and main window: what Slicer has when the first script runs."""
        scene = self._scene = slicer.vtkMRMLScene()
        crosshair = slicer.vtkMRMLCrosshairNode()
        crosshair.SetCrosshairName("default")  # a singleton: it stays when the scene is closed
        scene.AddNode(crosshair)
        slicer.mrmlScene, slicer.dicomDatabase = scene, wrap(ctkDICOMDatabase())
        self._logic = slicer.vtkSlicerApplicationLogic()
        self._manager, self._io = qSlicerModuleManager(), qSlicerIOManager()
        self.aboutToQuit.connect(self._manager._factory.unloadModules)
        self._logic.SetTemporaryPath(self.temporaryPath)
        self._logic.SetHomeDirectory(self.slicerHome)
        self._logic.SetShareDirectory("share")
        Path(self.slicerHome, "share", "ColorFiles").mkdir(parents=True)
        self._logic.SetMRMLScene(scene)
        slicer.modules, slicer.moduleNames = types.ModuleType("slicer.modules"), types.ModuleType("slicer.moduleNames")
        for name, kind in LOGICS.items():
            logic = getattr(slicer, kind)()
            logic.SetMRMLApplicationLogic(self._logic)
            logic.SetMRMLScene(scene)
            module = self._manager._built_in[name] = qSlicerLoadableModule(name.capitalize(), logic)
            setattr(slicer.modules, name, wrap(module))
        _follow_in_subject_hierarchy(scene)
        self._window = qSlicerMainWindow()
        self._layout = qSlicerLayoutManager(self._logic)
        self._layout.setViewport(self._window.centralWidget())
        self._layout.setMRMLScene(scene)

    def testingEnabled(self):
        return self._options.testingEnabled

    def commandOptions(self):
        return self._options

    def dicomDatabase(self):
        return slicer.dicomDatabase._o

    def mrmlScene(self):
        return self._scene

    def applicationLogic(self):
        return self._logic

    def layoutManager(self):
        return self._layout

    def moduleManager(self):
        return self._manager

    def moduleLogic(self, name):
        return self._manager.module(name).logic()

    def ioManager(self):
        return self._io

    coreIOManager = ioManager

    def settings(self):
        return self._settings

    userSettings = revisionUserSettings = settings

    def startupEnvironment(self):
        return QtCore.QProcessEnvironment.systemEnvironment()

    environment = startupEnvironment

    def moduleDocumentationUrl(self, name):
        return f"{self.documentationBaseUrl}{name.lower()}.html"

    def setRenderPaused(self, pause):
        self._layout.setRenderPaused(pause)
        self.renderPaused.emit(pause)

    def pauseRender(self):
        self.setRenderPaused(True)

    def resumeRender(self):
        self.setRenderPaused(False)


def _follow_in_subject_hierarchy(scene):
    """An item for each volume, table and the like, as the subject hierarchy's plugins make them."""

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def added(_scene, _event, node):
        shown = ("vtkMRMLVolumeNode", "vtkMRMLTableNode", "vtkMRMLTransformNode", "vtkMRMLSegmentationNode")
        if any(node.IsA(kind) for kind in shown) and not (scene.IsImporting() or node.GetHideFromEditors()):
            hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
            if not hierarchy.GetItemByDataNode(node):
                hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def removed(_scene, _event, node):
        if scene.IsClosing():
            return
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
        if hierarchy.GetItemByDataNode(node):
            hierarchy.RemoveItem(hierarchy.GetItemByDataNode(node), False, False)

    def closed(_scene, _event):
        """Slicer's own logic observes the scene and has a hierarchy in it at any time."""
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
        if hierarchy.GetScene() is None:
            hierarchy.RemoveAllItems(False)  # of the nodes that went with the scene
            scene.AddNode(hierarchy)

    scene.AddObserver(slicer.vtkMRMLScene.EndCloseEvent, closed)
    scene.AddObserver(slicer.vtkMRMLScene.NodeAddedEvent, added)
    scene.AddObserver(slicer.vtkMRMLScene.NodeAboutToBeRemovedEvent, removed)


def _process_events(_app, *_arguments):
    """One turn of the event loop, deferred deletions included: a test never returns to an outer loop that does them."""
    QtWidgets.QApplication.processEvents()
    QtCore.QCoreApplication.sendPostedEvents(None, QtCore.QEvent.Type.DeferredDelete.value)


SPECIAL["QCoreApplication.processEvents"] = SPECIAL["qSlicerCoreApplication.processEvents"] = _process_events
SPECIAL["qSlicerCoreApplication.testingEnabled"] = lambda *_: slicer.app._o.testingEnabled()


def python_slicer() -> str:
    """A folder with an executable `PythonSlicer`: this Python, which a real Slicer has on PATH under that name."""
    folder = Path(slicer.app.temporaryPath) / "bin"
    folder.mkdir(exist_ok=True)
    launcher = folder / "PythonSlicer"
    launcher.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    launcher.chmod(0o755)
    return os.fspath(folder)
