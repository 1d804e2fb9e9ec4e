"""`slicer.ScriptedLoadableModule`, `slicer.i18n`, `slicer.packaging`: the Python side of a scripted module."""

import importlib
import importlib.metadata
import os
import types
import unittest

import slicer

from .pythonqt import class_for


class ScriptedLoadableModule:
    def __init__(self, parent):
        self.parent = parent
        self.moduleName = type(self).__name__
        parent.title, parent.helpText, parent.acknowledgementText = "", "", ""
        parent.categories, parent.dependencies, parent.contributors = [], [], []
        icons = [
            os.path.join(os.path.dirname(parent.path), "Resources/Icons", self.moduleName + e) for e in (".svg", ".png")
        ]
        for path in [p for p in icons if os.path.isfile(p)][:1]:
            parent.icon = class_for("QIcon")(path)
        slicer.__dict__.setdefault("selfTests", {})[self.moduleName] = self.runTest

    def resourcePath(self, filename):
        return os.path.join(os.path.dirname(self.parent.path), "Resources", filename)

    def getDefaultModuleDocumentationLink(self, docPage=None):
        url = (
            slicer.app.documentationBaseUrl + docPage if docPage else slicer.app.moduleDocumentationUrl(self.moduleName)
        )
        return f'<p>For more information, see the <a href="{url}">online documentation</a>.</p>'

    def runTest(self, msec=100, **kwargs):
        test = getattr(importlib.import_module(self.__module__), self.moduleName + "Test")()
        test.messageDelay = msec
        test.runTest(**kwargs)


class ScriptedLoadableModuleWidget:
    def __init__(self, parent=None):
        self.moduleName = type(self).__name__.removesuffix("Widget")
        self.developerMode = slicer.util.settingsValue("Developer/DeveloperMode", False, converter=slicer.util.toBool)
        self.parent = parent
        if not parent:
            self.parent = class_for("qMRMLWidget")()
            self.parent.setLayout(class_for("QVBoxLayout")())
            self.parent.setMRMLScene(slicer.mrmlScene)
        self.layout = self.parent.layout()
        if not parent:
            self.setup()
            self.parent.show()
        slicer.app.moduleManager().connect("moduleAboutToBeUnloaded(QString)", self._onModuleAboutToBeUnloaded)

    def resourcePath(self, filename):
        return os.path.join(os.path.dirname(slicer.util.modulePath(self.moduleName)), "Resources", filename)

    def cleanup(self):
        pass

    def _onModuleAboutToBeUnloaded(self, moduleName):
        if moduleName == self.moduleName:
            self.cleanup()
            slicer.app.moduleManager().disconnect("moduleAboutToBeUnloaded(QString)", self._onModuleAboutToBeUnloaded)

    def setupDeveloperSection(self):
        pass

    def setup(self):
        self.setupDeveloperSection()

    def onReload(self):
        slicer.util.reloadScriptedModule(self.moduleName)


class ScriptedLoadableModuleLogic:
    def __init__(self, parent=None):
        self.moduleName = type(self).__name__.removesuffix("Logic")
        self.isSingletonParameterNode = True

    def getParameterNode(self):
        if self.isSingletonParameterNode:
            node = slicer.mrmlScene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
            if node is not None:
                node.SetAttribute("ModuleName", self.moduleName)
        else:
            node = next(iter(self.getAllParameterNodes()), None)
        return node if node is not None else slicer.mrmlScene.AddNode(self.createParameterNode())

    def getAllParameterNodes(self):
        nodes = slicer.util.getNodesByClass("vtkMRMLScriptedModuleNode")
        return [n for n in nodes if n.GetAttribute("ModuleName") == self.moduleName]

    def createParameterNode(self):
        node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLScriptedModuleNode")
        node.UnRegister(None)
        if self.isSingletonParameterNode:
            node.SetSingletonTag(self.moduleName)
        node.SetAttribute("ModuleName", self.moduleName)
        node.SetName(slicer.mrmlScene.GenerateUniqueName(self.moduleName))
        return node


