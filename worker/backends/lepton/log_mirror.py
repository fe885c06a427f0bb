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
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path

from pydantic import BaseModel

from trainer import bounded_json
from trainer.events import PART_CHARACTERS
from trainer.run_layout import RunLayout
from worker.backends.access.local_files import LocalFiles
from worker.backends.lepton.client import Line

STATE = "mirror.json"

SECOND = 1_000_000_000
PAGE_LINES = 5000
# Limit of one task, so that a run that writes without end does not delay others.
MAX_PAGES = 20
# Parts of incomplete events that are kept: an event of 16 MiB has 4,400.
MAX_PARTS = 10_000
# How late a line of one replica may arrive after newer lines of another.
LOOKBACK_NS = 60 * SECOND
# While a run is alive, the newest lines wait for those of other replicas.
HOLD_NS = 2 * SECOND
# A repeated event is searched in so many last bytes of events.jsonl.
RECENT_BYTES = 1 << 18
# Allowance for different clocks.
MARGIN_NS = 3600 * SECOND

MARK = re.compile(r"SFT_EVENT (?=\{)|SFT_EVENT_PART (?P<name>\S{1,200}) (?P<number>\d{1,6})/(?P<of>\d{1,6}) ")
ENDINGS = ("finished", "stopped", "failed")

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
    parts: dict[str, dict[int, str]] = {}
    """Incomplete events: name -> number -> part."""
    quiet_since: float = 0.0
    """When lines last arrived, or when the run was first known to be over (local clock)."""
    is_over: bool = False
    swept: bool = False
    """Whether all events of the ended run were read a second time."""
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
        """Append new lines, at most MAX_PAGES.

        Return True if the run is over, and no line is left or arrived for settle_seconds.
        """
        self.layout.logs.mkdir(parents=True, exist_ok=True)
        with self._locked() as is_ours:
            # Do not wait for another worker's lock: that would block a thread of this worker.
            return is_ours and self._advance(is_over, settle_seconds)

    def _advance(self, is_over: bool, settle_seconds: float) -> bool:
        state = self._state()
        pages = self._append_pages(state, hold=not is_over)
        if pages or state.is_over != is_over:
            state.is_over, state.quiet_since = is_over, time.time()
            self._write(state)
        if not is_over or pages == MAX_PAGES or 0 <= time.time() - state.quiet_since < settle_seconds:
            return False
        self._sweep(state)
        return True

    def _append_pages(self, state: MirrorState, *, hold: bool) -> int:
        """Append new lines, and return how many pages they were."""
        for number in range(MAX_PAGES):
            lines = self._new_lines(state, hold=hold)
            if not lines:
                return number
            self._append_lines(state, lines)
        return MAX_PAGES

    @property
    def has_ended(self) -> bool:
        """Whether the run has logged its end."""
        return self.layout.end.exists()

    def add_events(self, text: bytes) -> None:
        """Append the events in `text` that the log does not have."""
        with self._locked() as is_ours:
            if is_ours:
                events = [
                    event
                    for line in text.splitlines()
                    for event in _event(line.decode(errors="replace"), 0)[0]
                ]
                self._append(self._state(), "", events, known=self._size(self.layout.events))

    # -- reading and appending ------------------------------------------------------------------

    def _new_lines(self, state: MirrorState, *, hold: bool) -> list[Line]:
        """Return the next lines that were not written yet, at most a page."""
        begin = max(state.newest_ns - LOOKBACK_NS, state.began_ns - MARGIN_NS)
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

    def _append_lines(self, state: MirrorState, lines: list[Line]) -> None:
        events = list(_events(lines, state.parts))
        state.newest_ns = max(state.newest_ns, lines[-1].at_ns)
        kept = [one for one in state.recent if int(one[:16], 16) >= state.newest_ns - LOOKBACK_NS]
        state.recent = kept + [_digest(line) for line in lines if line.at_ns >= state.newest_ns - LOOKBACK_NS]
        self._append(state, "".join(f"{line.text}\n" for line in lines), events, known=RECENT_BYTES)

    def _sweep(self, state: MirrorState) -> None:
        """Read all events of the run a second time, and append those that arrived after LOOKBACK_NS."""
        if state.swept:
            return
        begin, end = state.began_ns - MARGIN_NS, time.time_ns() + MARGIN_NS
        found: list[Line] = []
        while page := self._fetch(begin, end, PAGE_LINES, "SFT_EVENT"):
            found += page
            if len(page) < PAGE_LINES or page[-1].at_ns <= begin:
                break
            begin = page[-1].at_ns
        events = list(_events(_without_repeats(found), {}))
        self._append(state, "", events, known=self._size(self.layout.events))
        state.swept = True
        self._write(state)

    def _append(self, state: MirrorState, text: str, events: list[str], *, known: int) -> None:
        """known: events in so many last bytes of events.jsonl are not appended again."""
        written = {_identity(line) for line in self._last_events(known)}
        fresh = [line for line in dict.fromkeys(events) if _identity(line) not in written]
        added = {self.layout.log(): text, self.layout.events: "".join(f"{line}\n" for line in fresh)}
        state.adding = {self._name(path): (self._size(path), more) for path, more in added.items() if more}
        self._write(state)
        self._redo(state)

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

    def _last_events(self, size: int) -> list[str]:
        with _opened(self.layout.events) as descriptor:
            begin = max(0, os.fstat(descriptor).st_size - size)
            lines = os.pread(descriptor, size, begin).decode(errors="replace").split("\n")
        return [line for line in (lines[1:] if begin else lines) if line]

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


