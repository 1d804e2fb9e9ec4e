"""The module ASCON Training as 3D Slicer knows it: hidden, without a panel. The pipeline lies in ASCONTrainingLib."""

from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import ScriptedLoadableModule


class ASCONTraining(ScriptedLoadableModule):
    """Hidden: it is listed nowhere, and only brings ASCONTrainingLib into Slicer's Python."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("ASCON Training")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Filtering.Denoising")]
        self.parent.dependencies = ["ASCONDenoise"]
        self.parent.hidden = True
        self.parent.contributors = ["The developers of ASCON for 3D Slicer"]
        self.parent.helpText = _("""
Training of the networks that ASCON Denoise uses, without a panel: see the README of the extension.
""")
        self.parent.acknowledgementText = _("""
The method is that of Z. Chen, Q. Gao, Y. Zhang, H. Shan: "ASCON: Anatomy-Aware Supervised Contrastive Learning
Framework for Low-Dose CT Denoising", MICCAI 2023,
<a href="https://doi.org/10.1007/978-3-031-43999-5_34">doi:10.1007/978-3-031-43999-5_34</a>.
""")
