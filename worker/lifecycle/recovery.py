"""Recover a job after an interruption: another attempt, from the last complete checkpoint.

A job may recover `max_recoveries` times (of its cluster) without saving: a new checkpoint resets the count.
"""

from datetime import timedelta
from itertools import takewhile

from sqlmodel import Session, col, select

from trainer.failures import Evidence, explain
from worker.clock import utcnow
from worker.clusters.registry import cluster
from worker.db.models import Attempt, Checkpoint, Job, Json, Origin
from worker.db.session import reading, writing
from worker.jobs import transitions
from worker.lifecycle import admission
from worker.lifecycle.outcome import Outcome
from worker.runs.observation import ObservationCode
from worker.settings import get_settings
from worker.states import DesiredState, JobState, Reason
from worker.telemetry.logging import logger

log = logger(__name__)

INTERRUPTIONS = frozenset({
    ObservationCode.PREEMPTED, ObservationCode.NODE_FAIL, ObservationCode.TIME_LIMIT,
})  # fmt: skip


def should_recover(job: Job, decision: Outcome) -> bool:
    """Whether a run that ended like this is followed by another attempt."""
    was_interrupted = decision.explanation in INTERRUPTIONS
    return was_interrupted and job.desired_state == DesiredState.RUN and not limit_is_reached(job)


def limit_is_reached(job: Job) -> bool:
    """Whether the job has recovered as often as it may since it last saved, or was started by somebody."""
    with reading() as session:
        query = select(Attempt).where(Attempt.job_id == job.id).order_by(col(Attempt.number).desc())
        attempts = session.exec(query).all()
        saved = set(session.exec(select(Checkpoint.attempt).where(Checkpoint.job_id == job.id)).all())
    own = (Origin.RECOVERED.value, Origin.REQUEUED.value)
    without_progress = takewhile(lambda one: one.origin in own and one.number not in saved, attempts)
    return len(list(without_progress)) >= cluster(job.cluster).recoveries


def is_given_up(job: Job) -> bool:
    """Whether the cluster interrupted the run, and did not restart it within the grace."""
    grace = timedelta(seconds=get_settings().requeue_grace_seconds)
    return job.state is JobState.RECOVERING and utcnow() - job.updated_at > grace


def recover(job: Job, reason: Reason, failure: Json | None = None) -> bool:
    """Start another attempt in place of an interrupted one. False where somebody else moved the job."""
    with writing() as session:
        if not _to_recovering(session, job, reason):
            return False
        moved = transitions.next_attempt(
            session, job, JobState.SUBMITTING, Origin.RECOVERED, reason=reason, failure_of_last=failure
        )
    admission.release(job.project)
    log.info("job.recovering", job_id=job.id, attempt=job.attempt, code=reason.code)
    return moved


def _to_recovering(session: Session, job: Job, reason: Reason) -> bool:
    is_recovering = job.state is JobState.RECOVERING
    return is_recovering or transitions.move(session, job, JobState.RECOVERING, reason=reason)


def interruption_of(job: Job) -> Json | None:
    """Return the failure of a run that the scheduler restarts, as far as it was observed."""
    if not _was_observed(job):
        return None
    found = explain(job.reason_code or "", cause=job.reason_message, evidence=Evidence(attempt=job.attempt))
    return found.model_dump(mode="json", by_alias=True)


def end_of_last_run(job: Job) -> tuple[ObservationCode, str]:
    """Return code and message for the end of a run that the scheduler restarts, but may not any more."""
    if _was_observed(job):
        return ObservationCode(job.reason_code or ""), job.reason_message or ""
    return ObservationCode.PREEMPTED, "The scheduler has requeued the run."


def _was_observed(job: Job) -> bool:
    return job.state is JobState.RECOVERING and job.reason_code in INTERRUPTIONS
