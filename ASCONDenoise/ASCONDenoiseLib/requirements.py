"""Python packages that ASCON needs, one list per purpose: whatever checks, names or installs packages reads them here.

Standard library only: this is read before anything is installed. pyproject.toml names the same (a test compares).
"""

from __future__ import annotations

TORCH = "torch>=2.2"
"""For all purposes. In Slicer, the extension PyTorch installs it, as it knows what fits the computer's GPU."""

WITH_SLICER = ("numpy>=1.26", "pillow>=10", "pydicom>=3", "scipy>=1.11.4", "SimpleITK>=2.3")
"""What Slicer's Python has."""

PANEL = ("safetensors>=0.4.3", "scikit-image>=0.22")
"""The panel ASCON Denoise and its worker."""

ANATOMY = ("scikit-learn>=1.3", "threadpoolctl>=3.1")
"""The panel's section Anatomy, besides."""

TRAINING = (*PANEL, "nibabel>=5.2")
"""Preparing data, training, comparing."""

REPORT = ("matplotlib>=3.8",)
"""The panel's report of image quality, besides."""

COMMAND = (*PANEL, *ANATOMY, *REPORT, "nibabel>=5.2")
"""The command ascon."""

CURVES = ("tensorboard>=2.15",)
"""A training writes events for TensorBoard where it is installed. Nothing of ours installs it in Slicer."""

NODE = ("pynetdicom>=3", "prometheus_client>=0.20")
"""`ascon node`, besides."""

BATCH = ("dask>=2024.8", "distributed>=2024.8")
"""`ascon batch`, besides."""

COMPARISON = ("bm3d",)
"""A row more in a comparison where it is installed; for non-commercial use only."""

IMPORT_NAMES = {"pillow": "PIL", "scikit-image": "skimage", "scikit-learn": "sklearn"}
"""Package -> what is imported, where the two differ."""


def name(requirement: str) -> str:
    """The package of a requirement: "torch" of "torch>=2.2"."""
    return requirement.partition(">=")[0]


def import_name(requirement: str) -> str:
    """What is imported of a requirement's package: "skimage" for "scikit-image>=0.22"."""
    return IMPORT_NAMES.get(name(requirement), name(requirement))
