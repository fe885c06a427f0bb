"""Reading for clients: pages of jobs, and everything that belongs to a job. Changes nothing."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import ColumnElement
from sqlmodel import col, func, select
from sqlmodel.sql.expression import SelectOfScalar

from worker.db import reading
from worker.errors import NotFound
from worker.jobs import find
from worker.models import Attempt, Checkpoint, Event, Job, Metric
from worker.states import LIVE, JobState


@dataclass(frozen=True)
class JobFilter:
    """What jobs to list; None is no condition."""

    states: Sequence[JobState] = ()
    owner: str | None = None
    cluster: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    labels: dict[str, str] = field(default_factory=dict)


@dataclass
class Details:
    """What belongs to a job and is shown with it."""

    attempts: list[Attempt] = field(default_factory=list)
    latest: Checkpoint | None = None


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
    """Attempts and latest checkpoint of each job, in two queries whatever their number."""
    found = {job.id: Details() for job in jobs}
    with reading() as session:
        attempts = select(Attempt).where(col(Attempt.job_id).in_(found)).order_by(col(Attempt.number))
        for attempt in session.exec(attempts):
            found[attempt.job_id].attempts.append(attempt)
        for checkpoint in session.exec(_latest_checkpoints(found)):
            found[checkpoint.job_id].latest = checkpoint
    return found


def _latest_checkpoints(job_ids: Iterable[str]) -> SelectOfScalar[Checkpoint]:
    newest = (
        select(col(Checkpoint.job_id).label("job"), func.max(Checkpoint.iteration).label("iteration"))
        .where(col(Checkpoint.job_id).in_(job_ids))
        .group_by(col(Checkpoint.job_id))
        .subquery()
    )
    return select(Checkpoint).join(
        newest,
        (col(Checkpoint.job_id) == newest.c.job) & (col(Checkpoint.iteration) == newest.c.iteration),
    )


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


def checkpoints(job_id: str) -> list[Checkpoint]:
    """A job's checkpoints, oldest first. Raises NotFound."""
    with reading() as session:
        find(session, job_id)
        query = select(Checkpoint).where(Checkpoint.job_id == job_id).order_by(col(Checkpoint.iteration))
        return list(session.exec(query))


def checkpoint(job_id: str, iteration: int) -> Checkpoint:
    """One checkpoint. Raises NotFound."""
    with reading() as session:
        find(session, job_id)
        found = session.get(Checkpoint, (job_id, iteration))
    if found is None:
        raise NotFound(f"Job {job_id!r} has no checkpoint of iteration {iteration}.")
    return found


def validation_losses(job_id: str) -> dict[int, float]:
    """Validation loss by step."""
    with reading() as session:
        query = select(Metric).where(Metric.job_id == job_id, Metric.kind == "validation")
        return {metric.step: metric.data["loss"] for metric in session.exec(query)}


def live_jobs_by_cluster() -> dict[str, dict[str, int]]:
    """Number of live jobs by cluster and state."""
    query = (
        select(Job.cluster, Job.state, func.count())
        .where(col(Job.state).in_(LIVE))
        .group_by(Job.cluster, col(Job.state))
    )
    counts: dict[str, dict[str, int]] = {}
    with reading() as session:
        for cluster, state, number in session.exec(query):
            counts.setdefault(cluster, {})[JobState(state).value] = number
    return counts
