"""From a job spec to a plan: the effective config, its checks, and the exact submission."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from trainer.config.presets import Preset, PresetNotFound, load_preset
from trainer.config.training_config import TrainingConfig
from trainer.preflight import Estimate, Finding
from trainer.preflight.assessment import Assessment, with_fitted
from trainer.preflight.data import POINTER, VALIDATION
from trainer.preflight.export import POINTER as EXPORTED
from trainer.run_layout import JobLayout
from worker.auth.roles import Tenant
from worker.backends.connect import connect
from worker.backends.interface import Submission
from worker.backends.local import status
from worker.clusters.registry import Cluster, named_in_request
from worker.clusters.secrets import is_variable
from worker.errors import FieldError, PlanDrift
from worker.field_errors import pointer
from worker.limits import projects
from worker.planning.config import Composed, compose, error_of_fault
from worker.planning.plan_hash import changed, digest
from worker.planning.provenance import Value, values
from worker.planning.request_guards import invalid_spec, reject_secret_labels, reject_unsafe_texts, rejection
from worker.planning.spec import JobSpec
from worker.runs.run import Resources, Run
from worker.sandbox.inspections import assess

# Placeholder for the id of a job that is not created yet, so that equal plans have equal hashes.
PLANNED_JOB = "JOB_ID"


class Plan(BaseModel):
    """The effective config and the submission of a spec. Nothing is stored or submitted."""

    ok: bool = Field(description="False if a check found an error: POST /v1/jobs would reject the spec.")
    preset: str | None
    cluster: str
    config: dict[str, Any] = Field(description="The effective training config.")
    resources: Resources
    gpus: int
    gpu_hours: float = Field(description="GPU-hours if the run uses its full time limit.")
    submission: Submission = Field(description=f"The exact submission, for a job with id {PLANNED_JOB}.")
    values: dict[str, Value] = Field(
        description="The values that the run's config sets, with their sources; all other values are "
        "Megatron-Bridge's defaults."
    )
    recipe: str | None = Field(
        description="Megatron-Bridge's recipe, or one of this project: gpt, mla or hybrid. Null if it "
        "depends on a model that only the cluster sees."
    )
    memory: Estimate | None = Field(
        description="Memory of one GPU; null if the sizes of the model are not known."
    )
    checks: list[Finding]
    plan_hash: str = Field(description="Equal for plans with the same effect. Accepted by POST /v1/jobs.")

    def config_in(self, job_directory: Path) -> dict[str, Any]:
        """Return the config of a job with this directory."""
        return _saving_to(self.config, job_directory)


def plan(spec: JobSpec, tenant: Tenant, *, exported: str | None = None) -> Plan:
    """Return the plan of a spec. Raises InvalidSpec if the spec cannot be interpreted.

    tenant: decides about clusters, roots and secrets.
    exported: path of the checkpoint that an export may read although it lies outside the roots.
    """
    reject_unsafe_texts(spec)
    reject_secret_labels(spec.labels)
    cluster = named_in_request(spec.cluster, tenant)
    reject_unusable_secrets(spec.secrets, cluster)
    preset = _preset(spec.config) if isinstance(spec.config, str) else None
    resources = _resources(spec, preset, cluster)
    composed = compose(spec, preset)
    forbidden = list(_forbidden_paths(composed, cluster, exported))
    composed = _without(composed, {finding.pointer for finding in forbidden})
    roots = [*cluster.roots, *([Path(exported)] if exported else [])]
    hardware = cluster.hardware(resources)
    assessed = assess(composed.config, hardware, roots, files=cluster.sees_files, project=tenant.project)
    _reject_faults(composed, forbidden, assessed)
    checks = [
        *_limits(resources, cluster),
        *_project_limit(resources, tenant.project),
        *_gpus(composed, cluster),
        *_isolation(cluster),
        *_pointed(composed, [*assessed.fitted, *forbidden, *_allowed(assessed, forbidden)]),
    ]
    return _plan(spec, composed, resources, cluster, assessed, checks, tenant.project)


def _plan(
    spec: JobSpec,
    composed: Composed,
    resources: Resources,
    cluster: Cluster,
    assessed: Assessment,
    checks: list[Finding],
    project: str,
) -> Plan:
    composed = replace(composed, config=with_fitted(composed.config, assessed.fitted))
    config = _settled(composed.config.model_dump(mode="json"), cluster)
    recipes = assessed.recipes
    submission = _submission(spec, config, resources, cluster, project)
    return Plan(
        ok=not any(finding.severity == "error" for finding in checks),
        preset=spec.config if isinstance(spec.config, str) else None,
        cluster=cluster.name,
        config=config,
        resources=resources,
        gpus=resources.gpus,
        gpu_hours=round(resources.gpus * resources.time_limit_minutes / 60, 2),
        submission=submission,
        values=values(composed, set(map(_dotted, assessed.fitted)), recipe=recipes[0]),
        recipe=recipes[0] if len(recipes) == 1 else None,
        memory=assessed.memory,
        checks=checks,
        plan_hash=digest(_parts(config, resources, cluster, submission)),
    )


def _reject_faults(composed: Composed, forbidden: list[Finding], assessed: Assessment) -> None:
    """Raise InvalidSpec for keys and values that Megatron-Bridge does not accept.

    Forbidden paths come first: without the model that one names, the checks may not know its keys.
    """
    if assessed.faults:
        errors = map(error_of_fault, assessed.faults)
        pointed = [one.model_copy(update={"pointer": composed.source(one.pointer)}) for one in errors]
        raise invalid_spec([*map(_error_of_finding, _pointed(composed, forbidden)), *pointed])


def _finding_of_error(error: FieldError) -> Finding:
    return Finding(
        code=error.code, severity="error", pointer=error.pointer, message=error.detail, hint=error.hint
    )


def _error_of_finding(finding: Finding) -> FieldError:
    return FieldError(pointer=finding.pointer, code=finding.code, detail=finding.message, hint=finding.hint)


def _submission(
    spec: JobSpec, config: dict[str, Any], resources: Resources, cluster: Cluster, project: str
) -> Submission:
    backend = connect(cluster)
    directory = backend.job_directory(PLANNED_JOB)
    return backend.render(run(spec, PLANNED_JOB, 1, _saving_to(config, directory), resources, project))


def run(
    spec: JobSpec,
    job_id: str,
    attempt: int,
    config: dict[str, Any],
    resources: Resources,
    project: str = "",
) -> Run:
    """Return the run for a backend to render."""
    return Run(
        job_id, attempt, config, resources,
        attached=spec.attached, secrets=spec.secrets, fresh_image=spec.force_squash, project=project,
    )  # fmt: skip


def _dotted(fitted: Finding) -> str:
    """Return the Megatron-Bridge key of a fitted recipe argument."""
    return fitted.suggestion.field.replace("recipe.", "model.", 1) if fitted.suggestion else ""


def reject_unusable_secrets(secrets: Mapping[str, str], cluster: Cluster, within: str = "") -> None:
    """Raise InvalidSpec if a variable cannot be set, or the profile of the tenant has no secret of the name.

    within: JSON pointer to the spec.
    """
    known = cluster.known_secrets
    for variable, name in secrets.items():
        where = within + pointer(["secrets", variable])
        if not is_variable(variable):
            hint = (
                "Use a name such as HF_TOKEN, of capitals, digits and underscores, that controls no program."
            )
            raise rejection(where, "not_a_variable", f"{variable[:100]!r} cannot be set by a job.", hint)
        if name not in known:
            hint = f"Your secrets on this cluster: {', '.join(known) or 'none'}."
            # Not the name: it may be the secret itself.
            detail = f"You have no secret of the name given for {variable!r}."
            raise rejection(where, "unknown_secret", detail, hint)


def checked_plan(spec: JobSpec, tenant: Tenant, *, exported: str | None = None) -> Plan:
    """Return the plan of a job that may be created. Raises InvalidSpec with its errors, or PlanDrift.

    tenant, exported: as for plan.
    """
    result = plan(spec, tenant, exported=exported)
    found = [finding for finding in result.checks if finding.severity == "error"]
    if found:
        raise invalid_spec([_error_of_finding(finding) for finding in found])
    _check_drift(spec, result, tenant)
    return result


def _check_drift(spec: JobSpec, result: Plan, tenant: Tenant) -> None:
    if spec.plan_hash and spec.plan_hash != result.plan_hash:
        now = named_in_request(result.cluster, tenant)
        parts = changed(spec.plan_hash, _parts(result.config, result.resources, now, result.submission))
        raise PlanDrift(
            f"The plan has changed since you agreed to it: it differs in {', '.join(parts)}.",
            hint="Call POST /v1/jobs:plan again and compare the plans.",
        )


def parse_config(values: Mapping[str, Any]) -> TrainingConfig:
    """Parse a stored config, which was validated before it was stored."""
    return TrainingConfig.model_validate(values)


def _preset(name: str) -> Preset:
    try:
        return load_preset(name)
    except PresetNotFound as error:
        raise rejection("/config", "unknown_preset", str(error)) from error


def _saving_to(config: dict[str, Any], job_directory: Path) -> dict[str, Any]:
    """Return the config with checkpoints in the job's own directory, unless it names another directory."""
    checkpoint = {"save": str(JobLayout(job_directory).checkpoints), **config.get("checkpoint", {})}
    return {**config, "checkpoint": checkpoint}


