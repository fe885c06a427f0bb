"""Count effects of faults on jobs, and report them at the end: a plugin of tests/conftest.py."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.chaos.tally import Tally


@pytest.fixture
def tally(record_property: Callable[[str, object], None]) -> Iterator[Tally]:
    """Yield the counts of one test; the report at the end contains them."""
    counts = Tally()
    yield counts
    record_property("tally", counts.as_dict())


def pytest_terminal_summary(terminalreporter: Any) -> None:
    counts = _counts_by_module(terminalreporter.stats)
    if not counts:
        return
    terminalreporter.section("faults")
    columns = list(Tally().as_dict())
    terminalreporter.write_line(f"{'':32}" + "".join(f"{name:>10}" for name in columns))
    for module, tallies in [
        *sorted(counts.items()),
        ("all", [one for two in counts.values() for one in two]),
    ]:
        figures = "".join(f"{sum(tally[name] for tally in tallies):>10}" for name in columns)
        terminalreporter.write_line(f"{module:32}{figures}")


def _counts_by_module(stats: dict[str, list[Any]]) -> dict[str, list[dict[str, int]]]:
    by_test = {
        report.nodeid: properties["tally"]
        for reports in stats.values()
        for report in reports
        if (properties := dict(getattr(report, "user_properties", []))) and "tally" in properties
    }
    counts: dict[str, list[dict[str, int]]] = {}
    for nodeid, tally in by_test.items():
        counts.setdefault(Path(nodeid.partition("::")[0]).stem, []).append(tally)
    return counts
