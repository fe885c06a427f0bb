"""Lets a job go on after an interruption: as another attempt, from its last complete checkpoint.

How often it may without saving anything new is the cluster's `max_recoveries`: a new checkpoint refills it.
"""

from itertools import takewhile

from sqlmodel import Session, col, select

from trainer.failures import Evidence, explain
from worker.clusters.registry import cluster
from worker.db.models import Attempt, Checkpoint, Job, Json, Origin
from worker.db.session import reading, writing
from worker.jobs import transitions
from worker.outcome import Outcome
from worker.states import DesiredState, JobState, Reason
from worker.telemetry.logging import logger

log = logger(__name__)

INTERRUPTIONS = frozenset({"preempted", "node_fail", "time_limit"})


def goes_on(job: Job, decision: Outcome) -> bool:
    """Whether a run that ended like this is followed by another one."""
    return decision.fault in INTERRUPTIONS and job.desired_state == DesiredState.RUN and not is_used_up(job)


def is_used_up(job: Job) -> bool:
    """Whether the job has gone on as often as it may since it last saved, or was begun by somebody."""
    with reading() as session:
        query = select(Attempt).where(Attempt.job_id == job.id).order_by(col(Attempt.number).desc())
        attempts = session.exec(query).all()
        saved = set(session.exec(select(Checkpoint.attempt).where(Checkpoint.job_id == job.id)).all())
    own = (Origin.RECOVERED.value, Origin.REQUEUED.value)
    in_vain = takewhile(lambda one: one.origin in own and one.number not in saved, attempts)
    return len(list(in_vain)) >= cluster(job.cluster).recoveries


def go_on(job: Job, reason: Reason, failure: Json | None = None) -> bool:
    """Begin another attempt in place of one that was interrupted. False where somebody else moved the job."""
    with writing() as session:
        if not _recovering(session, job, reason):
            return False
        moved = transitions.next_attempt(
            session, job, JobState.SUBMITTING, Origin.RECOVERED, reason=reason, failure_of_last=failure
        )
    log.info("job.recovering", job_id=job.id, attempt=job.attempt, code=reason.code)
    return moved


def _recovering(session: Session, job: Job, reason: Reason) -> bool:
    return job.state is JobState.RECOVERING or transitions.move(
        session, job, JobState.RECOVERING, reason=reason
    )


def interruption(job: Job) -> Json | None:
    """Why a run that the scheduler begins again did not get to its end, as far as it was seen."""
    if not _was_seen(job):
        return None
    found = explain(job.reason_code or "", cause=job.reason_message, evidence=Evidence(attempt=job.attempt))
    return found.model_dump(mode="json", by_alias=True)


def last_word(job: Job) -> tuple[str, str]:
    """Code and words for the end of a run that the scheduler begins again, but must not any more."""
    if _was_seen(job):
        return job.reason_code or "", job.reason_message or ""
    return "preempted", "The scheduler has put the run into its queue again."


def _was_seen(job: Job) -> bool:
    return job.state is JobState.RECOVERING and job.reason_code in INTERRUPTIONS