def _settled(config: dict[str, Any], cluster: Cluster) -> dict[str, Any]:
    """Return the config with the links in its save directory resolved: later ones are not followed."""
    checkpoint = config.get("checkpoint", {})
    save = checkpoint.get("save")
    settled = cluster.settled(Path(save)) if isinstance(save, str) else None
    return {**config, "checkpoint": {**checkpoint, "save": str(settled)}} if settled else config


def _resources(spec: JobSpec, preset: Preset | None, cluster: Cluster) -> Resources:
    """Take each value from the request, else from the preset, else from the cluster."""
    requested = spec.resources.model_dump(exclude_none=True)
    of_preset = preset.resources.model_dump(exclude_none=True) if preset else {}
    return Resources(**{**cluster.defaults.model_dump(), **of_preset, **requested})


def _limits(resources: Resources, cluster: Cluster) -> Iterator[Finding]:
    for name, limit in cluster.limits.model_dump().items():
        wanted = getattr(resources, name)
        if wanted > limit:
            yield Finding(
                code="beyond_cluster",
                severity="error",
                pointer=pointer(["resources", name]),
                message=f"{wanted} {name} are more than the limit of {limit} on cluster {cluster.name!r}.",
                hint=f"Request at most {limit}, or name another cluster.",
            )


def _project_limit(resources: Resources, project: str) -> Iterator[Finding]:
    if error := projects.beyond_limit(project, resources):
        yield _finding_of_error(error)


