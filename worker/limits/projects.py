"""What a project may use at a time: jobs and GPUs on the clusters, and jobs that wait to be submitted.

The defaults are settings; an admin may set others for a project. Whoever decides by them locks the project's
row until the end of the transaction: several workers, and several requests, decide one after the other.
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import ColumnElement, and_, insert, or_
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, func, select

from worker.auth import audit
from worker.auth.roles import Caller
from worker.broker import messages
from worker.broker.task_names import FIRST, TaskName
from worker.db.models import Attempt, Job, Project
from worker.db.session import reading, writing
from worker.errors import FieldError, TooManyWaitingJobs
from worker.runs.run import Resources
from worker.settings import MAX_LIMIT, get_settings
from worker.states import AWAITING_SUBMISSION, POLLED, JobState

PROJECT_LIMIT = "project_limit"
"""Reason of a job that waits for its project to have room."""
BEYOND_PROJECT_LIMIT = "beyond_project_limit"
"""Code of a request for more GPUs than the project may ever have."""
RETRY_AFTER_SECONDS = 30.0


class ProjectLimits(BaseModel):
    """Limits of one project."""

    model_config = ConfigDict(extra="forbid", strict=True)

    live_jobs: int | None = Field(
        default=None, ge=0, le=MAX_LIMIT, description="Jobs that clusters have at a time; further ones wait."
    )
    waiting_jobs: int | None = Field(
        default=None, ge=0, le=MAX_LIMIT, description="Jobs that may wait; further ones are rejected."
    )
    gpus: int | None = Field(
        default=None, ge=0, le=MAX_LIMIT, description="GPUs that the live jobs may occupy together."
    )

    def over(self, defaults: "ProjectLimits") -> "ProjectLimits":
        """Return these limits, with the default where there is none."""
        return defaults.model_copy(update=self.model_dump(exclude_none=True))


@dataclass(frozen=True)
class Used:
    """What a project uses now."""

    live_jobs: int
    waiting_jobs: int
    gpus: int


@dataclass
class Room:
    """What a project may still put on the clusters, taken by its jobs in the order in which they came."""

    limits: ProjectLimits
    live_jobs: int
    gpus: int
    is_awaited: bool = False
    """Whether a job waits for room: a later one does not overtake it."""

    def shortage(self, gpus: int) -> str | None:
        """Return why a job that occupies these GPUs has to wait; None where there is room for it."""
        if self._is_never_enough(gpus):
            return (
                f"This job needs {gpus} GPUs, and the limit of the project is {self.limits.gpus}: "
                "it can never start. Cancel it and retry it with fewer GPUs, or ask an admin to raise the "
                "limit."
            )
        if self.limits.live_jobs is not None and self.live_jobs >= self.limits.live_jobs:
            return f"The limit of the project's live jobs is {self.limits.live_jobs}."
        if self.limits.gpus is not None and self.gpus + gpus > self.limits.gpus:
            return f"The limit of the project's GPUs is {self.limits.gpus}; this job needs {gpus}."
        return "An older job of the project waits for GPUs, and starts first." if self.is_awaited else None

    def take(self, gpus: int) -> str | None:
        """Give room to the next job, or return why it has to wait.

        Later jobs wait behind it, unless it can never start.
        """
        shortage = self.shortage(gpus)
        if shortage is None:
            self.live_jobs += 1
            self.gpus += gpus
        elif not self._is_never_enough(gpus):
            self.is_awaited = True
        return shortage

    def _is_never_enough(self, gpus: int) -> bool:
        return self.limits.gpus is not None and gpus > self.limits.gpus


# -- limits ----------------------------------------------------------------------------------------


def defaults() -> ProjectLimits:
    """Return the limits of a project that has none of its own."""
    settings = get_settings()
    return ProjectLimits(
        live_jobs=settings.project_live_jobs,
        waiting_jobs=settings.project_waiting_jobs,
        gpus=settings.project_gpus,
    )


def own(name: str) -> ProjectLimits:
    """Return what an admin has set for a project."""
    with reading() as session:
        return _own(session.get(Project, name))


def beyond_limit(name: str, resources: Resources) -> FieldError | None:
    """Return the error for a job that needs more GPUs than its project may have; None if it can start."""
    limit = own(name).over(defaults()).gpus
    if limit is None or resources.gpus <= limit:
        return None
    field = "gpus_per_node" if resources.gpus_per_node > limit or resources.nodes == 1 else "nodes"
    return FieldError(
        pointer=f"/resources/{field}",
        code=BEYOND_PROJECT_LIMIT,
        detail=f"The job needs {resources.gpus} GPUs, more than the limit of {limit} for project {name!r}.",
        hint=f"Request at most {limit} GPUs (nodes times gpus_per_node), or ask an admin to raise the limit.",
    )


def _own(project: Project | None) -> ProjectLimits:
    columns = project.model_dump(include=set(ProjectLimits.model_fields)) if project else {}
    return ProjectLimits.model_validate(columns)


def all_own() -> dict[str, ProjectLimits]:
    """Return the limits of the projects for which an admin has set some, by project."""
    is_set = or_(*(col(getattr(Project, name)).is_not(None) for name in ProjectLimits.model_fields))
    query = select(Project).where(is_set).order_by(Project.name)
    with reading() as session:
        return {row.name: _own(row) for row in session.exec(query)}


def set_own(name: str, limits: ProjectLimits, caller: Caller) -> None:
    """Set the limits of a project; None is the default. The sweep releases the jobs that have room now."""
    with writing() as session:
        lock(session, name).sqlmodel_update(limits.model_dump())
        audit.of_limits(session, name, limits.model_dump(), caller)
    messages.enqueue(TaskName.SWEEP, priority=FIRST)


# -- what is used ----------------------------------------------------------------------------------


def usage(name: str) -> Used:
    """Count what a project uses now."""
    with reading() as session:
        occupying = _occupying(session, name)
        return Used(len(occupying), _count_waiting(session, name), _gpus(occupying))


def _is_current() -> ColumnElement[bool]:
    return and_(col(Attempt.job_id) == col(Job.id), col(Attempt.number) == col(Job.attempt))


def _occupying(session: Session, name: str) -> list[Resources]:
    """Return the resources of the jobs that a cluster has or, because their submission began, may have."""
    is_occupying = and_(col(Job.state).in_(POLLED | AWAITING_SUBMISSION), col(Attempt.directory).is_not(None))
    query = select(Job.resources).join(Attempt, _is_current()).where(col(Job.project) == name, is_occupying)
    return [Resources(**one) for one in session.exec(query)]


def _gpus(occupying: Iterable[Resources]) -> int:
    return sum(one.gpus for one in occupying)


def _count_waiting(session: Session, name: str) -> int:
    waits = and_(col(Job.state).in_(AWAITING_SUBMISSION), col(Attempt.directory).is_(None))
    query = select(func.count()).select_from(Job).join(Attempt, _is_current())
    return session.exec(query.where(col(Job.project) == name, waits)).one()


# -- decisions -------------------------------------------------------------------------------------


def lock(session: Session, name: str) -> Project:
    """Lock the row of a project until the transaction ends, and return it.

    SQLite has no row locks and needs none: its writing transactions come one after the other.
    Whoever locks a job, too, locks its project first.
    """
    if project := session.get(Project, name, with_for_update=True):
        return project
    with suppress(IntegrityError), session.begin_nested():  # another transaction made it just now
        session.execute(insert(Project).values(name=name, turn=0))
    return session.get_one(Project, name, with_for_update=True)


def require_place(session: Session, name: str) -> None:
    """Let another job of a project wait, decided with the transaction. Raises TooManyWaitingJobs."""
    most = _own(lock(session, name)).over(defaults()).waiting_jobs
    if most is None or (waiting := _count_waiting(session, name)) < most:
        return
    raise TooManyWaitingJobs(
        f"Project {name!r} has {waiting} jobs that wait to be submitted; {most} may wait.",
        hint="Try again when some of them have been submitted, or cancel some.",
        retry_after=RETRY_AFTER_SECONDS,
    )


def room(session: Session, name: str) -> Room:
    """Return what a project uses and may use on the clusters, for a decision of this transaction."""
    limits = _own(lock(session, name)).over(defaults())
    is_limited = limits.live_jobs is not None or limits.gpus is not None
    occupying = _occupying(session, name) if is_limited else []
    return Room(limits, len(occupying), _gpus(occupying))


class WaitingJob(NamedTuple):
    """A job that waits for its project to have room."""

    job_id: str
    gpus: int
    shortage: str
    """Why it waits, as it says itself."""


def waiting_for_room(session: Session, name: str, before: str | None = None) -> list[WaitingJob]:
    """Return the jobs that wait for room, the oldest first; with `before` those older than that job."""
    query = select(Job.id, Job.resources, Job.reason_message).order_by(col(Job.id))
    query = query.where(col(Job.project) == name, is_waiting_for_room())
    if before is not None:
        query = query.where(col(Job.id) < before)
    rows = session.exec(query)
    return [WaitingJob(job_id, Resources(**one).gpus, message or "") for job_id, one, message in rows]


def is_waiting_for_room() -> ColumnElement[bool]:
    return and_(
        col(Job.state) == JobState.SUBMITTING, col(Job.reason_code).is_not_distinct_from(PROJECT_LIMIT)
    )


def projects_without_room() -> list[str]:
    """Return the projects that have jobs which wait for room."""
    with reading() as session:
        return list(session.exec(select(Job.project).where(is_waiting_for_room()).distinct()))
