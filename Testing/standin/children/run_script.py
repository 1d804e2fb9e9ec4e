"""Runs a script in the stand-in as `Slicer --python-script` does: run_script.py SCRIPT, with Testing in PYTHONPATH."""

import os
import runpy
import sys

import standin

standin.install()

import qt  # noqa: E402
import slicer  # noqa: E402

sys.path.remove(os.environ["PYTHONPATH"])  # a real Slicer knows nothing of this folder
sys.argv = sys.argv[1:]
qt.QTimer.singleShot(0, lambda: runpy.run_path(sys.argv[0], run_name="__main__"))
sys.exit(slicer.app.exec())
