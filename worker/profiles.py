"""What a cluster is: a table of clusters.toml. Names are those of Nemotron's env.toml where it has them."""

import getpass
import os
import re
from pathlib import Path, PurePosixPath
from typing import Annotated, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)

from trainer.preflight import Hardware
from worker.backends.base import Resources
from worker.errors import FieldError
from worker.secrets import Secret


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


class Cluster(BaseModel):
    """What every kind of cluster has."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    usual_recoveries: ClassVar[int] = 0
    look_limit_seconds: ClassVar[float] = 5.0
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
    def known_secrets(self) -> dict[str, Secret]:
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


class LocalCluster(Cluster):
    """This machine."""

    executor: Literal["local"] = "local"
    max_nodes: int | None = Field(default=1, ge=1)
    max_running: int = Field(default=1, ge=1, description="Runs at a time on this machine; others wait.")
    python: Path | None = Field(default=None, description="Interpreter of the trainer's environment.")


# What stands in a directive or a path of a batch script: a shell, or sbatch, reads it as it is.
Word = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9_/][A-Za-z0-9_.,:@=+&|*()\[\]/-]*$", max_length=255)
]
PlainPath = Annotated[Path, AfterValidator(plain_path)]
Line = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f]*$", max_length=4096)]
Comment = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9 _.,:@=+/-]*$", max_length=255)]


class SlurmCluster(Cluster):
    """A cluster that Slurm schedules, reached over SSH or from a machine that has Slurm's commands."""

    usual_recoveries: ClassVar[int] = 3
    look_limit_seconds: ClassVar[float] = 60.0

    executor: Literal["slurm"]
    tunnel: Literal["ssh", "local"] | None = Field(
        default=None, description="How Slurm's commands are reached. Default: over SSH if a host is named."
    )
    host: str | None = Field(default=None, description="Login node.")
    user: str = Field(
        default_factory=getpass.getuser,
        description="Who the jobs belong to there. Default: the service's own.",
    )
    port: int = Field(default=22, ge=1, le=65535)
    identity: Path | None = Field(
        default=None, description="Private SSH key. Default: the agent's or the usual ones."
    )
    known_hosts: Path | None = Field(default=None, description="Default: ~/.ssh/known_hosts.")
    slurm_conf: Path | None = Field(
        default=None, description="SLURM_CONF for the commands, with tunnel `local`."
    )
    remote_job_dir: PlainPath = Field(
        description="Directory of the service on a file system that all nodes see."
    )
    account: Word | None = None
    partition: Word | None = Field(
        default=None, description="Of jobs, where the next two do not say otherwise."
    )
    run_partition: Word | None = Field(default=None, description="Of jobs with `attached`.")
    batch_partition: Word | None = Field(default=None, description="Of jobs without `attached`.")
    build_partition: Word | None = Field(default=None, description="Of the import of container images.")
    qos: Word | None = None
    reservation: Word | None = None
    constraint: Word | None = None
    comment: Comment | None = None
    ntasks_per_node: int = Field(
        default=1,
        ge=1,
        description="Taken for the sake of existing profiles: one torchrun a node starts all ranks.",
    )
    cpus_per_task: int | None = Field(default=None, ge=1, description="CPUs of a node's one task.")
    mem: Word | None = Field(default=None, description="Memory of a node, e.g. 0 (all) or 512G.")
    exclusive: bool = False
    requeue: bool = Field(
        default=True, description="Let Slurm begin a job again after a preemption or a lost node."
    )
    signal_seconds: int = Field(
        default=300, ge=1, le=65535, description="A run is asked to save so long before its time limit."
    )
    settle_seconds: float = Field(
        default=10.0,
        ge=0,
        description="For so long the last files of a run may not be seen on its file system yet.",
    )
    container_image: Word | None = Field(
        default=None, description="Image of a registry, or a .sqsh file: then runs are started by pyxis."
    )
    mounts: list[Word] = Field(default_factory=list, description="Of the container, SOURCE:TARGET.")
    python: Word = Field(
        default="python3", description="Interpreter with the trainer's environment, on the nodes."
    )
    login_python: PlainPath | None = Field(
        default=None,
        description="Interpreter (3.12) on the login node with pyarrow, pydantic and jsonschema, over SSH: "
        "it looks at data and models. Without it the trainer is the first that does.",
    )
    setup_lines: list[Line] = Field(
        default_factory=list, description="Shell, in the batch script before srun."
    )
    startup_commands: list[Line] = Field(
        default_factory=list, description="Shell, on each node before torchrun."
    )
    secrets: dict[str, Secret] = Field(
        default_factory=dict, description="What jobs may name in `secrets`, and who may."
    )

    @field_validator("setup_lines", "startup_commands", mode="before")
    @classmethod
    def _lines(cls, value: object) -> object:
        return value.splitlines() if isinstance(value, str) else value

    @field_validator("env_vars")
    @classmethod
    def _are_variables(cls, value: dict[str, str]) -> dict[str, str]:
        if wrong := [name for name in value if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name)]:
            raise ValueError(f"{wrong[0]!r} is no name of an environment variable")
        return value

    @model_validator(mode="after")
    def _can_be_reached(self) -> Self:
        if self.over_ssh and self.host is None:
            raise ValueError('tunnel = "ssh" needs a host')
        return self

    @property
    def known_secrets(self) -> dict[str, Secret]:
        return self.secrets

    @property
    def over_ssh(self) -> bool:
        return (self.tunnel or ("ssh" if self.host else "local")) == "ssh"

    @property
    def sees_files(self) -> bool:
        return not self.over_ssh

    def partition_of(self, *, attached: bool) -> str | None:
        return (self.run_partition if attached else self.batch_partition) or self.partition


Profile = Annotated[LocalCluster | SlurmCluster, Discriminator("executor")]
