"""The life of a job: its states, and which may follow which. Pure, no I/O."""

from dataclasses import dataclass
from enum import StrEnum


class JobState(StrEnum):
    """The state of a job, as clients see it."""

    VALIDATING = "VALIDATING"
    SUBMITTING = "SUBMITTING"
    QUEUED = "QUEUED"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    FINALIZING = "FINALIZING"
    PAUSING = "PAUSING"
    PAUSED = "PAUSED"
    RECOVERING = "RECOVERING"
    CANCELLING = "CANCELLING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    LOST = "LOST"


class DesiredState(StrEnum):
    """What its owner wants of a job; kept apart from what is observed."""

    RUN = "run"
    PAUSE = "pause"
    CANCEL = "cancel"


class Action(StrEnum):
    CANCEL = "cancel"
    PAUSE = "pause"
    RESUME = "resume"
    RETRY = "retry"


@dataclass(frozen=True)
class Reason:
    """Why a job is in its state: a code for programs, a message for people, the scheduler's own text."""

    code: str
    message: str
    raw: str | None = None


S = JobState

TERMINAL = frozenset({S.SUCCEEDED, S.FAILED, S.CANCELLED, S.LOST})
LIVE = frozenset(JobState) - TERMINAL

# The backend has, or may have, the job: it is polled.
POLLED = frozenset({S.QUEUED, S.STARTING, S.RUNNING, S.FINALIZING, S.PAUSING, S.RECOVERING, S.CANCELLING})
# The job awaits a task: if its message was lost, the sweep enqueues another.
AWAITING_TASK = frozenset({S.VALIDATING, S.SUBMITTING, S.CANCELLING, S.PAUSING, S.FINALIZING})

# The job waits to be submitted, unless its attempt has a directory: then the backend may have it.
AWAITING_SUBMISSION = frozenset({S.VALIDATING, S.SUBMITTING})

# What the end of a run may turn a watched job into.
_OUTCOMES = frozenset({S.SUCCEEDED, S.FAILED, S.CANCELLED, S.LOST})

TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    S.VALIDATING: frozenset({S.SUBMITTING, S.FAILED, S.CANCELLING}),
    S.SUBMITTING: frozenset({S.QUEUED, S.FAILED, S.CANCELLING}),
    S.QUEUED: frozenset({S.STARTING, S.RUNNING, S.FINALIZING, S.RECOVERING, S.CANCELLING}),
    # Back to QUEUED: the scheduler has requeued the run.
    S.STARTING: frozenset({S.QUEUED, S.RUNNING, S.FINALIZING, S.RECOVERING, S.PAUSING, S.CANCELLING}),
    S.RUNNING: frozenset({S.QUEUED, S.FINALIZING, S.RECOVERING, S.PAUSING, S.CANCELLING}),
    S.FINALIZING: _OUTCOMES | {S.PAUSED, S.RECOVERING, S.CANCELLING},
    S.PAUSING: frozenset({S.FINALIZING, S.RECOVERING, S.CANCELLING}),
    S.PAUSED: frozenset({S.SUBMITTING, S.CANCELLING}),
    # The run was interrupted: another attempt follows, started by the scheduler or by the service.
    S.RECOVERING: frozenset({S.SUBMITTING, S.QUEUED, S.FINALIZING, S.CANCELLING}),
    # A run that finished before the cancellation request reached it has succeeded.
    S.CANCELLING: _OUTCOMES,
    S.SUCCEEDED: frozenset(),
    S.FAILED: frozenset({S.VALIDATING}),
    S.CANCELLED: frozenset({S.VALIDATING}),
    S.LOST: frozenset({S.VALIDATING}),
}


LIVE_ACTIONS = {
    S.STARTING: (Action.PAUSE,),
    S.RUNNING: (Action.PAUSE,),
    S.PAUSING: (Action.PAUSE,),
    S.PAUSED: (Action.RESUME,),
}


def allowed_actions(state: JobState) -> list[Action]:
    """What a client may ask of a job in this state."""
    if state in LIVE:
        return [*LIVE_ACTIONS.get(state, ()), Action.CANCEL]
    return [Action.RETRY] if S.VALIDATING in TRANSITIONS[state] else []
