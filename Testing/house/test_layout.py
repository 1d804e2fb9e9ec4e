"""The house keeps its shape: what is packaged, who imports whom, what a model file may do, what files may say."""

from __future__ import annotations

import ast
import graphlib
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from system_packages import missing_packages, skip_without_standin

ROOT = Path(__file__).resolve().parents[2]
MODULES = ("ASCONDenoise", "ASCONTraining")
SLICER_PACKAGES = {"slicer", "qt", "ctk", "vtk", "mrml"}
MAY_IMPORT = {
    "ASCONDenoiseLib": {
        "errors": "",
        "checked_json": "",
        "requirements": "",
        "imaging": "errors",
        "physics": "errors imaging",
        "io": "errors imaging",
        "models": "errors checked_json imaging io",
        "messages": "errors imaging models",
        "reports": "errors imaging physics io models messages",
        "worker": "errors checked_json imaging physics io models reports",
        "scene": "errors imaging io models messages",
        "panel": "errors requirements imaging models messages scene",
        "node": "errors checked_json io models reports",
        "batch": "errors imaging io models worker reports node",
        "commands": "errors requirements imaging physics io models messages reports node batch",
        "__main__": "commands",
    },
    "ASCONTrainingLib": {
        "config": "",
        "data": "config",
        "method": "config data",
        "trainer": "config data method",
        "evaluation": "config data trainer",
        "commands": "config data method trainer evaluation",
    },
}
"""Room (folder, or file outside of any) -> rooms of the same package that it may know. Arrows point up this list only.
What ASCONTrainingLib may know of ASCONDenoiseLib: all but what needs Slicer, and commands/ only from its commands/."""
MAY_USE_TORCH = ("physics", "models", "worker", "batch", "commands")
"""Rooms of ASCONDenoiseLib whose files may import torch, inside functions at least."""
QT_SIDE = ("scene", "panel")
"""Rooms of ASCONDenoiseLib that may import Slicer; the module's own file besides."""
NOT_OURS = {
    ".git",
    ".venv",
    "__pycache__",
    "build",
    "dist",
    "demo-output",
    "runs",
    ".pytest_cache",
    ".ruff_cache",
    ".mypy_cache",
    ".hypothesis",
}


def lib_files(module: str) -> list[Path]:
    return sorted((ROOT / module / f"{module}Lib").rglob("*.py"))


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts[1:]).removesuffix(".__init__")


ALL_LIB_FILES = [file for module in MODULES for file in lib_files(module)]
FILES = {dotted(path): path for path in ALL_LIB_FILES}
LIGHT_FILES = [
    file
    for file in lib_files("ASCONDenoise")
    if {*MAY_USE_TORCH, *QT_SIDE}.isdisjoint(file.parts) and not file.name.startswith("__")
]


def name_of(path: Path) -> str:
    """Readable ids for parametrised cases."""
    return path.relative_to(ROOT).as_posix()


def imports(path: Path, *, only_at_import: bool = False) -> set[str]:
    """First names of all packages that a file imports, inside functions too unless `only_at_import`.

    A relative import counts as the package the file lies in.
    """
    package = next((part for part in path.parts if part.endswith("Lib")), "")
    found = set()
    pending = [ast.parse(path.read_text())]
    while pending:
        node = pending.pop()
        if only_at_import and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if only_at_import and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(package if node.level else node.module.split(".")[0])
        pending.extend(ast.iter_child_nodes(node))
    return found


def cmake_list(module: str, variable: str) -> list[str]:
    """The lines of a set(...) in a module's CMakeLists.txt."""
    text = (ROOT / module / "CMakeLists.txt").read_text().replace("${MODULE_NAME}", module)
    return re.search(rf"set\({variable}\n(.*?)\)", text, re.DOTALL)[1].split()


def run_python(code: str) -> str:
    """Standard output of a fresh interpreter that sees both Lib packages as Slicer would show them."""
    paths = [str(ROOT / module) for module in MODULES]
    command = [sys.executable, "-c", f"import sys; sys.path[:0] = {paths!r}\n{code}"]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT / "Testing").stdout


# What Slicer packages


@pytest.mark.parametrize("module", MODULES)
def test_cmake_lists_every_python_file(module):
    on_disk = {path.relative_to(ROOT / module).as_posix() for path in (ROOT / module).rglob("*.py")}
    listed = cmake_list(module, "MODULE_PYTHON_SCRIPTS")
    assert set(listed) == on_disk, f"{module}/CMakeLists.txt, MODULE_PYTHON_SCRIPTS"
    assert len(listed) == len(set(listed))


