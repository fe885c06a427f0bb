"""The parts of Lepton's requests and answers that the service uses.

Source of the format: the public SDK leptonai 0.47.1, api/v2/types. Unknown fields of answers are ignored.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Wire(BaseModel):
    model_config = ConfigDict(extra="ignore", populate_by_name=True)

    def body(self) -> dict[str, Any]:
        """Return the JSON to send, without unset fields."""
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


class LogCollection(Wire):
    enable_collection: bool | None = None


class QueueConfig(Wire):
    priority_class: str | None = None
    can_be_preempted: bool | None = None
    can_preempt: bool | None = None


class Reservation(Wire):
    reservation_id: str


class LeptonJobSpec(Wire):
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
    log: LogCollection | None = None
    queue_config: QueueConfig | None = None
    reservation_config: Reservation | None = None
    stopped: bool | None = None


class JobStatus(Wire):
    state: str | None = None
    ready: int | None = None
    """Number of running replicas."""
    active: int | None = None
    failed: int | None = None
    succeeded: int | None = None


class LeptonJob(Wire):
    metadata: Metadata
    spec: LeptonJobSpec | None = None
    status: JobStatus | None = None


class JobEvent(Wire):
    type: str | None = None
    reason: str | None = None


class Stream(Wire):
    """Lines of one replica. A value is nanoseconds since 1970 as text, the line, and perhaps a third item."""

    stream: dict[str, Any] = {}
    values: list[list[Any]] = []


class LogData(Wire):
    result: list[Stream] = []


class LogHistory(Wire):
    """The answer of Grafana Loki's query_range."""

    data: LogData = LogData()
