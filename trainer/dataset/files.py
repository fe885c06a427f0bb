"""Read files whose paths come from a client: regular files only, bounded reads, every byte counted."""

import io
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer import bounded_json, path_roots

# A batch of rows takes far less. A Parquet page that needs more is corrupt or hostile.
LARGEST_READ = 64 << 20
LARGEST_JSON = 16 << 20


class NotInspected(Exception):
    """An inspection would exceed its memory limit. The message names what is too large."""


@dataclass
class Meter:
    """Counts bytes read."""

    bytes_read: int = 0


class MeteredFile(io.FileIO):
    """A regular file. Raises OSError for any other, NotInspected for a read of over LARGEST_READ bytes."""

    def __init__(self, path: Path, meter: Meter) -> None:
        super().__init__(_open_regular(path))
        self._meter = meter

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > LARGEST_READ:
            raise NotInspected(f"a single read of {size} bytes is needed, and the limit is {LARGEST_READ}")
        data = super().read(size) or b""
        self._meter.bytes_read += len(data)
        return data


def _open_regular(path: Path) -> int:
    """Open without blocking: opening a pipe would wait for its writer, and a device may do anything."""
    path_roots.require(path)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        path_roots.require_open(descriptor, path)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError("it is not a regular file")
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def read_json(
    path: Path, meter: Meter, *, most_bytes: int = LARGEST_JSON, most_values: int = bounded_json.MOST_VALUES
) -> Any:
    """Parse a JSON file. Raises OSError, and ValueError if it is not JSON or exceeds a limit."""
    with MeteredFile(path, meter) as file:
        text = file.read(most_bytes + 1)
    if len(text) > most_bytes:
        raise ValueError(f"it is longer than {most_bytes} bytes")
    return bounded_json.parse(text.decode(), most_values=most_values)


def printable(path: Path | str) -> str:
    """Return a path or text with bytes that are not UTF-8 escaped."""
    return str(path).encode("utf-8", "backslashreplace").decode()
