"""Every package that a file imports is in the list of its purpose, and every list names only what is imported."""

from __future__ import annotations

import sys
import tomllib

import pytest
from packaging.requirements import Requirement
from test_layout import FILES, ROOT, SLICER_PACKAGES, files_known, imports

from ASCONDenoiseLib import requirements
from ASCONDenoiseLib.requirements import (
    ANATOMY,
    BATCH,
    COMMAND,
    COMPARISON,
    CURVES,
    NODE,
    PANEL,
    REPORT,
    TORCH,
    TRAINING,
    WITH_SLICER,
)

SLICERS_MODULES = {"DICOMLib", "SampleData", "PyTorchUtils"}
"""Python modules of Slicer's own modules and of the extension PyTorch."""
ANATOMY_FILES = {"ASCONDenoiseLib.imaging.clustering"}
"""What others take from it needs no package of ANATOMY."""


def files_run(*starts: str) -> set[str]:
    """The files whose dotted names begin with one of these, and all of ours that they import, and so on."""
    run: set[str] = set()
    pending = [name for name in FILES if name.startswith(starts)]
    while pending:
        if (name := pending.pop()) not in run:
            run.add(name)
            pending += files_known(FILES[name])
    return run


def packages_of(files: set[str]) -> set[str]:
    """First names of what these files import from elsewhere; torch.utils.tensorboard counts as tensorboard, too."""
    found = {package for name in files for package in imports(FILES[name])}
    if any("torch.utils.tensorboard" in FILES[name].read_text() for name in files):
        found.add("tensorboard")
    ours = {name.split(".")[0] for name in FILES}
    return found - {*sys.stdlib_module_names, *SLICER_PACKAGES, *SLICERS_MODULES, *ours}


def import_names(*lists: tuple[str, ...]) -> set[str]:
    return {requirements.import_name(requirement) for one in lists for requirement in one}


PURPOSES = {
    "panel": (
        PANEL,
        (),
        files_run("ASCONDenoiseLib.panel", "ASCONDenoiseLib.worker") - ANATOMY_FILES,
        {"sklearn", "nibabel", "matplotlib"},
    ),
    "anatomy": (ANATOMY, (), ANATOMY_FILES | {"ASCONDenoiseLib.worker.jobs"}, set()),
    "report": (REPORT, (), {"ASCONDenoiseLib.reports.curves"}, set()),
    "training": (TRAINING, (*CURVES, *COMPARISON), files_run("ASCONTrainingLib") - ANATOMY_FILES, set()),
    "command": (COMMAND, (*NODE, *BATCH), files_run("ASCONDenoiseLib.commands"), set()),
}
"""Purpose -> its list, what it does without, its files, and what they import for another purpose's job."""


@pytest.mark.parametrize("purpose", PURPOSES)
def test_every_import_is_in_the_list_of_its_purpose(purpose):
    needed, optional, files, for_others = PURPOSES[purpose]
    listed = import_names(needed, optional, WITH_SLICER, (TORCH,))
    assert packages_of(files) <= listed | for_others, f"requirements.{purpose.upper()} lacks a package"


@pytest.mark.parametrize("purpose", PURPOSES)
def test_no_list_names_what_nobody_imports(purpose):
    needed, optional, files, _ = PURPOSES[purpose]
    assert import_names(needed, optional) <= packages_of(files), f"requirements.{purpose.upper()} names too much"
    assert len(needed) == len(set(needed))


def test_what_comes_with_slicer_is_imported_too():
    assert import_names(WITH_SLICER, (TORCH,)) <= packages_of(set(FILES))


def test_packages_without_which_it_goes_on_are_never_imported_at_the_start():
    optional = import_names(CURVES, COMPARISON)
    assert all(optional.isdisjoint(imports(path, only_at_import=True)) for path in FILES.values())


def test_pyproject_names_the_same():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(project["dependencies"]) == {TORCH, *WITH_SLICER, *COMMAND, *TRAINING}
    assert len(project["dependencies"]) == len(set(project["dependencies"]))
    assert project["optional-dependencies"]["train"] == list(CURVES)
    assert project["optional-dependencies"]["compare"] == list(COMPARISON)
    assert project["optional-dependencies"]["node"] == list(NODE)
    assert project["optional-dependencies"]["batch"] == list(BATCH)


@pytest.mark.parametrize("requirement", [TORCH, *WITH_SLICER, *COMMAND, *CURVES, *COMPARISON, *NODE, *BATCH])
def test_names_of_a_requirement(requirement):
    assert requirements.name(requirement) == Requirement(requirement).name


def test_the_lists_are_read_before_anything_is_installed():
    assert imports(FILES["ASCONDenoiseLib.requirements"]) <= set(sys.stdlib_module_names)
