"""A whole dataset in numbers, and its faults: footers of all shards first, then rows of some of them, or all.

Memory is bounded whatever the size: one batch of rows is held at a time.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.dataset.faults import Faults, Kind
from trainer.dataset.files import Meter, NotLookedAt, shown
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
from trainer.dataset.rows import Batch, look
from trainer.dataset.sample import Choice, choose

if TYPE_CHECKING:
    import pyarrow.parquet as pq

# About so many values of each column are in memory at a time.
BATCH_VALUES = 1 << 19
BATCH_ROWS = 4096
# Longer ones are not read; none is meant to be.
LARGEST_ROW = 2 << 20


@dataclass
class Split:
    """What the footers of a split's shards say."""

    shards: int
    rows: int = 0
    tokens: int = 0


@dataclass
class Inspection:
    """What is known about a dataset. Counts of rows read are those of all splits together."""

    splits: dict[str, Split]
    tokens_exact: bool = True
    rows_read: int = 0
    sequences_read: int = 0
    tokens_read: int = 0
    trained_tokens: int = 0
    longest_pack: int = 0
    meter: Meter = field(default_factory=Meter)
    faults: Faults = field(default_factory=Faults)
    unread_shards: int = 0
    """Shards whose footers were not read, or could not be: rows and tokens lack theirs."""

    @classmethod
    def of(cls, shards: Shards) -> "Inspection":
        """Of shards that were not looked at yet."""
        splits = {name: Split(len(files)) for name, files in shards.splits.items()}
        return cls(splits, unread_shards=sum(split.shards for split in splits.values()))

    @property
    def trained_token_share(self) -> float | None:
        """Of the rows read; None where none were."""
        return min(1.0, self.trained_tokens / self.tokens_read) if self.tokens_read else None

    @property
    def records(self) -> int | None:
        """Conversations to train on, counted in the rows read; None where none were."""
        if not self.rows_read or "train" not in self.splits:
            return None
        return round(self.sequences_read / self.rows_read * self.splits["train"].rows)

    @property
    def rows(self) -> int:
        return sum(split.rows for split in self.splits.values())


class _OutOfTime(Exception):
    """The time that an inspection may take is over."""


def inspect(shards: Shards, limits: Limits, found: Inspection, *, full: bool, seconds: float) -> None:
    """Look at a dataset, and add to `found`. Nothing is raised, whatever is wrong: that is in its `faults`.

    full: read every row, not a sample.
    seconds: what is not looked at by then is left, and a fault says so.
    """
    inspector = _Inspector(shards, limits, found, time.monotonic() + seconds)
    try:
        inspector.read_footers()
        inspector.read_rows(full=full)
    except _OutOfTime:
        inspector.stop(seconds)
    inspector.conclude()


class _Inspector:
    """One inspection as it goes on."""

    def __init__(self, shards: Shards, limits: Limits, found: Inspection, deadline: float) -> None:
        self.shards, self.limits, self.found, self.deadline = shards, limits, found, deadline
        self.footers: list[Footer] = []
        self.errors = parquet_errors()

    def read_footers(self) -> None:
        for name, files in self.shards.splits.items():
            for path in files:
                with self._noted(path):
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
            with self._noted(choice.footer.path):
                self._read(choice)

    def _read(self, choice: Choice) -> None:
        with open_shard(choice.footer.path, self.found.meter) as shard:
            for group in groups(shard.metadata):
                if group.rows and (choice.groups is None or group.number in choice.groups):
                    self._read_group(shard, choice.footer.path, group, choice.tokens)

    def _read_group(self, shard: "pq.ParquetFile", path: Path, group: Group, tokens: int | None) -> None:
        """The first `tokens` of a row group, or all of it."""
        if group.mean > LARGEST_ROW:
            raise NotLookedAt(f"its packs have {group.mean} tokens on average")
        wanted = group.rows if tokens is None else max(1, tokens // max(1, group.mean))
        size = min(BATCH_ROWS, wanted, max(1, BATCH_VALUES // max(1, group.mean)))
        row = group.first_row
        for batch in shard.iter_batches(size, [group.number], list(COLUMNS), use_threads=False):
            self._add(path, row, look(batch, self.limits))
            row += batch.num_rows
            self._check_time()
            if row - group.first_row >= wanted:
                break

    def _add(self, path: Path, first_row: int, batch: Batch) -> None:
        found = self.found
        found.rows_read += batch.rows
        found.sequences_read += batch.sequences
        found.tokens_read += batch.tokens
        found.trained_tokens += batch.trained
        found.longest_pack = max(found.longest_pack, batch.longest)
        for bad in batch.bad:
            where = f"{shown(path)}, row {first_row + bad.row}"
            found.faults.add(bad.kind, bad.what, f"{where}: {bad.detail}.", bad.count)

    def stop(self, seconds: float) -> None:
        found = self.found
        what = f"{found.rows_read} of {found.rows} rows"
        if found.unread_shards:
            what = f"the footers of {len(self.footers)} shards"
        message = f"After {seconds:g} s only {what} had been looked at."
        found.faults.add(Kind.UNSEEN, "time", message)

    def conclude(self) -> None:
        """What the footers alone say."""
        found = self.found
        for footer in self.footers:
            for suspect in footer.suspects:
                if not found.faults.has(suspect.kind):  # else the row is named
                    where = f"{shown(footer.path)}, {suspect.group.named_rows}"
                    found.faults.add(suspect.kind, "group", f"{where}: {suspect.detail}.")
        if not found.unread_shards:
            for name, split in found.splits.items():
                if split.rows == 0:
                    message = f"The packed data for {name} has no rows: {shown(self.shards.source)}."
                    found.faults.add(Kind.EMPTY, name, message)

    def _check_time(self) -> None:
        if time.monotonic() > self.deadline:
            raise _OutOfTime

    @contextmanager
    def _noted(self, path: Path) -> Iterator[None]:
        """What goes wrong with a shard is a fault of it. Raises _OutOfTime."""
        self._check_time()
        try:
            yield
        except BadColumns as error:
            self.found.faults.add(Kind.COLUMNS, "", f"{shown(path)}: {error}.")
        except NotLookedAt as error:
            self.found.faults.add(Kind.UNSEEN, "size", f"{shown(path)} was not looked into: {error}.")
        except self.errors as error:
            self.found.faults.add(*_broken(path, error))


def _broken(path: Path, error: Exception) -> tuple[Kind, str, str]:
    """A shard that cannot be read: of the system's errors only some mean that it is no data."""
    if isinstance(error, OSError) and error.errno is not None:
        kind = Kind.UNREADABLE if error.errno in ABSENT else Kind.UNSEEN
        return kind, "system", f"{shown(path)} cannot be read: {error.strerror}."
    words = shown(str(error)).strip().splitlines()
    reason = (words[0] if words else type(error).__name__)[:300].rstrip(".")
    return Kind.UNREADABLE, "", f"{shown(path)} cannot be read as packed data: {reason}."
