"""A scripted module that notes what happens to it; tests load it under other names, too."""

from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleWidget,
)


class Small(ScriptedLoadableModule):
    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title, parent.categories = "A small module", ["Testing"]


class SmallWidget(ScriptedLoadableModuleWidget):
    def __init__(self, parent=None):
        self.events = []
        ScriptedLoadableModuleWidget.__init__(self, parent)

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        self.logic = SmallLogic()
        self.events.append("setup")

    def enter(self):
        self.events.append("enter")

    def exit(self):
        self.events.append("exit")

    def cleanup(self):
        self.events.append("cleanup")


class SmallLogic(ScriptedLoadableModuleLogic):
    pass
