"""What a cluster is: a table of clusters.toml. Names are those of Nemotron's env.toml where it has them."""

import os
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, ClassVar, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)

from trainer.preflight import Hardware
from worker.clusters.secrets import SharedSecret
from worker.errors import FieldError
from worker.runs.run import Resources


def minutes(time: str) -> int:
    """Slurm's HH:MM:SS as minutes, rounded up. Raises ValueError on anything else."""
    parts = time.split(":")
    if len(parts) != 3 or not all(part.isdigit() for part in parts):
        raise ValueError(f"{time!r} is not a time of the form HH:MM:SS, e.g. 04:00:00")
    hours, mins, seconds = (int(part) for part in parts)
    return hours * 60 + mins + (seconds > 0)


def plain_path(path: Path) -> Path:
    """An absolute path that stands in a script as it is. Raises ValueError."""
    if not re.fullmatch(r"(/[A-Za-z0-9_.@+-]+)+", str(path)) or ".." in path.parts:
        raise ValueError("has to be an absolute path of letters, digits and ._@+-")
    return path


# What stands in a directive or a path of a batch script: a shell, or sbatch, reads it as it is.
Word = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9_/][A-Za-z0-9_.,:@=+&|*()\[\]/-]*$", max_length=255)
]
PlainPath = Annotated[Path, AfterValidator(plain_path)]
Line = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f]*$", max_length=4096)]
Lines = Annotated[
    list[Line], BeforeValidator(lambda value: value.splitlines() if isinstance(value, str) else value)
]
Comment = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9 _.,:@=+/-]*$", max_length=255)]


class Cluster(BaseModel):
    """What every kind of cluster has."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    usual_recoveries: ClassVar[int] = 0
    poll_limit_seconds: ClassVar[float] = 5.0
    """Longer than a look takes, unless its worker has died."""

    name: str
    description: str = ""
    executor: str
    nodes: int = Field(default=1, ge=1, description="Nodes of a job that names none.")
    gpus_per_node: int = Field(
        default=1, ge=1, description="GPUs (ranks) a node of a job that names none; on a CPU, processes."
    )
    time: str = Field(default="04:00:00", description="Time limit, HH:MM:SS, of a job that names none.")
    gpu_type: str | None = Field(default=None, description="What the GPUs are, e.g. H100.")
    gpu_memory_gib: float | None = Field(default=None, gt=0, description="Memory of one GPU in GiB.")
    max_nodes: int | None = Field(default=None, ge=1, description="Default: `nodes`.")
    max_gpus_per_node: int = Field(default=8, ge=1)
    max_time: str = Field(default="168:00:00", description="Longest time limit that a job may ask for.")
    roots: list[Path] = Field(
        default_factory=list, description="Paths that a client names must lie under one of these."
    )
    max_recoveries: int | None = Field(
        default=None,
        ge=0,
        description="How often a job goes on by itself after a preemption, a lost node or its time limit, "
        "without saving a new checkpoint in between. Default: 3 on Slurm, 0 on this machine.",
    )
    poll_seconds: float | None = Field(
        default=None, gt=0, description="Least time between two looks. Default: SFT_POLL_INTERVAL_SECONDS."
    )
    env_vars: dict[str, str] = Field(default_factory=dict, description="Environment of every run.")

    @field_validator("time", "max_time")
    @classmethod
    def _is_time(cls, value: str) -> str:
        minutes(value)
        return value

    @field_validator("env_vars")
    @classmethod
    def _are_variables(cls, value: dict[str, str]) -> dict[str, str]:
        if wrong := [name for name in value if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name)]:
            raise ValueError(f"{wrong[0]!r} is no name of an environment variable")
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
            nodes=self.max_nodes or self.nodes,
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

    @property
    def recoveries(self) -> int:
        """How often a job may go on by itself without saving anything new."""
        return self.max_recoveries if self.max_recoveries is not None else self.usual_recoveries

    @property
    def sees_files(self) -> bool:
        """Whether the service has the cluster's files before it, under the same names."""
        return True

    @property
    def can_pause(self) -> bool:
        """Whether a stop file of the service reaches a run."""
        return True

    @property
    def known_secrets(self) -> Mapping[str, SharedSecret]:
        """What jobs may name in `secrets`."""
        return {}

    def allows(self, path: Path) -> bool:
        """Whether a path that a client names lies, symlinks resolved, under one of the roots.

        Where the service does not see the files, links are resolved by the check that the cluster makes.
        """
        if not self.sees_files:
            plain = PurePosixPath(os.path.normpath(path))
            return any(plain.is_relative_to(os.path.normpath(root)) for root in self.roots)
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
