"""Models of the responses, and of key requests. The other requests are models of worker/ and trainer/."""

import re
from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from trainer.config.models import Model
from trainer.config.secret_patterns import holds_secret
from trainer.failures import Failure
from worker.auth.audit import SERVICE
from worker.auth.roles import Role
from worker.clock import as_utc, utcnow
from worker.clusters.registry import Cluster
from worker.db.models import ApiKey, Attempt, AuditEntry, Event, Metric, Origin
from worker.jobs.views import CheckpointView, JobView
from worker.limits import projects
from worker.limits.projects import ProjectLimits
from worker.planning.config_schema import PresetDetails
from worker.runs.run import Resources


def _begins_with_a_date(value: Any) -> Any:
    """Reject numbers: Pydantic would read any number as seconds since 1970."""
    if not re.match(r"\d{4}-\d{2}-\d{2}", str(value)):
        raise ValueError("should be a date and time such as 2026-01-31T12:00:00Z")
    return value


Moment = Annotated[datetime, BeforeValidator(_begins_with_a_date), AfterValidator(as_utc)]


class CheckpointFile(BaseModel):
    path: str
    bytes: int


class CheckpointDetail(CheckpointView):
    files: list[CheckpointFile]


class JobPage(BaseModel):
    items: list[JobView]
    next_cursor: str | None = Field(description="`cursor` of the next page; null on the last page.")


class AttemptView(BaseModel):
    number: int
    origin: Origin = Field(description="What started the attempt.")
    external_id: str | None
    directory: str | None
    outcome: str | None = Field(description="The attempt's final state; null until it has ended.")
    failure: Failure | None = Field(description="Why the attempt failed; null if it did not fail.")
    resources: Resources | None = Field(description="Resources that the attempt used.")
    created_at: datetime
    submitted_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None

    @classmethod
    def of(cls, row: Attempt) -> "AttemptView":
        return cls.model_validate(row, from_attributes=True)


class AttemptList(BaseModel):
    items: list[AttemptView]


class EventView(BaseModel):
    id: int
    attempt: int
    at: datetime
    type: str
    actor: str = Field(description="Name of a key, or `system`, or `trainer`.")
    data: dict[str, Any]

    @classmethod
    def of(cls, row: Event) -> "EventView":
        return cls.model_validate(row, from_attributes=True)


class EventPage(BaseModel):
    items: list[EventView]
    next_after: int = Field(description="`after` of the next page.")


class LogPiece(BaseModel):
    attempt: int
    rank: int | None = Field(description="Null: the complete output of the attempt.")
    offset: int = Field(description="Start of this chunk, in bytes.")
    next_offset: int = Field(description="`offset` of the next chunk.")
    text: str = Field(description="Text of the chunk. U+FFFD replaces bytes that are not UTF-8.")


class LogView(LogPiece):
    size: int = Field(description="Current size of the log in bytes.")
    end: bool = Field(description="Whether the log is complete after this chunk.")


class MetricView(BaseModel):
    step: int
    attempt: int
    at: datetime
    loss: float | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None
    step_time_seconds: float | None = None
    tokens_per_second_per_gpu: float | None = None
    tflops_per_gpu: float | None = None

    @classmethod
    def of(cls, row: Metric) -> "MetricView":
        known = {name: value for name, value in row.data.items() if name in cls.model_fields}
        return cls(step=row.step, attempt=row.attempt, at=row.at, **known)


class Metrics(BaseModel):
    train: list[MetricView]
    validation: list[MetricView]


class CheckpointList(BaseModel):
    items: list[CheckpointView]


class PresetList(BaseModel):
    items: list[PresetDetails]


class ModelList(BaseModel):
    items: list[Model]


# Fields of a profile that the view copies unchanged.
PLAIN = ("name", "description", "executor", "max_running", "gpu_type", "gpu_memory_gib")


class ClusterView(BaseModel):
    name: str
    description: str
    executor: str
    default: bool
    defaults: Resources
    limits: Resources
    max_running: int | None = Field(
        description="Maximum number of concurrent runs; null: the scheduler decides."
    )
    gpu_type: str | None
    gpu_memory_gib: float | None
    roots: list[str] = Field(description="Paths in a job must lie under one of these directories.")
    secrets: list[str] = Field(description="Names that your jobs may list in `secrets`.")
    live_jobs: dict[str, int] = Field(description="Number of live jobs by state.")

    @classmethod
    def of(cls, profile: Cluster, live_jobs: dict[str, int], *, default: bool) -> "ClusterView":
        """Return the view of a tenant's profile."""
        shown = {name: getattr(profile, name, None) for name in PLAIN}
        roots = [str(root) for root in profile.roots]
        return cls(
            **shown, defaults=profile.defaults, limits=profile.limits, roots=roots,
            secrets=list(profile.known_secrets), default=default, live_jobs=live_jobs,
        )  # fmt: skip