class ScriptedLoadableModuleTest(unittest.TestCase):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.enableScreenshots, self.screenshotScaleFactor = False, 1.0
        self.moduleTestNames = [n for n in dir(self) if "test" in n and callable(getattr(self, n))]

    def delayDisplay(self, message, requestedDelay=None, msec=None):
        slicer.util.delayDisplay(message, getattr(self, "messageDelay", None) or msec or requestedDelay or 100)

    def takeScreenshot(self, name, description, type=-1):  # noqa: A002
        self.delayDisplay(description)

    def setUp(self):
        pass

    def tearDown(self):
        pass

    def runTest(self):
        if "runTest" in self.moduleTestNames:
            self.moduleTestNames.remove("runTest")
        for name in self.moduleTestNames:
            self.setUp()
            getattr(self, name)()
            self.tearDown()


# -- SampleData --------------------------------------------------------------------------------------------------------


class SampleDataLogic:
    """Keeps what modules register; downloads nothing."""

    @staticmethod
    def registerCustomSampleDataCategory(category, title):
        slicer.modules.__dict__.setdefault("sampleDataSourceCategories", {})[category] = {"title": title}

    @staticmethod
    def registerCustomSampleDataSource(
        category="Custom",
        sampleName=None,
        uris=None,
        fileNames=None,
        nodeNames=None,
        customDownloader=None,
        thumbnailFileName=None,
        loadFileTypes=None,
        loadFiles=None,
        loadFileProperties={},  # noqa: B006
        checksums=None,
        loadFileType=None,
    ):
        if isinstance(uris, str):
            uris, fileNames = [uris], [fileNames]
        if len(uris) != len(fileNames):  # uris left out is a TypeError, customDownloader or not
            raise ValueError("All fields of sample data source must have the same length")
        source = types.SimpleNamespace(**locals())
        slicer.modules.__dict__.setdefault("sampleDataSources", {}).setdefault(category, []).append(source)

    @staticmethod
    def sampleDataSourcesByCategory(category=None):
        sources = slicer.modules.__dict__.setdefault("sampleDataSources", {})
        return sources if category is None else sources.get(category, [])


# -- i18n --------------------------------------------------------------------------------------------------------------


def translate(context, text):
    return text


def getContext(sourceFile):
    folder, name = os.path.split(sourceFile)
    package = os.path.basename(folder) + "." if os.path.isfile(os.path.join(folder, "__init__.py")) else ""
    return package + name.removesuffix(".py")


def tr(text):
    if not isinstance(text, str):
        raise TypeError("tr() takes a str")
    return text


# -- packaging ---------------------------------------------------------------------------------------------------------

INSTALLED: list[list[str]] = []  # what would have been installed: nothing ever is


def _requirements(req):
    from packaging.requirements import Requirement

    found = req if isinstance(req, list) else [req]
    if not all(isinstance(r, (str, Requirement)) for r in found):
        raise TypeError(f"requirements are texts or Requirement objects, not {req!r}")
    return [r if isinstance(r, Requirement) else Requirement(r) for r in found]


def pip_check(req, _seen=None):
    """Whether all of it is installed, in versions that fit."""
    for requirement in _requirements(req):
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            return False
        if not requirement.specifier.contains(version, prereleases=True):
            return False
    return True


def isPipInstallInProgress():
    return False


def pip_ensure(
    requirements,
    constraints=None,
    skip_packages=None,
    prompt_install=True,
    prompt_restart=True,
    requester=None,
    skip_in_testing=True,
    show_progress=True,
):
    if skip_in_testing and slicer.app.testingEnabled():
        return None
    missing = [str(r) for r in _requirements(requirements) if not pip_check(r)]
    if not missing:
        return []
    question = f"{requester or 'This module'} needs: " + ", ".join(missing)
    if prompt_install and not slicer.util.confirmOkCancelDisplay(question, "Install Python packages"):
        raise RuntimeError("User declined package installation")
    return pip_install(missing, constraints=constraints)


def pip_install(
    requirements,
    constraints=None,
    no_deps_requirements=None,
    skip_packages=None,
    blocking=True,
    show_progress=True,
    requester=None,
    logCallback=None,
    completedCallback=None,
):
    INSTALLED.append(requirements if isinstance(requirements, list) else requirements.split())
    if completedCallback is not None:
        completedCallback(0)


def as_module(name, names, doc):
    """A module that holds just these names of this file."""
    made = types.ModuleType(name, doc)
    made.__dict__.update({n: globals()[n] for n in names}, __all__=list(names))
    return made
