"""Cluster profiles: what a cluster is, who may write where, and how it is reached."""

import os
import tomllib
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from trainer.preflight import Hardware
from worker.backends.base import Backend, Resources
from worker.backends.local import LocalBackend
from worker.errors import FieldError, InvalidSpec, Misconfigured, NotFound
from worker.settings import get_settings


class Cluster(BaseModel):
    """One table of clusters.toml. Field names are those of Nemotron's env.toml where it has them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    description: str = ""
    executor: Literal["local"] = Field(default="local", description="The kind of backend.")
    nodes: int = Field(default=1, ge=1, description="Nodes of a job that names none.")
    gpus_per_node: int = Field(
        default=1, ge=1, description="GPUs (ranks) a node of a job that names none; on a CPU, processes."
    )
    time: str = Field(default="04:00:00", description="Time limit, HH:MM:SS, of a job that names none.")
    gpu_type: str | None = Field(default=None, description="What the GPUs are, e.g. H100.")
    gpu_memory_gib: float | None = Field(default=None, gt=0, description="Memory of one GPU in GiB.")
    max_nodes: int = Field(default=1, ge=1)
    max_gpus_per_node: int = Field(default=8, ge=1)
    max_time: str = Field(default="168:00:00", description="Longest time limit that a job may ask for.")
    max_running: int = Field(default=1, ge=1, description="Runs at a time on this machine; others wait.")
    roots: list[Path] = Field(
        default_factory=list, description="Paths that a client names must lie under one of these."
    )
    python: Path | None = Field(default=None, description="Interpreter of the trainer's environment.")
    env_vars: dict[str, str] = Field(default_factory=dict, description="Environment of every run.")

    @field_validator("time", "max_time")
    @classmethod
    def _is_time(cls, value: str) -> str:
        minutes(value)
        return value

    @model_validator(mode="after")
    def _gives_what_it_allows(self) -> Self:
        for name, limit in self.limits.model_dump().items():
            if getattr(self.defaults, name) > limit:
                raise ValueError(
                    f"a job would get {getattr(self.defaults, name)} {name}, and at most {limit}"
                )
        return self

    @property
    def defaults(self) -> Resources:
        """What a job gets that asks for nothing; what the profile leaves out is at most the limit."""
        usual = Resources(
            nodes=self.nodes, gpus_per_node=self.gpus_per_node, time_limit_minutes=minutes(self.time)
        ).model_dump()
        limits = self.limits.model_dump()
        for name, field in (("nodes", "nodes"), ("gpus_per_node",) * 2, ("time_limit_minutes", "time")):
            if field not in self.model_fields_set:
                usual[name] = min(usual[name], limits[name])
        return Resources(**usual)

    @property
    def limits(self) -> Resources:
        return Resources(
            nodes=self.max_nodes,
            gpus_per_node=self.max_gpus_per_node,
            time_limit_minutes=minutes(self.max_time),
        )

    def hardware(self, resources: Resources) -> Hardware:
        """What a run with these resources would have here."""
        return Hardware(
            nodes=resources.nodes,
            gpus_per_node=resources.gpus_per_node,
            gpu_type=self.gpu_type,
            gpu_memory_gib=self.gpu_memory_gib,
        )

    def allows(self, path: Path) -> bool:
        """Whether a path that a client names lies, symlinks resolved, under one of the roots."""
        real = Path(os.path.realpath(path))  # Path.resolve raises RuntimeError for a loop
        return any(real.is_relative_to(root.resolve()) for root in self.roots)

    def refusal(self, where: str, path: str) -> FieldError | None:
        """Why a client must not name a path at this place of its request; None where it may."""
        if Path(path).is_absolute() and self.allows(Path(path)):
            return None
        roots = ", ".join(str(root) for root in self.roots) or "none"
        return FieldError(
            pointer=where,
            code="path_not_allowed",
            detail=f"{path!r} does not lie under a path that cluster {self.name!r} allows.",
            hint=f"Allowed: {roots}. Paths are absolute, symlinks are resolved.",
        )


def minutes(time: str) -> int:
    """Slurm's HH:MM:SS as minutes, rounded up. Raises ValueError on anything else."""
    parts = time.split(":")
    if len(parts) != 3 or not all(part.isdigit() for part in parts):
        raise ValueError(f"{time!r} is not a time of the form HH:MM:SS, e.g. 04:00:00")
    hours, mins, seconds = (int(part) for part in parts)
    return hours * 60 + mins + (seconds > 0)


@lru_cache
def clusters() -> dict[str, Cluster]:
    """All profiles by name. Raises Misconfigured where the file cannot be read or is wrong."""
    path = get_settings().clusters_path
    if get_settings().clusters_file is None and not path.exists():
        return {"local": _built_in()}
    try:
        tables = tomllib.loads(path.read_text())
        return {name: Cluster(name=name, **table) for name, table in tables.items()}
    except (OSError, tomllib.TOMLDecodeError, ValidationError, TypeError) as error:
        raise Misconfigured(f"Cluster profiles in {path} cannot be used: {error}") from error


def _built_in() -> Cluster:
    return Cluster(
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
        fault = FieldError(pointer="/cluster", code="unknown_cluster", detail=error.message, hint=error.hint)
        raise InvalidSpec(error.message, hint=error.hint, errors=[fault]) from error


def connect(profile: Cluster) -> Backend:
    """The backend of a profile."""
    settings = get_settings()
    return LocalBackend(
        root=settings.data_dir,
        python=profile.python or settings.trainer_python,
        max_running=profile.max_running,
        env_vars=profile.env_vars,
        cluster=profile.name,
    )
