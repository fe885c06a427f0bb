"""Output: tables for people, JSON for scripts. Data goes to stdout, everything else to stderr."""

import json
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table
from rich.text import Text

out = Console(highlight=False, soft_wrap=False, markup=False)
err = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)

STYLES = {
    "SUCCEEDED": "green", "RUNNING": "cyan", "FAILED": "red", "LOST": "red", "CANCELLED": "yellow",
    "CANCELLING": "yellow", "error": "red", "warning": "yellow", "advice": "cyan", "unverified": "magenta",
}  # fmt: skip

# Control characters except tab and newline, and characters that change the writing direction.
_HARMFUL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_UNBOUND = 1 << 20
_BLOCKS = "▁▂▃▄▅▆▇█"


def plain(value: object) -> str:
    """Return text without characters that control a terminal: its source may be untrusted."""
    return "" if value is None else _HARMFUL.sub("\ufffd", str(value))


def say(message: object, style: str = "") -> None:
    """Print a message for people on stderr."""
    err.print(Text(plain(message), style=style))


def text(value: object) -> None:
    """Print a line on stdout and flush it."""
    sys.stdout.write(plain(value) + "\n")
    sys.stdout.flush()


def document(value: object) -> None:
    """Print one JSON document, in ASCII: it cannot control a terminal."""
    sys.stdout.write(json.dumps(value, indent=2 if out.is_terminal else None) + "\n")


def line(value: object) -> None:
    """Print one JSON document of a stream on one line and flush it."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def cell(value: object) -> Text:
    text = plain(value)
    return Text(text, style=STYLES.get(text, ""))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows under headings; without a terminal each row is one line of any length."""
    grid = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for column in grid.columns:
        column.overflow = "fold"
    for row in rows:
        grid.add_row(*(cell(value) for value in row))
    _print(grid)


def pairs(rows: Iterable[tuple[str, object]]) -> None:
    """Print names and values; omit names without a value."""
    grid = Table.grid(padding=(0, 2))
    for name, value in rows:
        if value not in (None, "", [], {}):
            grid.add_row(Text(name, style="bold"), cell(value))
    _print(grid)


def _print(grid: Table) -> None:
    """Print in the width of the terminal; without a terminal lines are not folded."""
    target = out if out.is_terminal else Console(width=_UNBOUND, highlight=False)
    target.print(grid)


def sparkline(values: Sequence[float], width: int) -> str:
    """Return a series of values as a line of at most `width` block characters."""
    stride = -(-len(values) // width) or 1
    groups = [values[at : at + stride] for at in range(0, len(values), stride)]
    means = [sum(group) / len(group) for group in groups]
    low, high = min(means), max(means)
    scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BLOCKS[round((mean - low) * scale)] for mean in means)


def figure(value: float | None, digits: int = 4) -> str:
    return "" if value is None else f"{value:.{digits}g}"


def size(number: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    steps = [(days, "d", hours, "h"), (hours, "h", minutes, "m"), (minutes, "m", rest, "s")]
    return next((f"{a}{b} {c}{d}" for a, b, c, d in steps if a), f"{rest}s")


def age(moment: str | None) -> str:
    """Return the time since an RFC 3339 timestamp."""
    if not moment:
        return ""
    return duration(max(0.0, (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()))


def moment(text: str | None) -> str:
    """Return an RFC 3339 timestamp in local time."""
    return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M:%S") if text else ""