class ClusterList(BaseModel):
    items: list[ClusterView]


class WhoAmI(BaseModel):
    name: str
    project: str
    role: Role


PROJECT_NAME = r"^[a-z0-9][a-z0-9-]{0,62}$"
# Actors of a job's events, and of the audit log, that are not keys.
RESERVED_NAMES = ("system", "trainer", SERVICE)


class KeyRequest(BaseModel):
    """Request to create a key."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,62}$",
        description="Owner of the key, and of the jobs created with it. Several keys may share a name.",
    )
    role: Role
    project: str | None = Field(
        default=None,
        pattern=PROJECT_NAME,
        description="Default: the project of your own key.",
    )
    expires_at: Moment | None = Field(default=None, description="Null: the key does not expire.")

    @field_validator("name")
    @classmethod
    def _is_not_reserved(cls, name: str) -> str:
        if name in RESERVED_NAMES:
            raise ValueError(f"{name!r} is reserved for the service; choose another name")
        if holds_secret(name):
            raise ValueError("looks like an API key; choose another name")
        return name

    @field_validator("expires_at")
    @classmethod
    def _lies_ahead(cls, moment: datetime | None) -> datetime | None:
        if moment and moment <= utcnow():
            raise ValueError("lies in the past; choose a later time")
        return moment


class KeyView(BaseModel):
    id: str
    name: str
    role: Role
    project: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None = Field(description="Accurate to about one minute.")

    @classmethod
    def of(cls, row: ApiKey) -> "KeyView":
        return cls.model_validate(row, from_attributes=True)


class CreatedKey(KeyView):
    key: str = Field(description="The secret. It is shown only once and is not stored.")


class KeyPage(BaseModel):
    items: list[KeyView]
    next_cursor: str | None = Field(description="`cursor` of the next page; null on the last page.")


class AuditView(BaseModel):
    id: str
    at: datetime
    action: str
    outcome: str = Field(description="`ok`, or the code of the error with which the request was rejected.")
    actor: str = Field(description="Name of the key; `service` for what nobody asked for.")
    actor_project: str | None
    key_id: str | None
    role: str | None
    target: str | None = Field(description="ID of the job or key, or name of the secret.")
    project: str | None = Field(description="Project of the target; of the actor if the target is unknown.")
    address: str | None = Field(description="Address of the client; null for what the service did itself.")
    request_id: str | None
    details: dict[str, Any]

    @classmethod
    def of(cls, row: AuditEntry) -> "AuditView":
        return cls.model_validate(row, from_attributes=True)


class AuditPage(BaseModel):
    items: list[AuditView]
    next_cursor: str | None = Field(description="`cursor` of the next page; null on the last page.")


class ProjectUsage(BaseModel):
    live_jobs: int = Field(description="Jobs that clusters have.")
    waiting_jobs: int = Field(description="Jobs that wait to be submitted.")
    gpus: int = Field(description="GPUs that the live jobs occupy or wait for.")


class ProjectView(BaseModel):
    """What a project may use at a time, and what it uses."""

    project: str
    limits: ProjectLimits = Field(description="The limits that apply; null: no limit.")
    own: ProjectLimits = Field(description="Those that an admin has set; null: the default.")
    usage: ProjectUsage

    @classmethod
    def of(cls, project: str) -> "ProjectView":
        own = projects.own(project)
        used = ProjectUsage.model_validate(projects.usage(project), from_attributes=True)
        return cls(project=project, own=own, limits=own.over(projects.defaults()), usage=used)


class LimitsView(BaseModel):
    defaults: ProjectLimits = Field(description="Limits of each project that has none of its own.")
    projects: dict[str, ProjectLimits] = Field(description="Limits that admins have set, by project.")


class Health(BaseModel):
    status: str = "ok"


class Readiness(BaseModel):
    database: str
    broker: str
    warnings: list[str] = Field(
        default=[], description="What an operator should change, e.g. that local runs are not isolated."
    )
