"""Read files whose paths come from a client: regular files only, bounded reads, every byte counted."""

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer import bounded_json, path_roots
from trainer.regular_files import open_regular

# A batch of rows takes far less. A Parquet page that needs more is corrupt or hostile.
MAX_READ = 64 << 20
MAX_JSON_BYTES = 16 << 20


class NotInspected(Exception):
    """An inspection would exceed its memory limit. The message names what is too large."""


@dataclass
class Meter:
    """Counts bytes read."""

    bytes_read: int = 0


class MeteredFile(io.FileIO):
    """A regular file. Raises OSError for any other, NotInspected for a read of over MAX_READ bytes."""

    def __init__(self, path: Path, meter: Meter) -> None:
        super().__init__(_open_in_roots(path))
        self._meter = meter

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > MAX_READ:
            raise NotInspected(f"a single read of {size} bytes is needed, and the limit is {MAX_READ}")
        data = super().read(size) or b""
        self._meter.bytes_read += len(data)
        return data


def _open_in_roots(path: Path) -> int:
    """Open a regular file of the roots."""
    path_roots.require(path)
    descriptor = open_regular(path)
    try:
        path_roots.require_open(descriptor, path)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def read_json(
    path: Path, meter: Meter, *, most_bytes: int = MAX_JSON_BYTES, most_values: int = bounded_json.MAX_VALUES
) -> Any:
    """Parse a JSON file. Raises OSError, and ValueError if it is not JSON or exceeds a limit."""
    with MeteredFile(path, meter) as file:
        text = file.read(most_bytes + 1)
    if len(text) > most_bytes:
        raise ValueError(f"it is longer than {most_bytes} bytes")
    return bounded_json.parse(text.decode(), most_values=most_values)
