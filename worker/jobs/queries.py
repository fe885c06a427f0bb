"""Read jobs: one, pages of them, and everything that belongs to a job. Changes nothing."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, and_, not_, or_
from sqlalchemy import select as select_columns
from sqlmodel import Session, col, func, select
from sqlmodel.sql.expression import SelectOfScalar

from worker import states
from worker.auth import keys
from worker.auth.roles import Tenant
from worker.clock import utcnow
from worker.clusters.registry import cluster
from worker.db.models import Attempt, Checkpoint, Event, Job, Metric
from worker.db.session import reading
from worker.errors import NotFound
from worker.limits import projects
from worker.planning.plan import run
from worker.planning.spec import JobSpec
from worker.runs.run import Resources, Run
from worker.settings import get_settings
from worker.states import AWAITING_TASK, LIVE, POLLED, Action, JobState

LOGS_REMOVED = "logs_removed"
"""Type of the event that notes the removal of a job's logs."""


# -- one job -------------------------------------------------------------------------------------


def get(job_id: str) -> Job:
    """A job. Raises NotFound."""
    with reading() as session:
        return find(session, job_id)


def find(session: Session, job_id: str, *, lock: bool = False) -> Job:
    """A job in a transaction; locked, nobody else changes it before the transaction ends. Raises NotFound."""
    # SQLite has no row locks and needs none: its writing transactions come one after the other.
    job = session.get(Job, job_id, with_for_update=lock or None)
    if job is None:
        raise no_such_job(job_id)
    return job


def no_such_job(job_id: str) -> NotFound:
    return NotFound(f"There is no job {job_id!r}.", hint="List yours with GET /v1/jobs.")


def attempts(job_id: str) -> list[Attempt]:
    """The attempts of a job, oldest first. Raises NotFound."""
    with reading() as session:
        find(session, job_id)
        query = select(Attempt).where(Attempt.job_id == job_id).order_by(col(Attempt.number))
        return list(session.exec(query))


def attempt_of(job: Job, number: int | None = None) -> Attempt:
    """One attempt, the current one if none is named. Raises NotFound."""
    with reading() as session:
        attempt = session.get(Attempt, (job.id, number or job.attempt))
    if attempt is None:
        raise NotFound(f"Job {job.id!r} has no attempt {number}.", hint=f"It has 1 to {job.attempt}.")
    return attempt


def run_of(job: Job) -> Run:
    """Return the run of a job for a backend to render."""
    # Not validated: bounds may have become narrower since the spec was stored.
    spec = JobSpec.model_construct(**job.spec)
    return run(spec, job.id, job.attempt, job.config, Resources(**job.resources), job.project)


def tenant_of(job: Job) -> Tenant:
    """Return for whom a job runs: its project, with an admin's rights while its owner has an admin's key."""
    return Tenant(job.project, keys.is_admin(job.owner, job.project))


def live_clusters() -> list[str]:
    """Names of the clusters that have jobs to poll, or to submit."""
    with reading() as session:
        query = select(Job.cluster).where(col(Job.state).in_(LIVE - {JobState.PAUSED})).distinct()
        return list(session.exec(query))


def awaiting_task(limit: int, in_states: Collection[JobState] = AWAITING_TASK) -> list[tuple[str, JobState]]:
    """Return jobs that await, in one of these states, a task whose message may be lost: id and state."""
    now = utcnow()
    recent = now - timedelta(seconds=get_settings().stuck_after_seconds)
    with reading() as session:
        query = (
            select(Job.id, Job.state)
            .where(col(Job.state).in_(in_states))
            # What lies ahead was written before the clock was set back.
            .where(or_(~col(Job.updated_at).between(recent, now), col(Job.state) == JobState.CANCELLING))
            # It is enqueued when its project has room: else hundreds would be enqueued again and again.
            .where(not_(projects.is_waiting_for_room()))
            .order_by(func.random())  # so that none starves the others
            .limit(limit)
        )
        return [(job_id, JobState(state)) for job_id, state in session.exec(query)]


def logs_are_removed(job_id: str, attempt: int) -> bool:
    """Whether the logs of an attempt were removed, or are being removed."""
    with reading() as session:
        query = select(Event.id).where(
            Event.job_id == job_id, Event.type == LOGS_REMOVED, col(Event.attempt) >= attempt
        )
        return session.exec(query.limit(1)).first() is not None


# -- pages, and what belongs to a job ------------------------------------------------------------


@dataclass(frozen=True)
class JobFilter:
    """What jobs to list; None is no condition."""

    project: str | None = None
    states: Sequence[JobState] = ()
    owner: str | None = None
    cluster: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Saved:
    """A checkpoint without its list of files, and the validation loss at its iteration if there was one."""

    job_id: str
    iteration: int
    attempt: int
    path: str
    format: str
    bytes: int
    saved_at: datetime
    validation_loss: float | None


# The first fields of Saved: columns of Checkpoint, all but the list of its files, which may be long.
SAVED_COLUMNS = ("job_id", "iteration", "attempt", "path", "format", "bytes", "saved_at")


@dataclass(frozen=True)
class Mark:
    """Differs between two reads of a job where a client can see a difference."""

    version: int
    is_stale: bool
    last_event: int | None


@dataclass
class Details:
    """What belongs to a job and is shown with it."""

    attempts: list[Attempt] = field(default_factory=list)
    checkpoints: list[Saved] = field(default_factory=list)

    @property
    def latest(self) -> Saved | None:
        return self.checkpoints[-1] if self.checkpoints else None

    @property
    def best(self) -> Saved | None:
        """The checkpoint with the lowest validation loss."""
        return min(
            (one for one in self.checkpoints if one.validation_loss is not None),
            key=lambda one: one.validation_loss or 0.0,
            default=None,
        )


