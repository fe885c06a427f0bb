"""Reading files that somebody else names: regular ones, as much as was meant, and every byte counted."""

import io
import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# A single batch of rows takes far less; a page that asks for more is no sane one.
LARGEST_READ = 64 << 20
LARGEST_JSON = 64 << 20


class NotLookedAt(Exception):
    """It would take more memory than is given to it; says what is too large."""


@dataclass
class Meter:
    """Counts the bytes that were read."""

    bytes_read: int = 0


class MeteredFile(io.FileIO):
    """A regular file. Raises OSError for anything else, NotLookedAt for a read beyond `LARGEST_READ`."""

    def __init__(self, path: Path, meter: Meter) -> None:
        super().__init__(path, opener=_open_regular)
        self._meter = meter

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > LARGEST_READ:
            raise NotLookedAt(f"{size} bytes would have to be read at once")
        data = super().read(size) or b""
        self._meter.bytes_read += len(data)
        return data


def _open_regular(path: str, flags: int) -> int:
    """Opening a pipe would wait for its writer, and a device may do anything."""
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError("it is no regular file")
    return descriptor


def read_json(path: Path, meter: Meter) -> Any:
    """A file of JSON. Raises OSError, and ValueError for what is none or too long."""
    with MeteredFile(path, meter) as file:
        text = file.read(LARGEST_JSON).decode()
        if file.read(1):
            raise ValueError(f"it is longer than {LARGEST_JSON} bytes")
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def shown(path: Path | str) -> str:
    """A path or text as it can be shown: what is no UTF-8 is escaped."""
    return str(path).encode("utf-8", "backslashreplace").decode()
