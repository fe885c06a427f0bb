"""From a job spec to a plan: the effective config, its checks, and exactly what would be submitted."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from trainer.config.effective import recipes_of
from trainer.config.presets import Preset, PresetNotFound, load_preset
from trainer.config.training_config import TrainingConfig
from trainer.preflight import Estimate, Finding, check, fit, memory_of
from trainer.preflight.data import POINTER
from trainer.preflight.export import POINTER as EXPORTED
from trainer.run_layout import JobLayout
from worker.backends.connect import connect
from worker.backends.interface import Submission
from worker.clusters.registry import Cluster, named_in_request
from worker.clusters.secrets import is_variable
from worker.errors import FieldError, InvalidSpec, PlanDrift
from worker.field_errors import pointer
from worker.planning.config import Composed, compose
from worker.planning.plan_hash import changed, digest
from worker.planning.provenance import Value, values
from worker.planning.request_guards import fault, refuse_control_characters
from worker.planning.spec import JobSpec
from worker.runs.run import Resources, Run

# Stands for the id that a job gets when it is created, so that equal plans have equal hashes.
PLANNED_JOB = "JOB_ID"


class Plan(BaseModel):
    """What a spec comes to: nothing of it has happened yet."""

    ok: bool = Field(description="False where a check found an error: POST /v1/jobs would refuse it.")
    preset: str | None
    cluster: str
    config: dict[str, Any] = Field(description="The effective training config.")
    resources: Resources
    gpus: int
    gpu_hours: float = Field(description="GPU-hours if the run takes its whole time limit.")
    submission: Submission = Field(description=f"Exactly what would be submitted, for a job {PLANNED_JOB}.")
    values: dict[str, Value] = Field(
        description="What the run's config sets, and who says so; all else is Megatron-Bridge's default."
    )
    recipe: str | None = Field(
        description="Megatron-Bridge's recipe, or gpt, mla or hybrid: one of this project. Null where a "
        "model that only the cluster sees decides it."
    )
    memory: Estimate | None = Field(description="Of one GPU; null where the model's sizes are not known.")
    checks: list[Finding]
    plan_hash: str = Field(description="Equal for plans that would do the same. POST /v1/jobs takes it.")

    def config_in(self, job_directory: Path) -> dict[str, Any]:
        """The config of a job with this directory."""
        return _saving_to(self.config, job_directory)


def plan(spec: JobSpec, project: str | None, *, exported: str | None = None) -> Plan:
    """Work a spec out. Raises InvalidSpec where it says something that has no meaning.

    project: whose secrets it may name; None: those of all.
    exported: the checkpoint that the service itself lets an export read, wherever it lies.
    """
    refuse_control_characters(spec)
    cluster = named_in_request(spec.cluster)
    _refuse_secrets(spec, cluster, project)
    preset = _preset(spec.config) if isinstance(spec.config, str) else None
    resources = _resources(spec, preset, cluster)
    composed = compose(spec, preset, files=cluster.sees_files)
    forbidden = list(_paths(composed, cluster, exported))
    composed, fitted = _fit(_without(composed, {finding.pointer for finding in forbidden}), resources)
    checks = [
        *_limits(resources, cluster),
        *_gpus(composed, cluster),
        *fitted,
        *_checks(composed, resources, cluster, forbidden),
    ]
    config = composed.config.model_dump(mode="json")
    possible = recipes_of(composed.config, files=composed.files)
    backend = connect(cluster)
    directory = backend.job_directory(PLANNED_JOB)
    submission = backend.render(run(spec, PLANNED_JOB, 1, _saving_to(config, directory), resources))
    return Plan(
        ok=not any(finding.severity == "error" for finding in checks),
        preset=spec.config if isinstance(spec.config, str) else None,
        cluster=cluster.name,
        config=config,
        resources=resources,
        gpus=resources.gpus,
        gpu_hours=round(resources.gpus * resources.time_limit_minutes / 60, 2),
        submission=submission,
        values=values(composed, {_dotted(finding) for finding in fitted}),
        recipe=possible[0].name if len(possible) == 1 else None,
        memory=memory_of(composed.config, cluster.hardware(resources), files=composed.files),
        checks=checks,
        plan_hash=digest(_parts(config, resources, cluster, submission)),
    )


def run(spec: JobSpec, job_id: str, attempt: int, config: dict[str, Any], resources: Resources) -> Run:
    """What a backend is given to render."""
    return Run(
        job_id, attempt, config, resources,
        attached=spec.attached, secrets=spec.secrets, fresh_image=spec.force_squash,
    )  # fmt: skip


def _fit(composed: Composed, resources: Resources) -> tuple[Composed, list[Finding]]:
    """The config with what a recipe's own shape needs changed for these GPUs, and the words for it."""
    if composed.config.export:
        return composed, []
    fitted = fit(composed.config, resources.gpus, files=composed.files)
    changes = {
        one.suggestion.field.removeprefix("recipe."): one.suggestion.to for one in fitted if one.suggestion
    }
    recipe = composed.config.recipe.model_copy(update=changes)
    config = composed.config.model_copy(update={"recipe": recipe})
    fitted = [one.model_copy(update={"pointer": composed.source(one.pointer)}) for one in fitted]
    return replace(composed, config=config), fitted


def _dotted(fitted: Finding) -> str:
    """Key of Megatron-Bridge that a fitted argument of the recipe means."""
    return fitted.suggestion.field.replace("recipe.", "model.", 1) if fitted.suggestion else ""


