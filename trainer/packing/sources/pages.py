"""Read the headers of a Parquet file's pages, which tell what a page takes in memory. The footer need not.

Sizes and the format of headers: PageHeader of parquet.thrift in apache/parquet-format, as Thrift's compact
protocol writes it.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from trainer.dataset.files import MAX_READ, MeteredFile, NotInspected
from trainer.dataset.footers import BadShard

# Bytes. Statistics in a header make it long.
USUAL_HEADER, MAX_HEADER = 1 << 10, 64 << 10
MAX_DEPTH = 16
# Types of Thrift's compact protocol.
TRUE, FALSE, BYTE, DOUBLE, BINARY, LIST, SET, STRUCT = 1, 2, 3, 7, 8, 9, 10, 12
INTEGERS = (4, 5, 6)


def largest_page(file: MeteredFile, metadata: Any) -> int:
    """Return the bytes of the largest page, uncompressed.

    Raises NotInspected if a page exceeds MAX_READ, BadShard if there is no page where one should be.
    """
    largest = 0
    for group in range(metadata.num_row_groups):
        for column in range(metadata.num_columns):
            for size in _pages(file, metadata.row_group(group).column(column)):
                largest = max(largest, size)
    if largest > MAX_READ:
        raise NotInspected(f"it has a page of {largest} bytes, and the limit is {MAX_READ}")
    return largest


def _pages(file: MeteredFile, chunk: Any) -> Iterator[int]:
    """Yield the sizes of the pages of a column in a row group."""
    start = chunk.data_page_offset
    if chunk.has_dictionary_page and chunk.dictionary_page_offset:
        start = min(start, chunk.dictionary_page_offset)
    end = start + chunk.total_compressed_size
    while start < end:
        header = _header(file, start)
        yield header.size
        start += header.length + header.compressed


def _header(file: MeteredFile, start: int) -> "PageHeader":
    for length in (USUAL_HEADER, MAX_HEADER):
        file.seek(max(0, start))
        with suppress(IndexError, KeyError):
            header = _Reader(file.read(length)).header()
            if header.size >= 0 and header.compressed >= 0:
                return header
    raise BadShard("a page has no valid header")


@dataclass(frozen=True)
class PageHeader:
    """Bytes of a page uncompressed and compressed, and of its header."""

    size: int
    compressed: int
    length: int


class _Reader:
    """Reads Thrift's compact protocol, forward only. Raises IndexError at its end and for what it is not."""

    def __init__(self, content: bytes) -> None:
        self.content, self.at = content, 0

    def header(self) -> PageHeader:
        """Read the header of a page. Raises KeyError, too, if a size is missing."""
        fields = self._struct(0)
        return PageHeader(fields[2], fields[3], self.at)

    def _struct(self, depth: int) -> dict[int, int]:
        """Return the integers among the fields of a struct."""
        fields: dict[int, int] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._integer()
            kind = head & 15
            if kind in INTEGERS:
                fields[number] = self._integer()
            elif kind not in (TRUE, FALSE):  # their value is the type
                self._skip(kind, depth + 1)
        return fields

    def _skip(self, kind: int, depth: int) -> None:
        if kind in INTEGERS:
            self._integer()
        elif kind in (TRUE, FALSE, BYTE):
            self._byte()
        elif kind == DOUBLE:
            self.at += 8
        elif kind == BINARY:
            length = self._unsigned()
            self.at += length
        elif kind in (LIST, SET) and depth < MAX_DEPTH:
            self._skip_list(depth)
        elif kind == STRUCT and depth < MAX_DEPTH:
            self._struct(depth)
        else:
            raise IndexError(kind)

    def _skip_list(self, depth: int) -> None:
        head = self._byte()
        for _ in range(head >> 4 if head >> 4 < 15 else self._unsigned()):
            self._skip(head & 15, depth + 1)

    def _integer(self) -> int:
        value = self._unsigned()
        return (value >> 1) ^ -(value & 1)

    def _unsigned(self) -> int:
        value = shift = 0
        while (byte := self._byte()) & 128:
            value |= (byte & 127) << shift
            shift += 7
        return value | byte << shift

    def _byte(self) -> int:
        self.at += 1
        return self.content[self.at - 1]
