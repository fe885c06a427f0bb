"""Notify long polls and streams of job changes: one database poll serves all of them in this process.

Requests subscribe. An interval costs two small queries, whatever the number of subscriptions. A
request reads the job itself only after it has been notified.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import Context
from dataclasses import dataclass, field

from starlette.concurrency import run_in_threadpool

from worker.auth import keys
from worker.errors import ServiceUnavailable
from worker.jobs import queries
from worker.jobs.queries import Mark
from worker.telemetry.logging import logger

POLL_INTERVAL_SECONDS = 0.25

log = logger(__name__)


@dataclass(eq=False)
class Subscription:
    """A request that waits for changes of a job, and the API key that it was sent with."""

    job_id: str
    key_id: str
    is_allowed: bool = True
    """Whether the key was valid at the last poll."""
    is_closing: bool = False
    """The process is shutting down: the request should end."""
    last_mark: Mark | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_open(self) -> bool:
        return self.is_allowed and not self.is_closing

    async def wait(self, seconds: float) -> bool:
        """Return True when the job or the key has changed since the last call, False after `seconds`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.changed.wait()
        has_changed = self.changed.is_set()
        self.changed.clear()
        return has_changed

    def update(self, mark: Mark | None, *, is_allowed: bool) -> None:
        """Store what a poll has read, and wake the request if it differs from the poll before."""
        if mark != self.last_mark or is_allowed != self.is_allowed:
            self.last_mark, self.is_allowed = mark, is_allowed
            self.changed.set()


class JobWatcher:
    """Polls the database for the subscribed jobs, as long as there are subscriptions."""

    def __init__(self) -> None:
        self.subscriptions: set[Subscription] = set()
        self.is_closing = False
        self._polling: asyncio.Task[None] | None = None

    @contextmanager
    def subscription(self, job_id: str, key_id: str) -> Iterator[Subscription]:
        subscription = Subscription(job_id, key_id, is_closing=self.is_closing)
        self.subscriptions.add(subscription)
        if self._polling is None or self._polling.done():
            # In a context of its own: the task is not part of the request that happened to start it.
            self._polling = asyncio.create_task(self._poll(), context=Context())
        try:
            yield subscription
        finally:
            self.subscriptions.discard(subscription)

    def close(self) -> None:
        """End all waiting requests: the server would abort them, and log the abort as an error of ours."""
        self.is_closing = True
        for subscription in self.subscriptions:
            subscription.is_closing = True
            subscription.changed.set()

    async def stop(self) -> None:
        """Stop polling, and return when the last poll has ended."""
        if self._polling:
            self._polling.cancel()
            await asyncio.wait([self._polling])

    async def _poll(self) -> None:
        while self.subscriptions:
            try:
                await self._update_all()
            except ServiceUnavailable:
                pass  # an unreachable database is no change; requests see the error when they read
            except Exception as error:  # any bug: all subscriptions depend on this loop
                log.error("watch.bug", exc_info=error)
            await asyncio.sleep(POLL_INTERVAL_SECONDS)

    async def _update_all(self) -> None:
        subscriptions = list(self.subscriptions)
        marks = await run_in_threadpool(queries.marks, {each.job_id for each in subscriptions})
        valid = await run_in_threadpool(keys.still_valid, {each.key_id for each in subscriptions})
        for each in subscriptions:
            each.update(marks.get(each.job_id), is_allowed=each.key_id in valid)
