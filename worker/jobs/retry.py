"""Retries with changes: the job's spec with new overrides, and with the suggested fix of its failure."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import Field, ValidationError

from trainer.config.training_config import walk
from trainer.suggestion import Suggestion
from worker.auth.roles import Tenant
from worker.clusters.registry import cluster
from worker.db.models import Job, Json
from worker.errors import FieldError, InvalidSpec, SftError
from worker.field_errors import field_errors, pointer
from worker.planning.bounds import MAX_ITEMS
from worker.planning.config import INPUTS, is_key
from worker.planning.plan import Plan, checked_plan, parse_config
from worker.planning.request_guards import invalid_spec, rejection
from worker.planning.spec import Inputs, JobSpec, Overrides, RequestedResources, Strict
from worker.planning.spellings import Spellings
from worker.sandbox import inspections
from worker.sandbox.functions import FixesRequest

APPLY = "/apply_suggestion"
RESOURCES = "resources."
# Outside of the retry's body: in the spec that the job had before.
OF_JOB = "/job/spec"


class RetryRequest(Strict):
    """Changes for the next attempt. Without any, it repeats the last one."""

    overrides: Overrides = Field(
        default_factory=list, description="Changes to the job's config, in the same form as of a new job."
    )
    resources: RequestedResources = Field(default_factory=RequestedResources)
    apply_suggestion: bool = Field(
        default=False, description="Apply failure.suggestion, before the overrides."
    )

    def changes_something(self) -> bool:
        return bool(self.overrides or self.apply_suggestion or self.resources.model_dump(exclude_none=True))


def revise(job: Job, request: RetryRequest, tenant: Tenant) -> tuple[JobSpec, Plan]:
    """The job's spec with the changes asked for, and its plan, checked as those of a new job are.

    tenant: as for plan.
    Raises InvalidSpec, with pointers into the request or, behind `/job/spec`, into what the job had before.
    """
    overrides = [*_of_job(job), *_suggested(job, request), *_dotlist(request.overrides, "/overrides")]
    _check_number(overrides)
    spec = _stored_spec(job).model_copy(
        update={
            "overrides": [one.text for one in overrides],
            "inputs": _inputs(job, overrides),
            "resources": _resources(job, request),
            "plan_hash": None,  # that plan was agreed to for the first attempt
        }
    )
    try:
        return spec, checked_plan(spec, tenant, exported=job.exported)
    except InvalidSpec as error:
        sources = [one.source for one in overrides]
        faults = [one.model_copy(update={"pointer": _source(one, sources, request)}) for one in error.errors]
        raise InvalidSpec(error.message, hint=error.hint, errors=faults) from error


def _stored_spec(job: Job) -> JobSpec:
    """Return the job's spec. Raises InvalidSpec if an earlier version accepted more than is allowed now."""
    try:
        return JobSpec.model_validate(job.spec)
    except ValidationError as error:
        raise invalid_spec(field_errors(error.errors(), JobSpec, prefix=OF_JOB)) from error


def _check_number(overrides: list["_Override"]) -> None:
    """Overrides of all retries of a job add up. Raises InvalidSpec."""
    if len(overrides) > MAX_ITEMS:
        detail = f"With those of its earlier attempts the job has {len(overrides)} overrides."
        hint = f"At most {MAX_ITEMS} are allowed: create a new job with the values that you want."
        raise rejection("/overrides", "too_long", detail, hint)


# -- overrides -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Override:
    text: str
    source: str
    """JSON pointer to where the client gave it."""


def _of_job(job: Job) -> list[_Override]:
    return _dotlist(job.spec["overrides"], f"{OF_JOB}/overrides")


def _dotlist(overrides: list[str] | dict[str, Any], where: str) -> list[_Override]:
    """Return overrides as a dotlist, in this service's keys. Those of a retry replace others.

    Raises InvalidSpec if one override contradicts itself.
    """
    spellings = Spellings(across=False)
    if isinstance(overrides, dict):
        given = [(where + pointer([key]), key, value) for key, value in overrides.items()]
        owns = ((source, own) for source, *one in given for own in _own(spellings, source, *one))
        return [_Override(_text(*own), source) for source, own in owns]
    texts = [(where + pointer([index]), text) for index, text in enumerate(overrides)]
    return [_Override(own, source) for source, text in texts for own in _own_texts(spellings, source, text)]


def _own_texts(spellings: Spellings, where: str, text: str) -> list[str]:
    key, equals, value = text.partition("=")
    return [f"{own}={one}" for own, one in _own(spellings, where, key, value)] if equals else [text]


