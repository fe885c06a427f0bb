"""Logs of a job's attempts and ranks."""

import re
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query
from fastapi.sse import EventSourceResponse

from api import schemas, streams
from api.auth import STAYS_OPEN, CallerDep, VisibleJob, get_caller
from api.deps import JobWatcherDep
from api.problems import declared
from worker.jobs import logs
from worker.jobs.logs import Log

router = APIRouter(tags=["logs"], dependencies=[Depends(get_caller)])

Offset = Annotated[int, Query(ge=0, le=2**63 - 1, description="First byte to read.")]
Attempt = Annotated[int | None, Query(ge=1, le=10_000, description="Default: the current attempt.")]
Rank = Annotated[
    int | None, Query(ge=0, le=100_000, description="Default: the output of all ranks and of the launcher.")
]


@router.get("/jobs/{job_id}/logs", responses=declared(404, 409, 410, 416, 422))
def get_logs(
    job: VisibleJob,
    offset: Offset = 0,
    limit: Annotated[int, Query(ge=4, le=logs.MAX_BYTES, description="Maximum number of bytes to read.")] = 1
    << 16,
    tail: Annotated[
        int | None, Query(ge=1, le=10_000, description="Return this number of lines from the end instead.")
    ] = None,
    attempt: Attempt = None,
    rank: Rank = None,
) -> schemas.LogView:
    """Read a log by byte offset while it grows; `end` is true when the log is complete."""
    limit = logs.MAX_BYTES if tail else limit
    page = logs.read(logs.find(job.id, attempt, rank), offset=offset, limit=limit, tail=tail)
    return schemas.LogView.model_validate(page, from_attributes=True)


def get_stream_start(
    job: VisibleJob,
    offset: Offset = 0,
    attempt: Attempt = None,
    rank: Rank = None,
    last_event_id: Annotated[
        str | None, Header(pattern=r"^\d{1,5}-\d{1,18}$", description="Resume after this chunk.")
    ] = None,
) -> tuple[Log, int]:
    """Return the log and offset where a stream begins. Raises NotFound, RangeInvalid, before it has begun."""
    if last_event_id:
        attempt, offset = map(int, re.findall(r"\d+", last_event_id))
    log = logs.find(job.id, attempt, rank)
    logs.read(log, offset=offset, limit=4)
    return log, offset


@router.get(
    "/jobs/{job_id}/logs/stream",
    response_class=EventSourceResponse,
    responses=declared(404, 409, 410, 416, 422),
    dependencies=STAYS_OPEN,
)
async def stream_logs(
    start: Annotated[tuple[Log, int], Depends(get_stream_start)], watcher: JobWatcherDep, caller: CallerDep
) -> streams.Stream:
    """Follow a log: each `log` event holds a chunk as in GET logs; `end` follows the last chunk."""
    log, offset = start
    with watcher.subscription(log.job_id, caller.key_id) as subscription:
        async for event in streams.until_gone(streams.of_log(log, offset, subscription)):
            yield event
