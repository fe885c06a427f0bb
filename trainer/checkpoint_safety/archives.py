"""Inspect files of torch.save: zip archives of one pickle and the bytes of the tensors beside it.

Readers differ in what they take for the directory of a damaged zip file: Python's and the one in torch can
see different members. So only the layout that torch writes is accepted, to the byte: one directory at the
end, no comment, no compression, and no other members.
"""

import contextlib
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from trainer.checkpoint_safety.extra_state import scan_extra_state
from trainer.checkpoint_safety.pickles import MAX_PICKLE_BYTES, Hostile, Unreadable, scan
from trainer.quoting import shown

MAX_MEMBERS = 200_000
MAX_EXTRA_STATE_BYTES = 16 << 20

_FILE, _ENTRY = struct.Struct("<4s5H3L2H"), struct.Struct("<4s6H3L5H2L")
_END, _END64, _LOCATOR = struct.Struct("<4s4H2LH"), struct.Struct("<4sQ2H2L4Q"), struct.Struct("<4sLQL")
_ZIP64, _FULL = 1, 0xFFFFFFFF
_MEMBER = re.compile(
    r"[^/]+/(?P<name>data\.pkl|version|byteorder|\.format_version|\.storage_alignment|\.data/serialization_id|"
    r"data/[0-9]+)"
)


@dataclass(frozen=True)
class Span:
    """A part of a file: one object of torch.save."""

    file: IO[bytes]
    offset: int
    length: int

    def read(self, offset: int, length: int) -> bytes:
        """Read bytes inside of the span. Raises Hostile if it ends before."""
        if offset < 0 or length < 0 or offset + length > self.length:
            raise Unreadable("has a zip archive that points outside of itself, or is truncated")
        self.file.seek(self.offset + offset)
        data = self.file.read(length)
        if len(data) != length:
            raise Unreadable("is truncated")
        return data


def scan_archive(span: Span, allowed: frozenset[str], *, extra_state: bool = False) -> None:
    """Check the pickle of an archive. Raises Hostile.

    extra_state: whether Transformer Engine unpickles the tensors of the archive, too.
    """
    if span.length < _FILE.size or span.read(0, 4) != b"PK\x03\x04":
        with contextlib.suppress(Unreadable):
            scan(span.read(0, min(span.length, MAX_PICKLE_BYTES)), allowed)  # for a better message
        raise Unreadable("is not in torch's zip format; older formats cannot be inspected")
    members = dict(_members(span))
    if "data.pkl" not in members:
        raise Hostile("has no data.pkl")
    scan(
        _content(span, members["data.pkl"], MAX_PICKLE_BYTES),
        allowed,
        storages=True,
        complete_tensors=extra_state,
    )
    if extra_state:
        for name, place in members.items():
            if name.startswith("data/") and (content := _content(span, place, MAX_EXTRA_STATE_BYTES)):
                scan_extra_state(content)


Place = tuple[int, int]
"""Offset of a member's header, and the length of its content."""


def _members(span: Span) -> Iterator[tuple[str, Place]]:
    """Yield the members by the names that torch asks for. Raises Hostile."""
    count, offset, length = _directory(span)
    if count > MAX_MEMBERS or length > MAX_PICKLE_BYTES:
        raise Hostile(f"has a zip archive of {count} members; at most {MAX_MEMBERS} can be inspected")
    directory, roots, seen = span.read(offset, length), set[str](), set[str]()
    for name, place in _entries(directory, count):
        found = _MEMBER.fullmatch(name)
        if found is None or found["name"] in seen:
            raise Hostile(f"has a zip archive with the member {shown(name)}, which torch does not write")
        roots.add(name.partition("/")[0])
        seen.add(found["name"])
        yield found["name"], place
    if len(roots) != 1:
        raise Hostile("has a zip archive with several roots")


def _directory(span: Span) -> tuple[int, int, int]:
    """Number of members, offset and length of the directory, which ends where its end records begin."""
    end = span.length - _END.size
    magic, disk, first, here, count, length, offset, comment = _END.unpack(span.read(end, _END.size))
    if magic != b"PK\x05\x06" or comment or disk or first:
        raise Unreadable("has a zip archive that does not end with its directory")
    if end >= _LOCATOR.size + _END64.size:
        magic, _, place, _ = _LOCATOR.unpack(span.read(end - _LOCATOR.size, _LOCATOR.size))
        if magic == b"PK\x06\x07":
            end -= _LOCATOR.size + _END64.size
            magic, _, _, _, _, _, here, count, length, offset = _END64.unpack(span.read(end, _END64.size))
            if magic != b"PK\x06\x06" or place != end:
                raise Hostile("has a zip archive with two directories")
    if here != count or offset + length != end:
        raise Hostile("has a zip archive with a directory at another place than its end")
    return count, offset, length


def _entries(directory: bytes, count: int) -> Iterator[tuple[str, Place]]:
    """Yield the entries of a directory. Raises Hostile."""
    position = 0
    for _ in range(count):
        if position + _ENTRY.size > len(directory):
            raise Hostile("has a truncated zip directory")
        fields = _ENTRY.unpack_from(directory, position)
        magic, flags, method, packed, size = (fields[index] for index in (0, 3, 4, 8, 9))
        lengths = fields[10:13]
        begin = position + _ENTRY.size
        position = begin + sum(lengths)
        name, extra = directory[begin : begin + lengths[0]], directory[begin + lengths[0] :][: lengths[1]]
        if magic != b"PK\x01\x02" or flags & 0x41 or method or position > len(directory):
            raise Hostile("has a zip archive with compressed or encrypted members")
        yield name.decode("utf-8", "replace"), _place(packed, size, fields[16], extra)
    if position != len(directory):
        raise Hostile("has a zip directory with more than its entries")


def _place(packed: int, size: int, offset: int, extra: bytes) -> Place:
    """Resolve the sizes of an entry, which stand in an extra field if they are large (zip64)."""
    large = _large(extra)
    values = [next(large, -1) if value == _FULL else value for value in (size, packed, offset)]
    if -1 in values or values[0] != values[1]:
        raise Hostile("has a zip archive with members of unclear size")
    return values[2], values[0]


def _large(extra: bytes) -> Iterator[int]:
    """Yield the numbers of the zip64 extra field."""
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<2H", extra)
        if kind == _ZIP64:
            yield from (value for (value,) in struct.iter_unpack("<Q", extra[4 : 4 + length // 8 * 8]))
            return
        extra = extra[4 + length :]


def _content(span: Span, place: Place, limit: int) -> bytes:
    """Read the content of a member. Raises Hostile if it is larger than limit."""
    offset, length = place
    if length > limit:
        raise Hostile(f"has a member of {length} bytes; at most {limit} can be inspected")
    fields = _FILE.unpack(span.read(offset, _FILE.size))
    if fields[0] != b"PK\x03\x04":
        raise Hostile("has a zip archive whose directory points at no member")
    return span.read(offset + _FILE.size + fields[9] + fields[10], length)
