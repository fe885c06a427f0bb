"""Workspaces of NVIDIA DGX Cloud Lepton."""

import os
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from worker.clusters.profiles.base import Cluster, Lines, PlainPath, Word
from worker.clusters.secrets import Secret, SharedSecret

GATEWAY = "https://gateway.dgxc-lepton.nvidia.com/api/v2/workspaces"
LOOPBACK = ("127.0.0.1", "localhost", "::1")

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]+$", max_length=255)]


class Mount(BaseModel):
    """A storage of the workspace, in the container."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    path: str = Field(default="/", description="Directory of the storage.")
    from_: str = Field(alias="from", description="The storage, e.g. node-nfs:lustre.")
    mount_path: PlainPath = Field(description="Where the container has it.")


class WorkspaceSecret(SharedSecret):
    """A secret that the workspace keeps: the service knows its name alone."""

    name: Name = Field(description="Its name in the workspace.")


class Queue(BaseModel):
    """How jobs wait: Lepton's queue_config."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    priority_class: Word | None = Field(default=None, description="low-1000 to high-9000.")
    can_be_preempted: bool | None = None
    can_preempt: bool | None = None


class LeptonCluster(Cluster):
    """A workspace, and how jobs run in it."""

    usual_recoveries: ClassVar[int] = 3
    poll_limit_seconds: ClassVar[float] = 120.0

    executor: Literal["lepton"]
    workspace: Name | None = Field(default=None, description="Its id. Default: LEPTON_WORKSPACE_ID.")
    url: str | None = Field(
        default=None,
        description="Of the workspace's API. Default: where no workspace is named either "
        "LEPTON_WORKSPACE_URL, else NVIDIA's gateway.",
    )
    token: Secret = Field(
        default=Secret(env="LEPTON_WORKSPACE_TOKEN"),
        description="Where the service finds the workspace's token; a file can be renewed while it runs.",
    )
    poll_seconds: float | None = Field(default=10.0, gt=0, description="Least time between two looks.")
    remote_job_dir: PlainPath = Field(
        description="Directory of the service in the containers, on a mount that all nodes share."
    )
    local_mount: Path | None = Field(
        default=None, description="Where the service itself has the mount that holds remote_job_dir."
    )
    container_image: Word
    resource_shape: Word = Field(description="Of a node, e.g. gpu.8xh100-sxm.")
    node_group: Word | None = Field(default=None, description="The dedicated node group.")
    node_reservation: Word | None = None
    nprocs_per_node: int | None = Field(
        default=None, ge=1, description="Taken for the sake of existing profiles: as gpus_per_node."
    )
    shared_memory_size: int | None = Field(default=65536, ge=1, description="Of a container, in MiB.")
    mounts: list[Mount] = Field(default_factory=list)
    image_pull_secrets: list[Name] = Field(default_factory=list)
    queue: Queue | None = None
    ttl_seconds_after_finished: int = Field(
        default=259_200, ge=3600, description="For so long Lepton keeps the record of an ended job."
    )
    custom_spec: dict[str, Any] = Field(
        default_factory=dict, description="Fields of the job's spec that this profile has no name for."
    )
    python: Word = Field(default="python3", description="Interpreter with the trainer's environment.")
    pre_launch_commands: Lines = Field(
        default_factory=list, description="Shell, on each node before torchrun."
    )
    signal_seconds: int = Field(
        default=300, ge=1, description="A run is asked to save so long before its time limit."
    )
    settle_seconds: float = Field(
        default=15.0, ge=0, description="An ended run's log is whole when nothing came for so long."
    )
    unseen_seconds: float = Field(
        default=30.0, ge=0, description="For so long Lepton's list may not show a job that was just created."
    )
    secret_vars: dict[str, Name] = Field(
        default_factory=dict, description="Environment of every run: variable -> secret of the workspace."
    )
    secrets: dict[str, WorkspaceSecret] = Field(
        default_factory=dict, description="What jobs may name in `secrets`, and who may."
    )

    @model_validator(mode="before")
    @classmethod
    def _takes_ranks_for_gpus(cls, values: Any) -> Any:
        """A shape has as many GPUs as it has: a job cannot ask for more."""
        if not isinstance(values, dict):
            return values
        ranks = values.get("nprocs_per_node", 1)
        usual = {"gpus_per_node": ranks, "max_gpus_per_node": values.get("gpus_per_node", ranks)}
        return {**usual, **values}

    @model_validator(mode="before")
    @classmethod
    def _takes_the_environment(cls, values: Any) -> Any:
        """Of one workspace: a URL from there and an id from here might be of two."""
        if not isinstance(values, dict) or {"workspace", "url"} & values.keys():
            return values
        found = {"workspace": "LEPTON_WORKSPACE_ID", "url": "LEPTON_WORKSPACE_URL"}
        return {**{field: os.environ.get(name) or None for field, name in found.items()}, **values}

    @model_validator(mode="after")
    def _can_be_used(self) -> Self:
        if self.nprocs_per_node not in (None, self.gpus_per_node):
            raise ValueError("nprocs_per_node and gpus_per_node are the same: a rank for each GPU")
        if self.url is None and self.workspace is None:
            raise ValueError("workspace is missing, and LEPTON_WORKSPACE_ID is not set")
        parts = urlsplit(self.url or GATEWAY)
        if parts.scheme != "https" and parts.hostname not in LOOPBACK:
            raise ValueError("url has to begin with https://: the token would be sent in the clear")
        if self.job_mount is None:
            raise ValueError("remote_job_dir has to lie on one of the mounts, or what a run saves is lost")
        return self

    @property
    def api_url(self) -> str:
        return (self.url or f"{GATEWAY}/{self.workspace}").rstrip("/")

    @property
    def job_mount(self) -> Mount | None:
        """The mount that holds remote_job_dir."""
        holding = (one for one in self.mounts if self.remote_job_dir.is_relative_to(one.mount_path))
        return max(holding, key=lambda one: len(one.mount_path.parts), default=None)

    @property
    def known_secrets(self) -> dict[str, WorkspaceSecret]:
        return self.secrets

    @property
    def can_pause(self) -> bool:
        return self.local_mount is not None

    @property
    def sees_files(self) -> bool:
        """With the mount under the same path everything there can be looked at before a job is submitted."""
        return self.job_mount is not None and self.job_mount.mount_path == self.local_mount
