"""The module ASCON Denoise as 3D Slicer lists it. Everything it knows lies in ASCONDenoiseLib."""

from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import ScriptedLoadableModule


class ASCONDenoise(ScriptedLoadableModule):
    """What Slicer shows about the module. Without a widget class Slicer makes no panel."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("ASCON Denoise")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Filtering.Denoising")]
        self.parent.dependencies = []
        self.parent.contributors = ["The developers of ASCON for 3D Slicer"]
        self.parent.helpText = _("""
Takes the noise out of low-dose CT with ASCON. In this version the work is done by the command <code>ascon</code>,
which reads and writes DICOM series, NRRD, NIfTI and MHA; there is no panel. See the README of the extension.
For research, not for diagnosis.
""")
        self.parent.acknowledgementText = _("""
The method is that of Z. Chen, Q. Gao, Y. Zhang, H. Shan: "ASCON: Anatomy-Aware Supervised Contrastive Learning
Framework for Low-Dose CT Denoising", MICCAI 2023,
<a href="https://doi.org/10.1007/978-3-031-43999-5_34">doi:10.1007/978-3-031-43999-5_34</a>.
Please cite this paper. The software was written anew from it.
""")
