"""Read the footers of Parquet shards: rows, tokens, columns and faulty row groups. No row is read."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.dataset.faults import FaultKind
from trainer.dataset.files import Meter, MeteredFile, NotInspected
from trainer.quoting import printable

if TYPE_CHECKING:
    import pyarrow.parquet as pq

COLUMNS = ("input_ids", "loss_mask", "seq_start_id")
MAGIC = b"PAR1"
# A parsed footer takes ten times its size in memory.
MAX_FOOTER = 8 << 20
MAX_SUSPECTS = 4
# A column is read in pieces of this size.
BUFFER = 256 << 10


class BadShard(ValueError):
    """The file is not a Parquet file with packed data. The message says why."""


class BadColumns(BadShard):
    """A required column is missing or has the wrong type."""


@dataclass(frozen=True)
class Limits:
    """Limits of the job's model; None if unknown."""

    seq_length: int | None = None
    vocab_size: int | None = None
    piece_multiple: int | None = None
    """Context parallelism splits each sequence, without its last token, into equal pieces: 2 per rank."""


@dataclass(frozen=True, slots=True)
class Group:
    """A row group: its rows in the shard, and the number of entries of its longest column."""

    number: int
    first_row: int
    rows: int
    values: int

    @property
    def mean(self) -> int:
        """Average number of entries in a row, rounded up."""
        return -(-self.values // max(1, self.rows))

    @property
    def named_rows(self) -> str:
        last = self.first_row + self.rows - 1
        return f"rows {self.first_row} to {last}" if last > self.first_row else f"row {last}"


@dataclass(frozen=True, slots=True)
class Suspect:
    """A row group that certainly has a faulty row. The footer does not tell which row."""

    group: Group
    kind: FaultKind
    detail: str


@dataclass(slots=True)
class Footer:
    """Counts from a shard's footer."""

    path: Path
    rows: int
    groups: int
    tokens: int
    is_exact: bool
    """Whether `tokens` is exact. Without statistics an empty or NULL pack counts as one token."""
    suspects: list[Suspect] = field(default_factory=list)
    """At most the first MAX_SUSPECTS."""


@dataclass(frozen=True)
class _Column:
    """One column of one row group: number of entries; smallest and largest value if statistics have them."""

    values: int
    nulls: int | None
    low: Any
    high: Any


@contextmanager
def open_shard(path: Path, meter: Meter) -> Iterator["pq.ParquetFile"]:
    """Open a shard. Raises OSError, NotInspected, BadShard, and parquet_errors() for corrupt files."""
    import pyarrow.parquet as pq

    with MeteredFile(path, meter) as file:
        metadata = pq.read_metadata(_footer_of(file))
        # Buffered and in order, so that a complete column of a row group is never in memory.
        yield pq.ParquetFile(file, metadata=metadata, pre_buffer=False, buffer_size=BUFFER)


def parquet_errors() -> tuple[type[Exception], ...]:
    """Exceptions that pyarrow raises for corrupt files."""
    import pyarrow as pa

    return (pa.ArrowException, OSError, ValueError, TypeError, LookupError, OverflowError, MemoryError)


def _footer_of(file: MeteredFile) -> Any:
    """Return only the footer, which can be parsed like the file. pyarrow would read 64 KiB each time."""
    import pyarrow as pa

    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 8))
    tail = file.read(8)
    if size < 12 or tail[4:] != MAGIC:
        raise BadShard("it is not a Parquet file, or it is truncated: the end of the file is missing")
    length = int.from_bytes(tail[:4], "little")
    if length > size - 12:
        raise BadShard("it is not a Parquet file: its footer would be longer than the file")
    if length > MAX_FOOTER:
        raise NotInspected(f"its footer has {length} bytes, and the limit is {MAX_FOOTER}")
    file.seek(size - 8 - length)
    return pa.BufferReader(MAGIC + file.read(length) + tail)


def read_footer(path: Path, limits: Limits, meter: Meter) -> Footer:
    """Read a shard's footer. Raises BadColumns, and what open_shard raises."""
    with open_shard(path, meter) as shard:
        check_columns(shard)
        metadata = shard.metadata
        footer = Footer(path, metadata.num_rows, metadata.num_row_groups, tokens=0, is_exact=True)
        if footer.rows < 0:
            raise BadShard(f"its footer has a negative number of rows: {footer.rows}")
        for group, columns in _groups(metadata):
            _add(footer, group, columns, limits)
        return footer


