"""What is wrong with packed data: for each kind the first place where it was seen, and how often."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum


class Kind(StrEnum):
    """Kinds of faults, the worst first."""

    UNREADABLE = "unreadable"
    """Not Parquet, or broken."""
    COLUMNS = "columns"
    """A column is missing, or is no list of integers."""
    EMPTY = "empty"
    """There are no rows."""
    ROWS = "rows"
    """A row that Bridge cannot train on, or would train on wrongly."""
    TOO_LONG = "too_long"
    """More tokens than seq_length."""
    UNPADDED = "unpadded"
    """A sequence that cannot be cut evenly over the context-parallel ranks."""
    VOCABULARY = "vocabulary"
    """A token that the model does not have."""
    UNSEEN = "unseen"
    """Could not be looked at."""


@dataclass(frozen=True)
class Fault:
    kind: Kind
    message: str
    count: int = 1

    def __str__(self) -> str:
        if self.count == 1:
            return self.message
        others = "is 1 more" if self.count == 2 else f"are {self.count - 1} more"
        return f"{self.message} There {others} like it."


class Faults:
    """Collects faults; those of one kind with the same `what` become one."""

    def __init__(self) -> None:
        self._found: dict[tuple[Kind, str], Fault] = {}

    def add(self, kind: Kind, what: str, message: str, count: int = 1) -> None:
        known = self._found.get((kind, what))
        self._found[kind, what] = (
            replace(known, count=known.count + count) if known else Fault(kind, message, count)
        )

    def has(self, kind: Kind) -> bool:
        return any(known == kind for known, _what in self._found)

    def __iter__(self) -> Iterator[Fault]:
        kinds = list(Kind)
        return iter(sorted(self._found.values(), key=lambda fault: kinds.index(fault.kind)))
