"""Where requests are counted: in Redis for all processes, or in the memory of this process.

Both count in sliding windows: a window's count, and that of the window before it, which weighs less and less
as time passes. The counts in Redis are those of the library `limits`. Its memory storage is not used: it
keeps every identity, follows the wall clock, and searches all of them in a thread for each request.
"""

import threading
import time
from collections import OrderedDict
from typing import NamedTuple, Protocol

from limits.storage import RedisStorage
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from worker.telemetry.logging import logger

MAX_IDENTITIES = 10_000
REDIS_SECONDS = 1.0
"""Longest wait for Redis."""
PAUSE_SECONDS = 5.0
"""For so long Redis is not asked again after it has not answered."""
PREFIX = "sft.rate"
# The broker's URL as Celery writes it -> as redis-py does.
REDIS_URL = {
    "redis+socket://": "redis+unix://",
    "virtual_host=": "db=",
    "CERT_REQUIRED": "required",
    "CERT_OPTIONAL": "optional",
    "CERT_NONE": "none",
}

log = logger(__name__)


class Counted(NamedTuple):
    """Requests of an identity, in the order in which the library returns them; times in seconds."""

    previous: int
    previous_left: float
    """The window before weighs as much as this part of a window."""
    current: int
    current_left: float
    """Until the current window is forgotten: a window after its end."""


class Windows(Protocol):
    """Counts the requests of identities."""

    def hit(self, identity: str, most: int, seconds: int) -> bool:
        """Count a request if there were fewer than `most` within `seconds`; False where there were not."""
        ...

    def counts(self, identity: str, seconds: int) -> Counted:
        """Return what was counted."""
        ...


class MemoryWindows:
    """Counts in this process, by a clock that nobody sets. The identities seen longest ago are forgotten."""

    def __init__(self, most_identities: int = MAX_IDENTITIES) -> None:
        self.most_identities = most_identities
        self._known: OrderedDict[str, tuple[int, int, int]] = OrderedDict()
        """Number of the current window, its count, and the count of the window before."""
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._known)

    def hit(self, identity: str, most: int, seconds: int) -> bool:
        with self._lock:
            counts = self.counts(identity, seconds)
            is_allowed = weighted(counts, seconds) + 1 <= most
            number = int(time.monotonic() // seconds)
            self._known[identity] = (number, counts.current + is_allowed, counts.previous)
            self._known.move_to_end(identity)
            while len(self._known) > self.most_identities:
                self._known.popitem(last=False)
        return is_allowed

    def counts(self, identity: str, seconds: int) -> Counted:
        now = time.monotonic()
        number, current, previous = self._known.get(identity, (0, 0, 0))
        passed = int(now // seconds) - number
        previous = (previous, current)[passed] if passed < 2 else 0
        left = seconds - now % seconds
        return Counted(previous, left, current if passed == 0 else 0, left + seconds)


class RedisWindows:
    """Counts in the broker's Redis. Raises RedisError where it does not answer in time."""

    def __init__(self, url: str) -> None:
        for celery, redis in REDIS_URL.items():
            url = url.replace(celery, redis)
        timeouts = {"socket_timeout": REDIS_SECONDS, "socket_connect_timeout": REDIS_SECONDS}
        once = Retry(NoBackoff(), retries=0)  # redis-py would retry for seconds
        self._storage = RedisStorage(url, key_prefix=PREFIX, retry=once, **timeouts)  # type: ignore[arg-type]

    def hit(self, identity: str, most: int, seconds: int) -> bool:
        return self._storage.acquire_sliding_window_entry(identity, most, seconds)

    def counts(self, identity: str, seconds: int) -> Counted:
        return Counted(*self._storage.get_sliding_window(identity, seconds))


class SharedWindows:
    """Counts in Redis and, while it does not answer, in this process: a limit is never lifted."""

    def __init__(self, url: str) -> None:
        self._redis = RedisWindows(url)
        self._memory = MemoryWindows()
        self._silent_until = 0.0

    def hit(self, identity: str, most: int, seconds: int) -> bool:
        try:
            return self._now().hit(identity, most, seconds)
        except RedisError as error:
            self._silence(error)
            return self._memory.hit(identity, most, seconds)

    def counts(self, identity: str, seconds: int) -> Counted:
        try:
            return self._now().counts(identity, seconds)
        except RedisError as error:
            self._silence(error)
            return self._memory.counts(identity, seconds)

    def _now(self) -> Windows:
        return self._redis if time.monotonic() >= self._silent_until else self._memory

    def _silence(self, error: RedisError) -> None:
        log.warning("rate_limit.redis_unavailable", error=str(error))
        self._silent_until = time.monotonic() + PAUSE_SECONDS


def weighted(counts: Counted, seconds: int) -> int:
    """Return how many requests count now."""
    return int(counts.previous * counts.previous_left / seconds) + counts.current
