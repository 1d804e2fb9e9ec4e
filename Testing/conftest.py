"""What all tests share: the word at the end on tests that a system package would have let run."""

from __future__ import annotations

from collections.abc import Generator

import pytest
from system_packages import missing_packages


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Generator[None]:
    """After everything else: `N checks were skipped for lack of a system package. ...`"""
    yield
    skipped = terminalreporter.stats.get("skipped", [])
    counts = missing_packages([report.longrepr[2] for report in skipped if isinstance(report.longrepr, tuple)])
    if counts:
        terminalreporter.section("system packages")
        terminalreporter.line(
            f"{sum(counts.values())} checks were skipped for lack of a system package. "
            f"On Debian and Ubuntu: apt-get install {' '.join(sorted(counts))}"
        )
