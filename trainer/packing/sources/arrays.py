"""Read the elements of a JSON array one by one, so that its length does not matter.

Elements are separated by counting brackets outside of strings. Whether an element is JSON is checked later,
with the records of other files.
"""

import io
import re
from collections.abc import Iterator

from trainer.packing.bad_records import RecordPlace
from trainer.packing.sources.lines import CHUNK, WHITE_SPACE
from trainer.packing.sources.source import MAX_RECORD, BadSource, RawRecord, SourceItem, too_long

# Possessive, so that matching never goes back.
REST_OF_STRING = re.compile(rb'(?:[^"\\]++|\\.)*+"', re.DOTALL)
OUTSIDE = re.compile(rb'[^"\[\]{},]*+(?:"(?:[^"\\]++|\\.)*+"[^"\[\]{},]*+)*+', re.DOTALL)
DEPTH = {b"[": 1, b"{": 1, b"]": -1, b"}": -1}


def is_array(text: io.BufferedReader) -> bool:
    return text.peek(CHUNK).lstrip(WHITE_SPACE).startswith(b"[")


def elements(text: io.BufferedReader, name: str) -> Iterator[SourceItem]:
    """Yield the elements of an array. Raises BadSource where it does not end as an array does."""
    number = 0
    for element in _elements(_pieces(text), name):
        if len(element) > MAX_RECORD:
            number += 1
            yield too_long(RecordPlace(name, number))
        elif record := element.strip(WHITE_SPACE):
            number += 1
            yield RawRecord(RecordPlace(name, number), bytes(record))


def _elements(pieces: Iterator[tuple[bytes, bytes]], name: str) -> Iterator[bytearray]:
    """Join pieces to elements. Those over MAX_RECORD bytes are cut behind it."""
    depth, element = 0, bytearray()
    for piece, mark in pieces:
        depth += DEPTH.get(mark, 0)
        is_bracket = depth == 1 and mark == b"["
        is_end = depth == 0 or (depth == 1 and mark == b",")
        if len(element) <= MAX_RECORD and not is_bracket:
            element += piece if is_end or not mark else piece + mark
        if is_end:
            yield element
            element = bytearray()
        if depth == 0:
            _require_end(mark, pieces, name)
            return
    raise BadSource(f"{name} ends inside its JSON array. Check that the file is complete.")


def _require_end(mark: bytes, pieces: Iterator[tuple[bytes, bytes]], name: str) -> None:
    rest = next((piece + mark for piece, mark in pieces if mark or piece.strip(WHITE_SPACE)), b"")
    if mark != b"]" or rest:
        raise BadSource(
            f"{name} is not one JSON array: something follows its end. Write one array, or JSON lines."
        )


def _pieces(text: io.BufferedReader) -> Iterator[tuple[bytes, bytes]]:
    """Split JSON text at each bracket, brace and comma outside of strings, and where a chunk ends.

    Yields what stands before the mark, and the mark, which is empty at the end of a chunk.
    """
    in_string, carried = False, b""
    while chunk := text.read(CHUNK):
        chunk = carried + chunk
        # A backslash stays together with what it escapes.
        complete = len(chunk) - (len(chunk) - len(chunk.rstrip(b"\\"))) % 2
        chunk, carried = chunk[:complete], chunk[complete:]
        start = 0
        while start < complete:
            end, in_string = _next_mark(chunk, start, in_string)
            yield chunk[start:end], chunk[end : end + 1]
            start = end + 1


def _next_mark(chunk: bytes, start: int, in_string: bool) -> tuple[int, bool]:
    """Return the place of the next mark, or the chunk's end, and whether the chunk ends inside a string."""
    if in_string:
        rest = REST_OF_STRING.match(chunk, start)
        if rest is None:
            return len(chunk), True
        start = rest.end()
    outside = OUTSIDE.match(chunk, start)
    assert outside is not None  # it matches nothing, too
    end = outside.end()
    return (len(chunk), True) if chunk[end : end + 1] == b'"' else (end, False)
