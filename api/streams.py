"""Server-Sent Events: changes of a job, its events, its logs, as they occur.

Each stream resumes after `Last-Event-ID`, and ends with an `end` event. A connection that closes
without an `end` event was interrupted: an EventSource then reconnects by itself. A client that does
not read costs the memory of one chunk.
"""

import time
from collections.abc import AsyncIterator, Callable

from fastapi.sse import ServerSentEvent
from starlette.concurrency import run_in_threadpool

from api import schemas
from api.job_watcher import Subscription
from worker.db.models import Event, Job
from worker.errors import BackendUnavailable, Gone, NotFound, RangeInvalid, ServiceUnavailable
from worker.jobs import logs, queries
from worker.jobs.logs import Log, LogPage
from worker.jobs.queries import Details
from worker.jobs.views import JobView, etag
from worker.states import TERMINAL

# A job is read again after this time even if no change was notified. A log grows without notification.
IDLE_SECONDS = 10.0
LOG_INTERVAL_SECONDS = 0.5
PAGE = 100
CHUNK_BYTES = 1 << 16

Stream = AsyncIterator[ServerSentEvent]


async def wait_for_change(job: Job, subscription: Subscription, seconds: float) -> Job:
    """Return the job when its ETag has changed, or after `seconds`. Raises NotFound."""
    before, deadline = etag(job), time.monotonic() + seconds
    while subscription.is_open and etag(job) == before and (left := deadline - time.monotonic()) > 0:
        await subscription.wait(left)
        job = await _read_if_available(queries.get, job.id) or job
    return job


async def of_job(job_id: str, subscription: Subscription, last_etag: str | None) -> Stream:
    """Yield the job each time it has changed, until it has ended."""
    while subscription.is_open:
        found = await _read_if_available(_details, job_id)
        if found:
            job, details = found
            if (tag := etag(job)) != last_etag:
                yield ServerSentEvent(event="job", id=tag, data=JobView.of(job, details))
                last_etag = tag
            if job.state in TERMINAL:
                yield _end("finished")
                return
        await subscription.wait(IDLE_SECONDS)
    if not subscription.is_allowed:
        yield _end("revoked")


def _details(job_id: str) -> tuple[Job, Details]:
    job = queries.get(job_id)
    return job, queries.details([job])[job.id]


async def of_events(job_id: str, subscription: Subscription, after: int) -> Stream:
    """Yield the job's events after an event id, until the job has ended."""
    while subscription.is_open:
        found = await _read_if_available(_events, job_id, after)
        if found:
            has_ended, rows = found
            for row in rows:
                after = row.id or after
                yield ServerSentEvent(event="event", id=str(after), data=schemas.EventView.of(row))
            if len(rows) == PAGE:
                continue
            if has_ended:
                yield _end("finished")
                return
        await subscription.wait(IDLE_SECONDS)
    if not subscription.is_allowed:
        yield _end("revoked")


def _events(job_id: str, after: int) -> tuple[bool, list[Event]]:
    # Read the state first: a job that has ended gets no further events.
    has_ended = queries.get(job_id).state in TERMINAL
    return has_ended, queries.events(job_id, after, PAGE)


async def of_log(log: Log, offset: int, subscription: Subscription) -> Stream:
    """Yield a log from an offset, until its end."""
    while subscription.is_open:
        page = await _read_if_available(logs.read, log, offset=offset, limit=CHUNK_BYTES)
        if page and page.text:
            offset = page.next_offset
            yield ServerSentEvent(event="log", id=f"{page.attempt}-{offset}", data=_chunk(page))
        elif page and page.end:
            yield _end("finished", attempt=log.attempt, next_offset=offset)
            return
        elif await subscription.wait(LOG_INTERVAL_SECONDS):
            log = await _read_if_available(logs.find, log.job_id, log.attempt, log.rank) or log
    if not subscription.is_allowed:
        yield _end("revoked", attempt=log.attempt, next_offset=offset)


def _chunk(page: LogPage) -> schemas.LogPiece:
    return schemas.LogPiece.model_validate(page, from_attributes=True)


async def until_gone(stream: Stream) -> Stream:
    """Yield the stream's events; end it with `gone` if its job or log was removed or truncated meanwhile."""
    try:
        async for event in stream:
            yield event
    except (NotFound, Gone, RangeInvalid):
        yield _end("gone")


async def _read_if_available[**P, T](read: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
    """Return what `read` returns; None if database or files are unavailable: the stream reads again later."""
    try:
        return await run_in_threadpool(read, *args, **kwargs)
    except (ServiceUnavailable, BackendUnavailable):
        return None


def _end(reason: str, **position: int) -> ServerSentEvent:
    return ServerSentEvent(event="end", data={"reason": reason, **position})