def _without_repeats(lines: list[Line]) -> list[Line]:
    return list({_digest(line): line for line in lines}.values())


def _events(lines: list[Line], parts: dict[str, dict[int, str]]) -> Iterator[str]:
    """Yield the trainer's events in the lines; `parts` holds the incomplete ones."""
    for line in lines:
        yield from _events_in(line.text, parts)


def _events_in(text: str, parts: dict[str, dict[int, str]]) -> Iterator[str]:
    """Yield the events in one line. Ranks share a log, so a line may have other output around events."""
    if _is_too_large(text):
        return
    at = 0
    while mark := MARK.search(text, at):
        at = mark.end()
        if mark["name"]:
            complete = _joined(mark, text[at : at + PART_CHARACTERS], parts)
            yield from _event(complete, 0)[0] if complete and not _is_too_large(complete) else ()
        else:
            found, at = _event(text, at)
            yield from found


def _is_too_large(text: str) -> bool:
    """Whether a text may hold more values than any event: see trainer/bounded_json.py."""
    return bounded_json.most_values_of(text) > bounded_json.MAX_VALUES


def _joined(mark: re.Match[str], piece: str, parts: dict[str, dict[int, str]]) -> str | None:
    """Add a part; return the complete event if no part is missing."""
    name = mark["name"]
    if sum(map(len, parts.values())) >= MAX_PARTS:
        del parts[next(iter(parts))]  # the oldest
    parts.setdefault(name, {})[int(mark["number"])] = piece
    if len(parts[name]) < int(mark["of"]):
        return None
    numbered = parts.pop(name)
    return "".join(numbered[number] for number in sorted(numbered))


def _event(text: str, at: int) -> tuple[list[str], int]:
    """Return the event that begins at `at`, if any, and where it ends."""
    with suppress(ValueError, RecursionError):
        found, end = json.JSONDecoder().raw_decode(text, at)
        if isinstance(found, dict) and "event" in found:
            return [json.dumps(found)], end
    return [], at


def _identity(event: str) -> tuple[str, str, str]:
    """Return the identity of an event: rank, sequence number and time."""
    found = json.loads(event)
    return str(found.get("rank")), str(found.get("seq")), str(found.get("at"))
