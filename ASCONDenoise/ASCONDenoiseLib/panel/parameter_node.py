"""The user's choices, which Slicer saves with the scene."""

from typing import Annotated

from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper

from ASCONDenoiseLib.imaging.strength import PANEL_STRENGTH_PERCENT


@parameterNodeWrapper
class ASCONDenoiseParameterNode:
    """The user's choices; the .ui file names the widgets that show and change them.

    Attributes:
        inputVolume: LDCT.
        referenceVolume: NDCT.
        outputVolume: the denoised volume.
        anatomy: the clusters that were found last.
        model: name of a model; "" for the default model.
        device: where the network runs; "auto" leaves the choice to the worker.
        strength: percent.
        dosePercent: of the LDCT, in percent of the normal dose; 0: not known.
        differenceRange: HU at the ends of the difference's colours.
        differenceRangeChosen: whether the user chose it; otherwise it follows the difference's spread.
        clusters: how many the anatomy is divided into.
        anatomyOpacity: percent.
        anatomyOutlines: whether the clusters have outlines.
    """

    inputVolume: vtkMRMLScalarVolumeNode
    referenceVolume: vtkMRMLScalarVolumeNode
    outputVolume: vtkMRMLScalarVolumeNode
    anatomy: vtkMRMLSegmentationNode
    model: str = ""
    device: str = "auto"
    strength: Annotated[float, WithinRange(0, 100)] = PANEL_STRENGTH_PERCENT
    dosePercent: Annotated[int, WithinRange(0, 100)] = 0
    differenceRange: Annotated[float, WithinRange(5, 200)] = 50
    differenceRangeChosen: bool = False
    clusters: Annotated[int, WithinRange(2, 12)] = 8
    anatomyOpacity: Annotated[float, WithinRange(0, 100)] = 0
    anatomyOutlines: bool = True
