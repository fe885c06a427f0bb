"""Inspect a dataset: first the footers of all shards, then all rows or a sample of them.

Memory is bounded for any size of dataset: one batch of rows is in memory at a time.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.dataset.faults import DataFaults, FaultKind
from trainer.dataset.files import Meter, NotInspected
from trainer.dataset.footers import (
    COLUMNS,
    BadColumns,
    Footer,
    Group,
    Limits,
    groups,
    open_shard,
    parquet_errors,
    read_footer,
)  # fmt: skip
from trainer.dataset.layout import ABSENT, Shards
from trainer.dataset.masks import MaskCounts
from trainer.dataset.rows import MAX_PACK_TOKENS, BatchSummary, inspect_batch
from trainer.dataset.sample import Choice, choose
from trainer.quoting import printable

if TYPE_CHECKING:
    import pyarrow.parquet as pq

# Approximate number of values of each column in memory at a time.
BATCH_VALUES = 1 << 19
BATCH_ROWS = 4096


@dataclass
class Split:
    """Counts from the footers of a split's shards."""

    shards: int
    rows: int = 0
    tokens: int = 0


@dataclass
class Inspection:
    """Counts and faults of a dataset. Counts of rows read are totals over all splits."""

    splits: dict[str, Split]
    tokens_exact: bool = True
    rows_read: int = 0
    sequences_read: int = 0
    tokens_read: int = 0
    trained_tokens: int = 0
    longest_pack: int = 0
    masks: MaskCounts = field(default_factory=MaskCounts)
    meter: Meter = field(default_factory=Meter)
    faults: DataFaults = field(default_factory=DataFaults)
    unread_shards: int = 0
    """Shards whose footers were not read. Their rows and tokens are not counted."""

    @classmethod
    def of(cls, shards: Shards) -> "Inspection":
        """Start the inspection of shards, none of which has been read."""
        splits = {name: Split(len(files)) for name, files in shards.splits.items()}
        return cls(splits, unread_shards=sum(split.shards for split in splits.values()))

    @property
    def trained_token_share(self) -> float | None:
        """Share of trained tokens in the rows read; None if no row was read."""
        return min(1.0, self.trained_tokens / self.tokens_read) if self.tokens_read else None

    @property
    def records(self) -> int | None:
        """Training conversations, estimated from the rows read; None if no row was read."""
        if not self.rows_read or "train" not in self.splits:
            return None
        return round(self.sequences_read / self.rows_read * self.splits["train"].rows)

    @property
    def rows(self) -> int:
        return sum(split.rows for split in self.splits.values())


class _OutOfTime(Exception):
    """The inspection has reached its time limit."""


def inspect(shards: Shards, limits: Limits, found: Inspection, *, full: bool, seconds: float) -> None:
    """Inspect a dataset and add the results to `found`. Errors are added to its `faults`, not raised.

    full: read every row instead of a sample.
    seconds: time limit. What was not inspected by then is skipped, and a fault says so.
    """
    inspector = _Inspector(shards, limits, found, time.monotonic() + seconds)
    try:
        inspector.read_footers()
        inspector.read_rows(full=full)
    except _OutOfTime:
        inspector.add_timeout(seconds)
    inspector.add_footer_faults()


