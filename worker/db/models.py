"""The tables. Training parameters are not columns: spec and config are stored as JSON."""

import secrets
import time
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, BigInteger, DateTime, Dialect, Index, Integer, Text, TypeDecorator
from sqlmodel import Field, SQLModel

from worker.clock import as_utc, utcnow
from worker.runs.observation import ExitRecord
from worker.runs.run import run_name
from worker.states import DesiredState, JobState

Json = dict[str, Any]


def new_id(prefix: str) -> str:
    """A unique id that sorts by the time of its making: prefix, 12 hex digits of ms, 10 random ones."""
    return f"{prefix}-{time.time_ns() // 1_000_000:012x}{secrets.token_hex(5)}"


class UtcDateTime(TypeDecorator[datetime]):
    """Aware UTC datetimes on every database (SQLite itself would forget the zone); naive ones are UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        return as_utc(value) if value else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        return as_utc(value) if value else None


class StateType(TypeDecorator[JobState]):
    """JobState as plain text: a new state needs no migration."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: JobState | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        return value.value if value else None

    def process_result_value(self, value: str | None, dialect: Dialect) -> JobState | None:  # noqa: ARG002
        return JobState(value) if value else None


class ExitType(TypeDecorator[ExitRecord]):
    """An ExitRecord as a JSON object."""

    impl = JSON
    cache_ok = True

    def process_bind_param(self, value: ExitRecord | None, dialect: Dialect) -> Json | None:  # noqa: ARG002
        return value.model_dump(mode="json") if value else None

    def process_result_value(self, value: Json | None, dialect: Dialect) -> ExitRecord | None:  # noqa: ARG002
        return ExitRecord.model_validate(value) if value else None


# 64-bit ids; SQLite counts up by itself only for plain INTEGER keys.
BigId = BigInteger().with_variant(Integer(), "sqlite")


class ApiKey(SQLModel, table=True):
    """An API key. Only the hash of the secret is stored."""

    __tablename__ = "api_key"

    id: str = Field(default_factory=lambda: new_id("key"), primary_key=True)
    name: str
    key_hash: str = Field(unique=True)
    role: str
    project: str
    created_at: datetime = Field(default_factory=utcnow, sa_type=UtcDateTime)
    expires_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    revoked_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    last_used_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    """To about a minute."""


class Project(SQLModel, table=True):
    """What a project may use at a time, and its turn among the projects whose jobs wait to be submitted."""

    __tablename__ = "project"

    name: str = Field(primary_key=True)
    live_jobs: int | None = None
    """Of all limits: None is the default of the settings."""
    waiting_jobs: int | None = None
    gpus: int | None = None
    turn: int = Field(default=0, sa_type=BigInteger)
    """When a job of it was last chosen to be submitted: a count, because clocks jump."""


class Job(SQLModel, table=True):
    """One fine-tuning job, whatever number of attempts it takes."""

    __tablename__ = "job"
    __table_args__ = (
        Index("ix_job_project_id", "project", "id"),
        Index("ix_job_state_id", "state", "id"),
        Index("ix_job_project_state", "project", "state"),
    )

    id: str = Field(default_factory=lambda: new_id("job"), primary_key=True)
    name: str
    owner: str
    project: str
    labels: Json = Field(default_factory=dict, sa_type=JSON)
    spec: Json = Field(sa_type=JSON)
    """The request as it was understood."""
    config: Json = Field(sa_type=JSON)
    """The effective training config."""
    export_of: Json | None = Field(default=None, sa_type=JSON)
    """Of an export: job, iteration, and checkpoint, the directory that is exported."""
    save_directory: str | None = Field(default=None, sa_type=Text)
    """Where it saves; links are resolved where the service sees the cluster's files."""
    file_system: str | None = Field(default=None, sa_type=Text)
    """Where that directory is, as its profile said then; None of a job of an earlier version: unknown."""
    resources: Json = Field(sa_type=JSON)
    plan_hash: str
    cluster: str
    backend: str
    state: JobState = Field(default=JobState.VALIDATING, sa_type=StateType)
    desired_state: str = Field(default=DesiredState.RUN.value)
    reason_code: str | None = None
    reason_message: str | None = Field(default=None, sa_type=Text)
    reason_raw: str | None = Field(default=None, sa_type=Text)
    estimated_start: datetime | None = Field(default=None, sa_type=UtcDateTime)
    """The scheduler's, while the job waits."""
    attempt: int = 1
    progress: Json = Field(default_factory=dict, sa_type=JSON)
    failure: Json | None = Field(default=None, sa_type=JSON)
    created_at: datetime = Field(default_factory=utcnow, sa_type=UtcDateTime)
    updated_at: datetime = Field(default_factory=utcnow, sa_type=UtcDateTime)
    started_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    finished_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    observed_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    """When the backend last answered about it; not part of what a client sees as a change."""
    version: int = 1
    """Counts the changes a client can see: the ETag."""

    @property
    def exported(self) -> str | None:
        """The checkpoint that an export may read, wherever it lies."""
        return self.export_of["checkpoint"] if self.export_of else None


