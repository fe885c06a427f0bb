"""What an attempt's replicas have printed, as the files that the service reads elsewhere.

    DIR/logs/job.log   all lines of all replicas, as they came, merged by time
    DIR/events.jsonl   the trainer's events among them (trainer/events.py)
    DIR/end.json       the first event that ends a run
    DIR/mirror.json    how far this has come, and what is being added

Each round is written down before anything is added: after a crash it is added again at the same place, so
that nothing is there twice and nothing is missing.
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

from trainer.events import PART_CHARACTERS
from trainer.run_layout import RunLayout
from worker.backends.access.local_files import LocalFiles
from worker.backends.lepton.client import Line

STATE = "mirror.json"

SECOND = 1_000_000_000
# So many lines at a time, and as far back as lines of one replica may come behind those of another.
PAGE_LINES = 5000
LOOKBACK_NS = 60 * SECOND
# Lines of the last moments wait for those of other replicas.
HOLD_NS = 2 * SECOND
# An event is looked for among the last ones of so many bytes.
RECENT_BYTES = 1 << 18
# Clocks differ.
MARGIN_NS = 3600 * SECOND

MARK = re.compile(r"SFT_EVENT (?=\{)|SFT_EVENT_PART (?P<name>\S+) (?P<number>\d+)/(?P<of>\d+) ")
ENDINGS = ("finished", "stopped", "failed")

Fetch = Callable[[int, int, int, str], list[Line]]
"""(begin_ns, end_ns, limit, containing) -> the first `limit` lines in [begin, end), oldest first."""


class State(BaseModel):
    """As it stands in mirror.json."""

    began_ns: int
    newest_ns: int = 0
    """Of all lines that were taken."""
    recent: list[str] = []
    """Digests of those that could come once more."""
    parts: dict[str, dict[int, str]] = {}
    """Events of which some parts have come."""
    quiet_since: float = 0.0
    """When, by our clock, lines last came, or the run was first known to be over."""
    is_over: bool = False
    swept: bool = False
    """The events of a run that is over were all looked at once more."""
    adding: dict[str, tuple[int, str]] = {}
    """File -> where the text of this round goes."""


class Mirror:
    """The files of one attempt."""

    def __init__(self, layout: RunLayout, fetch: Fetch, *, began: float) -> None:
        """began: seconds since 1970; nothing was printed long before."""
        self.layout = layout
        self._fetch = fetch
        self._began_ns = int(began) * SECOND

    def advance(self, *, is_over: bool, settle_seconds: float) -> bool:
        """Add what has come. True where the run is over and nothing has come for so long."""
        self.layout.logs.mkdir(parents=True, exist_ok=True)
        with self._alone() as is_ours:
            # Another worker is at it: threads that waited for it would be missed elsewhere.
            return is_ours and self._advance(is_over, settle_seconds)

    def _advance(self, is_over: bool, settle_seconds: float) -> bool:
        state = self._state()
        is_quiet = state.is_over == is_over
        while lines := self._new_lines(state, hold=not is_over):
            self._add(state, lines)
            is_quiet = False
        if not is_quiet:
            state.is_over, state.quiet_since = is_over, time.time()
            self._write(state)
        if not is_over or 0 <= time.time() - state.quiet_since < settle_seconds:
            return False
        self._sweep(state)
        return True

    @property
    def has_ended(self) -> bool:
        """Whether the run has told its end."""
        return self.layout.end.exists()

    def add_events(self, text: bytes) -> None:
        """Add those that the log does not have."""
        with self._alone() as is_ours:
            if is_ours:
                events = [
                    event
                    for line in text.splitlines()
                    for event in _event(line.decode(errors="replace"), 0)[0]
                ]
                self._append(self._state(), "", events, known=self._size(self.layout.events))

    # -- rounds ---------------------------------------------------------------------------------

    def _new_lines(self, state: State, *, hold: bool) -> list[Line]:
        """The next lines that were not taken yet, at most a page."""
        begin = max(state.newest_ns - LOOKBACK_NS, state.began_ns - MARGIN_NS)
        known = set(state.recent)
        end = time.time_ns() - HOLD_NS if hold else time.time_ns() + MARGIN_NS
        limit = PAGE_LINES
        while True:
            page = self._fetch(begin, end, limit, "")
            fresh = [line for line in _once(page) if _digest(line) not in known]
            if fresh or len(page) < limit:
                return fresh
            # All of it is known: further on, or where a single moment holds more than a page, a larger one.
            last = page[-1].at_ns
            begin, limit = (last, PAGE_LINES) if last > begin else (begin, limit * 2)

    def _add(self, state: State, lines: list[Line]) -> None:
        events = list(_events(lines, state.parts))
        state.newest_ns = max(state.newest_ns, lines[-1].at_ns)
        kept = [one for one in state.recent if int(one[:16], 16) >= state.newest_ns - LOOKBACK_NS]
        state.recent = kept + [_digest(line) for line in lines if line.at_ns >= state.newest_ns - LOOKBACK_NS]
        self._append(state, "".join(f"{line.text}\n" for line in lines), events, known=RECENT_BYTES)

    def _sweep(self, state: State) -> None:
        """Look at all events of the run once more: one that came too late for the rounds is added now."""
        if state.swept:
            return
        begin, end = state.began_ns - MARGIN_NS, time.time_ns() + MARGIN_NS
        found: list[Line] = []
        while page := self._fetch(begin, end, PAGE_LINES, "SFT_EVENT"):
            found += page
            if len(page) < PAGE_LINES or page[-1].at_ns <= begin:
                break
            begin = page[-1].at_ns
        self._append(state, "", list(_events(_once(found), {})), known=self._size(self.layout.events))
        state.swept = True
        self._write(state)

    def _append(self, state: State, text: str, events: list[str], *, known: int) -> None:
        """known: of the events that are there, so many bytes from their end on are looked at for doubles."""
        there = {_identity(line) for line in self._last_events(known)}
        fresh = [line for line in dict.fromkeys(events) if _identity(line) not in there]
        added = {self.layout.log(): text, self.layout.events: "".join(f"{line}\n" for line in fresh)}
        state.adding = {self._name(path): (self._size(path), more) for path, more in added.items() if more}
        self._write(state)
        self._redo(state)

    def _redo(self, state: State) -> None:
        """Put the round's text where it belongs. A second time it changes nothing."""
        for name, (offset, text) in state.adding.items():
            with _opened(self.layout.directory / name) as descriptor:
                os.pwrite(descriptor, text.encode(), offset)
        if events := state.adding.get(self._name(self.layout.events)):
            self._mark_end(events[1].splitlines())

    def _mark_end(self, events: list[str]) -> None:
        ending = [line for line in events if json.loads(line).get("event") in ENDINGS]
        if ending and not self.layout.end.exists():
            first = min(ending, key=lambda line: str(json.loads(line).get("at")))
            LocalFiles().create(self.layout.end, first.encode(), 0o644)

    # -- files ----------------------------------------------------------------------------------

    def _state(self) -> State:
        try:
            state = State.model_validate_json((self.layout.directory / STATE).read_bytes())
        except FileNotFoundError:
            return State(began_ns=self._began_ns)
        self._redo(state)
        return state

    def _write(self, state: State) -> None:
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
    def _alone(self) -> Iterator[bool]:
        """One worker at a time, False for others; the kernel frees the lock with its holder."""
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


