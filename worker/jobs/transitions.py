"""The only writer of jobs and attempts: they move from state to state, and from attempt to attempt, here.

Each function belongs to its caller's transaction. Nothing here talks to a backend or a broker.
"""

from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import delete, update
from sqlalchemy import insert as insert_into
from sqlmodel import Session, SQLModel, col

from worker.auth import audit
from worker.clock import utcnow
from worker.db.models import Attempt, Event, Job, Json, Origin
from worker.db.session import affected
from worker.errors import IllegalAction
from worker.jobs.queries import find
from worker.runs.observation import ExitRecord
from worker.states import TERMINAL, TRANSITIONS, JobState, Reason, allowed_actions

SYSTEM = "system"


# -- jobs ------------------------------------------------------------------------------------------


def insert(session: Session, job: Job, *, actor: str) -> None:
    """Store a new job with its first attempt."""
    session.add(job)
    session.flush()
    session.add(Attempt(job_id=job.id, number=1, resources=job.resources))
    record(session, job, "created", actor=actor, data={"state": job.state.value})


def move(
    session: Session,
    job: Job,
    to: JobState,
    *,
    actor: str = SYSTEM,
    reason: Reason | None = None,
    **changes: Any,
) -> bool:
    """Bring a job from the state it was read in to another: the one place where a state changes.

    Returns False, and changes nothing, where somebody else moved the job first.
    Raises IllegalAction where no path leads there.
    """
    seen = job.state
    if to not in TRANSITIONS[seen]:
        raise IllegalAction(f"A job in state {seen} cannot become {to}.", allowed=allowed_actions(seen))
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


def change(session: Session, job: Job, **values: Any) -> bool:
    """Set columns of a job, count the change, and bring `job` up to date.

    Returns False, and changes nothing, where it is no longer in the state and attempt it was read in.
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


def record_observation(session: Session, job_ids: Collection[str], at: datetime) -> None:
    """Note when a backend answered about jobs: no change that a client sees."""
    session.execute(update(Job).where(col(Job.id).in_(job_ids)).values(observed_at=at))


def remove(session: Session, job_id: str) -> None:
    """Delete a job with the rows of every table that points at it."""
    for table in reversed(SQLModel.metadata.sorted_tables):
        for column in table.columns:
            if column.references(col(Job.id)):
                session.execute(delete(table).where(column == job_id))
    session.execute(delete(Job).where(col(Job.id) == job_id))


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

    The transaction holds the job (`find(lock=True)`, or it has changed it): a reader who continues
    after the last id that it has read would else miss an event that was committed later.
    attempt: whose event it is; by default of the current one.
    """
    number = attempt or job.attempt
    session.add(Event(job_id=job.id, attempt=number, type=kind, actor=actor, data=data or {}))


def record_all(session: Session, events: Iterable[Event]) -> None:
    """Write events of a job's history in one statement, in this order. As record."""
    if rows := [event.model_dump(exclude={"id"}) for event in events]:
        session.execute(insert_into(Event), rows)


# -- attempts --------------------------------------------------------------------------------------


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
    """Move a job to its next attempt. The last one is closed; its outcome is the job's state now.

    failure_of_last: why the last attempt did not complete.
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
    """Record the outcome of an attempt, unless it is known already."""
    session.execute(
        update(Attempt)
        .where(col(Attempt.job_id) == job_id, col(Attempt.number) == number)
        .where(col(Attempt.finished_at).is_(None))
        .values(outcome=outcome.value, finished_at=utcnow(), failure=failure)
    )


def assign_directory(session: Session, job: Job, directory: str) -> bool:
    """Record, before a backend hears of it, that it may have the attempt; False where the job was moved.

    So a cancellation knows which attempts it can close at once, and no run starts behind its back. The audit
    log has the secrets that the attempt gets.
    """
    now = find(session, job.id, lock=True)
    if (now.state, now.attempt) != (job.state, job.attempt):
        return False
    attempt = session.get_one(Attempt, (job.id, job.attempt))
    if attempt.directory is None:  # once for each attempt, however often its submission is repeated
        audit.of_secrets(session, job)
    attempt.directory = directory
    return True


def record_submission(session: Session, job: Job, external_id: str, directory: str) -> bool:
    """Record the scheduler's id of the attempt; False where it was known already."""
    statement = (
        update(Attempt)
        .where(col(Attempt.job_id) == job.id, col(Attempt.number) == job.attempt)
        .where(col(Attempt.external_id).is_(None))
        .values(external_id=external_id, directory=directory, submitted_at=utcnow())
    )
    return affected(session, statement) > 0


def rename_submission(session: Session, attempt: Attempt, external_id: str) -> None:
    """Record another id: of a doubled submission the scheduler may keep the other one."""
    session.get_one(Attempt, (attempt.job_id, attempt.number)).external_id = external_id


def record_start(session: Session, job: Job, at: datetime) -> None:
    """Record when the current attempt began to run."""
    _set_attempt(session, job, started_at=at)


def record_exit(session: Session, job: Job, exit_record: ExitRecord) -> None:
    """Record that the run of the current attempt is over."""
    _set_attempt(session, job, exit=exit_record)


def _set_attempt(session: Session, job: Job, **values: object) -> None:
    session.execute(
        update(Attempt)
        .where(col(Attempt.job_id) == job.id, col(Attempt.number) == job.attempt)
        .values(**values)
    )


def advance_events(session: Session, attempt: Attempt, by: int, *, stored: int, dropped: int) -> bool:
    """Move the offset in the transaction that stores the lines: of two readers one wins.

    by: bytes of these lines; stored, dropped: numbers of their events.
    """
    values = {
        "events_offset": attempt.events_offset + by,
        "events_stored": attempt.events_stored + stored,
        "events_dropped": attempt.events_dropped + dropped,
    }
    statement = (
        update(Attempt)
        .where(col(Attempt.job_id) == attempt.job_id, col(Attempt.number) == attempt.number)
        .where(col(Attempt.events_offset) == attempt.events_offset)
        .values(**values)
    )
    if affected(session, statement) == 0:
        return False
    attempt.sqlmodel_update(values)
    return True
