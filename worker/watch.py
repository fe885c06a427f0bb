"""Looks at live jobs: one call per cluster, whatever their number; writes only what changed."""

from collections.abc import Callable
from datetime import timedelta

from sqlalchemy import func, or_, update
from sqlmodel import Session, col, select

from worker import jobs, metrics
from worker.backends.base import Observation, Phase
from worker.clusters import cluster, connect
from worker.db import reading, writing
from worker.errors import BackendUnavailable
from worker.jobs import Reason
from worker.log import logger
from worker.models import Attempt, Job, utcnow
from worker.settings import get_settings
from worker.states import AWAITING_TASK, TRANSITIONS, WATCHED, JobState

log = logger(__name__)

Watched = tuple[Job, Attempt]
Write = Callable[[Session, Job, Observation], None]


def look(cluster_name: str) -> list[str]:
    """Observe all watched jobs of a cluster, move them on, and return the ids that have files to read.

    A look that fails changes nothing: the jobs keep their state, and become stale by the clock.
    """
    watched = _watched(cluster_name)
    if not watched:
        return []
    try:
        backend = connect(cluster(cluster_name))
        with metrics.observed(cluster_name, "poll"):
            seen = backend.poll([attempt.external_id for _, attempt in watched if attempt.external_id])
    except BackendUnavailable as error:
        log.warning("poll.unavailable", cluster=cluster_name, error=error.message)
        return []
    news = [
        (job, attempt, seen[attempt.external_id]) for job, attempt in watched if attempt.external_id in seen
    ]
    for job, attempt, observation in news:
        _apply(job, attempt, observation)
    _note_observed([job for job, _, _ in news])
    return [job.id for job, _, observation in news if observation.phase is not Phase.QUEUED]


def _watched(cluster_name: str) -> list[Watched]:
    with reading() as session:
        query = (
            select(Job, Attempt)
            .where(col(Job.id) == Attempt.job_id, col(Job.attempt) == Attempt.number)
            .where(Job.cluster == cluster_name, col(Job.state).in_(WATCHED))
            .where(col(Attempt.external_id).is_not(None))
        )
        return [(job, attempt) for job, attempt in session.exec(query)]


def _apply(job: Job, attempt: Attempt, seen: Observation) -> None:
    """Bring one job to what was observed of it, in a transaction of its own if there is anything new."""
    write = _news(job, attempt, seen)
    if write is None:
        return
    with writing() as session:
        now = jobs.find(session, job.id, lock=True)
        # What was observed is of this attempt; meanwhile the job may have gone on.
        if now.attempt == attempt.number and now.state in WATCHED:
            write(session, now, seen)


def _news(job: Job, attempt: Attempt, seen: Observation) -> Write | None:
    """What is to be written about an observation, if anything."""
    match seen.phase:
        case Phase.QUEUED if job.state is JobState.QUEUED and job.reason_message != seen.message:
            return _waits
        case Phase.RUNNING if job.state is JobState.QUEUED:
            return _started
        case Phase.ENDED if attempt.exit is None:
            return _ended
    return None


def _waits(session: Session, job: Job, seen: Observation) -> None:
    jobs.change(session, job, reason_code=seen.code, reason_message=seen.message)


def _started(session: Session, job: Job, _seen: Observation) -> None:
    if job.state is JobState.QUEUED:
        now = utcnow()
        jobs.move(session, job, JobState.STARTING, started_at=job.started_at or now)
        _set_attempt(session, job, started_at=now)


def _ended(session: Session, job: Job, seen: Observation) -> None:
    _set_attempt(session, job, exit={"code": seen.code, "message": seen.message, "raw": seen.raw})
    if JobState.FINALIZING in TRANSITIONS[job.state]:
        jobs.move(session, job, JobState.FINALIZING, reason=Reason(seen.code, seen.message, seen.raw))


def _set_attempt(session: Session, job: Job, **values: object) -> None:
    session.execute(
        update(Attempt)
        .where(col(Attempt.job_id) == job.id, col(Attempt.number) == job.attempt)
        .values(**values)
    )


def _note_observed(seen: list[Job]) -> None:
    """Keep observed_at fresh enough for `stale`, and write no more often than that needs."""
    now = utcnow()
    old = now - timedelta(seconds=get_settings().stale_after_seconds / 3)
    # What lies ahead was written before the clock was put back.
    due = [job.id for job in seen if job.observed_at is None or not old <= job.observed_at <= now]
    if due:
        with writing() as session:
            session.execute(update(Job).where(col(Job.id).in_(due)).values(observed_at=now))


def owed(limit: int) -> list[tuple[str, JobState]]:
    """Jobs that wait for a task whose message may have been lost: id and state."""
    now = utcnow()
    recent = now - timedelta(seconds=get_settings().stuck_after_seconds)
    with reading() as session:
        query = (
            select(Job.id, Job.state)
            .where(col(Job.state).in_(AWAITING_TASK))
            # What lies ahead was written before the clock was put back.
            .where(or_(~col(Job.updated_at).between(recent, now), col(Job.state) == JobState.CANCELLING))
            .order_by(func.random())  # so that none keeps the others from their turn
            .limit(limit)
        )
        return [(job_id, JobState(state)) for job_id, state in session.exec(query)]
