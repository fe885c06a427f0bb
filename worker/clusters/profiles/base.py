"""The profile fields that all kinds of clusters share."""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
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
from worker.auth.roles import Tenant
from worker.clusters.secrets import SharedSecret
from worker.errors import FieldError, SubmissionRejected
from worker.runs.run import Resources


def minutes(time: str) -> int:
    """Return Slurm's HH:MM:SS as minutes, rounded up. Raises ValueError on anything else."""
    parts = time.split(":")
    if len(parts) != 3 or not all(part.isdigit() for part in parts):
        raise ValueError(f"{time!r} is not a time of the form HH:MM:SS, e.g. 04:00:00")
    hours, mins, seconds = (int(part) for part in parts)
    return hours * 60 + mins + (seconds > 0)


def plain_path(path: Path) -> Path:
    """Return the path if it is absolute and needs no quoting in a script. Raises ValueError otherwise."""
    if not re.fullmatch(r"(/[A-Za-z0-9_.@+-]+)+", str(path)) or ".." in path.parts:
        raise ValueError("has to be an absolute path of letters, digits and ._@+-")
    return path


def file_mode(value: object) -> str:
    """Return a mode in octal, of a text or of an octal number of TOML. Raises ValueError otherwise."""
    text = f"{value:04o}" if type(value) is int else str(value)
    if not re.fullmatch(r"0?6[046][04]", text):
        raise ValueError(
            'has to be a mode such as "0640": 6 for the owner, 0, 4 or 6 for the group, 0 or 4 for others'
        )
    return text


# A value that needs no quoting in a directive or a path of a batch script.
Word = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9_/][A-Za-z0-9_.,:@=+&|*()\[\]/-]*$", max_length=255)
]
PlainPath = Annotated[Path, AfterValidator(plain_path)]
Line = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f]*$", max_length=4096)]
Lines = Annotated[
    list[Line], BeforeValidator(lambda value: value.splitlines() if isinstance(value, str) else value)
]
LOCAL = "local"
"""Name of the file system whose files the service sees."""
PROJECT = "{project}"
FileMode = Annotated[str, BeforeValidator(file_mode)]
Comment = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9 _.,:@=+/-]*$", max_length=255)]


def _depth(path: Path) -> int:
    return len(path.parts)