def _digest(line: Line) -> str:
    """Of what tells a line from others; it begins with its time."""
    rest = blake2b(f"{line.replica}\0{line.text}".encode(errors="replace"), digest_size=8)
    return f"{line.at_ns:016x}{rest.hexdigest()}"


def _once(lines: list[Line]) -> list[Line]:
    """Without those that were told twice."""
    return list({_digest(line): line for line in lines}.values())


def _events(lines: list[Line], parts: dict[str, dict[int, str]]) -> Iterator[str]:
    """The trainer's events in some lines; `parts` holds those that are not whole yet."""
    for line in lines:
        yield from _in_text(line.text, parts)


def _in_text(text: str, parts: dict[str, dict[int, str]]) -> Iterator[str]:
    """Ranks share a log: behind an event, or between two of them, other output may stand."""
    at = 0
    while mark := MARK.search(text, at):
        at = mark.end()
        if mark["name"]:
            whole = _joined(mark, text[at : at + PART_CHARACTERS], parts)
            yield from _event(whole, 0)[0] if whole else ()
        else:
            found, at = _event(text, at)
            yield from found


def _joined(mark: re.Match[str], piece: str, parts: dict[str, dict[int, str]]) -> str | None:
    """An event whose last missing part this is."""
    name = mark["name"]
    parts.setdefault(name, {})[int(mark["number"])] = piece
    if len(parts[name]) < int(mark["of"]):
        return None
    whole = parts.pop(name)
    return "".join(whole[number] for number in sorted(whole))


def _event(text: str, at: int) -> tuple[list[str], int]:
    """The event that begins there, and where it ends. What is none is passed over."""
    with suppress(ValueError, RecursionError):
        found, end = json.JSONDecoder().raw_decode(text, at)
        if isinstance(found, dict) and "event" in found:
            return [json.dumps(found)], end
    return [], at


def _identity(event: str) -> tuple[str, str, str]:
    """What an event is known by: a line that is printed twice has the same."""
    found = json.loads(event)
    return str(found.get("rank")), str(found.get("seq")), str(found.get("at"))
