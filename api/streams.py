"""Server-Sent Events: a job's state, its events, its logs, as they come.

Each stream begins where `Last-Event-ID` says, and ends with an `end` event. A connection that ends
without one was cut: an EventSource then comes back by itself. A client that does not read costs one
waiting piece of text.
"""

import time
from collections.abc import AsyncIterator, Callable

from fastapi.sse import ServerSentEvent
from starlette.concurrency import run_in_threadpool

from api import schemas
from api.waiting import Subscription
from worker.db.models import Event, Job
from worker.errors import BackendUnavailable, Gone, NotFound, RangeInvalid, ServiceUnavailable
from worker.jobs import logs, queries
from worker.jobs.logs import Log, LogPage
from worker.jobs.queries import Details
from worker.jobs.views import JobView, etag
from worker.states import TERMINAL

# Without news a job is looked at again after so long; a log grows without news.
IDLE_SECONDS = 10.0
LOG_INTERVAL_SECONDS = 0.5
PAGE = 100
PIECE_BYTES = 1 << 16

Stream = AsyncIterator[ServerSentEvent]


async def changed(job: Job, news: Subscription, seconds: float) -> Job:
    """The job once its ETag is another than now, or after `seconds`. Raises NotFound."""
    before, deadline = etag(job), time.monotonic() + seconds
    while news.is_open and etag(job) == before and (left := deadline - time.monotonic()) > 0:
        await news.wait(left)
        job = await _attempted(queries.get, job.id) or job
    return job


async def of_job(job_id: str, news: Subscription, last_etag: str | None) -> Stream:
    """The job each time that it changed, until it has ended."""
    while news.is_open:
        found = await _attempted(_details, job_id)
        if found:
            job, details = found
            if (tag := etag(job)) != last_etag:
                yield ServerSentEvent(event="job", id=tag, data=JobView.of(job, details))
                last_etag = tag
            if job.state in TERMINAL:
                yield _end("finished")
                return
        await news.wait(IDLE_SECONDS)
    if not news.is_allowed:
        yield _end("revoked")


def _details(job_id: str) -> tuple[Job, Details]:
    job = queries.get(job_id)
    return job, queries.details([job])[job.id]


async def of_events(job_id: str, news: Subscription, after: int) -> Stream:
    """The job's events after an event id, until it has ended."""
    while news.is_open:
        found = await _attempted(_events, job_id, after)
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
        await news.wait(IDLE_SECONDS)
    if not news.is_allowed:
        yield _end("revoked")


def _events(job_id: str, after: int) -> tuple[bool, list[Event]]:
    # The state first: what a job that has ended then has for events is all that there will be.
    has_ended = queries.get(job_id).state in TERMINAL
    return has_ended, queries.events(job_id, after, PAGE)


async def of_log(log: Log, offset: int, news: Subscription) -> Stream:
    """A log from an offset, until nothing will follow."""
    while news.is_open:
        page = await _attempted(logs.read, log, offset=offset, limit=PIECE_BYTES)
        if page and page.text:
            offset = page.next_offset
            yield ServerSentEvent(event="log", id=f"{page.attempt}-{offset}", data=_piece(page))
        elif page and page.end:
            yield _end("finished", attempt=log.attempt, next_offset=offset)
            return
        elif await news.wait(LOG_INTERVAL_SECONDS):
            log = await _attempted(logs.find, log.job_id, log.attempt, log.rank) or log
    if not news.is_allowed:
        yield _end("revoked", attempt=log.attempt, next_offset=offset)


def _piece(page: LogPage) -> schemas.LogPiece:
    return schemas.LogPiece.model_validate(page, from_attributes=True)


async def until_gone(stream: Stream) -> Stream:
    """The stream; where what it reads was cut short or removed meanwhile, it ends and says so."""
    try:
        async for event in stream:
            yield event
    except (NotFound, Gone, RangeInvalid):
        yield _end("gone")


async def _attempted[**P, T](read: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
    """What was read; None where database or disk are away: the stream lives on, and asks again."""
    try:
        return await run_in_threadpool(read, *args, **kwargs)
    except (ServiceUnavailable, BackendUnavailable):
        return None


def _end(reason: str, **where: int) -> ServerSentEvent:
    return ServerSentEvent(event="end", data={"reason": reason, **where})
