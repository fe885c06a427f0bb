"""Exports: jobs that convert a checkpoint of another job to a Hugging Face directory."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import Field

from trainer.checkpoints import iteration_directory
from trainer.preflight.export import POINTER as EXPORTED
from worker.auth.roles import Caller
from worker.broker import messages
from worker.db.models import Checkpoint, Job, Json
from worker.errors import CheckpointChanged, FieldError, InvalidSpec, NotExportable, NotReachable
from worker.jobs import checkpoints, queries
from worker.jobs.create import Created, new_job, replay, store
from worker.jobs.idempotency import RequestKey
from worker.planning.spec import JobSpec, LabelKey, LabelValue, Name, RequestedResources, Strict

# What an export takes from the config of the job that was trained.
KEPT = ("device", "hf_model_path", "checkpoint_megatron", "peft")
SUFFIX = "-export"
MAX_NAME_CHARACTERS = 63


class ExportResources(Strict):
    """What an export occupies, beside one GPU of one node; what is left out comes from the cluster."""

    time_limit_minutes: int | None = Field(default=None, ge=1, le=10_000_000)


class ExportRequest(Strict):
    """The options of an export. Defaults come from the job whose checkpoint it is."""

    name: Name | None = Field(default=None, description="Default: the exported job's, with `-export`.")
    labels: dict[LabelKey, LabelValue] | None = Field(
        default=None, description="Default: the exported job's."
    )
    resources: ExportResources = Field(default_factory=ExportResources)


def create(
    source: Job,
    iteration: int,
    request: ExportRequest | None,
    caller: Caller,
    idempotency_key: str | None = None,
) -> Created:
    """Store a new job that exports a checkpoint, or find the one that the same key created before.

    It runs where the checkpoint lies, and belongs to the project of the job that has it.

    Raises NotFound, NotExportable, CheckpointChanged, InvalidSpec, IdempotencyMismatch, TooManyWaitingJobs,
    BackendUnavailable, and ServiceUnavailable without a broker.
    """
    messages.ping()
    checkpoint = queries.checkpoint(source.id, iteration)
    directory = _path(source, iteration)
    spec = _spec(source, directory, request or ExportRequest())
    key = RequestKey.of(spec, caller, idempotency_key)
    if known := replay(key):
        return known
    _require_exportable(source, checkpoint)
    export_of = {"job": source.id, "iteration": iteration, "checkpoint": directory}
    return store(_planned(spec, source, caller, export_of), caller, key)


def _planned(spec: JobSpec, source: Job, caller: Caller, export_of: Json) -> Job:
    try:
        return new_job(spec, caller, source.project, export_of)
    except InvalidSpec as error:
        raise _for_client(error) from error


def _path(source: Job, iteration: int) -> str:
    """The directory of the job's config, which was checked: a run may report another one."""
    return str(iteration_directory(Path(source.config["checkpoint"]["save"]), iteration))


def _spec(source: Job, checkpoint: str, request: ExportRequest) -> JobSpec:
    config: dict[str, Any] = {name: source.config[name] for name in KEPT}
    return JobSpec(
        name=request.name or source.name[: MAX_NAME_CHARACTERS - len(SUFFIX)] + SUFFIX,
        config={**config, "export": {"checkpoint": checkpoint}},
        cluster=source.cluster,
        resources=RequestedResources(nodes=1, gpus_per_node=1, **request.resources.model_dump()),
        secrets=source.spec["secrets"],
        labels=source.labels if request.labels is None else request.labels,
    )


def _require_exportable(source: Job, checkpoint: Checkpoint) -> None:
    """Raises NotExportable, and CheckpointChanged where it is not as it was saved."""
    if checkpoint.format != "torch_dist":
        raise NotExportable(
            f"Checkpoint {checkpoint.iteration} of job {source.id!r} is a Hugging Face directory already.",
            hint=f"Download it: GET /v1/jobs/{source.id}/checkpoints/{checkpoint.iteration}/archive",
        )
    with suppress(NotReachable):  # the trainer checks it
        checkpoints.complete_files(source, checkpoint)


def _for_client(error: InvalidSpec) -> InvalidSpec | CheckpointChanged:
    """Translate the errors of an export's plan: the client has named a job and an iteration only."""
    if any(one.pointer == f"/config{EXPORTED}" for one in error.errors):
        return CheckpointChanged(
            error.message, hint="This checkpoint cannot be used; use another one of the job."
        )
    return InvalidSpec(error.message, hint=error.hint, errors=[_pointed(one) for one in error.errors])


def _pointed(error: FieldError) -> FieldError:
    """Point into the exported job, unless the request itself has the field."""
    if error.pointer.split("/")[1] in ExportRequest.model_fields:
        return error
    return error.model_copy(update={"pointer": f"/job{error.pointer}"})
