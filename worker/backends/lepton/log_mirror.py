"""Mirror an attempt from its replicas' logs: write the files that other backends read from the cluster.

    DIR/logs/job.log   all lines of all replicas, merged by time
    DIR/events.jsonl   the trainer's events in these lines (trainer/events.py)
    DIR/end.json       the first event that ends a run
    DIR/mirror.json    the mirror's position and the text being appended

mirror.json is a write-ahead record: after a crash the text is written again at the same offset, so that
nothing is duplicated and nothing is missing.
"""

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path

from pydantic import BaseModel

from trainer.run_layout import RunLayout
from worker.backends.access.local_files import LocalFiles
from worker.backends.lepton import log_events
from worker.backends.lepton.client import Line
from worker.settings import get_settings

STATE = "mirror.json"

SECOND = 1_000_000_000
PAGE_LINES = 5000
# Limit of one task, so that a run that writes without end does not delay others.
MAX_PAGES = 20
MAX_CALL_CHARACTERS = 1 << 26
MAX_LOG_BYTES = 1 << 30
# Events that decide a job's outcome have so much room beyond SFT_MAX_EVENT_BYTES_PER_ATTEMPT.
DECISIVE_BYTES = 1 << 26
# Lines that are known again if the log returns them. Where more come within LOOKBACK_NS, late lines are lost.
MAX_RECENT = 50_000
# How late a line of one replica may arrive after newer lines of another.
LOOKBACK_NS = 60 * SECOND
# While a run is alive, the newest lines wait for those of other replicas.
HOLD_NS = 2 * SECOND
# A repeated event is searched in so many last bytes of events.jsonl.
RECENT_BYTES = 1 << 18
# Allowance for different clocks.
MARGIN_NS = 3600 * SECOND

ENDINGS = ("finished", "stopped", "failed")
DECISIVE = ("checkpoint", *ENDINGS)
LOG_IS_FULL = "[The log is longer than the service keeps: further lines are dropped.]\n"

Fetch = Callable[[int, int, int, str], list[Line]]
"""(begin_ns, end_ns, limit, containing) -> the first `limit` lines in [begin, end), oldest first."""


class MirrorState(BaseModel):
    """The content of mirror.json."""

    began_ns: int
    """Start of the run."""
    newest_ns: int = 0
    """Time of the newest line that was written."""
    recent: list[str] = []
    """Digests of the written lines that the log may return again."""
    reads_from_ns: int = 0
    """Older lines are not read again: they are not in `recent` any more."""
    parts: log_events.Stored = {}
    quiet_since: float = 0.0
    """When lines last arrived, or when the run was first known to be over (local clock)."""
    is_over: bool = False
    swept: bool = False
    """Whether all events of the ended run were read a second time."""
    sweep_from_ns: int = 0
    """Where the second reading continues in the log; 0 before it begins."""
    sweep_offset: int = 0
    """Where it continues in events.jsonl: the end of the last event that it has met there."""
    sweep_parts: log_events.Stored = {}
    adding: dict[str, tuple[int, str]] = {}
    """File -> offset and text of the current append."""


