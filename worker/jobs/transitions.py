"""The only writer of jobs and attempts: they move from state to state, and from attempt to attempt, here.

Each function belongs to its caller's transaction. Nothing here talks to a backend or a broker.
"""

from typing import Any

from sqlalchemy import update
from sqlmodel import Session, col

from worker.clock import utcnow
from worker.db.models import Attempt, Event, Job, Json, Origin
from worker.db.session import affected
from worker.errors import IllegalAction
from worker.jobs.queries import find
from worker.states import TERMINAL, TRANSITIONS, JobState, Reason, allowed_actions

SYSTEM = "system"


def move(
    session: Session,
    job: Job,
    to: JobState,
    *,
    actor: str = SYSTEM,
    reason: Reason | None = None,
    **changes: Any,
) -> bool:
    """Bring a job from the state it was seen in to another: the one place where a state changes.

    Returns False, and changes nothing, where somebody else moved the job first.
    Raises IllegalAction where no path leads there.
    """
    seen = job.state
    if to not in TRANSITIONS[seen]:
        raise IllegalAction(f"A job that is {seen} cannot become {to}.", allowed=allowed_actions(seen))
    values: dict[str, Any] = {"state": to, **_reason_values(reason), **changes}
    if to in TERMINAL:
        values["finished_at"] = utcnow()
    if not change(session, job, **values):
        return False
    data = {"from": seen.value, "to": to.value, "code": reason.code if reason else None}
    data["message"] = reason.message if reason else None
    record(session, job, "state", actor=actor, data=data)
    if to in TERMINAL or to is JobState.PAUSED:
        _close_attempt(session, job.id, job.attempt, to, failure=job.failure)
    return True


def _reason_values(reason: Reason | None) -> dict[str, str | None]:
    if reason is None:
        return {"reason_code": None, "reason_message": None, "reason_raw": None}
    return {"reason_code": reason.code, "reason_message": reason.message, "reason_raw": reason.raw}


def next_attempt(
    session: Session,
    job: Job,
    to: JobState,
    origin: Origin,
    *,
    actor: str = SYSTEM,
    reason: Reason | None = None,
    failure_of_last: Json | None = None,
    attempt: Json | None = None,
    **changes: Any,
) -> bool:
    """Move a job on to another attempt. The last one is closed; what it ended in is the job's state now.

    failure_of_last: why the last attempt did not get to its end.
    attempt: columns of the new attempt.
    Returns False, and changes nothing, where somebody else moved the job first.
    """
    number, outcome = job.attempt, job.state
    changes = {"attempt": number + 1, "progress": {}, "estimated_start": None, **changes}
    if not move(session, job, to, actor=actor, reason=reason, **changes):
        return False
    _close_attempt(session, job.id, number, outcome, failure_of_last)
    columns = {"resources": job.resources, "origin": origin.value, **(attempt or {})}
    session.add(Attempt(job_id=job.id, number=job.attempt, **columns))
    return True


def _close_attempt(
    session: Session, job_id: str, number: int, outcome: JobState, failure: Json | None = None
) -> None:
    """Note in what an attempt ended, unless that is known already."""
    session.execute(
        update(Attempt)
        .where(col(Attempt.job_id) == job_id, col(Attempt.number) == number)
        .where(col(Attempt.finished_at).is_(None))
        .values(outcome=outcome.value, finished_at=utcnow(), failure=failure)
    )


def change(session: Session, job: Job, **values: Any) -> bool:
    """Set columns of a job, count the change, and bring `job` up to date.

    Returns False, and changes nothing, where it is no longer in the state and attempt it was seen in.
    """
    statement = (
        update(Job)
        .where(col(Job.id) == job.id, col(Job.state) == job.state, col(Job.attempt) == job.attempt)
        .values(version=col(Job.version) + 1, updated_at=utcnow(), **values)
    )
    if affected(session, statement) == 0:
        return False
    session.expire_all()
    fresh = find(session, job.id)
    if fresh is not job:
        job.sqlmodel_update(fresh.model_dump())
    return True


def record(
    session: Session,
    job: Job,
    kind: str,
    *,
    actor: str = SYSTEM,
    data: Json | None = None,
    attempt: int | None = None,
) -> None:
    """Write an event of the job's history.

    The transaction holds the job (`find(lock=True)`, or it has changed it): a reader who goes on
    after the last id that it has seen would else pass over an event that was committed later.
    attempt: whose event it is; by default of the current one.
    """
    number = attempt or job.attempt
    session.add(Event(job_id=job.id, attempt=number, type=kind, actor=actor, data=data or {}))