GPU_DRIVER = Path("/dev/nvidiactl")


def _gpus(composed: Composed, cluster: Cluster) -> Iterator[Finding]:
    """Warn if a CUDA run would start on this machine without a GPU; a worker may be elsewhere."""
    if cluster.executor == "local" and composed.config.device == "cuda" and not GPU_DRIVER.exists():
        yield Finding(
            code="no_gpu_seen",
            severity="warning",
            pointer="/cluster",
            message=f"Cluster {cluster.name!r} runs jobs on this machine, which has no visible GPU.",
            hint="Name another cluster, or use the preset cpu-tiny on the CPU.",
        )


def _isolation(cluster: Cluster) -> Iterator[Finding]:
    """Reject a run on this machine that has to be isolated and cannot be."""
    if why := status.rejection(cluster):
        yield Finding(
            code="not_isolated",
            severity="error",
            pointer="/cluster",
            message=f"Cluster {cluster.name!r} rejects jobs: their runs cannot be isolated ({why}).",
            hint="Name another cluster, or ask the operator of the service.",
        )


def _allowed(assessed: Assessment, forbidden: list[Finding]) -> Iterator[Finding]:
    """Yield findings but those about a path that was removed: see _without."""
    removed = {finding.pointer for finding in forbidden}
    return (finding for finding in assessed.findings if finding.pointer not in removed)


def _pointed(composed: Composed, findings: Iterable[Finding]) -> Iterator[Finding]:
    """Yield findings with pointers to the parts of the request that cause them."""
    for finding in findings:
        yield finding.model_copy(update={"pointer": composed.source(finding.pointer)})


def _without(composed: Composed, forbidden: set[str]) -> Composed:
    """Remove forbidden paths from the config, so that the plan reveals nothing about their files."""
    config = composed.config
    changes: dict[str, Any] = {
        name: None for name in ("hf_model_path", "checkpoint_megatron") if f"/{name}" in forbidden
    }
    data = [where.rpartition("/")[2] for where in (POINTER, VALIDATION) if where in forbidden]
    if data:
        changes["dataset"] = config.dataset.model_copy(update=dict.fromkeys(data))
    for name in ("checkpoint", "tokenizer", "model"):  # a wrong key of `recipe` is reported as such
        changes |= _without_keys(config, name, forbidden)
    return replace(composed, config=config.model_copy(update=changes))


def _without_keys(config: TrainingConfig, name: str, forbidden: set[str]) -> dict[str, Any]:
    """Return a section without the keys that hold forbidden paths, by its name; nothing if it has none."""
    section = getattr(config, name)
    keys = [where.split("/")[2] for where in forbidden if where.startswith(f"/{name}/")]
    if not keys:
        return {}
    if isinstance(section, dict):
        return {name: {key: value for key, value in section.items() if key not in keys}}
    return {name: section.model_copy(update=dict.fromkeys(keys))}


def _forbidden_paths(composed: Composed, cluster: Cluster, exported: str | None) -> Iterator[Finding]:
    for where, path in composed.config.client_paths():
        if (where, path) == (EXPORTED, exported):
            continue
        if error := cluster.path_rejection(where, path):
            yield _finding_of_error(error)


def _parts(
    config: dict[str, Any], resources: Resources, cluster: Cluster, submission: Submission
) -> dict[str, Any]:
    """Return the parts that a plan's hash covers, by the names that PlanDrift reports."""
    return {
        "config": config,
        "resources": resources.model_dump(mode="json"),
        "cluster": cluster.name,
        "submission": submission.model_dump(mode="json"),
    }
