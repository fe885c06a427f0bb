"""Waiting for news of jobs: one look at the database for all who wait in this process.

Long polls and streams subscribe. However many they are, an interval costs two small queries; what
is new is then read by those whom it concerns.
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

INTERVAL_SECONDS = 0.25

log = logger(__name__)


@dataclass(eq=False)
class Subscription:
    """One who waits for a job, with the key that it may do so with."""

    job_id: str
    key_id: str
    is_allowed: bool = True
    """Whether the key was valid at the last look."""
    is_closing: bool = False
    """The process is about to end: who waits should let go."""
    seen: Mark | None = None
    news: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_open(self) -> bool:
        return self.is_allowed and not self.is_closing

    async def wait(self, seconds: float) -> bool:
        """Return when the job or the key has changed since the last call, or False after `seconds`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.news.wait()
        changed = self.news.is_set()
        self.news.clear()
        return changed

    def tell(self, mark: Mark | None, *, is_allowed: bool) -> None:
        if mark != self.seen or is_allowed != self.is_allowed:
            self.seen, self.is_allowed = mark, is_allowed
            self.news.set()


class Watch:
    """Looks at the jobs that somebody waits for, while somebody does."""

    def __init__(self) -> None:
        self.subscriptions: set[Subscription] = set()
        self.is_closing = False
        self._looking: asyncio.Task[None] | None = None

    @contextmanager
    def subscription(self, job_id: str, key_id: str) -> Iterator[Subscription]:
        subscription = Subscription(job_id, key_id, is_closing=self.is_closing)
        self.subscriptions.add(subscription)
        if self._looking is None or self._looking.done():
            # In a context of its own: it is not part of the request that happened to be the first.
            self._looking = asyncio.create_task(self._look(), context=Context())
        try:
            yield subscription
        finally:
            self.subscriptions.discard(subscription)

    def close(self) -> None:
        """Let everybody go who waits: the server would break them off, as if that were an error of ours."""
        self.is_closing = True
        for one in self.subscriptions:
            one.is_closing = True
            one.news.set()

    async def stop(self) -> None:
        """Return when no look is under way any more."""
        if self._looking:
            self._looking.cancel()
            await asyncio.wait([self._looking])

    async def _look(self) -> None:
        while self.subscriptions:
            try:
                await self._tell_all()
            except ServiceUnavailable:
                pass  # a database that is away is no news; who waits learns of it when it reads
            except Exception as error:  # whatever it is: all who wait hang on this loop
                log.error("watch.bug", exc_info=error)
            await asyncio.sleep(INTERVAL_SECONDS)

    async def _tell_all(self) -> None:
        told = list(self.subscriptions)
        marks = await run_in_threadpool(queries.marks, {one.job_id for one in told})
        valid = await run_in_threadpool(keys.still_valid, {one.key_id for one in told})
        for one in told:
            one.tell(marks.get(one.job_id), is_allowed=one.key_id in valid)
