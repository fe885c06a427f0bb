"""Faults of packed data: for each kind the place of the first occurrence, and the number of occurrences."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum


class FaultKind(StrEnum):
    """Kinds of faults, in descending severity."""

    UNREADABLE = "unreadable"
    """The file is not Parquet, or is corrupt."""
    COLUMNS = "columns"
    """A column is missing, or is not a list of integers."""
    EMPTY = "empty"
    """A split has no rows."""
    ROWS = "rows"
    """Bridge cannot train on a row, or would train on it incorrectly."""
    TOO_LONG = "too_long"
    """A pack has more tokens than seq_length."""
    UNPADDED = "unpadded"
    """A sequence cannot be split evenly over the context-parallel ranks."""
    VOCABULARY = "vocabulary"
    """A token id is not in the model's vocabulary."""
    NOT_INSPECTED = "not_inspected"
    """The data could not be inspected."""


@dataclass(frozen=True)
class DataFault:
    """One fault and its number of occurrences."""

    kind: FaultKind
    message: str
    count: int = 1

    def __str__(self) -> str:
        if self.count == 1:
            return self.message
        others = "is 1 more" if self.count == 2 else f"are {self.count - 1} more"
        return f"{self.message} There {others} like it."


class DataFaults:
    """Collects faults. Faults of the same kind and key are merged into one, which keeps the first message."""

    def __init__(self) -> None:
        self._found: dict[tuple[FaultKind, str], DataFault] = {}

    def add(self, kind: FaultKind, key: str, message: str, count: int = 1) -> None:
        known = self._found.get((kind, key))
        self._found[kind, key] = (
            replace(known, count=known.count + count) if known else DataFault(kind, message, count)
        )

    def has(self, kind: FaultKind) -> bool:
        return any(known == kind for known, _key in self._found)

    def __iter__(self) -> Iterator[DataFault]:
        kinds = list(FaultKind)
        return iter(sorted(self._found.values(), key=lambda fault: kinds.index(fault.kind)))
