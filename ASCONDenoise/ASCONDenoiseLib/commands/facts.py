"""Facts on lines of their own, as `ascon models show` and `ascon info` print them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ASCONDenoiseLib.reports.text_table import aligned


def fact_lines(facts: Mapping[str, Any]) -> str:
    """Align names and values; texts in a list and items of an object each have a line of their own."""
    return aligned([(name.replace("_", " "), line) for name, value in facts.items() for line in _lines(value)])


def _lines(value: Any) -> list[str]:
    """Write a value on one line, or each of its texts or items on its own."""
    if isinstance(value, dict):
        return [f"{name}: {item}" for name, item in value.items()] or ["-"]
    if isinstance(value, list):
        return value or ["-"]
    return [", ".join(f"{number:g}" for number in value) if isinstance(value, tuple) else str(value)]
