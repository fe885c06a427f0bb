"""What an observation changes about a job. Pure: a decision is a value, which apply_changes.py writes."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, auto

from worker.errors import ClusterRemoved, CredentialsRefused
from worker.runs.observation import Observation, Phase
from worker.states import JobState

# Reasons of a running job that a poll shows, and the next that is answered clears.
POLL_ERRORS = (CredentialsRefused.code, ClusterRemoved.code)

# Schedulers revise the estimated start with each of their rounds.
ESTIMATE_STEP = timedelta(minutes=2)


class Change(Enum):
    """What happened to a run since the job was last written."""

    QUEUE_REASON = auto()
    """It waits for another reason, or until another moment."""
    STARTED = auto()
    POLLS_AGAIN = auto()
    """The cluster accepts the service's credentials again, or is in the configuration again."""
    INTERRUPTED = auto()
    """The cluster ended the run, and may restart it."""
    REQUEUED = auto()
    """The scheduler restarts the run."""
    RECOVERY_LIMIT_REACHED = auto()
    """The scheduler restarts the run once too often."""
    ENDED = auto()


@dataclass(frozen=True)
class KnownRun:
    """What the database knows of a job's current run."""

    state: JobState
    is_wanted: bool
    """Neither a cancellation nor a pause was requested."""
    reason_code: str | None
    reason_message: str | None
    estimated_start: datetime | None
    restarts: int
    has_ended: bool
    is_given_up: bool
    """The cluster interrupted it, and did not restart it in time."""


def change_of(known: KnownRun, seen: Observation) -> Change | None:
    """Decide what an observation changes; None where it changes nothing."""
    if seen.restarts > known.restarts and (known.is_wanted or seen.phase is not Phase.ENDED):
        return Change.REQUEUED
    match seen.phase:
        case Phase.QUEUED if known.state is JobState.QUEUED and _waits_otherwise(known, seen):
            return Change.QUEUE_REASON
        case Phase.RUNNING if known.state is JobState.QUEUED:
            return Change.STARTED
        case Phase.RUNNING if known.reason_code in POLL_ERRORS:
            return Change.POLLS_AGAIN
        case Phase.INTERRUPTED if not known.has_ended:
            return Change.INTERRUPTED
        case Phase.ENDED if not known.has_ended:
            return Change.ENDED
    return None


def _waits_otherwise(known: KnownRun, seen: Observation) -> bool:
    old, new = known.estimated_start, seen.estimated_start
    moved = abs(new - old) > ESTIMATE_STEP if old and new else old != new
    return known.reason_message != seen.message or moved


def may_not_restart(change: Change, known: KnownRun) -> bool:
    """Whether the run has to be cancelled at the scheduler, which might restart it although it is over."""
    if not known.is_wanted:
        return change in (Change.REQUEUED, Change.INTERRUPTED)
    gave_up = change is Change.INTERRUPTED and known.is_given_up
    return gave_up or change is Change.RECOVERY_LIMIT_REACHED
