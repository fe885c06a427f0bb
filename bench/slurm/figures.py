"""What was measured, as rows of tables."""

from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple

from rich import box
from rich.table import Table

Progress = Callable[[str], None]


class Figure(NamedTuple):
    """One row."""

    name: str
    value: str
    unit: str
    ratio: str = ""
    """To what is done without the service."""

    def of(self, what: str) -> "Figure":
        return self._replace(name=f"{what}: {self.name}")


def table(title: str, figures: Sequence[Figure]) -> Table:
    made = Table("NAME", title=title, title_justify="left", box=box.SIMPLE)
    for column in ("FIGURE", "UNIT", "RATIO"):
        made.add_column(column, justify="left" if column == "UNIT" else "right")
    for figure in figures:
        made.add_row(*figure)
    return made


def milliseconds(name: str, seconds: Sequence[float], to: Sequence[float] = ()) -> Figure:
    """The median, and its ratio to that of what is done without the service."""
    ratio = f"{median(seconds) / median(to):.2f}" if to else ""
    return Figure(name, f"{median(seconds) * 1000:,.1f}", "ms", ratio)
