"""Write the changes of a run: each function belongs to the transaction that holds the job."""

from dataclasses import replace

from sqlmodel import Session

from worker.clock import utcnow
from worker.db.models import Attempt, Job, Origin
from worker.jobs import transitions
from worker.lifecycle import recovery
from worker.lifecycle.changes import POLL_ERRORS, Change
from worker.lifecycle.handles import layout_of
from worker.runs.observation import ExitRecord, Observation
from worker.states import TRANSITIONS, DesiredState, JobState, Reason


def apply(change: Change, session: Session, job: Job, seen: Observation) -> None:
    """Carry out what was decided. `job` is held by the transaction, and in the attempt that was observed."""
    match change:
        case Change.QUEUE_REASON:
            _set_queue_reason(session, job, seen)
        case Change.STARTED:
            start(session, job)
        case Change.POLLS_AGAIN:
            _clear_poll_error(session, job)
        case Change.INTERRUPTED:
            _interrupt(session, job, seen)
        case Change.REQUEUED:
            _requeue(session, job, seen)
        case Change.RECOVERY_LIMIT_REACHED:
            _requeue_and_end(session, job, seen)
        case Change.ENDED:
            end(session, job, seen)


def _set_queue_reason(session: Session, job: Job, seen: Observation) -> None:
    transitions.change(
        session,
        job,
        reason_code=seen.code.value,
        reason_message=seen.message,
        reason_raw=seen.raw,
        estimated_start=seen.estimated_start,
    )


def start(session: Session, job: Job) -> None:
    """The run has begun: QUEUED -> STARTING."""
    if job.state is JobState.QUEUED:
        now = utcnow()
        started_at = job.started_at or now
        transitions.move(session, job, JobState.STARTING, started_at=started_at, estimated_start=None)
        transitions.record_start(session, job, now)


def _clear_poll_error(session: Session, job: Job) -> None:
    if job.reason_code in POLL_ERRORS:
        transitions.change(session, job, reason_code=None, reason_message=None)


def _interrupt(session: Session, job: Job, seen: Observation) -> None:
    """The cluster ended the run, and may restart it: if it does not within the grace, that was the end."""
    if job.desired_state != DesiredState.RUN or job.state is JobState.FINALIZING or recovery.is_given_up(job):
        end(session, job, seen)
    elif job.state is not JobState.RECOVERING:
        transitions.move(session, job, JobState.RECOVERING, reason=_reason(seen))


def _requeue(session: Session, job: Job, seen: Observation) -> None:
    """The scheduler restarts the run: another attempt of the same submission, in its own directory."""
    if job.state is JobState.FINALIZING:
        return
    attempt = session.get_one(Attempt, (job.id, job.attempt))
    number = attempt.number + 1
    columns = {
        "external_id": seen.external_id or attempt.external_id,
        "directory": str(layout_of(attempt).attempt(number).directory),
        "submission": attempt.submission or attempt.number,
        "submitted_at": utcnow(),
    }
    reason = Reason("requeued", "The scheduler has requeued the run.", seen.raw)
    why = recovery.interruption_of(job)
    if job.state is not JobState.RECOVERING:
        transitions.move(session, job, JobState.RECOVERING, reason=reason)
    transitions.next_attempt(
        session,
        job,
        JobState.QUEUED,
        Origin.REQUEUED,
        reason=reason,
        failure_of_last=why,
        attempt=columns,
    )


def _requeue_and_end(session: Session, job: Job, seen: Observation) -> None:
    """Restarted once too often: a new attempt, as it may have begun, which is over at once."""
    code, message = recovery.end_of_last_run(job)
    _requeue(session, job, seen)
    message = f"{message} The recovery limit without a new checkpoint was reached."
    end(session, job, replace(seen, code=code, message=message))


def end(session: Session, job: Job, seen: Observation) -> None:
    """The run is over: its exit is recorded, and its files decide the outcome in FINALIZING."""
    exit_record = ExitRecord(code=seen.code, message=seen.message, raw=seen.raw, at=utcnow())
    transitions.record_exit(session, job, exit_record)
    if JobState.FINALIZING in TRANSITIONS[job.state]:
        transitions.move(session, job, JobState.FINALIZING, reason=_reason(seen))


def _reason(seen: Observation) -> Reason:
    return Reason(seen.code.value, seen.message, seen.raw)
