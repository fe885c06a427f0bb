"""Jobs: plan, create, list, read, cancel, pause, resume, retry, and their history."""

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Response
from fastapi.responses import JSONResponse
from fastapi.sse import EventSourceResponse
from starlette.concurrency import run_in_threadpool

from api import created, schemas, streams
from api.auth import CallerDep, ChangeableJob, SubmitterDep, VisibleJob, get_caller
from api.deps import Cursor, IdempotencyKeyHeader, KnownTags, LabelsDep, Limit, WaitDep, WatchDep
from api.problems import declared
from api.schemas import Moment
from worker.db.models import Job
from worker.errors import Unauthenticated
from worker.jobs import actions, create, queries
from worker.jobs.retry import RetryRequest
from worker.jobs.views import JobView, etag
from worker.planning import plan
from worker.planning.spec import JobSpec
from worker.states import JobState

router = APIRouter(tags=["jobs"], dependencies=[Depends(get_caller)])

ETAG_HEADER = {"ETag": {"description": "Changes with the job.", "schema": {"type": "string"}}}
EventId = Annotated[int, Query(ge=0, le=2**63 - 1, description="Only events with a larger id.")]
LastEtag = Annotated[
    str | None, Header(alias="Last-Event-ID", max_length=64, description="Nothing is sent while it holds.")
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
def plan_job(spec: JobSpec, caller: SubmitterDep) -> plan.Plan:
    """Work out what a job would come to: config, submission, checks, cost. Nothing is stored."""
    return plan.plan(spec, caller.seen_project)


@router.post("/jobs", status_code=201, response_model=JobView, responses=declared(403, 409, 413, 415, 422))
def create_job(
    spec: JobSpec, caller: SubmitterDep, idempotency_key: IdempotencyKeyHeader = None
) -> JSONResponse:
    """Create a job. It is stored before this answers, and submitted by itself."""
    return created.response(create.create(spec, caller, idempotency_key))


@router.get("/jobs", responses=declared(422), openapi_extra={"parameters": [LABELS_PARAMETER]})
def list_jobs(
    labels: LabelsDep,
    caller: CallerDep,
    state: Annotated[list[JobState] | None, Query(description="One or more states.")] = None,
    owner: str | None = None,
    project: Annotated[str | None, Query(description="Keys of admins see all of them.")] = None,
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
    wanted = queries.JobFilter(
        seen or project, state or (), owner, cluster, created_after, created_before, labels
    )
    found, following = queries.page_of_jobs(wanted, cursor, limit)
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
    watch: WatchDep,
    response: Response,
    wait: WaitDep,
    known: KnownTags,
) -> JobView | Response:
    """Read a job; with `wait`, answer when it changes (from If-None-Match if that is sent)."""
    if wait and (not known or etag(job) in known):
        with watch.subscription(job.id, caller.key_id) as news:
            job = await streams.changed(job, news, wait)
            if not news.is_allowed:
                raise Unauthenticated("This API key was revoked or has expired.")
    tag = etag(job)
    if tag in known or "*" in known:
        return Response(status_code=304, headers={"ETag": tag})
    view = await run_in_threadpool(_view, job)
    response.headers["ETag"] = etag(job, view)
    return view


def _view(job: Job) -> JobView:
    return JobView.of(job, queries.details([job])[job.id])


@router.get("/jobs/{job_id}/stream", response_class=EventSourceResponse, responses=declared(404, 422))
async def stream_job(
    job: VisibleJob, caller: CallerDep, watch: WatchDep, last_event_id: LastEtag = None
) -> streams.Stream:
    """Follow a job: a `job` event with all of it each time that it changes, and `end` after its end."""
    with watch.subscription(job.id, caller.key_id) as news:
        async for event in streams.until_gone(streams.of_job(job.id, news, last_event_id)):
            yield event


@router.post("/jobs/{job_id}/cancel", status_code=202, responses=declared(403, 404, 409, 422))
def cancel_job(job: ChangeableJob, caller: CallerDep) -> JobView:
    """Ask for a job's end. Asking again changes nothing; after the end it is 409."""
    return _view(actions.cancel(job.id, caller))


@router.post("/jobs/{job_id}/pause", status_code=202, responses=declared(403, 404, 409, 422))
def pause_job(job: ChangeableJob, caller: CallerDep) -> JobView:
    """Ask a running job to save and stop: PAUSED, it keeps no GPUs. Asking again changes nothing."""
    return _view(actions.pause(job.id, caller))


@router.post("/jobs/{job_id}/resume", status_code=202, responses=declared(403, 404, 409, 422))
def resume_job(job: ChangeableJob, caller: CallerDep) -> JobView:
    """Let a paused job go on, as another attempt, from its last complete checkpoint."""
    return _view(actions.resume(job.id, caller))


@router.post("/jobs/{job_id}/retry", status_code=202, responses=declared(403, 404, 409, 413, 415, 422))
def retry_job(job: ChangeableJob, caller: CallerDep, request: RetryRequest | None = None) -> JobView:
    """Give a job that did not succeed another attempt, from its last complete checkpoint.

    The body is optional. What it changes is checked as for a new job; earlier attempts keep their record.
    """
    return _view(actions.retry(job.id, caller, request))


@router.get("/jobs/{job_id}/attempts", responses=declared(404, 422))
def list_attempts(job: VisibleJob) -> schemas.AttemptList:
    """The attempts of a job: a retry is a new one, with its own logs and external id."""
    return schemas.AttemptList(items=[schemas.AttemptView.of(row) for row in queries.attempts(job.id)])


@router.get("/jobs/{job_id}/events", responses=declared(404, 422))
def list_events(
    job: VisibleJob,
    after: EventId = 0,
    limit: Limit = 100,
) -> schemas.EventPage:
    """Who did what to the job, and when, oldest first."""
    items = [schemas.EventView.of(row) for row in queries.events(job.id, after, limit)]
    return schemas.EventPage(items=items, next_after=items[-1].id if items else after)


@router.get("/jobs/{job_id}/events/stream", response_class=EventSourceResponse, responses=declared(404, 422))
async def stream_events(
    job: VisibleJob,
    caller: CallerDep,
    watch: WatchDep,
    after: EventId = 0,
    last_event_id: Annotated[
        str | None, Header(pattern=r"^\d{1,18}$", description="Go on after this event.")
    ] = None,
) -> streams.Stream:
    """Follow a job's history: `event` events as GET events shows them, and `end` after its end."""
    with watch.subscription(job.id, caller.key_id) as news:
        async for event in streams.until_gone(streams.of_events(job.id, news, int(last_event_id or after))):
            yield event


@router.get("/jobs/{job_id}/metrics", responses=declared(404, 422))
def get_metrics(
    job: VisibleJob,
    from_step: Annotated[int, Query(ge=0, le=2**31 - 1)] = 0,
    to_step: Annotated[int | None, Query(ge=0, le=2**31 - 1)] = None,
    resolution: Annotated[int, Query(ge=1, le=10_000, description="About how many points to keep.")] = 1000,
) -> schemas.Metrics:
    """Loss, learning rate, gradient norm and speed of the steps; loss of the validations."""
    train, validation = (
        [schemas.MetricView.of(row) for row in queries.metrics(job.id, kind, from_step, to_step, resolution)]
        for kind in ("step", "validation")
    )
    return schemas.Metrics(train=train, validation=validation)
