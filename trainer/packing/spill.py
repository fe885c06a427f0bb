"""Sequences in flat files of a scratch directory, until they are put into packs.

sequences       for each sequence its tokens as int32, then its mask as bytes
index           for each sequence two int32: the number of its record among those read, and its tokens
progress.json   what of the two is complete, replaced atomically after each shard of SHARD_RECORDS records

An interrupted packing resumes at the last complete shard. Bytes after it are dropped.
"""

import os
from array import array
from collections import Counter
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any, BinaryIO, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trainer.packing.bad_records import Tally
from trainer.packing.batches import Tokenized
from trainer.packing.scratch import write_synced

SHARD_RECORDS = 20_000
TOKEN_BYTES = 5
ENTRY_BYTES = 8
READ_ENTRIES = 1 << 12

SEQUENCES, INDEX, PROGRESS = "sequences", "index", "progress.json"


class SpillProgress(BaseModel):
    """What complete shards hold."""

    model_config = ConfigDict(strict=True)

    records: int = 0
    """Records that were read, good and bad."""
    sequence_bytes: int = 0
    counts: dict[str, int] = Field(default_factory=dict)
    bad: dict[str, Any] = Field(default_factory=dict)
    complete: bool = False
    """Whether all records were read."""
    day: date | None = None
    """What templates took for today."""


class Spill:
    """Writes sequences to a scratch directory, which it creates, or resumes."""

    def __init__(self, directory: Path, day: date | None = None) -> None:
        """day: what templates take for today, unless this resumes; by default today."""
        directory.mkdir(exist_ok=True)
        self._path = directory / PROGRESS
        done = _read(self._path)
        self.day = done.day or day or date.today()
        self.records, self.complete = done.records, done.complete
        self.counts, self.bad = Counter(done.counts), Tally.from_dict(done.bad)
        self._sequence_bytes, self._saved = done.sequence_bytes, done.records
        self._sequences = _open(directory / SEQUENCES, done.sequence_bytes)
        self._index = _open(directory / INDEX, done.counts.get("sequences", 0) * ENTRY_BYTES)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sequences.close()
        self._index.close()

    def add(self, batch: Tokenized) -> None:
        """Append the sequences of a batch, and complete a shard if there are enough records."""
        self._sequences.write(batch.data)
        first = self.records
        absolute = ((first + n if place % 2 == 0 else n) for place, n in enumerate(batch.index))
        self._index.write(array("i", absolute).tobytes())
        self.records += batch.records
        self._sequence_bytes += len(batch.data)
        self.counts.update(batch.counts)
        self.bad.merge(batch.bad)
        if self.records - self._saved >= SHARD_RECORDS:
            self.save()

    def finish(self) -> None:
        """Note that all records were read."""
        self.complete = True
        self.save()

    def save(self) -> None:
        """Make what was written so far survive an interruption."""
        for file in (self._sequences, self._index):
            file.flush()
            os.fsync(file.fileno())
        progress = SpillProgress(
            records=self.records, sequence_bytes=self._sequence_bytes, counts=dict(self.counts),
            bad=self.bad.as_dict(), complete=self.complete, day=self.day,
        )  # fmt: skip
        scratch = self._path.with_suffix(".new")
        write_synced(scratch, progress.model_dump_json().encode())
        scratch.replace(self._path)
        self._saved = self.records


def _read(path: Path) -> SpillProgress:
    try:
        return SpillProgress.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return SpillProgress()


def _open(path: Path, size: int) -> BinaryIO:
    path.touch()
    file = path.open("r+b")
    file.truncate(size)
    file.seek(size)
    return file


class Spilled:
    """Sequences of a complete spill by their number. Takes 8 bytes of memory for each."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ends = array("q", [0])
        for _record, tokens in self.entries():
            self._ends.append(self._ends[-1] + tokens)
        self._descriptor = os.open(directory / SEQUENCES, os.O_RDONLY | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def entries(self) -> Iterator[tuple[int, int]]:
        """Yield the number of the record and the tokens of each sequence."""
        with (self._directory / INDEX).open("rb") as file:
            while data := file.read(READ_ENTRIES * ENTRY_BYTES):
                numbers = memoryview(data).cast("i")
                yield from zip(numbers[::2], numbers[1::2], strict=True)

    def length(self, number: int) -> int:
        return self._ends[number + 1] - self._ends[number]

    def read(self, number: int) -> tuple[bytes, bytes]:
        """Return the tokens of a sequence as int32, and its mask as bytes."""
        tokens = self.length(number)
        size = tokens * TOKEN_BYTES
        data = os.pread(self._descriptor, size, self._ends[number] * TOKEN_BYTES)
        if len(data) != size:
            raise OSError(
                f"{self._directory / SEQUENCES} is too short. Remove {self._directory}, and pack again."
            )
        return data[: 4 * tokens], data[4 * tokens :]
