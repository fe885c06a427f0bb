"""Jobs: plan, create, list, read, cancel, pause, resume, retry; their attempts, events and metrics."""

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Response
from fastapi.responses import JSONResponse
from fastapi.sse import EventSourceResponse
from starlette.concurrency import run_in_threadpool

from api import responses, schemas, streams
from api.auth import STAYS_OPEN, CallerDep, ChangeableJob, SubmitterDep, VisibleJob, get_caller
from api.deps import (
    Cursor,
    IdempotencyKeyHeader,
    JobWatcherDep,
    KnownTags,
    LabelsDep,
    Limit,
    OpenRequestsDep,
    WaitDep,
)
from api.problems import declared
from api.schemas import Moment
from api.slots import Slot, WriteSlot
from worker.db.models import Job
from worker.errors import Unauthenticated
from worker.jobs import actions, create, queries
from worker.jobs.retry import RetryRequest
from worker.jobs.views import JobView, etag
from worker.planning import plan
from worker.planning.spec import JobSpec
from worker.states import JobState

router = APIRouter(tags=["jobs"], dependencies=[Depends(get_caller)])

ETAG_HEADER = {"ETag": {"description": "Changes whenever the job changes.", "schema": {"type": "string"}}}
EventId = Annotated[int, Query(ge=0, le=2**63 - 1, description="Only events with a larger id.")]
LastEtag = Annotated[
    str | None,
    Header(
        alias="Last-Event-ID",
        max_length=64,
        description="ETag of the last event received: the job is sent when it has changed.",
    ),
]
LABELS_PARAMETER = {
    "name": "labels",
    "in": "query",
    "style": "deepObject",
    "explode": True,
    "description": "Only jobs with this label: `labels[team]=support`.",
    "schema": {"type": "object", "additionalProperties": {"type": "string"}},
}


@router.post("/jobs:plan", responses=declared(403, 413, 415, 422))
def plan_job(spec: JobSpec, caller: SubmitterDep, _slot: Slot) -> plan.Plan:
    """Plan a job: config, submission, checks, cost. Nothing is stored."""
    return plan.plan(spec, caller.tenant)


@router.post("/jobs", status_code=201, response_model=JobView, responses=declared(403, 409, 413, 415, 422))
def create_job(
    spec: JobSpec, caller: SubmitterDep, _slot: Slot, idempotency_key: IdempotencyKeyHeader = None
) -> JSONResponse:
    """Create a job. The service stores it before it responds, and submits it afterwards."""
    return responses.job_created(create.create(spec, caller, idempotency_key))