@pytest.mark.parametrize("module", MODULES)
def test_cmake_lists_every_resource(module):
    files = [path for path in (ROOT / module / "Resources").rglob("*") if path.is_file() and path.suffix != ".partial"]
    on_disk = {path.relative_to(ROOT / module).as_posix() for path in files}
    listed = cmake_list(module, "MODULE_PYTHON_RESOURCES")
    assert set(listed) == on_disk, f"{module}/CMakeLists.txt, MODULE_PYTHON_RESOURCES"
    assert len(listed) == len(set(listed))


def test_modules_install_no_file_under_the_same_name():
    """Slicer installs both modules into one folder."""
    installed = [
        {*cmake_list(module, "MODULE_PYTHON_SCRIPTS"), *cmake_list(module, "MODULE_PYTHON_RESOURCES")}
        for module in MODULES
    ]
    assert installed[0].isdisjoint(installed[1])


def test_no_loose_python_file_that_slicer_would_take_for_a_module():
    loose = [
        path.relative_to(ROOT).as_posix()
        for folder in (ROOT, *map(ROOT.joinpath, MODULES))
        for path in folder.glob("*.py")
    ]
    assert sorted(loose) == [f"{module}/{module}.py" for module in MODULES]


def test_extension_and_modules_have_the_names_slicer_looks_for():
    top = (ROOT / "CMakeLists.txt").read_text()
    assert re.findall(r"^project\((\w+)\)", top, re.MULTILINE) == ["ASCON"]
    assert re.findall(r"^add_subdirectory\((\w+)\)", top, re.MULTILINE) == list(MODULES)
    for module in MODULES:
        assert f"set(MODULE_NAME {module})" in (ROOT / module / "CMakeLists.txt").read_text()


def test_wheel_packages_are_the_folders_on_disk():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    on_disk = {
        path.parent.relative_to(ROOT / module).as_posix().replace("/", ".")
        for module in MODULES
        for path in lib_files(module)
        if path.name == "__init__.py"
    }
    assert set(settings["packages"]) == on_disk | {"ASCONDenoiseLib.Resources"}


@pytest.mark.parametrize("module", MODULES)
def test_module_class_tells_slicer_what_it_is(module):
    """The class runs on the stand-in for Slicer, and brings in neither torch nor a Lib file that has it."""
    skip_without_standin()
    described = json.loads(
        run_python(f"""
import json, types
import standin
standin.install()
import {module}
parent = types.SimpleNamespace(hidden=False, path={module}.__file__)
{module}.{module}(parent)
told = {{name: value for name, value in vars(parent).items() if isinstance(value, (str, bool, list))}}
print(json.dumps(told | {{"torch": "torch" in sys.modules}}))
""").splitlines()[-1]
    )
    assert described["categories"] == ["Filtering.Denoising"]
    assert described["hidden"] is False
    assert described["title"].startswith("ASCON ")
    assert described["contributors"] and described["helpText"].strip()
    assert "10.1007/978-3-031-43999-5_34" in described["acknowledgementText"]
    assert not described["torch"]


# Who imports whom


def test_imports_are_seen(tmp_path):
    """The reader of imports itself: relative, nested and guarded ones."""
    file = tmp_path / "ASCONDenoiseLib" / "sample.py"
    file.parent.mkdir()
    file.write_text(
        "import a.b\nfrom c.d import e\nfrom . import f\nclass G:\n    def h(self):\n        import i\n"
        "if TYPE_CHECKING:\n    import j\n"
    )
    assert imports(file) == {"a", "c", "ASCONDenoiseLib", "i", "j"}
    assert imports(file, only_at_import=True) == {"a", "c", "ASCONDenoiseLib"}


def files_known(path: Path) -> set[str]:
    """Our own files, as dotted names, that a file imports: those inside functions and for types only too."""
    known = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            known |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name_of(path)}:{node.lineno}: name the package in full"
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            known |= {name if name in FILES else node.module for name in full}
    return (known & FILES.keys()) - MAY_IMPORT.keys()  # the packages themselves hold the version only


def room_of(path: Path) -> tuple[str, str]:
    package, room, *_ = [part.removesuffix(".py") for part in path.relative_to(ROOT).parts[1:]]
    return package, room


def test_the_list_of_rooms_is_in_order_and_complete():
    for package, may_import in MAY_IMPORT.items():
        above: set[str] = set()
        for room, known in may_import.items():
            assert set(known.split()) <= above, f"{room} may know only what stands above it"
            above.add(room)
        assert above == {room_of(path)[1] for path in lib_files(package.removesuffix("Lib"))} - {"__init__"}


@pytest.mark.parametrize("path", [path for path in ALL_LIB_FILES if room_of(path)[1] != "__init__"], ids=name_of)
def test_arrows_point_one_way(path):
    package, room = room_of(path)
    allowed = {(package, name) for name in (room, *MAY_IMPORT[package][room].split())}
    if package == "ASCONTrainingLib":
        below = set(MAY_IMPORT["ASCONDenoiseLib"]) - {*QT_SIDE, "worker", "__main__"}
        allowed |= {("ASCONDenoiseLib", name) for name in (below if room == "commands" else below - {"commands"})}
    assert {room_of(FILES[name]) for name in files_known(path)} <= allowed
    assert imports(path).isdisjoint(MODULES)
    if room not in QT_SIDE:
        assert imports(path).isdisjoint(SLICER_PACKAGES)


