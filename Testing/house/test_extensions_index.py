"""The entry for Slicer's Extensions Index, as its schema and its checks want it, and like what CMakeLists.txt says.

The schema is slicer-extension-catalog-entry-schema v1.0.1, the checks are those of the index's own repository. Until
the repository is public there is no address: the entry names one under .invalid, which no one can register (RFC 2606).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "Resources" / "ExtensionsIndex" / "ASCON.json"
TYPES = {
    "$schema": str,
    "category": str,
    "scm_url": str,
    "scm_revision": str,
    "scm_type": str,
    "build_dependencies": list,
    "build_subdirectory": str,
    "enabled": bool,
    "tier": int,
}


@pytest.fixture
def entry() -> dict:
    assert b"\r" not in FILE.read_bytes()
    return json.loads(FILE.read_text(encoding="utf-8"))


def cmake(name: str) -> str:
    return re.search(rf'^set\({name} "([^"]*)"\)', (ROOT / "CMakeLists.txt").read_text(encoding="utf-8"), re.M)[1]


def test_fields_are_those_of_the_schema(entry):
    assert {"$schema", "category", "scm_url"} <= entry.keys() <= TYPES.keys()
    assert {name: type(value) for name, value in entry.items()} == {name: TYPES[name] for name in entry}
    assert entry["$schema"].endswith("slicer-extension-catalog-entry-schema-v1.0.1.json#")
    assert 1 <= entry["tier"] <= 5


def test_names_follow_the_indexs_rules(entry):
    """The extension must not begin with Slicer and be CMake's project; the repository must begin with it."""
    project = re.search(r"^project\((\w+)\)", (ROOT / "CMakeLists.txt").read_text(encoding="utf-8"), re.M)[1]
    assert FILE.stem == project and not project.lower().startswith("slicer")
    address = urlsplit(entry["scm_url"])
    assert address.scheme == "https" and Path(address.path).stem.startswith("Slicer")


def test_dependencies_are_those_of_the_build(entry):
    wanted = [] if cmake("EXTENSION_DEPENDS") == "NA" else cmake("EXTENSION_DEPENDS").split()
    assert entry["build_dependencies"] == wanted == ["PyTorch"]


def test_either_every_address_is_there_or_none_is(entry):
    """A placeholder that is forgotten in one of the two files would end in the catalogue."""
    public = not urlsplit(entry["scm_url"]).hostname.endswith(".invalid")
    assert [bool(cmake(name)) for name in ("EXTENSION_ICONURL", "EXTENSION_SCREENSHOTURLS")] == [public] * 2