class Origin(StrEnum):
    """What began an attempt."""

    CREATED = "created"
    RETRIED = "retried"
    """A client, after a failure."""
    RESUMED = "resumed"
    """A client, after a pause."""
    RECOVERED = "recovered"
    """The service, after an interruption."""
    REQUEUED = "requeued"
    """The scheduler, after an interruption."""


class Attempt(SQLModel, table=True):
    """One run of a job, with its own directory and logs."""

    __tablename__ = "attempt"

    job_id: str = Field(primary_key=True, foreign_key="job.id")
    number: int = Field(primary_key=True)
    external_id: str | None = None
    directory: str | None = None
    created_at: datetime = Field(default_factory=utcnow, sa_type=UtcDateTime)
    submitted_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    started_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    finished_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    exit: ExitRecord | None = Field(default=None, sa_type=ExitType)
    """The backend's statement that the run is over."""
    outcome: str | None = None
    """The job state that this attempt ended in."""
    failure: Json | None = Field(default=None, sa_type=JSON)
    """Why it failed, if it did; the job keeps that of its last attempt alone."""
    resources: Json | None = Field(default=None, sa_type=JSON)
    """What it occupied: a retry may ask for other resources."""
    origin: str = Origin.CREATED.value
    """What began it."""
    submission: int | None = None
    """Number of the attempt that was submitted, where the scheduler has begun it again by itself."""
    events_offset: int = Field(default=0, sa_type=BigInteger)
    """Bytes of the trainer's event file that were ingested."""
    events_stored: int = Field(default=0, sa_type=BigInteger)
    """Events in the database, at most SFT_MAX_EVENTS_PER_ATTEMPT and some."""
    events_dropped: int = Field(default=0, sa_type=BigInteger)
    """Events that were ingested beyond that limit."""

    @property
    def name(self) -> str:
        """What the scheduler calls its submission; unique for each of them."""
        return run_name(self.job_id, self.submission or self.number)


class Event(SQLModel, table=True):
    """An action on a job, its actor and its time: history for users, audit trail for operators."""

    __tablename__ = "event"
    __table_args__ = (Index("ix_event_job_id_id", "job_id", "id"),)

    id: int | None = Field(default=None, primary_key=True, sa_type=BigId)
    job_id: str = Field(foreign_key="job.id")
    attempt: int
    at: datetime = Field(default_factory=utcnow, sa_type=UtcDateTime)
    type: str
    actor: str
    data: Json = Field(default_factory=dict, sa_type=JSON)


class Metric(SQLModel, table=True):
    """One training step, or one validation, as the trainer reported it."""

    __tablename__ = "metric"

    job_id: str = Field(primary_key=True, foreign_key="job.id")
    kind: str = Field(primary_key=True)
    """`step` or `validation`."""
    step: int = Field(primary_key=True)
    attempt: int
    at: datetime = Field(sa_type=UtcDateTime)
    data: Json = Field(sa_type=JSON)


class Checkpoint(SQLModel, table=True):
    """A complete checkpoint that the trainer reported."""

    __tablename__ = "checkpoint"

    job_id: str = Field(primary_key=True, foreign_key="job.id")
    iteration: int = Field(primary_key=True)
    attempt: int
    path: str
    format: str = "torch_dist"
    """`torch_dist`, or `huggingface` of an export."""
    bytes: int = Field(sa_type=BigInteger)
    files: list[Json] = Field(sa_type=JSON)
    saved_at: datetime = Field(sa_type=UtcDateTime)


class IdempotencyKey(SQLModel, table=True):
    """An Idempotency-Key, written in the transaction that creates its job."""

    __tablename__ = "idempotency_key"

    project: str = Field(primary_key=True)
    owner: str = Field(primary_key=True)
    key: str = Field(primary_key=True)
    body_hash: str
    job_id: str = Field(foreign_key="job.id")
    response: Json = Field(sa_type=JSON)
    """The body that the first request was answered with."""
    created_at: datetime = Field(default_factory=utcnow, sa_type=UtcDateTime)


class AuditEntry(SQLModel, table=True):
    """Who changed a key, a job or a limit, or used a secret. Entries are added, and never changed.

    It refers to no other table: it outlives what it is about.
    """

    __tablename__ = "audit_entry"
    __table_args__ = (
        Index("ix_audit_entry_actor_id", "actor", "id"),
        Index("ix_audit_entry_project_id", "project", "id"),
        Index("ix_audit_entry_target_id", "target", "id"),
        Index("ix_audit_entry_at", "at"),
    )

    id: str = Field(default_factory=lambda: new_id("audit"), primary_key=True)
    at: datetime = Field(default_factory=utcnow, sa_type=UtcDateTime)
    action: str
    outcome: str
    """`ok`, or the code of the error with which the request was rejected."""
    actor: str
    """Name of the key; `service` for what nobody asked for."""
    actor_project: str | None = None
    key_id: str | None = None
    role: str | None = None
    target: str | None = None
    """Id of the job or key, or the name of the secret."""
    project: str | None = None
    """Of the target; of the actor if the target is unknown."""
    address: str | None = None
    request_id: str | None = None
    details: Json = Field(default_factory=dict, sa_type=JSON)
    """Names and numbers; never a secret's value."""
