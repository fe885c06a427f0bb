"""Which job is submitted next: the oldest of the project that was served least recently.

The message of a job is a ticket, not its place in the queue: the worker that takes it submits the job whose
turn it is. So a job waits for one job of each other project, and not for all of theirs. There is a ticket for
each job that waits; the sweep replaces those that were lost.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from sqlalchemy import ColumnElement, and_, not_, or_, tuple_, update
from sqlmodel import col, func, select

from worker.broker.leases import SubmissionLeases, last_poll_error, submission_leases
from worker.clock import utcnow
from worker.clusters.registry import clusters
from worker.db.models import Job, Project
from worker.db.session import affected, reading, writing
from worker.errors import BackendUnavailable, CredentialsRefused
from worker.jobs import queries
from worker.limits import projects
from worker.settings import get_settings
from worker.states import AWAITING_SUBMISSION

Condition = ColumnElement[bool]

# Reasons of jobs whose cluster did not answer: they are tried again later.
DEFERRED = (BackendUnavailable.code, CredentialsRefused.code)


@contextmanager
def next_job() -> Iterator[str | None]:
    """Yield the id of the job to submit now, None where none is ready; no other worker chooses it meanwhile.

    A worker that dies, or fails with the job, keeps it from the others for SFT_STUCK_AFTER_SECONDS.
    """
    with submission_leases() as leases:
        job_id = _claim(leases)
        yield job_id
        if job_id:
            leases.release(job_id)


def _claim(leases: SubmissionLeases) -> str | None:
    is_ready = _is_ready()
    passed: set[str] = set()
    while project := _take_turn(is_ready, passed):
        for job_id in _oldest(project, is_ready):
            if _acquire(leases, job_id, is_ready):
                return job_id
        passed.add(project)
    return None


def _is_ready() -> Condition:
    """Whether a job waits to be submitted, and can be now."""
    now = utcnow()
    recent = now - timedelta(seconds=get_settings().stuck_after_seconds)
    was_tried = and_(col(Job.reason_code).in_(DEFERRED), col(Job.updated_at).between(recent, now))
    return and_(
        col(Job.state).in_(AWAITING_SUBMISSION),
        tuple_(col(Job.cluster), col(Job.backend)).in_(_answering_clusters()),
        # Without a reason the comparison is NULL, which is not true either.
        or_(col(Job.reason_code).is_(None), not_(or_(was_tried, projects.is_waiting_for_room()))),
    )


def _answering_clusters() -> list[tuple[str, str]]:
    """Names and kinds: a job waits while the profile of its cluster is gone, or of another kind."""
    live = (profile for name in queries.live_clusters() if (profile := clusters().get(name)))
    return [(profile.name, profile.executor) for profile in live if not last_poll_error(profile.name)]


def _take_turn(is_ready: Condition, passed: set[str]) -> str | None:
    """Return the project that was served least recently and has a job that is ready; it is served now."""
    query = (
        select(Project.name, Project.turn)
        .join(Job, and_(col(Job.project) == col(Project.name), is_ready))
        .where(col(Project.name).not_in(passed))
        .order_by(col(Project.turn), col(Project.name))
    )
    while True:
        with reading() as session:
            found = session.exec(query.limit(1)).first()
        if found is None or _serve(*found):
            return found[0] if found else None


def _serve(project: str, seen: int) -> bool:
    """Put a project behind all others; False where another worker did it just now."""
    last = select(func.max(Project.turn)).scalar_subquery()
    statement = update(Project).where(col(Project.name) == project, col(Project.turn) == seen)
    with writing() as session:
        return affected(session, statement.values(turn=last + 1)) > 0


def _oldest(project: str, is_ready: Condition) -> list[str]:
    with reading() as session:
        return list(session.exec(select(Job.id).where(Job.project == project, is_ready).order_by(Job.id)))


def _acquire(leases: SubmissionLeases, job_id: str, is_ready: Condition) -> bool:
    """Take a job, unless another worker has it, or has submitted it since it was read."""
    if not leases.acquire(job_id, get_settings().stuck_after_seconds):
        return False
    with reading() as session:
        if session.exec(select(Job.id).where(Job.id == job_id, is_ready)).first():
            return True
    leases.release(job_id)
    return False
