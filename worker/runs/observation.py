"""What a backend observes of a run, and the record of its end. Pure."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict


class Phase(StrEnum):
    """Where a run is, whatever its scheduler calls that."""

    QUEUED = "queued"
    RUNNING = "running"
    INTERRUPTED = "interrupted"
    """Ended by the cluster, which may requeue it."""
    ENDED = "ended"
    UNKNOWN = "unknown"
    """The scheduler answers, and does not know the run."""


class ObservationCode(StrEnum):
    """Why a run is in its phase. The values are public: clients read them as a job's state_reason.code."""

    # queued
    WAITING_FOR_SLOT = "waiting_for_slot"
    PENDING = "pending"
    CONFIGURING = "configuring"
    STARTING = "starting"
    HELD = "held"
    NEVER_RUNS = "never_runs"
    # running
    RUNNING = "running"
    SUSPENDED = "suspended"
    STOPPING = "stopping"
    # interrupted or ended
    PREEMPTED = "preempted"
    NODE_FAIL = "node_fail"
    TIME_LIMIT = "time_limit"
    IMAGE_PULL = "image_pull"
    OOM_KILLED = "oom_killed"
    START_FAILED = "start_failed"
    CANCELLED = "cancelled"
    EXITED = "exited"
    KILLED = "killed"
    DIRECTORY_MISSING = "directory_missing"
    UNREADABLE = "unreadable"
    """The record of the end cannot be read, or has a code that is none of these."""
    # the scheduler does not know the run
    UNKNOWN_TO_SCHEDULER = "unknown_to_scheduler"
    """The scheduler and its accounting answer, and neither knows the run."""
    ACCOUNTING_UNAVAILABLE = "accounting_unavailable"
    FORGOTTEN = "forgotten"
    """It has left its end marker."""
    VANISHED = "vanished"
    """It has begun, and has left no end marker."""

    @classmethod
    def _missing_(cls, value: object) -> "ObservationCode":  # noqa: ARG003
        """A run may write anything into its own exit record."""
        return cls.UNREADABLE


class Meaning(NamedTuple):
    """What a scheduler's own state or reason means here."""

    phase: Phase
    code: ObservationCode
    message: str


@dataclass(frozen=True)
class Observation:
    """What a backend knows about one run at one moment."""

    phase: Phase
    code: ObservationCode
    message: str
    raw: str | None = None
    """The scheduler's own message."""
    external_id: str | None = None
    """The id of the run now, where that is not the id that was polled."""
    restarts: int = 0
    """How often the scheduler has restarted the run."""
    estimated_start: datetime | None = None


class ExitRecord(BaseModel):
    """The backend's statement that a run is over, as it is stored with the attempt."""

    model_config = ConfigDict(frozen=True)

    code: ObservationCode
    message: str = ""
    raw: str | None = None
    at: datetime | None = None
    """When the service observed the end, UTC."""