def page_of_jobs(wanted: JobFilter, after: str | None, limit: int) -> tuple[list[Job], str | None]:
    """The newest jobs first, after the job `after`, and the cursor of the next page.

    Ids sort by the time of their making, so a page stays where it is while new jobs arrive.
    """
    query = _filtered(select(Job), wanted).order_by(col(Job.id).desc()).limit(limit + 1)
    if after:
        query = query.where(col(Job.id) < after)
    with reading() as session:
        jobs = list(session.exec(query))
    return jobs[:limit], jobs[limit - 1].id if len(jobs) > limit else None


def _filtered(query: SelectOfScalar[Job], wanted: JobFilter) -> SelectOfScalar[Job]:
    conditions: list[ColumnElement[bool]] = []
    if wanted.project is not None:
        conditions.append(col(Job.project) == wanted.project)
    if wanted.states:
        conditions.append(col(Job.state).in_(wanted.states))
    if wanted.owner is not None:
        conditions.append(col(Job.owner) == wanted.owner)
    if wanted.cluster is not None:
        conditions.append(col(Job.cluster) == wanted.cluster)
    if wanted.created_after:
        conditions.append(col(Job.created_at) >= wanted.created_after)
    if wanted.created_before:
        conditions.append(col(Job.created_at) < wanted.created_before)
    for key, value in wanted.labels.items():
        conditions.append(col(Job.labels)[key].as_string() == value)
    return query.where(*conditions)


def details(jobs: Iterable[Job]) -> dict[str, Details]:
    """Attempts and checkpoints of each job, in two queries whatever their number."""
    found = {job.id: Details() for job in jobs}
    with reading() as session:
        attempts = select(Attempt).where(col(Attempt.job_id).in_(found)).order_by(col(Attempt.number))
        for attempt in session.exec(attempts):
            found[attempt.job_id].attempts.append(attempt)
        for saved in _saved(session, found):
            found[saved.job_id].checkpoints.append(saved)
    return found


def _saved(session: Session, job_ids: Iterable[str]) -> list[Saved]:
    """Checkpoints of some jobs, oldest first."""
    at_its_iteration = and_(
        col(Metric.job_id) == col(Checkpoint.job_id),
        col(Metric.step) == col(Checkpoint.iteration),
        col(Metric.kind) == "validation",
    )
    columns = [getattr(Checkpoint, name) for name in SAVED_COLUMNS]
    query = (
        select_columns(*columns, col(Metric.data))
        .join(Metric, at_its_iteration, isouter=True)
        .where(col(Checkpoint.job_id).in_(job_ids))
        .order_by(col(Checkpoint.iteration))
    )
    return [
        Saved(**dict(zip(SAVED_COLUMNS, saved, strict=True)), validation_loss=(metric or {}).get("loss"))
        for *saved, metric in session.execute(query)
    ]


def events(job_id: str, after: int, limit: int) -> list[Event]:
    """A job's events after an event id, oldest first. Raises NotFound."""
    with reading() as session:
        find(session, job_id)
        query = select(Event).where(Event.job_id == job_id, col(Event.id) > after)
        return list(session.exec(query.order_by(col(Event.id)).limit(limit)))


def metrics(job_id: str, kind: str, from_step: int, to_step: int | None, resolution: int) -> list[Metric]:
    """At most about `resolution` metrics of a step range, evenly thinned; the last one always kept."""
    with reading() as session:
        find(session, job_id)
        conditions = [col(Metric.job_id) == job_id, col(Metric.kind) == kind, col(Metric.step) >= from_step]
        if to_step is not None:
            conditions.append(col(Metric.step) <= to_step)
        rows = list(session.exec(select(Metric).where(*conditions).order_by(col(Metric.step))))
    stride = -(-len(rows) // resolution) or 1
    return [row for index, row in enumerate(rows) if (len(rows) - 1 - index) % stride == 0]


def checkpoints(job_id: str) -> list[Saved]:
    """A job's checkpoints, oldest first. Raises NotFound."""
    with reading() as session:
        find(session, job_id)
        return _saved(session, [job_id])


def checkpoint(job_id: str, iteration: int) -> Checkpoint:
    """One checkpoint, with its files. Raises NotFound."""
    with reading() as session:
        find(session, job_id)
        found = session.get(Checkpoint, (job_id, iteration))
    if found is None:
        raise NotFound(f"Job {job_id!r} has no checkpoint of iteration {iteration}.")
    return found


def allowed_actions(job: Job) -> list[Action]:
    """What a client may ask of a job now."""
    try:
        can_pause = cluster(job.cluster).can_pause and not job.config.get("export")
    except NotFound:  # its profile was removed
        can_pause = False
    return [one for one in states.allowed_actions(job.state) if can_pause or one is not Action.PAUSE]


def is_stale(job: Job) -> bool:
    """Whether the cluster should have answered about the job by now, and has not."""
    return _is_stale(job.state, job.observed_at)


def _is_stale(state: JobState, observed_at: datetime | None) -> bool:
    if state not in POLLED or observed_at is None:
        return False
    # A moment in the future is as stale: the clock was set back since.
    return abs((utcnow() - observed_at).total_seconds()) > get_settings().stale_after_seconds


def marks(job_ids: Iterable[str]) -> dict[str, Mark]:
    """Return the mark of each job, by id, in one query."""
    last_event = select(func.max(Event.id)).where(Event.job_id == Job.id).scalar_subquery()
    query = select_columns(Job.id, Job.version, Job.state, Job.observed_at, last_event)  # type: ignore[call-overload]
    with reading() as session:
        return {
            job_id: Mark(version, _is_stale(JobState(state), observed_at), event)
            for job_id, version, state, observed_at, event in session.execute(
                query.where(col(Job.id).in_(job_ids))
            )
        }
