"""Clusters that Slurm schedules."""

import getpass
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from worker.clusters.profiles.base import Cluster, Comment, Lines, PlainPath, Word
from worker.clusters.secrets import Secret


class SlurmCluster(Cluster):
    """A cluster that Slurm schedules, reached over SSH or from a machine that has Slurm's commands."""

    usual_recoveries: ClassVar[int] = 3
    poll_limit_seconds: ClassVar[float] = 60.0

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
    setup_lines: Lines = Field(default_factory=list, description="Shell, in the batch script before srun.")
    startup_commands: Lines = Field(default_factory=list, description="Shell, on each node before torchrun.")
    secrets: dict[str, Secret] = Field(
        default_factory=dict, description="What jobs may name in `secrets`, and who may."
    )

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
