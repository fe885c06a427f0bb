"""Read text files, compressed or not: JSON lines, and the encodings that are not read."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainer.dataset.files import Meter, MeteredFile
from trainer.packing.bad_records import RecordPlace
from trainer.packing.sources.files import CODECS
from trainer.packing.sources.source import MAX_RECORD, BadSource, RawRecord, SourceItem, too_long

CHUNK = 256 << 10
BOM = b"\xef\xbb\xbf"
WHITE_SPACE = b" \t\r\n"
"""Of JSON."""
# How files begin whose ending tells something else.
MAGIC = {b"\x1f\x8b": ".gz", b"\x28\xb5\x2f\xfd": ".zst", b"PAR1": ".parquet"}


@contextmanager
def opened(path: Path, name: str, meter: Meter) -> Iterator[io.BufferedReader]:
    """Open a text file behind its byte order mark; all members of a compressed file are one text.

    Raises OSError, also while reading, and BadSource for UTF-16 and for files with another file's ending.
    """
    with MeteredFile(path, meter) as file, _decompressed(file, path) as raw:
        text: io.BufferedReader = io.BufferedReader(raw, CHUNK)
        _require_text(text.peek(4)[:4], name)
        if text.peek(3)[:3] == BOM:
            text.read(3)
        yield text


@contextmanager
def _decompressed(file: MeteredFile, path: Path) -> Iterator[io.RawIOBase]:
    codec = CODECS.get(path.suffix.lower())
    if codec is None:
        yield file
        return
    import pyarrow as pa

    if file.seek(0, io.SEEK_END) == 0:
        raise OSError("the file is empty, which a compressed file never is")
    file.seek(0)
    with pa.CompressedInputStream(pa.PythonFile(file, mode="r"), codec) as stream:
        yield stream


def _require_text(head: bytes, name: str) -> None:
    for magic, ending in MAGIC.items():
        if head.startswith(magic):
            raise BadSource(f"{name} is a {ending} file with another ending. Rename it.")
    # JSON begins with an ASCII character, which has a zero byte in UTF-16 and UTF-32.
    if b"\0" in head:
        raise BadSource(
            f"{name} is not UTF-8 but UTF-16, or not text. Convert it: iconv -f UTF-16 -t UTF-8 OLD > NEW"
        )


def json_lines(text: io.BufferedReader, name: str) -> Iterator[SourceItem]:
    """Yield each line that is not empty. Only a line feed ends a line."""
    number = 0
    while line := text.readline(MAX_RECORD + 1):
        number += 1
        if len(line) > MAX_RECORD and not line.endswith(b"\n"):
            _skip_line(text)
            yield too_long(RecordPlace(name, number))
        elif record := line.strip(WHITE_SPACE):
            yield RawRecord(RecordPlace(name, number), record)


def _skip_line(text: io.BufferedReader) -> None:
    while (part := text.readline(CHUNK)) and not part.endswith(b"\n"):
        pass
