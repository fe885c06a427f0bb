"""Slurm clusters."""

import getpass
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from worker.clusters.profiles.base import Cluster, Comment, Lines, PlainPath, Word
from worker.clusters.secrets import Secret


class SlurmCluster(Cluster):
    """A Slurm cluster, reached over SSH or from a machine that has Slurm's commands."""

    default_recoveries: ClassVar[int] = 3
    poll_limit_seconds: ClassVar[float] = 60.0

    executor: Literal["slurm"]
    tunnel: Literal["ssh", "local"] | None = Field(
        default=None, description="How Slurm's commands are run. Default: over SSH if `host` is set."
    )
    host: str | None = Field(default=None, description="Login node.")
    user: str = Field(
        default_factory=getpass.getuser,
        description="The cluster's user that owns the jobs. Default: the service's own user.",
    )
    port: int = Field(default=22, ge=1, le=65535)
    identity: Path | None = Field(
        default=None, description="Private SSH key. Default: those of the agent, or in ~/.ssh."
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
        default=None, description="Partition of jobs, unless one of the next two is set."
    )
    run_partition: Word | None = Field(default=None, description="Partition of jobs with `attached`.")
    batch_partition: Word | None = Field(default=None, description="Partition of jobs without `attached`.")
    build_partition: Word | None = Field(
        default=None, description="Partition for the import of container images."
    )
    qos: Word | None = None
    reservation: Word | None = None
    constraint: Word | None = None
    comment: Comment | None = None
    ntasks_per_node: int = Field(
        default=1,
        ge=1,
        description="Accepted for existing profiles and ignored: one torchrun per node starts all ranks.",
    )
    cpus_per_task: int | None = Field(default=None, ge=1, description="CPUs of a node's one task.")
    mem: Word | None = Field(default=None, description="Memory of a node, e.g. 0 (all) or 512G.")
    exclusive: bool = False
    requeue: bool = Field(
        default=True, description="Let Slurm requeue a job after a preemption or a lost node."
    )
    signal_seconds: int = Field(
        default=300,
        ge=1,
        le=65535,
        description="Seconds before its time limit at which a run is asked to save.",
    )
    settle_seconds: float = Field(
        default=10.0,
        ge=0,
        description="Seconds after a run's end during which its last files may not be visible yet.",
    )
    container_image: Word | None = Field(
        default=None, description="Image of a registry, or a .sqsh file. If set, pyxis starts the runs."
    )
    mounts: list[Word] = Field(default_factory=list, description="Mounts of the container, SOURCE:TARGET.")
    python: Word = Field(
        default="python3", description="Interpreter with the trainer's environment, on the nodes."
    )
    login_python: PlainPath | None = Field(
        default=None,
        description="Interpreter (3.12) on the login node with pyarrow, pydantic, jsonschema and pyyaml. It "
        "inspects data and models over SSH. Without it only the trainer inspects them.",
    )
    setup_lines: Lines = Field(
        default_factory=list, description="Shell commands in the batch script before srun."
    )
    startup_commands: Lines = Field(
        default_factory=list, description="Shell commands on each node before torchrun."
    )
    secrets: dict[str, Secret] = Field(
        default_factory=dict, description="Secrets that jobs may name in `secrets`, and for which projects."
    )

    @model_validator(mode="after")
    def _is_reachable(self) -> Self:
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

    @property
    def default_file_system(self) -> str:
        return f"ssh {self.host}" if self.over_ssh else "local"

    @property
    def job_directories(self) -> dict[str, Path]:
        return {self.file_system_name: self.remote_job_dir}

    def partition_of(self, *, attached: bool) -> str | None:
        return (self.run_partition if attached else self.batch_partition) or self.partition
