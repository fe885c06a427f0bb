"""Files of chat records, and what is read of them."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from trainer.packing.sources import RawRecord, find, records
from trainer.packing.sources.source import MAX_RECORD

BOM = b"\xef\xbb\xbf"
TOO_LONG = b'{"text": "' + b"x" * MAX_RECORD + b'"}'


def read(*texts: Path | str) -> list[Any]:
    """Return (number, JSON value or reason) of each record."""
    return [
        (item.place.number, json.loads(item.data) if isinstance(item.data, bytes) else item.data)
        if isinstance(item, RawRecord)
        else (item.place.number, item.error.reason)
        for item in records(find(map(str, texts)))
    ]


def values(*texts: Path | str) -> list[Any]:
    return [value for _number, value in read(*texts)]


def zstd(content: bytes) -> bytes:
    compressed: bytes = pa.compress(content, codec="zstd", asbytes=True)
    return compressed


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    compress = {".gz": gzip.compress, ".zst": zstd}.get(path.suffix)
    path.write_bytes(compress(content) if compress else content)
    return path
