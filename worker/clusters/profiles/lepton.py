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


class StorageMount(BaseModel):
    """A mount of the workspace's storage into the containers."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    path: str = Field(default="/", description="Directory of the storage.")
    from_: str = Field(alias="from", description="The storage, e.g. node-nfs:lustre.")
    mount_path: PlainPath = Field(description="Path in the container.")


class WorkspaceSecret(SharedSecret):
    """A secret that the workspace stores; the service knows only its name."""

    name: Name = Field(description="Name of the secret in the workspace.")


class Queue(BaseModel):
    """Priority and preemption of jobs: Lepton's queue_config."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    priority_class: Word | None = Field(default=None, description="low-1000 to high-9000.")
    can_be_preempted: bool | None = None
    can_preempt: bool | None = None


class LeptonCluster(Cluster):
    """A Lepton workspace, and how jobs run in it."""

    default_recoveries: ClassVar[int] = 3
    poll_limit_seconds: ClassVar[float] = 120.0

    executor: Literal["lepton"]
    workspace: Name | None = Field(
        default=None, description="Id of the workspace. Default: LEPTON_WORKSPACE_ID."
    )
    url: str | None = Field(
        default=None,
        description="URL of the workspace's API. Default: LEPTON_WORKSPACE_URL if `workspace` is not set "
        "either, else NVIDIA's gateway.",
    )
    token: Secret = Field(
        default=Secret(env="LEPTON_WORKSPACE_TOKEN"),
        description="Source of the workspace's token. A file can be replaced while the service runs.",
    )
    poll_seconds: float | None = Field(default=10.0, gt=0, description="Least time between two polls.")
    remote_job_dir: PlainPath = Field(
        description="Directory of the service in the containers, on a mount that all nodes share."
    )
    local_mount: Path | None = Field(
        default=None, description="The service's own path of the mount that holds remote_job_dir."
    )
    container_image: Word
    resource_shape: Word = Field(description="Resource shape of a node, e.g. gpu.8xh100-sxm.")
    node_group: Word | None = Field(default=None, description="The dedicated node group.")
    node_reservation: Word | None = None
    nprocs_per_node: int | None = Field(
        default=None, ge=1, description="Same as gpus_per_node; accepted for existing profiles."
    )
    shared_memory_size: int | None = Field(
        default=65536, ge=1, description="Shared memory of a container in MiB."
    )
    mounts: list[StorageMount] = Field(default_factory=list)
    image_pull_secrets: list[Name] = Field(default_factory=list)
    queue: Queue | None = None
    ttl_seconds_after_finished: int = Field(
        default=259_200, ge=3600, description="Seconds for which Lepton keeps the record of an ended job."
    )
    custom_spec: dict[str, Any] = Field(
        default_factory=dict, description="Additional fields of Lepton's job spec."
    )
    python: Word = Field(default="python3", description="Interpreter with the trainer's environment.")
    pre_launch_commands: Lines = Field(
        default_factory=list, description="Shell commands on each node before torchrun."
    )
    signal_seconds: int = Field(
        default=300, ge=1, description="Seconds before its time limit at which a run is asked to save."
    )
    settle_seconds: float = Field(
        default=15.0,
        ge=0,
        description="Seconds without new lines after which an ended run's log is complete.",
    )
    unseen_seconds: float = Field(
        default=30.0, ge=0, description="Seconds for which Lepton's list may lack a job after its creation."
    )
    secret_vars: dict[str, Name] = Field(
        default_factory=dict, description="Environment of every run: variable -> secret of the workspace."
    )
    secrets: dict[str, WorkspaceSecret] = Field(
        default_factory=dict, description="Secrets that jobs may name in `secrets`, and for which projects."
    )

    @model_validator(mode="before")
    @classmethod
    def _default_gpus_to_ranks(cls, values: Any) -> Any:
        """Cap the GPUs of a job at those of the shape, because a job cannot get more."""
        if not isinstance(values, dict):
            return values
        ranks = values.get("nprocs_per_node", 1)
        defaults = {"gpus_per_node": ranks, "max_gpus_per_node": values.get("gpus_per_node", ranks)}
        return {**defaults, **values}

    @model_validator(mode="before")
    @classmethod
    def _default_to_environment(cls, values: Any) -> Any:
        """Take id and URL from the environment only together: mixed sources might be of two workspaces."""
        if not isinstance(values, dict) or {"workspace", "url"} & values.keys():
            return values
        variables = {"workspace": "LEPTON_WORKSPACE_ID", "url": "LEPTON_WORKSPACE_URL"}
        return {**{field: os.environ.get(name) or None for field, name in variables.items()}, **values}

    @model_validator(mode="after")
    def _is_usable(self) -> Self:
        if self.nprocs_per_node not in (None, self.gpus_per_node):
            raise ValueError("nprocs_per_node and gpus_per_node differ: set only gpus_per_node")
        if self.url is None and self.workspace is None:
            raise ValueError("workspace is missing, and LEPTON_WORKSPACE_ID is not set")
        parts = urlsplit(self.url or GATEWAY)
        if parts.scheme != "https" and parts.hostname not in LOOPBACK:
            raise ValueError("url has to begin with https://, or the token would be sent unencrypted")
        if self.job_mount is None:
            raise ValueError("remote_job_dir has to lie on one of the mounts, or checkpoints are lost")
        return self

    @property
    def api_url(self) -> str:
        return (self.url or f"{GATEWAY}/{self.workspace}").rstrip("/")

    @property
    def job_mount(self) -> StorageMount | None:
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
    def default_file_system(self) -> str:
        return "local" if self.sees_files else f"lepton {self.api_url}"

    @property
    def job_directories(self) -> dict[str, Path]:
        """The directory of all jobs in the containers, and as the service sees it."""
        mount, local = self.job_mount, self.local_mount
        assert mount is not None  # or the profile is rejected
        seen = {"local": local / self.remote_job_dir.relative_to(mount.mount_path)} if local else {}
        return {**seen, self.file_system_name: self.remote_job_dir}

    @property
    def sees_files(self) -> bool:
        """Whether the service has the mount under the same path, and so can inspect files itself."""
        return self.job_mount is not None and self.job_mount.mount_path == self.local_mount