class _Inspector:
    """An inspection in progress."""

    def __init__(self, shards: Shards, limits: Limits, found: Inspection, deadline: float) -> None:
        self.shards, self.limits, self.found, self.deadline = shards, limits, found, deadline
        self.footers: list[Footer] = []
        self.errors = parquet_errors()

    def read_footers(self) -> None:
        for name, files in self.shards.splits.items():
            for path in files:
                with self._faults_recorded(path):
                    self._add_footer(self.found.splits[name], path)

    def _add_footer(self, split: Split, path: Path) -> None:
        footer = read_footer(path, self.limits, self.found.meter)
        split.rows += footer.rows
        split.tokens += footer.tokens
        self.found.tokens_exact &= footer.is_exact
        self.found.unread_shards -= 1
        self.footers.append(footer)

    def read_rows(self, *, full: bool) -> None:
        for choice in choose(self.footers, full=full):
            with self._faults_recorded(choice.footer.path):
                self._read(choice)

    def _read(self, choice: Choice) -> None:
        with open_shard(choice.footer.path, self.found.meter) as shard:
            for group in groups(shard.metadata):
                if group.rows and (choice.groups is None or group.number in choice.groups):
                    self._read_group(shard, choice.footer.path, group, choice.tokens)

    def _read_group(self, shard: "pq.ParquetFile", path: Path, group: Group, tokens: int | None) -> None:
        """Read the first `tokens` of a row group, or the complete group."""
        if group.mean > MAX_PACK_TOKENS:
            raise NotInspected(
                f"its packs have {group.mean} tokens on average; the limit is {MAX_PACK_TOKENS}"
            )
        wanted = group.rows if tokens is None else max(1, tokens // max(1, group.mean))
        size = min(BATCH_ROWS, wanted, max(1, BATCH_VALUES // max(1, group.mean)))
        row = group.first_row
        for batch in shard.iter_batches(size, [group.number], list(COLUMNS), use_threads=False):
            self._add(path, row, inspect_batch(batch, self.limits))
            row += batch.num_rows
            self._check_time()
            if row - group.first_row >= wanted:
                break

    def _add(self, path: Path, first_row: int, batch: BatchSummary) -> None:
        found = self.found
        found.rows_read += batch.rows
        found.sequences_read += batch.sequences
        found.tokens_read += batch.tokens
        found.trained_tokens += batch.trained
        found.longest_pack = max(found.longest_pack, batch.longest)
        found.masks += batch.masks.placed(printable(path), first_row)
        for bad in batch.bad:
            where = f"{printable(path)}, row {first_row + bad.row}"
            found.faults.add(bad.kind, bad.key, f"{where}: {bad.detail}.", bad.count)

    def add_timeout(self, seconds: float) -> None:
        """Add a fault that says how much was inspected before the time limit."""
        found = self.found
        inspected = f"{found.rows_read} of {found.rows} rows"
        if found.unread_shards:
            inspected = f"the footers of {len(self.footers)} shards"
        message = f"Only {inspected} could be inspected within the time limit of {seconds:g} s."
        found.faults.add(FaultKind.NOT_INSPECTED, "time", message)

    def add_footer_faults(self) -> None:
        """Add faults that only the footers show."""
        found = self.found
        for footer in self.footers:
            for suspect in footer.suspects:
                if not found.faults.has(suspect.kind):  # else a fault that names the row exists
                    where = f"{printable(footer.path)}, {suspect.group.named_rows}"
                    found.faults.add(suspect.kind, "group", f"{where}: {suspect.detail}.")
        if not found.unread_shards:
            for name, split in found.splits.items():
                if split.rows == 0:
                    message = f"The packed data for {name} has no rows: {printable(self.shards.source)}."
                    found.faults.add(FaultKind.EMPTY, name, message)

    def _check_time(self) -> None:
        if time.monotonic() > self.deadline:
            raise _OutOfTime

    @contextmanager
    def _faults_recorded(self, path: Path) -> Iterator[None]:
        """Turn exceptions from reading a shard into faults. Raises _OutOfTime."""
        self._check_time()
        try:
            yield
        except BadColumns as error:
            self.found.faults.add(FaultKind.COLUMNS, "", f"{printable(path)}: {error}.")
        except NotInspected as error:
            self.found.faults.add(
                FaultKind.NOT_INSPECTED, "size", f"{printable(path)} was not inspected: {error}."
            )
        except self.errors as error:
            self.found.faults.add(*_broken(path, error))


def _broken(path: Path, error: Exception) -> tuple[FaultKind, str, str]:
    """Describe an unreadable shard. Of the system errors only those in ABSENT mean that there is no data."""
    if isinstance(error, OSError) and error.errno is not None:
        kind = FaultKind.UNREADABLE if error.errno in ABSENT else FaultKind.NOT_INSPECTED
        return kind, "system", f"{printable(path)} cannot be read: {error.strerror}."
    lines = str(error).strip().splitlines()
    reason = printable(lines[0] if lines else type(error).__name__)[:300].rstrip(".")
    return FaultKind.UNREADABLE, "", f"{printable(path)} cannot be read as packed data: {reason}."
