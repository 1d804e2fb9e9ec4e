"""What the tests of the section Anatomy share.

Which voxels go into which cluster is what the core says in a process of its own; what is shown of them is computed
here again, the plain way.
"""

import tempfile

import numpy as np
import slicer
from panel_case import PanelTestCase, modelFolder, runChild, skipWithout, wait

POINTS = 150
"""Few: t-SNE is quick."""

clustered = {}  # what AnatomyTestCase.expected has computed already


class AnatomyTestCase(PanelTestCase):
    @classmethod
    def setUpClass(cls):
        skipWithout("scikit-learn")
        super().setUpClass()

    def setUp(self):
        super().setUp()
        self.logic.points = POINTS
        self.choices.clusters = 4
        self.ui.anatomyCollapsibleButton.collapsed = False

    def closePanel(self):
        if self.panel is not None and self.ui.plotButton.checked:
            self.ui.plotButton.click()
        super().closePanel()

    def click(self):
        self.ui.anatomyButton.click()

    def find(self):
        """Clicks, waits for the end and returns the segmentation node."""
        self.click()
        self.assertEqual(self.ui.anatomyButton.text, "Cancel")
        wait(lambda: not self.logic.tasks.busy("anatomy"))
        self.assertIn("Done", self.ui.anatomyStatusLabel.text)
        return self.choices.anatomy

    def expected(self) -> dict:
        """Labels, points and denoised voxels, from the core in another process."""
        key = self.voxels.tobytes(), self.choices.clusters
        if key not in clustered:
            with tempfile.TemporaryDirectory() as folder:
                source, target = f"{folder}/in.npy", f"{folder}/out.npz"
                np.save(source, self.voxels)
                model = str(modelFolder / "test-model-0.safetensors")
                numbers = map(str, (self.choices.clusters, POINTS, *self.ldct.GetSpacing()))
                runChild("child_cluster.py", source, model, target, *numbers)
                with np.load(target) as arrays:
                    clustered[key] = dict(arrays)
        return clustered[key]

    def nodes(self) -> list:
        """Names of all nodes that an anatomy may consist of."""
        kinds = ("Segmentation", "SegmentationDisplay", "Table", "PlotChart", "PlotSeries")
        return [node.GetName() for kind in kinds for node in slicer.util.getNodesByClass(f"vtkMRML{kind}Node")]

    def tick(self):
        for _ in range(3):
            slicer.app.processEvents()