class Mirror:
    """The mirrored files of one attempt."""

    def __init__(self, layout: RunLayout, fetch: Fetch, *, started: float) -> None:
        """started: seconds since 1970; no line is older than this minus MARGIN_NS."""
        self.layout = layout
        self._fetch = fetch
        self._started_ns = int(started) * SECOND

    def advance(self, *, is_over: bool, settle_seconds: float) -> bool:
        """Append new lines, at most MAX_PAGES and about MAX_CALL_CHARACTERS.

        Return True if the run is over, and no line is left or arrived for settle_seconds.
        """
        self.layout.logs.mkdir(parents=True, exist_ok=True)
        with self._locked() as is_ours:
            # Do not wait for another worker's lock: that would block a thread of this worker.
            return is_ours and self._advance(is_over, settle_seconds)

    def _advance(self, is_over: bool, settle_seconds: float) -> bool:
        state = self._state()
        is_complete = self._repeat(lambda: self._append_page(state, hold=not is_over))
        if state.is_over != is_over:
            state.is_over, state.quiet_since = is_over, time.time()
            self._write(state)
        if not is_over or not is_complete or 0 <= time.time() - state.quiet_since < settle_seconds:
            return False
        return state.swept or self._repeat(lambda: self._sweep_page(state))

    def _repeat(self, read_page: Callable[[], int | None]) -> bool:
        """Read pages within the limits of a call; return whether none is left.

        read_page: returns the characters of a page, None after the last.
        """
        characters = 0
        for _ in range(MAX_PAGES):
            if (more := read_page()) is None:
                return True
            characters += more
            if characters > MAX_CALL_CHARACTERS:
                break
        return False

    @property
    def has_ended(self) -> bool:
        """Whether the run has logged its end."""
        return self.layout.end.exists()

    def add_events(self, text: bytes) -> None:
        """Append the events in `text` that the log does not have."""
        with self._locked() as is_ours:
            if is_ours:
                events = list(log_events.of_file(text))
                self._append(self._state(), "", events, known=len(text) + RECENT_BYTES)

    # -- reading and appending ------------------------------------------------------------------

    def _new_lines(self, state: MirrorState, *, hold: bool) -> list[Line]:
        """Return the next lines that were not written yet, at most a page."""
        begin = max(state.newest_ns - LOOKBACK_NS, state.began_ns - MARGIN_NS, state.reads_from_ns)
        known = set(state.recent)
        end = time.time_ns() - HOLD_NS if hold else time.time_ns() + MARGIN_NS
        limit = PAGE_LINES
        while True:
            page = self._fetch(begin, end, limit, "")
            fresh = [line for line in _without_repeats(page) if _digest(line) not in known]
            if fresh or len(page) < limit:
                return fresh
            # All lines are known: read on, or read a larger page if all lines have the same time.
            last = page[-1].at_ns
            begin, limit = (last, PAGE_LINES) if last > begin else (begin, limit * 2)

    def _append_page(self, state: MirrorState, *, hold: bool) -> int | None:
        lines = self._new_lines(state, hold=hold)
        if not lines:
            return None
        state.quiet_since = time.time()
        self._append_lines(state, lines)
        return _characters(lines)

    def _append_lines(self, state: MirrorState, lines: list[Line]) -> None:
        events = list(log_events.in_lines((line.text for line in lines), state.parts))
        state.newest_ns = max(state.newest_ns, lines[-1].at_ns)
        self._remember(state, lines)
        self._append(state, "".join(f"{line.text}\n" for line in lines), events, known=RECENT_BYTES)

    def _remember(self, state: MirrorState, lines: list[Line]) -> None:
        """Add lines to `recent`, and remove what the log is not asked for again."""
        recent = sorted([*state.recent, *map(_digest, lines)])
        if len(recent) > MAX_RECENT:
            state.reads_from_ns = _at_ns(recent[-MAX_RECENT - 1]) + 1
        oldest = max(state.newest_ns - LOOKBACK_NS, state.reads_from_ns)
        state.recent = [one for one in recent if _at_ns(one) >= oldest]

    def _sweep_page(self, state: MirrorState) -> int | None:
        """Read a page of the run's events a second time, and append those that arrived after LOOKBACK_NS."""
        if state.swept:
            return None
        begin = state.sweep_from_ns or state.began_ns - MARGIN_NS
        page = self._fetch(begin, time.time_ns() + MARGIN_NS, PAGE_LINES, "SFT_EVENT")
        lines = _without_repeats(page)
        events = list(log_events.in_lines((line.text for line in lines), state.sweep_parts))
        missing = self._missing(state, events)
        state.swept = len(page) < PAGE_LINES or self._size(self.layout.events) >= _max_event_bytes()
        if state.swept:
            state.sweep_parts = {}
        else:
            state.sweep_from_ns = max(page[-1].at_ns, begin + 1)
        self._append(state, "", missing, known=RECENT_BYTES)
        return _characters(lines)

    def _missing(self, state: MirrorState, events: list[str]) -> list[str]:
        """Return the events that events.jsonl does not have about where the sweep is, and move on there.

        The file has the order of the log, but for lines that arrived late: one of these may be met up to
        RECENT_BYTES, and what a page lacks, too far ahead. Behind a larger distance an event may be appended
        a second time: it replaces its equal when it is stored.
        """
        begin = max(0, state.sweep_offset - 4 * RECENT_BYTES)
        size = state.sweep_offset - begin + sum(map(len, events)) + len(events) + RECENT_BYTES
        known = self._known(begin, size)
        found = [known[one] for one in map(log_events.identity, events) if one in known]
        state.sweep_offset = max([state.sweep_offset, *found])
        return [event for event in events if log_events.identity(event) not in known]

    def _append(self, state: MirrorState, text: str, events: list[str], *, known: int) -> None:
        """known: events in so many last bytes of events.jsonl are not appended again."""
        written = self._known(max(0, self._size(self.layout.events) - known), known)
        fresh = [line for line in dict.fromkeys(events) if log_events.identity(line) not in written]
        added = {self.layout.log(): self._within_log(text), self.layout.events: self._within_limit(fresh)}
        state.adding = {self._name(path): (self._size(path), more) for path, more in added.items() if more}
        self._write(state)
        self._redo(state)

    def _within_log(self, text: str) -> str:
        """Return what of a text job.log has room for; at its end the log says that it is full."""
        room = MAX_LOG_BYTES - self._size(self.layout.log())
        content = text.encode()
        if len(content) <= room:
            return text
        return f"{content[:room].decode(errors='replace')}\n{LOG_IS_FULL}" if room >= 0 else ""

    def _within_limit(self, events: list[str]) -> str:
        """Return the lines of the events that events.jsonl has room for."""
        size, kept = self._size(self.layout.events), []
        for event in events:
            more = DECISIVE_BYTES if json.loads(event).get("event") in DECISIVE else 0
            if size < _max_event_bytes() + more:
                kept.append(f"{event}\n")
                size += len(kept[-1])
        return "".join(kept)

    def _redo(self, state: MirrorState) -> None:
        """Write the recorded text at its offset. Idempotent."""
        for name, (offset, text) in state.adding.items():
            with _opened(self.layout.directory / name) as descriptor:
                _write_all(descriptor, text.encode(), offset)
        if events := state.adding.get(self._name(self.layout.events)):
            self._mark_end(events[1].splitlines())

    def _mark_end(self, events: list[str]) -> None:
        ending = [line for line in events if json.loads(line).get("event") in ENDINGS]
        if ending and not self.layout.end.exists():
            first = min(ending, key=lambda line: str(json.loads(line).get("at")))
            LocalFiles().create(self.layout.end, first.encode(), 0o644)

    # -- files ----------------------------------------------------------------------------------

    def _state(self) -> MirrorState:
        try:
            state = MirrorState.model_validate_json((self.layout.directory / STATE).read_bytes())
        except FileNotFoundError:
            return MirrorState(began_ns=self._started_ns)
        self._redo(state)
        return state

    def _write(self, state: MirrorState) -> None:
        LocalFiles().write(self.layout.directory / STATE, state.model_dump_json().encode())

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self.layout.directory))

    def _size(self, path: Path) -> int:
        return path.stat().st_size if path.exists() else 0

    def _known(self, begin: int, size: int) -> dict[tuple[str, str, str], int]:
        """Return the identities of the complete events in a piece of events.jsonl, and where they end."""
        with _opened(self.layout.events) as descriptor:
            content = os.pread(descriptor, size, begin)
        first = content.find(b"\n") + 1 if begin else 0
        known, end = {}, begin + first
        for line in content[first:].split(b"\n")[:-1]:
            end += len(line) + 1
            known[log_events.identity(line.decode(errors="replace"))] = end
        return known

    @contextmanager
    def _locked(self) -> Iterator[bool]:
        """Try to lock the mirror; yield whether it worked. The kernel releases a dead holder's lock."""
        with _opened(self.layout.directory / ".lock") as descriptor:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, content: bytes, offset: int) -> None:
    """Write at an offset. Raises OSError on a full disk, where a single write() may write a part only."""
    while content:
        written = os.pwrite(descriptor, content, offset)
        content, offset = content[written:], offset + written


def _digest(line: Line) -> str:
    """Return the identity of a line: its time in 16 hex digits, then a hash of replica and text."""
    rest = blake2b(f"{line.replica}\0{line.text}".encode(errors="replace"), digest_size=8)
    return f"{line.at_ns:016x}{rest.hexdigest()}"


def _at_ns(digest: str) -> int:
    return int(digest[:16], 16)


def _without_repeats(lines: list[Line]) -> list[Line]:
    return list({_digest(line): line for line in lines}.values())


def _characters(lines: list[Line]) -> int:
    return sum(len(line.text) for line in lines)


def _max_event_bytes() -> int:
    return get_settings().max_event_bytes_per_attempt