def _add(footer: Footer, group: Group, columns: dict[str, _Column], limits: Limits) -> None:
    ids = columns["input_ids"]
    footer.tokens += ids.values - (ids.nulls or 0)
    footer.is_exact &= ids.nulls is not None or ids.values == 0
    if len(footer.suspects) < MAX_SUSPECTS and (found := _certain_fault(group, columns, limits)):
        footer.suspects.append(Suspect(group, *found))


def check_columns(shard: "pq.ParquetFile") -> None:
    """Check that each required column is present once and is a list of integers. Raises BadColumns."""
    schema = shard.schema_arrow
    missing = [name for name in COLUMNS if name not in schema.names]
    if missing:
        found = ", ".join(printable(name) for name in schema.names[:10]) or "none"
        raise BadColumns(f"the column {missing[0]} is missing (columns found: {found})")
    for name in COLUMNS:
        if schema.names.count(name) > 1:
            raise BadColumns(f"the column {name} occurs more than once")
        kind = schema.field(name).type
        if not _is_list_of_numbers(kind, floats=name == "loss_mask"):
            raise BadColumns(f"the column {name} has the type {str(kind)[:100]}, not a list of integers")


def _is_list_of_numbers(kind: Any, *, floats: bool) -> bool:
    import pyarrow.types as types

    if not (types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)):
        return False
    item = kind.value_type
    # Bridge truncates mask values to integers, so floats and booleans are allowed.
    return bool(types.is_integer(item) or (floats and (types.is_boolean(item) or types.is_floating(item))))


# -- row groups ------------------------------------------------------------------------------------


def groups(metadata: Any) -> list[Group]:
    """Row groups of a shard, in file order."""
    return [group for group, _columns in _groups(metadata)]


def _groups(metadata: Any) -> Iterator[tuple[Group, dict[str, _Column]]]:
    places = _leaf_indexes(metadata.schema)
    first = 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        columns = {name: _column(group.column(place)) for name, place in places.items()}
        values = max(column.values for column in columns.values())
        yield Group(number, first, group.num_rows, values), columns
        first += group.num_rows


def _leaf_indexes(schema: Any) -> dict[str, int]:
    """Index of each required column's leaf among all leaf columns."""
    leaves = ((schema.column(place), place) for place in range(len(schema)))
    lists = {leaf.path.split(".")[0]: place for leaf, place in leaves if leaf.max_repetition_level == 1}
    return {name: lists[name] for name in COLUMNS}


def _column(chunk: Any) -> _Column:
    statistics = chunk.statistics
    if statistics is None:
        return _Column(chunk.num_values, None, None, None)
    nulls = statistics.null_count if statistics.has_null_count else None
    low, high = (statistics.min, statistics.max) if statistics.has_min_max else (None, None)
    return _Column(chunk.num_values, nulls, low, high)


def _certain_fault(group: Group, columns: dict[str, _Column], limits: Limits) -> tuple[FaultKind, str] | None:
    """A fault that some row of a group certainly has, or None. Statistics count empty lists as NULL."""
    ids, mask, starts = (columns[name] for name in COLUMNS)
    if ids.values != mask.values:
        return FaultKind.ROWS, f"loss_mask has {mask.values} entries for {ids.values} input_ids"
    if any(column.nulls for column in columns.values()):
        return FaultKind.ROWS, "a list is empty or NULL, or holds a NULL"
    if starts.low is not None and starts.low != 0:
        return FaultKind.ROWS, f"the smallest seq_start_id is {starts.low}, not 0"
    if limits.seq_length is not None and ids.values - starts.values > group.rows * limits.seq_length:
        return FaultKind.TOO_LONG, f"packs are too long for seq_length {limits.seq_length}"
    return _unknown_token(ids, limits)


def _unknown_token(ids: _Column, limits: Limits) -> tuple[FaultKind, str] | None:
    if ids.low is not None and ids.low < 0:
        return FaultKind.VOCABULARY, f"token id {ids.low} is negative"
    if limits.vocab_size is not None and ids.high is not None and ids.high >= limits.vocab_size:
        return FaultKind.VOCABULARY, not_in_vocabulary(ids.high, limits.vocab_size)
    return None


def not_in_vocabulary(token: object, vocab_size: int) -> str:
    return f"token id {token} is not in the vocabulary, which has {vocab_size} entries"
