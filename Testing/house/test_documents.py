"""What README and docs/ name is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

HOUSE = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*HOUSE.glob("*.md"), *HOUSE.glob("docs/*.md")])
NAMED = re.compile(
    r"\b(?:ASCONDenoise|ASCONTraining|Resources|Testing|docs)/[\w./-]+\.(?:py|md|png|svg|ui|toml|service)\b"
)
LINKED = re.compile(r"\]\((?!https?:|#)([^)#]+)")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_a_document_names_are_there(document):
    text = document.read_text(encoding="utf-8")
    named = {HOUSE / name for name in NAMED.findall(text) if "NAME" not in name}
    linked = {document.parent / name for name in LINKED.findall(text)}
    assert not [path for path in named | linked if not path.exists()]


def test_a_wrong_name_is_found():
    assert NAMED.findall("see `Testing/gone.py`, docs/a.md.") == ["Testing/gone.py", "docs/a.md"]
    assert LINKED.findall("[a](b.md) [c](https://d) ![e](f/g.png) [h](#i)") == ["b.md", "f/g.png"]
