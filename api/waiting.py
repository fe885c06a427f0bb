"""Long polling: answer when a job changes."""

import asyncio
import time

from starlette.concurrency import run_in_threadpool

from api.schemas import etag
from worker import jobs, queries
from worker.models import Job
from worker.queries import Details

INTERVAL_SECONDS = 0.25


async def until_changed(job_id: str, seen: str | None, seconds: float) -> tuple[Job, Details]:
    """The job, once its ETag is not `seen` (or not what it was at the call), or after `seconds`.

    Raises NotFound.
    """
    deadline = time.monotonic() + seconds
    job = await run_in_threadpool(jobs.get, job_id)
    seen = seen or etag(job)
    while etag(job) == seen and time.monotonic() < deadline:
        await asyncio.sleep(INTERVAL_SECONDS)
        job = await run_in_threadpool(jobs.get, job_id)
    details = await run_in_threadpool(queries.details, [job])
    return job, details[job.id]
