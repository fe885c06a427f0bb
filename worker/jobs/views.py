"""A job as clients see it: in responses, in streams, in the stored answers of replays."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from trainer.failures import Failure
from worker.clock import utcnow
from worker.db.models import Job
from worker.jobs.queries import Details, Saved, allowed_actions, is_stale
from worker.runs.run import Resources
from worker.states import TERMINAL, Action, JobState


class ExportOf(BaseModel):
    """The checkpoint that an export is made of."""

    job: str
    iteration: int


class StateReason(BaseModel):
    code: str
    message: str | None
    raw: str | None = Field(description="The scheduler's own message.")


class BackendView(BaseModel):
    cluster: str
    kind: str
    external_id: str | None = Field(description="What the scheduler calls the current attempt.")


class QueueView(BaseModel):
    reason: str | None = Field(description="Why the job waits.")
    estimated_start: datetime | None


class Progress(BaseModel):
    step: int | None = None
    total_steps: int | None = None
    loss: float | None = None
    validation_loss: float | None = None
    eta_seconds: float | None = None


class CheckpointView(BaseModel):
    iteration: int
    attempt: int
    path: str
    format: str = Field(
        description="`torch_dist`: Megatron's; `huggingface`: an export, which transformers loads."
    )
    bytes: int
    complete: bool = Field(default=True, description="Only complete checkpoints are listed.")
    saved_at: datetime
    validation_loss: float | None = None

    @classmethod
    def of(cls, saved: Saved) -> "CheckpointView":
        return cls.model_validate(saved, from_attributes=True)


class Usage(BaseModel):
    gpu_hours: float


# Fields of a view that share a column's name and not its form.
WORKED_OUT = {"progress", "failure", "resources", "backend", "export_of"}


class JobView(BaseModel):
    """A job, as every route shows it."""

    id: str
    name: str
    labels: dict[str, str]
    owner: str
    project: str
    spec: dict[str, Any] = Field(description="The request.")
    config: dict[str, Any] = Field(description="The effective training config.")
    resources: Resources
    plan_hash: str
    export_of: ExportOf | None = Field(
        description="The checkpoint that this job exports, if it is an export."
    )
    state: JobState
    terminal: bool
    allowed_actions: list[Action]
    state_reason: StateReason | None
    desired_state: str
    observed_at: datetime | None = Field(
        description="When the cluster last answered about it; not in the ETag."
    )
    stale: bool = Field(description="The cluster has not answered for a while; the state is the last known.")
    attempt: int
    backend: BackendView
    queue: QueueView | None
    progress: Progress
    failure: Failure | None
    latest_checkpoint: CheckpointView | None
    best_checkpoint: CheckpointView | None = Field(description="The one with the lowest validation loss.")
    usage: Usage
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    links: dict[str, str]

    @classmethod
    def of(cls, job: Job, details: Details | None = None) -> "JobView":
        details = details or Details()
        shown = set(cls.model_fields) & set(Job.model_fields) - WORKED_OUT
        return cls(
            **{name: getattr(job, name) for name in shown},
            resources=Resources(**job.resources),
            export_of=ExportOf.model_validate(job.export_of) if job.export_of else None,
            terminal=job.state in TERMINAL,
            allowed_actions=allowed_actions(job),
            state_reason=_reason(job),
            stale=is_stale(job),
            backend=_backend(job, details),
            queue=_queue(job),
            progress=Progress(**{k: v for k, v in job.progress.items() if k in Progress.model_fields}),
            failure=Failure.model_validate(job.failure) if job.failure else None,
            latest_checkpoint=CheckpointView.of(details.latest) if details.latest else None,
            best_checkpoint=CheckpointView.of(details.best) if details.best else None,
            usage=Usage(gpu_hours=_gpu_hours(job, details)),
            links=_links(job.id),
        )


def _reason(job: Job) -> StateReason | None:
    if job.reason_code is None:
        return None
    return StateReason(code=job.reason_code, message=job.reason_message, raw=job.reason_raw)


def _backend(job: Job, details: Details) -> BackendView:
    current = next((a for a in details.attempts if a.number == job.attempt), None)
    return BackendView(
        cluster=job.cluster, kind=job.backend, external_id=current.external_id if current else None
    )


def _queue(job: Job) -> QueueView | None:
    return (
        QueueView(reason=job.reason_message, estimated_start=job.estimated_start)
        if job.state is JobState.QUEUED
        else None
    )


def _gpu_hours(job: Job, details: Details) -> float:
    seconds = sum(
        max(0.0, ((attempt.finished_at or utcnow()) - attempt.started_at).total_seconds())
        * Resources(**(attempt.resources or job.resources)).gpus
        for attempt in details.attempts
        if attempt.started_at
    )
    return round(seconds / 3600, 4)


def _links(job_id: str) -> dict[str, str]:
    here = f"/v1/jobs/{job_id}"
    return {"self": here} | {
        name: f"{here}/{name}" for name in ("attempts", "events", "logs", "metrics", "checkpoints")
    }


def etag(job: Job, view: JobView | None = None) -> str:
    """Changes exactly when a client would see another job: volatile fields do not count.

    view: the view that the client gets, if there is one: by now the job may have become stale.
    """
    stale = view.stale if view else is_stale(job)
    return f'"{job.version}{"-stale" if stale else ""}"'
