"""Cluster profiles: read from clusters.toml and found by name."""

import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from worker.auth.roles import Tenant
from worker.clusters.private_paths import check_roots
from worker.clusters.profiles import Cluster, LeptonCluster, LocalCluster, Profile, SlurmCluster
from worker.errors import FieldError, InvalidSpec, Misconfigured, NotFound
from worker.field_errors import suggestion
from worker.settings import get_settings

__all__ = [
    "Cluster",
    "LeptonCluster",
    "LocalCluster",
    "SlurmCluster",
    "cluster",
    "clusters",
    "named_in_request",
    "open_to",
]

Table = dict[str, Any]
_PROFILE: TypeAdapter[LocalCluster | SlurmCluster | LeptonCluster] = TypeAdapter(Profile)
KINDS: dict[str, type[Cluster]] = {"local": LocalCluster, "slurm": SlurmCluster, "lepton": LeptonCluster}
TEMPLATE_PREFIX = "_"


@lru_cache
def clusters() -> dict[str, Cluster]:
    """Return all profiles by name. Raises Misconfigured if the file cannot be read or is invalid."""
    path = get_settings().clusters_path
    if get_settings().clusters_file is None and not path.exists():
        return {"local": _built_in()}
    try:
        tables = tomllib.loads(path.read_text())
        found = {name: _profile(name, tables) for name in tables if not name.startswith(TEMPLATE_PREFIX)}
        check_roots(found.values())
    except (OSError, TypeError, ValueError) as error:
        raise Misconfigured(f"Cluster profiles in {path} cannot be used: {error}") from error
    return found


def _profile(name: str, tables: dict[str, Table]) -> Cluster:
    """Return the profile of a table and the tables that it extends. Raises ValueError."""
    try:
        return _PROFILE.validate_python({"executor": "local", **_inherited(name, tables), "name": name})
    except ValidationError as error:
        raise ValueError(f"[{name}] {'; '.join(map(_message, error.errors()))}") from error


def _message(error: ErrorDetails) -> str:
    """Return `field: what is wrong`; for an unknown field, with the nearest name."""
    executor, *location = error["loc"] or ("",)
    field = ".".join(map(str, location))
    if error["type"] == "extra_forbidden" and len(location) == 1:
        known = KINDS[str(executor)].model_fields
        return f"{field}: There is no such field. {suggestion(field, known)}"
    return f"{field}: {error['msg']}" if field else error["msg"]


def _inherited(name: str, tables: dict[str, Table], below: tuple[str, ...] = ()) -> Table:
    """Return a table merged over the one that it extends."""
    if name in below:
        raise ValueError(f"{name!r} extends itself: {' -> '.join((*below, name))}")
    if not isinstance(tables.get(name), dict):
        raise ValueError(f"the file has no table [{name}]{_extended_by(below)}")
    own = dict(tables[name])
    parent = own.pop("extends", None)
    return own if parent is None else {**_inherited(parent, tables, (*below, name)), **own}


def _extended_by(below: tuple[str, ...]) -> str:
    return f", and {below[-1]!r} extends it" if below else ""


def _built_in() -> Cluster:
    return LocalCluster(
        name="local",
        description="This machine. The data and models of jobs lie under the service's inputs folder.",
        max_gpus_per_node=8,
        roots=[get_settings().data_dir / "inputs"],
    )


def cluster(name: str) -> Cluster:
    """Return a profile. Raises NotFound, with the nearest name, if there is none of this name."""
    known = clusters()
    if name not in known:
        raise _unknown(name, known)
    return known[name]


def open_to(tenant: Tenant) -> dict[str, Cluster]:
    """Return the profiles that a tenant may use, with its roots and secrets."""
    return {
        name: profile.for_tenant(tenant)
        for name, profile in clusters().items()
        if tenant.may_use(profile.projects)
    }


def named_in_request(name: str | None, tenant: Tenant) -> Cluster:
    """Return the profile that a request names, or the default, with the tenant's roots and secrets.

    Raises InvalidSpec if there is none, or none that the tenant may use.
    """
    known, wanted = open_to(tenant), name or get_settings().default_cluster
    if wanted in known:
        return known[wanted]
    error = _unknown(wanted, known)
    hint = error.hint or ""
    if name is None:
        hint += " The service's SFT_DEFAULT_CLUSTER is the cluster of a job that names none."
    field_error = FieldError(pointer="/cluster", code="unknown_cluster", detail=error.message, hint=hint)
    raise InvalidSpec(error.message, hint=hint, errors=[field_error]) from error


def _unknown(name: str, known: Mapping[str, Cluster]) -> NotFound:
    nearest = get_close_matches(name, known, n=1)
    names = ", ".join(sorted(known)) or "none"
    hint = f"Did you mean {nearest[0]!r}?" if nearest else f"Known clusters: {names}."
    return NotFound(f"There is no cluster {name!r}.", hint=hint)
