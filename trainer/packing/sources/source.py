"""What a source is, what it yields, and the error of a source that cannot be read at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.dataset.files import NotInspected
from trainer.dataset.footers import parquet_errors
from trainer.packing.bad_records import BadReason, BadRecord, RecordPlace
from trainer.path_roots import OutsideRoots
from trainer.quoting import printable

HUB = "hf://"
MAX_RECORD = 16 << 20
"""Bytes. A longer record is a bad record."""
MAX_REASON = 300

RecordData = bytes | dict[str, Any]
"""One JSON text, or a row of a table without its NULL fields."""


class BadSource(ValueError):
    """A source cannot be read, or not to its end. The message names the source, and what to do."""


@dataclass(frozen=True)
class Source:
    """A file, or a dataset of the Hugging Face hub."""

    location: str
    """Path of a file, or hf://owner/name."""
    weight: float = 1.0
    """How often each record is read. 1.5: once, and half of the records twice."""
    subset: str | None = None
    split: str | None = None
    revision: str | None = None
    """Commit of a dataset of the hub; None: the newest."""

    @property
    def name(self) -> str:
        """Return the location, printable."""
        return printable(self.location)

    @property
    def is_hub(self) -> bool:
        return self.location.startswith(HUB)

    @property
    def path(self) -> Path:
        """Return the path of a file."""
        return Path(self.location)


@dataclass(frozen=True)
class RawRecord:
    """A record that has not been checked."""

    place: RecordPlace
    data: RecordData


@dataclass(frozen=True)
class UnreadableRecord:
    """A record that cannot be read, although others of its source can."""

    place: RecordPlace
    error: BadRecord


SourceItem = RawRecord | UnreadableRecord
"""What reading yields."""


def too_long(place: RecordPlace) -> UnreadableRecord:
    message = f"The record is longer than {MAX_RECORD >> 20} MiB. Split or remove it."
    return UnreadableRecord(place, BadRecord(BadReason.TOO_LONG, message))


@contextmanager
def as_bad_source(name: str) -> Iterator[None]:
    """Raise BadSource for errors of reading a file or directory."""
    errors: tuple[type[Exception], ...] = (NotInspected, *parquet_errors())
    try:
        yield
    except BadSource:
        raise
    except OutsideRoots:
        raise BadSource(
            f"{name} leads out of the paths that the cluster allows. Put the file itself, not a link to it, "
            "below one of the profile's roots."
        ) from None
    except errors as error:
        raise BadSource(f"{name} cannot be read: {reason_of(error)}. {_advice(error)}") from None


def reason_of(error: Exception) -> str:
    """Return the first line of an error's message, without a period; of one without a message its class."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines()
    return printable(lines[0] if lines else type(error).__name__)[:MAX_REASON].rstrip(". ")


def _advice(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        return "Check the path and its permissions."
    if isinstance(error, NotInspected):
        return "Write it with smaller row groups and pages (pyarrow: write_batch_size=16), or as JSON lines."
    return "Check that it is complete, or write it again."
