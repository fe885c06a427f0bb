"""Results of measurements, as rows of tables."""

from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple

from rich import box
from rich.table import Table

Progress = Callable[[str], None]


class Result(NamedTuple):
    """One row of a table."""

    name: str
    value: str
    unit: str
    ratio: str = ""
    """Ratio to the same operation without the service."""

    def of(self, subject: str) -> "Result":
        return self._replace(name=f"{subject}: {self.name}")


def table(title: str, figures: Sequence[Result]) -> Table:
    built = Table("NAME", title=title, title_justify="left", box=box.SIMPLE)
    for column in ("FIGURE", "UNIT", "RATIO"):
        built.add_column(column, justify="left" if column == "UNIT" else "right")
    for figure in figures:
        built.add_row(*figure)
    return built


def median_milliseconds(name: str, seconds: Sequence[float], to: Sequence[float] = ()) -> Result:
    """Return the median, and its ratio to the median of `to`: the same operation without the service."""
    ratio = f"{median(seconds) / median(to):.2f}" if to else ""
    return Result(name, f"{median(seconds) * 1000:,.1f}", "ms", ratio)