def _refuse_secrets(spec: JobSpec, cluster: Cluster, project: str | None) -> None:
    known = [name for name, secret in cluster.known_secrets.items() if secret.allows(project)]
    for variable, name in spec.secrets.items():
        where = pointer(["secrets", variable])
        if not is_variable(variable):
            hint = (
                "Take a name such as HF_TOKEN, of capitals, digits and underscores, that steers no program."
            )
            raise fault(where, "not_a_variable", f"{variable[:100]!r} cannot be set by a job.", hint)
        if name not in known:
            hint = f"Yours on this cluster: {', '.join(known) or 'none'}."
            raise fault(where, "unknown_secret", f"There is no secret {name[:100]!r} for you.", hint)


def checked_plan(spec: JobSpec, project: str | None, *, exported: str | None = None) -> Plan:
    """The plan of a job that may be created. Raises InvalidSpec with its errors, or PlanDrift.

    exported: as for plan.
    """
    result = plan(spec, project, exported=exported)
    errors = [finding for finding in result.checks if finding.severity == "error"]
    if errors:
        faults = [FieldError(pointer=f.pointer, code=f.code, detail=f.message, hint=f.hint) for f in errors]
        raise InvalidSpec(errors[0].message, hint=errors[0].hint, errors=faults)
    _refuse_drift(spec, result)
    return result


def _refuse_drift(spec: JobSpec, result: Plan) -> None:
    if spec.plan_hash and spec.plan_hash != result.plan_hash:
        now = named_in_request(result.cluster)
        parts = changed(spec.plan_hash, _parts(result.config, result.resources, now, result.submission))
        raise PlanDrift(
            f"The plan is no longer the one you agreed to: it differs in {', '.join(parts)}.",
            hint="Ask POST /v1/jobs:plan again and compare.",
        )


def parse_config(values: Mapping[str, Any]) -> TrainingConfig:
    """A stored config. It was valid when it was stored."""
    return TrainingConfig.model_validate(values)


def _preset(name: str) -> Preset:
    try:
        return load_preset(name)
    except PresetNotFound as error:
        raise fault("/config", "unknown_preset", str(error)) from error


def _saving_to(config: dict[str, Any], job_directory: Path) -> dict[str, Any]:
    """A config whose checkpoints go to the job's own directory unless it names another."""
    checkpoint = {"save": str(JobLayout(job_directory).checkpoints), **config.get("checkpoint", {})}
    return {**config, "checkpoint": checkpoint}


def _resources(spec: JobSpec, preset: Preset | None, cluster: Cluster) -> Resources:
    """Each figure from the request, else from the preset, else from the cluster."""
    asked = spec.resources.model_dump(exclude_none=True)
    usual = preset.resources.model_dump(exclude_none=True) if preset else {}
    return Resources(**{**cluster.defaults.model_dump(), **usual, **asked})


def _limits(resources: Resources, cluster: Cluster) -> Iterator[Finding]:
    for name, limit in cluster.limits.model_dump().items():
        wanted = getattr(resources, name)
        if wanted > limit:
            yield Finding(
                code="beyond_cluster",
                severity="error",
                pointer=pointer(["resources", name]),
                message=f"{wanted} {name} are more than the {limit} of cluster {cluster.name!r}.",
                hint=f"Ask for at most {limit}, or name another cluster.",
            )


GPU_DRIVER = Path("/dev/nvidiactl")


def _gpus(composed: Composed, cluster: Cluster) -> Iterator[Finding]:
    """A run on this machine finds the GPUs of this machine; a worker may have others."""
    if cluster.executor == "local" and composed.config.device == "cuda" and not GPU_DRIVER.exists():
        yield Finding(
            code="no_gpu_seen",
            severity="warning",
            pointer="/cluster",
            message=f"Cluster {cluster.name!r} runs jobs on this machine, where no GPU is seen.",
            hint="Name another cluster, or try things out on the CPU with the preset cpu-tiny.",
        )


def _checks(
    composed: Composed, resources: Resources, cluster: Cluster, forbidden: list[Finding]
) -> Iterator[Finding]:
    """Findings about the config, each pointing at the place in the request that decides about it."""
    nowhere = {finding.pointer for finding in forbidden}
    found = check(composed.config, cluster.hardware(resources), files=composed.files)
    allowed = [one for one in found if one.pointer not in nowhere]
    for finding in (*forbidden, *allowed):
        yield finding.model_copy(update={"pointer": composed.source(finding.pointer)})


def _without(composed: Composed, forbidden: set[str]) -> Composed:
    """Nothing is said about what lies at paths that the client must not name: the plan goes on without."""
    config = composed.config
    changes: dict[str, Any] = {
        name: None for name in ("hf_model_path", "checkpoint_megatron") if f"/{name}" in forbidden
    }
    if POINTER in forbidden:
        changes["dataset"] = config.dataset.model_copy(update={"nano3_packed_sft_dir": None})
    if "/checkpoint/load" in forbidden:
        changes["checkpoint"] = {k: v for k, v in config.checkpoint.items() if k != "load"}
    return replace(composed, config=config.model_copy(update=changes))


def _paths(composed: Composed, cluster: Cluster, exported: str | None) -> Iterator[Finding]:
    for where, path in composed.config.client_paths():
        if (where, path) == (EXPORTED, exported):
            continue
        if refused := cluster.refusal(where, path):
            yield Finding(
                code=refused.code,
                severity="error",
                pointer=where,
                message=refused.detail,
                hint=refused.hint,
            )


def _parts(
    config: dict[str, Any], resources: Resources, cluster: Cluster, submission: Submission
) -> dict[str, Any]:
    """What a plan's hash covers, by the names that a client reads where it has changed."""
    return {
        "config": config,
        "resources": resources.model_dump(mode="json"),
        "cluster": cluster.name,
        "submission": submission.model_dump(mode="json"),
    }
