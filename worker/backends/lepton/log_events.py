"""The trainer's events in the lines of a log (trainer/events.py)."""

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress

from trainer import bounded_json
from trainer.events import PART_CHARACTERS

# Parts of incomplete events that are kept: an event of 16 MiB has 4,400.
MAX_PARTS = 10_000
MAX_PARTS_CHARACTERS = 1 << 25

MARK = re.compile(r"SFT_EVENT (?=\{)|SFT_EVENT_PART (?P<name>\S{1,200}) (?P<number>\d{1,6})/(?P<of>\d{1,6}) ")

Stored = dict[str, dict[int, str]]
"""Incomplete events: name -> number -> part."""


class Parts:
    """Parts of incomplete events, limited in number and in characters: the oldest event makes room."""

    def __init__(self, stored: Stored) -> None:
        """stored: is changed in place."""
        self._stored = stored
        self._number = sum(map(len, stored.values()))
        self._characters = sum(_characters(parts) for parts in stored.values())

    def add(self, mark: re.Match[str], piece: str) -> str | None:
        """Add a part; return the complete event if no part is missing."""
        name, number = mark["name"], int(mark["number"])
        if number in self._stored.get(name, {}):
            return None
        while self._stored and not self._has_room(piece):
            self._take(next(iter(self._stored)))
        parts = self._stored.setdefault(name, {})
        parts[number] = piece
        self._number, self._characters = self._number + 1, self._characters + len(piece)
        if len(parts) < int(mark["of"]):
            return None
        self._take(name)
        return "".join(parts[number] for number in sorted(parts))

    def _has_room(self, piece: str) -> bool:
        return self._number < MAX_PARTS and self._characters + len(piece) <= MAX_PARTS_CHARACTERS

    def _take(self, name: str) -> None:
        parts = self._stored.pop(name)
        self._number, self._characters = self._number - len(parts), self._characters - _characters(parts)


def _characters(parts: dict[int, str]) -> int:
    return sum(map(len, parts.values()))


def in_lines(texts: Iterable[str], stored: Stored) -> Iterator[str]:
    """Yield the events in lines; `stored` holds the incomplete ones, and is changed."""
    parts = Parts(stored)
    for text in texts:
        yield from _in_line(text, parts)


def of_file(content: bytes) -> Iterator[str]:
    """Yield the events of a file that has one a line."""
    for line in content.splitlines():
        yield from _event(line.decode(errors="replace"), 0)[0]


def _in_line(text: str, parts: Parts) -> Iterator[str]:
    """Yield the events in one line. Ranks share a log, so a line may have other output around events.

    It has one part at most: the trainer writes each part with the end of its line in one write.
    """
    if _is_too_large(text):
        return
    at, has_part = 0, False
    while mark := MARK.search(text, at):
        at = mark.end()
        if not mark["name"]:
            found, at = _event(text, at)
            yield from found
        elif not has_part:
            has_part = True
            complete = parts.add(mark, text[at : at + PART_CHARACTERS])
            yield from _event(complete, 0)[0] if complete and not _is_too_large(complete) else ()


def _is_too_large(text: str) -> bool:
    """Whether a text may hold more values than any event: see trainer/bounded_json.py."""
    return bounded_json.most_values_of(text) > bounded_json.MAX_VALUES


def _event(text: str, at: int) -> tuple[list[str], int]:
    """Return the event that begins at `at`, if any, and where it ends."""
    with suppress(ValueError, RecursionError):
        found, end = json.JSONDecoder().raw_decode(text, at)
        if isinstance(found, dict) and "event" in found:
            return [json.dumps(found)], end
    return [], at


def identity(event: str) -> tuple[str, str, str]:
    """Return the identity of an event: rank, sequence number and time."""
    found = json.loads(event)
    return str(found.get("rank")), str(found.get("seq")), str(found.get("at"))
