"""Requests that stay open: streams, long polls, downloads. Each key may have so many at a time."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from worker.errors import TooManyOpenRequests

RETRY_AFTER_SECONDS = 5.0


class OpenRequests:
    """Counts the open requests of this process by key; a key that has none is not kept."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._open: Counter[str] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def one_more(self, key_id: str) -> Iterator[None]:
        """Count a request while the block runs. Raises TooManyOpenRequests."""
        self._open_one(key_id)
        try:
            yield
        finally:
            self._close_one(key_id)

    def _open_one(self, key_id: str) -> None:
        with self._lock:
            if self._open[key_id] >= self.most:
                raise TooManyOpenRequests(
                    f"This key has {self.most} streams, long polls and downloads open, as many as it may.",
                    hint="Close some of them. The setting SFT_MAX_OPEN_REQUESTS is the limit.",
                    retry_after=RETRY_AFTER_SECONDS,
                )
            self._open[key_id] += 1

    def _close_one(self, key_id: str) -> None:
        with self._lock:
            self._open[key_id] -= 1
            if not self._open[key_id]:
                del self._open[key_id]
