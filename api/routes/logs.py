"""Logs of a job's attempts and ranks."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from api import schemas
from api.deps import JobId, get_caller
from api.problems import declared
from worker import logs

router = APIRouter(tags=["logs"], dependencies=[Depends(get_caller)])


@router.get("/jobs/{job_id}/logs", responses=declared(404, 410, 416, 422))
def get_logs(
    job_id: JobId,
    offset: Annotated[int, Query(ge=0, le=2**63 - 1, description="First byte to read.")] = 0,
    limit: Annotated[int, Query(ge=4, le=logs.MAX_BYTES, description="Most bytes to read.")] = 1 << 16,
    tail: Annotated[int | None, Query(ge=1, le=10_000, description="The last so many lines instead.")] = None,
    attempt: Annotated[int | None, Query(ge=1, le=10_000, description="Default: the current one.")] = None,
    rank: Annotated[
        int | None, Query(ge=0, le=100_000, description="Default: all output, with the launcher's.")
    ] = None,
) -> schemas.LogView:
    """Read a log by byte offset while it grows; `end` says that nothing will follow."""
    limit = logs.MAX_BYTES if tail else limit
    page = logs.read(job_id, attempt=attempt, rank=rank, offset=offset, limit=limit, tail=tail)
    return schemas.LogView.model_validate(page, from_attributes=True)
