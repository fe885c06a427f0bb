"""Cluster profiles: read from clusters.toml and found by name."""

import tomllib
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

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
]

Table = dict[str, Any]
_PROFILE: TypeAdapter[LocalCluster | SlurmCluster | LeptonCluster] = TypeAdapter(Profile)
KINDS: dict[str, type[Cluster]] = {"local": LocalCluster, "slurm": SlurmCluster, "lepton": LeptonCluster}
TEMPLATE_PREFIX = "_"


@lru_cache
def clusters() -> dict[str, Cluster]:
    """All profiles by name. Raises Misconfigured where the file cannot be read or is wrong."""
    path = get_settings().clusters_path
    if get_settings().clusters_file is None and not path.exists():
        return {"local": _built_in()}
    try:
        tables = tomllib.loads(path.read_text())
        return {name: _profile(name, tables) for name in tables if not name.startswith(TEMPLATE_PREFIX)}
    except (OSError, TypeError, ValueError) as error:
        raise Misconfigured(f"Cluster profiles in {path} cannot be used: {error}") from error


def _profile(name: str, tables: dict[str, Table]) -> Cluster:
    """A table with what it inherits. Raises ValueError."""
    try:
        return _PROFILE.validate_python({"executor": "local", **_inherited(name, tables), "name": name})
    except ValidationError as error:
        raise ValueError(f"[{name}] {'; '.join(map(_fault, error.errors()))}") from error


def _fault(error: ErrorDetails) -> str:
    """`field: what is wrong`, with the nearest name for one that does not exist."""
    executor, *place = error["loc"] or ("",)
    where = ".".join(map(str, place))
    if error["type"] == "extra_forbidden" and len(place) == 1:
        known = KINDS[str(executor)].model_fields
        return f"{where}: There is no such field. {suggestion(where, known)}"
    return f"{where}: {error['msg']}" if where else error["msg"]


def _inherited(name: str, tables: dict[str, Table], below: tuple[str, ...] = ()) -> Table:
    """`extends` names a table whose values hold where this one has none."""
    if name in below:
        raise ValueError(f"{name!r} extends itself: {' -> '.join((*below, name))}")
    if not isinstance(tables.get(name), dict):
        raise ValueError(f"{name!r} is no table of the file, as in [{name}]{_wanted_by(below)}")
    own = dict(tables[name])
    parent = own.pop("extends", None)
    return own if parent is None else {**_inherited(parent, tables, (*below, name)), **own}


def _wanted_by(below: tuple[str, ...]) -> str:
    return f", and {below[-1]!r} extends it" if below else ""


def _built_in() -> Cluster:
    return LocalCluster(
        name="local",
        description="This machine. Data and models that jobs name lie under the service's inputs folder.",
        max_gpus_per_node=8,
        roots=[get_settings().data_dir / "inputs"],
    )


def cluster(name: str) -> Cluster:
    """A profile. Raises NotFound, naming the nearest, where there is none of this name."""
    known = clusters()
    if name not in known:
        nearest = get_close_matches(name, known, n=1)
        hint = f"Did you mean {nearest[0]!r}?" if nearest else f"Known clusters: {', '.join(sorted(known))}."
        raise NotFound(f"There is no cluster {name!r}.", hint=hint)
    return known[name]


def named_in_request(name: str | None) -> Cluster:
    """The profile that a job asks for. Raises InvalidSpec where there is none of this name."""
    try:
        return cluster(name or get_settings().default_cluster)
    except NotFound as error:
        hint = error.hint or ""
        if name is None:
            hint += " A job that names none goes where SFT_DEFAULT_CLUSTER of the service says."
        fault = FieldError(pointer="/cluster", code="unknown_cluster", detail=error.message, hint=hint)
        raise InvalidSpec(error.message, hint=hint, errors=[fault]) from error
