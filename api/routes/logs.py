"""Logs of a job's attempts and ranks."""

import re
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query
from fastapi.sse import EventSourceResponse

from api import schemas, streams
from api.auth import CallerDep, VisibleJob, get_caller
from api.deps import WatchDep
from api.problems import declared
from worker.jobs import logs
from worker.jobs.logs import Log

router = APIRouter(tags=["logs"], dependencies=[Depends(get_caller)])

Offset = Annotated[int, Query(ge=0, le=2**63 - 1, description="First byte to read.")]
Attempt = Annotated[int | None, Query(ge=1, le=10_000, description="Default: the current one.")]
Rank = Annotated[int | None, Query(ge=0, le=100_000, description="Default: all output, with the launcher's.")]


@router.get("/jobs/{job_id}/logs", responses=declared(404, 409, 410, 416, 422))
def get_logs(
    job: VisibleJob,
    offset: Offset = 0,
    limit: Annotated[int, Query(ge=4, le=logs.MAX_BYTES, description="Most bytes to read.")] = 1 << 16,
    tail: Annotated[int | None, Query(ge=1, le=10_000, description="The last so many lines instead.")] = None,
    attempt: Attempt = None,
    rank: Rank = None,
) -> schemas.LogView:
    """Read a log by byte offset while it grows; `end` says that nothing will follow."""
    limit = logs.MAX_BYTES if tail else limit
    page = logs.read(logs.find(job.id, attempt, rank), offset=offset, limit=limit, tail=tail)
    return schemas.LogView.model_validate(page, from_attributes=True)


def get_place(
    job: VisibleJob,
    offset: Offset = 0,
    attempt: Attempt = None,
    rank: Rank = None,
    last_event_id: Annotated[
        str | None, Header(pattern=r"^\d{1,5}-\d{1,18}$", description="Go on after this piece.")
    ] = None,
) -> tuple[Log, int]:
    """Where a stream begins. Raises NotFound, RangeInvalid, while they can still be told."""
    if last_event_id:
        attempt, offset = map(int, re.findall(r"\d+", last_event_id))
    log = logs.find(job.id, attempt, rank)
    logs.read(log, offset=offset, limit=4)
    return log, offset


@router.get(
    "/jobs/{job_id}/logs/stream",
    response_class=EventSourceResponse,
    responses=declared(404, 409, 410, 416, 422),
)
async def stream_logs(
    place: Annotated[tuple[Log, int], Depends(get_place)], watch: WatchDep, caller: CallerDep
) -> streams.Stream:
    """Follow a log: `log` events hold a piece each, as GET logs shows it, and `end` comes after the last."""
    log, offset = place
    with watch.subscription(log.job_id, caller.key_id) as news:
        async for event in streams.until_gone(streams.of_log(log, offset, news)):
            yield event