def _own(spellings: Spellings, where: str, key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield an override as settings of this service's keys: `peft.dim`, for one, sets `peft` as well."""
    # Any other text is rejected with the plan.
    return spellings.settings(where, key, value) if is_key(key) else iter([(key, value)])


def _text(key: str, value: Any) -> str:
    # JSON is YAML, which is what a dotlist's values are written in.
    return f"{key}={json.dumps(value, ensure_ascii=False)}"


def _suggested(job: Job, request: RetryRequest) -> list[_Override]:
    """What the suggestion sets in the config, if anything. Raises InvalidSpec where there is none."""
    if not request.apply_suggestion:
        return []
    change = _suggestion_of(job)
    if change is None:
        hint = "Name the changes in `overrides`; failure.suggestion shows whether there is a suggestion."
        raise rejection(APPLY, "no_suggestion", "The job's failure has no suggestion to apply.", hint)
    return [] if change.field.startswith(RESOURCES) else [_Override(_text(change.field, change.to), APPLY)]


def _suggestion_of(job: Job) -> Suggestion | None:
    found = (job.failure or {}).get("suggestion")
    return Suggestion.model_validate(found) if found else None


def _resources(job: Job, request: RetryRequest) -> RequestedResources:
    """Of the request, else of the suggestion, else as before."""
    change = _suggestion_of(job) if request.apply_suggestion else None
    suggested = (
        {change.field.removeprefix(RESOURCES): change.to}
        if change and change.field.startswith(RESOURCES)
        else {}
    )
    asked = request.resources.model_dump(exclude_none=True)
    return RequestedResources(**{**job.spec["resources"], **suggested, **asked})


def _inputs(job: Job, overrides: list["_Override"]) -> Inputs:
    """As before, except where the retry overrides the same key: it may continue with other data."""
    new = {one.text.partition("=")[0] for one in overrides if not one.source.startswith(OF_JOB)}
    replaced = {name: None for key, name in INPUTS.items() if key in new}
    return Inputs(**{**job.spec["inputs"], **replaced})


def _source(error: FieldError, overrides: list[str], request: RetryRequest) -> str:
    """Map a pointer into the revised spec to where the client gave the value."""
    _, section, *rest = error.pointer.split("/")
    if section == "overrides" and rest:
        return "/".join([overrides[int(rest[0])], *rest[1:]])
    if section == "resources" and rest and getattr(request.resources, rest[0], None) is not None:
        return error.pointer
    if section == "resources" and rest and request.apply_suggestion:
        return APPLY
    return OF_JOB + error.pointer


# -- what a failure suggests -----------------------------------------------------------------------


def suggestion(job: Job, fault_name: str) -> Suggestion | None:
    """The best change for a failure (a name of FAILURES) with which the job's plan still holds.

    None, too, where the job's cluster is gone or its config is no longer one: a run's end is not held up.
    """
    try:
        return next((one for one in _candidates(job, fault_name) if _holds(job, one)), None)
    except (SftError, ValueError):
        return None


def _candidates(job: Job, fault_name: str) -> list[Suggestion]:
    profile = cluster(job.cluster)
    request = FixesRequest(
        name=fault_name,
        config=parse_config(job.config),
        gpus_per_node=job.resources["gpus_per_node"],
        time_limit_minutes=job.resources["time_limit_minutes"],
        max_minutes=profile.limits.time_limit_minutes,
        roots=profile.for_project(job.project).roots,
        project=job.project,
    )
    return inspections.fixes(request, files=profile.sees_files).items


def _holds(job: Job, change: Suggestion) -> bool:
    tried = Job(**{**job.model_dump(), "failure": {"suggestion": change.model_dump(mode="json")}})
    try:
        revise(tried, RetryRequest(apply_suggestion=True), Tenant(job.project))
    except SftError:
        return False
    return True


# -- what has changed ------------------------------------------------------------------------------


def changes(before: Json, after: Json) -> list[Json]:
    """What differs between two JSON objects, value by value: field (its dotted key), from, to."""
    old, new = _values(before), _values(after)
    return [
        {"field": key, "from": old.get(key), "to": new.get(key)}
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]


def _values(value: Json) -> Json:
    """Every value that holds no others, by its dotted key."""
    return {
        where.strip("/").replace("/", "."): item
        for where, item in walk(value)
        if not isinstance(item, dict | list) or not item
    }