def test_no_file_is_in_a_circle_of_imports():
    arrows = {name: files_known(path) - {name} for name, path in FILES.items()}
    graphlib.TopologicalSorter(arrows).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("path", LIGHT_FILES, ids=name_of)
def test_light_files_know_no_torch(path):
    assert "torch" not in imports(path)


@pytest.mark.parametrize("module", MODULES)
def test_module_files_import_only_slicer_and_the_standard_library_at_start(module):
    allowed = {*sys.stdlib_module_names, *SLICER_PACKAGES, *(f"{name}Lib" for name in MODULES)}
    assert imports(ROOT / module / f"{module}.py", only_at_import=True) <= allowed
    if module == "ASCONDenoise":
        assert "ASCONTrainingLib" not in imports(ROOT / module / f"{module}.py")


def test_importing_the_packages_loads_neither_torch_nor_slicer():
    names = ["ASCONDenoiseLib", "ASCONTrainingLib"]
    names += [dotted(path) for path in LIGHT_FILES]
    names += ["ASCONDenoiseLib.commands.cli", "ASCONDenoiseLib.worker.server"]
    loaded = run_python(
        f"import importlib\nfor name in {names!r}: importlib.import_module(name)\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    ).split()
    assert "ASCONDenoiseLib" in loaded and "ASCONTrainingLib" in loaded
    assert {"torch", *SLICER_PACKAGES}.isdisjoint(loaded)


# Model files cannot run code


@pytest.mark.parametrize("path", ALL_LIB_FILES, ids=name_of)
def test_nothing_is_unpickled(path):
    tree = ast.parse(path.read_text())
    assert imports(path).isdisjoint({"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"})
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        settings = {keyword.arg: getattr(keyword.value, "value", None) for keyword in call.keywords}
        assert settings.get("allow_pickle") is not True, f"line {call.lineno}"
        if ast.unparse(call.func) == "torch.load":
            assert settings.get("weights_only") is True, f"torch.load without weights_only=True, line {call.lineno}"


# Versions and the lock file


def test_changelog_opens_with_the_version_of_the_package():
    import ASCONDenoiseLib

    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1]
    assert newest == ASCONDenoiseLib.__version__


def test_lock_file_fixes_every_dependency_within_its_bounds():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    locked = dict(line.lower().split("==") for line in lines if not line.startswith("#"))
    for text in [
        *project["dependencies"],
        *optional["dev"],
        *optional["slicer-test"],
        *optional["node"],
        *optional["batch"],
    ]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(locked[requirement.name.lower()]), text


# What project files may say


def text_files() -> list[Path]:
    suffixes = {"", ".py", ".md", ".toml", ".txt", ".json", ".ui", ".yml", ".html", ".cfg"}
    paths = (path for path in ROOT.rglob("*") if NOT_OURS.isdisjoint(path.relative_to(ROOT).parts))
    return [path for path in paths if path.is_file() and path.suffix in suffixes and ".egg-info" not in str(path)]


FORBIDDEN = {
    "the host of a package registry": r"pypi[.]org|pythonhosted[.]org|download[.]pytorch|conda[.]anaconda|deb[.]debian",
    "a path of one machine": r"(?<![\w.])/work[/]|/root[/]|/home/[a-z]",
    "a path outside of the checkout": r"[.][.]/shared",
    "a debugger": r"\bi?pdb[.]set_trace|^\s*breakpoint[(]|^\s*import i?pdb\b",
}
MAY_LOOK_BESIDE_THE_CHECKOUT = ".ci/run"


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_project_file_names(what):
    files = text_files()
    assert ROOT / "Makefile" in files
    if what == "a path outside of the checkout":
        files.remove(ROOT / MAY_LOOK_BESIDE_THE_CHECKOUT)
    found = [
        f"{name_of(path)}:{number}"
        for path in files
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(FORBIDDEN[what], line)
    ]
    assert not found


def test_files_end_their_lines_the_unix_way():
    """The Extensions Index refuses others."""
    assert not [name_of(path) for path in text_files() if b"\r" in path.read_bytes()]


# The last lines of `make test`


def test_skips_for_lack_of_a_system_package_are_counted():
    reasons = [
        "Skipped: dciodvfy is not installed",
        "Skipped: needs dicom3tools",
        "Skipped: ASCON_TEST_DATA is not set",
    ]
    assert missing_packages(reasons) == {"dicom3tools": 2}
