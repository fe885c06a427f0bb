"""What Lepton's API takes and answers, as far as it is used here.

Source of the format: the public SDK leptonai 0.47.1, api/v2/types. What is not declared here is passed over
in answers.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Wire(BaseModel):
    model_config = ConfigDict(extra="ignore", populate_by_name=True)

    def body(self) -> dict[str, Any]:
        """As it is sent: what is not set is left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class Metadata(Wire):
    id: str | None = None
    name: str | None = None
    labels: dict[str, str] | None = None
    created_at: int | None = None


class Affinity(Wire):
    allowed_dedicated_node_groups: list[str] | None = None


class Container(Wire):
    image: str | None = None
    command: list[str] | None = None


class SecretRef(Wire):
    secret_name_ref: str


class EnvVar(Wire):
    name: str
    value: str | None = None
    value_from: SecretRef | None = None


class Mount(Wire):
    path: str | None = None
    from_: str = Field(alias="from")
    mount_path: str


class Log(Wire):
    enable_collection: bool | None = None


class QueueConfig(Wire):
    priority_class: str | None = None
    can_be_preempted: bool | None = None
    can_preempt: bool | None = None


class Reservation(Wire):
    reservation_id: str


class JobSpec(Wire):
    model_config = ConfigDict(extra="allow", populate_by_name=True)

    resource_shape: str | None = None
    affinity: Affinity | None = None
    container: Container | None = None
    shared_memory_size: int | None = None
    """MiB."""
    completions: int | None = None
    parallelism: int | None = None
    max_failure_retry: int | None = None
    max_job_failure_retry: int | None = None
    envs: list[EnvVar] | None = None
    mounts: list[Mount] | None = None
    image_pull_secrets: list[str] | None = None
    ttl_seconds_after_finished: int | None = None
    intra_job_communication: bool | None = None
    log: Log | None = None
    queue_config: QueueConfig | None = None
    reservation_config: Reservation | None = None
    stopped: bool | None = None


class JobStatus(Wire):
    state: str | None = None
    ready: int | None = None
    """Replicas that run."""
    active: int | None = None
    failed: int | None = None
    succeeded: int | None = None


class Job(Wire):
    metadata: Metadata
    spec: JobSpec | None = None
    status: JobStatus | None = None


class JobEvent(Wire):
    type: str | None = None
    reason: str | None = None


class Stream(Wire):
    """Lines of one replica: nanoseconds since 1970, as text, and the line; there may be a third item."""

    stream: dict[str, Any] = {}
    values: list[list[Any]] = []


class LogData(Wire):
    result: list[Stream] = []


class LogHistory(Wire):
    """Grafana Loki's answer to query_range."""

    data: LogData = LogData()
