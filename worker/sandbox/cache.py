"""Results of inspections, each kept while every file that it depends on stays the same."""

import time
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from threading import Lock

from worker.sandbox.process import MAX_SEEN, Reply
from worker.sandbox.seen import Seen

MAX_REPLIES = 256
# Each takes some 400 bytes of memory.
MAX_SEEN_TOGETHER = 100_000
# File systems note the time of a change by the ticks of a clock: within one, a file can change unnoticed.
TICK_NS = 100_000_000
# A file that took too long may take less when the machine has less to do.
FAILURE_SECONDS = 60.0


@dataclass(frozen=True)
class _Entry:
    reply: Reply
    expires: float | None

    def holds(self) -> bool:
        if self.expires is not None and time.monotonic() > self.expires:
            return False
        return all(one.is_unchanged() for one in self.reply.seen.values())


class Cache:
    """The replies that were used last; thread-safe."""

    def __init__(self) -> None:
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._lock = Lock()

    def find(self, key: Hashable) -> Reply | None:
        """Return a reply that still holds, or None."""
        with self._lock:
            entry = self._entries.get(key)
        if entry is None or not entry.holds():
            return None
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
        return entry.reply

    def keep(self, key: Hashable, reply: Reply, begun_ns: int) -> None:
        """Keep a reply, unless a file may still change unnoticed. begun_ns: start of the inspection."""
        if len(reply.seen) > MAX_SEEN or any(_is_fresh(one, begun_ns) for one in reply.seen.values()):
            return
        expires = time.monotonic() + FAILURE_SECONDS if reply.answer is None else None
        with self._lock:
            self._entries[key] = _Entry(reply, expires)
            self._entries.move_to_end(key)
            while len(self._entries) > MAX_REPLIES or self._seen() > MAX_SEEN_TOGETHER:
                self._entries.popitem(last=False)

    def _seen(self) -> int:
        return sum(len(entry.reply.seen) for entry in self._entries.values())


def _is_fresh(seen: Seen, begun_ns: int) -> bool:
    return any(time_ns > begun_ns - TICK_NS for time_ns in seen.identity[3:])