@router.get("/jobs", responses=declared(422), openapi_extra={"parameters": [LABELS_PARAMETER]})
def list_jobs(
    labels: LabelsDep,
    caller: CallerDep,
    state: Annotated[list[JobState] | None, Query(description="One or more states.")] = None,
    owner: str | None = None,
    project: Annotated[str | None, Query(description="Keys of admins see all projects.")] = None,
    cluster: str | None = None,
    created_after: Moment | None = None,
    created_before: Moment | None = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> schemas.JobPage:
    """List jobs, newest first."""
    seen = caller.seen_project
    if seen and project not in (None, seen):
        return schemas.JobPage(items=[], next_cursor=None)
    job_filter = queries.JobFilter(
        seen or project, state or (), owner, cluster, created_after, created_before, labels
    )
    found, following = queries.page_of_jobs(job_filter, cursor, limit)
    details = queries.details(found)
    return schemas.JobPage(items=[JobView.of(job, details[job.id]) for job in found], next_cursor=following)


@router.get(
    "/jobs/{job_id}",
    response_model=JobView,
    responses={200: {"headers": ETAG_HEADER}, 304: {"description": "Unchanged."}, **declared(404, 422)},
)
async def get_job(
    job: VisibleJob,
    caller: CallerDep,
    watcher: JobWatcherDep,
    open_requests: OpenRequestsDep,
    response: Response,
    wait: WaitDep,
    known: KnownTags,
) -> JobView | Response:
    """Return a job; with `wait`, respond when it changes (compared with If-None-Match if that is sent)."""
    if wait and (not known or etag(job) in known):
        with (
            open_requests.one_more(caller.key_id),
            watcher.subscription(job.id, caller.key_id) as subscription,
        ):
            job = await streams.wait_for_change(job, subscription, wait)
            if not subscription.is_allowed:
                raise Unauthenticated("This API key was revoked or has expired.")
    tag = etag(job)
    if tag in known or "*" in known:
        return Response(status_code=304, headers={"ETag": tag})
    view = await run_in_threadpool(_view, job)
    response.headers["ETag"] = etag(job, view)
    return view


def _view(job: Job) -> JobView:
    return JobView.of(job, queries.details([job])[job.id])


@router.get(
    "/jobs/{job_id}/stream",
    response_class=EventSourceResponse,
    responses=declared(404, 422),
    dependencies=STAYS_OPEN,
)
async def stream_job(
    job: VisibleJob, caller: CallerDep, watcher: JobWatcherDep, last_event_id: LastEtag = None
) -> streams.Stream:
    """Follow a job: a `job` event with the complete job after each change, and `end` after the job's end."""
    with watcher.subscription(job.id, caller.key_id) as subscription:
        async for event in streams.until_gone(streams.of_job(job.id, subscription, last_event_id)):
            yield event


@router.post("/jobs/{job_id}/cancel", status_code=202, responses=declared(403, 404, 409, 422))
def cancel_job(job: ChangeableJob, caller: CallerDep, _slot: WriteSlot) -> JobView:
    """Request a job's cancellation. A repeated request changes nothing; an ended job gives 409."""
    return _view(actions.cancel(job.id, caller))


@router.post("/jobs/{job_id}/pause", status_code=202, responses=declared(403, 404, 409, 422))
def pause_job(job: ChangeableJob, caller: CallerDep, _slot: WriteSlot) -> JobView:
    """Request that a running job saves and stops: PAUSED, it keeps no GPUs. Repetition changes nothing."""
    return _view(actions.pause(job.id, caller))


@router.post("/jobs/{job_id}/resume", status_code=202, responses=declared(403, 404, 409, 422))
def resume_job(job: ChangeableJob, caller: CallerDep, _slot: WriteSlot) -> JobView:
    """Resume a paused job from its last complete checkpoint, as another attempt."""
    return _view(actions.resume(job.id, caller))


@router.post("/jobs/{job_id}/retry", status_code=202, responses=declared(403, 404, 409, 413, 415, 422))
def retry_job(
    job: ChangeableJob, caller: CallerDep, _slot: Slot, request: RetryRequest | None = None
) -> JobView:
    """Retry a job that did not succeed: another attempt, from its last complete checkpoint.

    The body is optional. Its changes are checked as for a new job; earlier attempts keep their record.
    """
    return _view(actions.retry(job.id, caller, request))


@router.get("/jobs/{job_id}/attempts", responses=declared(404, 422))
def list_attempts(job: VisibleJob) -> schemas.AttemptList:
    """List the attempts of a job: a retry is a new attempt, with its own logs and external id."""
    return schemas.AttemptList(items=[schemas.AttemptView.of(row) for row in queries.attempts(job.id)])


@router.get("/jobs/{job_id}/events", responses=declared(404, 422))
def list_events(
    job: VisibleJob,
    after: EventId = 0,
    limit: Limit = 100,
) -> schemas.EventPage:
    """List the events of a job, oldest first: who did what, and when."""
    items = [schemas.EventView.of(row) for row in queries.events(job.id, after, limit)]
    return schemas.EventPage(items=items, next_after=items[-1].id if items else after)


@router.get(
    "/jobs/{job_id}/events/stream",
    response_class=EventSourceResponse,
    responses=declared(404, 422),
    dependencies=STAYS_OPEN,
)
async def stream_events(
    job: VisibleJob,
    caller: CallerDep,
    watcher: JobWatcherDep,
    after: EventId = 0,
    last_event_id: Annotated[
        str | None, Header(pattern=r"^\d{1,18}$", description="Resume after this event.")
    ] = None,
) -> streams.Stream:
    """Follow a job's events: `event` events as in GET events, and `end` after the job's end."""
    with watcher.subscription(job.id, caller.key_id) as subscription:
        async for event in streams.until_gone(
            streams.of_events(job.id, subscription, int(last_event_id or after))
        ):
            yield event


@router.get("/jobs/{job_id}/metrics", responses=declared(404, 422))
def get_metrics(
    job: VisibleJob,
    from_step: Annotated[int, Query(ge=0, le=2**31 - 1)] = 0,
    to_step: Annotated[int | None, Query(ge=0, le=2**31 - 1)] = None,
    resolution: Annotated[
        int, Query(ge=1, le=10_000, description="Approximate number of points to keep.")
    ] = 1000,
) -> schemas.Metrics:
    """Return loss, learning rate, gradient norm and speed of the steps; loss of the validations."""
    train, validation = (
        [schemas.MetricView.of(row) for row in queries.metrics(job.id, kind, from_step, to_step, resolution)]
        for kind in ("step", "validation")
    )
    return schemas.Metrics(train=train, validation=validation)