class Cluster(BaseModel):
    """A cluster profile: the fields of every kind of cluster."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    default_recoveries: ClassVar[int] = 0
    poll_limit_seconds: ClassVar[float] = 5.0
    """Longer than any poll takes, unless its worker has died."""

    name: str
    description: str = ""
    executor: str
    nodes: int = Field(default=1, ge=1, description="Default number of nodes of a job.")
    gpus_per_node: int = Field(
        default=1, ge=1, description="Default number of GPUs (ranks) per node of a job; on a CPU, processes."
    )
    time: str = Field(default="04:00:00", description="Default time limit of a job, HH:MM:SS.")
    gpu_type: str | None = Field(default=None, description="Model of the GPUs, e.g. H100.")
    gpu_memory_gib: float | None = Field(default=None, gt=0, description="Memory of one GPU in GiB.")
    max_nodes: int | None = Field(default=None, ge=1, description="Default: `nodes`.")
    max_gpus_per_node: int = Field(default=8, ge=1)
    max_time: str = Field(default="168:00:00", description="Longest time limit that a job may request.")
    roots: list[Path] = Field(
        default_factory=list,
        description="Paths in a request must lie under one of these directories. A part {project} is the "
        "project of the job: /lustre/{project}.",
    )
    projects: list[str] | None = Field(
        default=None, description="Projects whose jobs may use the cluster. Default: all."
    )
    max_recoveries: int | None = Field(
        default=None,
        ge=0,
        description="How often the service recovers a job after a preemption, a lost node or its time limit "
        "without a new checkpoint in between. Default: 3 on Slurm and Lepton, 0 on this machine.",
    )
    poll_seconds: float | None = Field(
        default=None, gt=0, description="Least time between two polls. Default: SFT_POLL_INTERVAL_SECONDS."
    )
    file_mode: FileMode = Field(
        default="0640",
        description="Mode of the files that runs save, in octal; directories get x where files have r. "
        'Others never get w. Default: "0640", so directories 0750.',
    )
    file_system: Word | None = Field(
        default=None,
        description="Name of the file system of the runs, if the service does not see it: profiles of one "
        "name share files. Default: that of the login node or workspace.",
    )
    env_vars: dict[str, str] = Field(default_factory=dict, description="Environment variables of every run.")

    @field_validator("time", "max_time")
    @classmethod
    def _is_time(cls, value: str) -> str:
        minutes(value)
        return value

    @field_validator("roots")
    @classmethod
    def _are_roots(cls, value: list[Path]) -> list[Path]:
        for root in value:
            if not root.is_absolute() or re.search(r"[{}]", str(root).replace(PROJECT, "")):
                raise ValueError(f"{str(root)!r} is no absolute path; its one placeholder is {PROJECT}")
        return value

    @field_validator("env_vars")
    @classmethod
    def _are_variables(cls, value: dict[str, str]) -> dict[str, str]:
        if wrong := [name for name in value if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name)]:
            raise ValueError(f"{wrong[0]!r} is not a valid name of an environment variable")
        return value

    @model_validator(mode="after")
    def _has_defaults_within_limits(self) -> Self:
        for name, limit in self.limits.model_dump().items():
            default = getattr(self.defaults, name)
            if default > limit:
                raise ValueError(f"the default of {default} {name} is more than the limit of {limit}")
        return self

    @property
    def defaults(self) -> Resources:
        """Default resources of a job. Fields that the profile does not set are capped at the limit."""
        defaults = Resources(
            nodes=self.nodes, gpus_per_node=self.gpus_per_node, time_limit_minutes=minutes(self.time)
        ).model_dump()
        limits = self.limits.model_dump()
        for name, field in (("nodes", "nodes"), ("gpus_per_node",) * 2, ("time_limit_minutes", "time")):
            if field not in self.model_fields_set:
                defaults[name] = min(defaults[name], limits[name])
        return Resources(**defaults)

    @property
    def limits(self) -> Resources:
        return Resources(
            nodes=self.max_nodes or self.nodes,
            gpus_per_node=self.max_gpus_per_node,
            time_limit_minutes=minutes(self.max_time),
        )

    def hardware(self, resources: Resources) -> Hardware:
        """Return the hardware of a run with these resources."""
        return Hardware(
            nodes=resources.nodes,
            gpus_per_node=resources.gpus_per_node,
            gpu_type=self.gpu_type,
            gpu_memory_gib=self.gpu_memory_gib,
        )

    @property
    def umask(self) -> int:
        """The umask of runs, with which they save files of file_mode."""
        files = int(self.file_mode, 8)
        return 0o777 & ~(files | (files & 0o444) >> 2)

    @property
    def recoveries(self) -> int:
        """How often a job may be recovered without a new checkpoint."""
        return self.max_recoveries if self.max_recoveries is not None else self.default_recoveries

    @property
    def sees_files(self) -> bool:
        """Whether the service sees the cluster's files under the same paths."""
        return True

    @property
    def can_pause(self) -> bool:
        """Whether a run sees a stop file that the service writes."""
        return True

    @property
    def known_secrets(self) -> Mapping[str, SharedSecret]:
        """Secrets that jobs may name in `secrets`."""
        return {}

    def for_project(self, project: str) -> Self:
        """Return the profile with the roots of a project's jobs.

        A root that a link has moved is left out: paths below it are rejected as outside of the roots.
        """
        roots = [self._root_for(project, root) for root in self.roots if not self._has_moved(project, root)]
        return self.model_copy(update={"roots": roots})

    def for_tenant(self, tenant: Tenant) -> Self:
        """Return the profile with the roots of a tenant's jobs, and with the secrets that they may use."""
        known = self.known_secrets
        usable = {name: secret for name, secret in known.items() if tenant.may_use(secret.projects)}
        return self.for_project(tenant.project).model_copy(update={"secrets": usable} if known else {})

    def require_secrets(self, names: Iterable[str]) -> None:
        """Raise SubmissionRejected if one of the secrets that a job names is not, or no longer, here."""
        if missing := [name for name in names if name not in self.known_secrets]:
            raise SubmissionRejected(
                f"Cluster {self.name!r} no longer has the secret {missing[0]!r} for the job's project.",
                hint="Name another secret in a new job, or ask the operator to restore it in the profile.",
            )

    def _root_for(self, project: str, root: Path) -> Path:
        return Path(str(root).replace(PROJECT, project))

    def _has_moved(self, project: str, root: Path) -> bool:
        """Whether somebody else's link changes where a root lies, below a place that jobs may write.

        These are the directory that holds all projects, and other roots that the root lies in.
        """
        if not self.sees_files:
            return False
        own = self._root_for(project, root)
        shared = next((parent for parent in root.parents if PROJECT not in str(parent)), root)
        tops = {self._root_for(project, other) for other in self.roots} - {own}
        tops |= {shared} if PROJECT in str(root) else set()
        return any(
            os.path.islink(path)  # noqa: PTH114 - Path.is_symlink may raise
            and not _is_of_operator(path.parent)
            for top in tops
            if own.is_relative_to(top)
            for path in (own, *own.parents)
            if path != top and path.is_relative_to(top)
        )

    @property
    def job_directories(self) -> Mapping[str, Path]:
        """File system -> directory of all jobs on it, for clusters that have one of their own."""
        return {}

    @model_validator(mode="after")
    def _files_seen_here_are_local(self) -> Self:
        if self.sees_files and self.file_system not in (None, LOCAL):
            raise ValueError("file_system: the service sees these files, so they are local. Leave it out")
        return self

    @property
    def file_system_name(self) -> str:
        """Equal for profiles whose jobs see the same files."""
        return self.file_system or self.default_file_system

    @property
    def default_file_system(self) -> str:
        return LOCAL

    def allows(self, path: Path) -> bool:
        """Return whether a path lies under one of the roots after symlinks are resolved."""
        return self.settled(path) is not None

    def settled(self, path: Path) -> Path | None:
        """Return a path as one of the roots and names below it that are no links; None if it lies elsewhere.

        The root keeps the name of the profile: it may be a link, or a mount of a container. If the service
        does not see the files, no link is resolved here: the inspection on the cluster does.
        """
        resolve = os.path.realpath if self.sees_files else os.path.normpath  # Path.resolve raises for a loop
        real = Path(resolve(path))
        tops = {Path(resolve(root)): root for root in self.roots}
        top = max(filter(real.is_relative_to, tops), key=_depth, default=None)
        return None if top is None else tops[top] / real.relative_to(top)

    def root_of(self, settled: Path) -> Path | None:
        """Return the root that a settled path lies under; None if the profile no longer has it."""
        return max(filter(settled.is_relative_to, self.roots), key=_depth, default=None)

    def path_rejection(self, pointer: str, path: str) -> FieldError | None:
        """Return the error for a path that a request may not name; None if the path is allowed."""
        if Path(path).is_absolute() and self.allows(Path(path)):
            return None
        roots = ", ".join(str(root) for root in self.roots) or "none"
        return FieldError(
            pointer=pointer,
            code="path_not_allowed",
            detail=f"{path!r} does not lie under a path that cluster {self.name!r} allows.",
            hint=f"Allowed: {roots}. Use an absolute path; symlinks are resolved.",
        )


def _is_of_operator(directory: Path) -> bool:
    """Whether only root may put a link into a directory, and runs are not root, too."""
    found = directory.stat()
    return found.st_uid == 0 and not found.st_mode & 0o022 and os.geteuid() != 0
