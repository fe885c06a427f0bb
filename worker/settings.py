"""Every setting of the service in one class. `sft settings` prints them with their values."""

from functools import lru_cache
from ipaddress import ip_network
from pathlib import Path
from typing import Literal

from limits import parse_many
from pydantic import AliasChoices, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from worker.errors import Misconfigured

PROJECT_ROOT = Path(__file__).resolve().parent.parent
# Whatever the umask was: files of the service are for its own account alone (0700 and 0600).
SERVICE_UMASK = 0o077

PRIVATE_NAMES = (
    "jobs", "local", "lepton", "removals", "broker", "run", "metrics", "caches",
    "sft.db", "sft.db-wal", "sft.db-shm", "admin.key", "serve.lock",
)  # fmt: skip
"""The service's own files and directories in the data directory; `metrics` is of versions up to 0.2.0."""

Isolation = Literal["auto", "required", "off"]
# Of what a setting or an admin may allow: more is no limit.
MAX_LIMIT = 1_000_000_000


class Settings(BaseSettings):
    """Read from the environment: SFT_ and the field's name in capitals."""

    model_config = SettingsConfigDict(env_prefix="SFT_", extra="ignore", populate_by_name=True)

    data_dir: Path = Field(
        default=Path("sft-data"), description="Everything that the service writes: database, jobs, keys."
    )
    database_url: str | None = Field(
        default=None,
        validation_alias=AliasChoices("SFT_DATABASE_URL", "DATABASE_URL"),
        description="SQLAlchemy URL, e.g. postgresql+psycopg://user:password@host/db. "
        "Unset: SQLite in WAL mode in data_dir.",
    )
    redis_url: str | None = Field(
        default=None,
        validation_alias=AliasChoices("SFT_REDIS_URL", "REDIS_URL"),
        description="Broker of the Celery tasks, e.g. redis://host:6379/0, a database of its own. "
        "Unset: `sft serve` starts one of its own in data_dir.",
    )
    clusters_file: Path | None = Field(
        default=None, description="Cluster profiles (TOML). Unset: data_dir/clusters.toml if it exists."
    )
    default_cluster: str = Field(default="local", description="Profile of jobs that name none.")
    trainer_python: Path = Field(
        default=PROJECT_ROOT / ".venv-trainer" / "bin" / "python",
        description="Interpreter of the trainer's environment, for the local backend.",
    )
    local_isolation: Isolation = Field(
        default="auto",
        description="Isolation of runs on this machine. auto: where the kernel allows it; elsewhere they run "
        "without, and /readyz says so. required: elsewhere their jobs are rejected. off: never.",
    )
    max_body_bytes: int = Field(default=1 << 20, description="Larger request bodies are rejected with 413.")
    max_connections: int = Field(
        default=1000,
        ge=1,
        description="Connections that the API keeps open, and at most half of its file descriptors: a new "
        "one then replaces the one that has waited longest for its client.",
    )
    client_timeout_seconds: float = Field(
        default=30.0,
        gt=0,
        le=3600,
        description="Longest time in which a client may send a request's headers, then its body, and in "
        "which it may read nothing of a response.",
    )
    forwarded_allow_ips: str = Field(
        default="",
        validation_alias=AliasChoices("SFT_FORWARDED_ALLOW_IPS", "FORWARDED_ALLOW_IPS"),
        description="Proxies whose X-Forwarded-For names the client: addresses and networks, separated by "
        "commas, or `*` for every client. Unset: none, also not on this machine, where jobs run.",
    )
    rate_limit_reads: str = Field(
        default="100/second",
        description="GET requests that a key may send to one API process, such as `3000/minute`; or `off`.",
    )
    rate_limit_writes: str = Field(
        default="120/minute",
        description="Other requests that a key may send: submissions, plans, actions; or `off`.",
    )
    rate_limit_unauthenticated: str = Field(
        default="300/minute",
        description="Requests without a valid key that an address may send to one API process; or `off`.",
    )
    max_open_requests: int = Field(
        default=100,
        ge=1,
        le=MAX_LIMIT,
        description="Streams, long polls and downloads that a key may have open in one API process.",
    )
    max_wait_seconds: int = Field(
        default=60, description="Longest wait of a long poll: a longer ?wait= is cut short."
    )
    max_inspect_seconds: float = Field(
        default=20.0,
        gt=0,
        le=3600,
        description="Longest inspection of all rows of a dataset: the rest is reported as not inspected.",
    )
    poll_interval_seconds: float = Field(default=1.0, description="How often live jobs are polled.")
    sweep_interval_seconds: float = Field(
        default=5.0, description="How often jobs are found whose task message was lost."
    )
    stuck_after_seconds: float = Field(
        default=30.0, description="A job that waits for a task longer than this is queued again."
    )
    stale_after_seconds: float = Field(
        default=30.0, description="A live job not observed for longer than this is reported as stale."
    )
    requeue_grace_seconds: float = Field(
        default=30.0,
        ge=0,
        description="A run that its cluster interrupted is given up when it was not restarted for so long.",
    )
    lost_after_seconds: float = Field(
        default=120.0,
        ge=0,
        description="A run that its scheduler does not know is declared lost after so long.",
    )
    keep_jobs_days: float | None = Field(
        default=None,
        gt=0,
        le=36500,
        description="Finished jobs are removed after so many days, with everything in their directory; "
        "checkpoints that were saved elsewhere stay. Unset: kept indefinitely.",
    )
    keep_logs_days: float | None = Field(
        default=None,
        gt=0,
        le=36500,
        description="Logs of finished jobs are removed after so many days. Unset: kept as long as the job.",
    )
    keep_idempotency_keys_days: float = Field(
        default=7,
        gt=0,
        le=36500,
        description="After so many days, or with its job, an Idempotency-Key is forgotten: "
        "the same request then makes a new job.",
    )
    keep_audit_days: float = Field(
        default=400,
        ge=30,
        le=36500,
        description="Entries of the audit log are deleted after so many days, and never before 30.",
    )
    retention_interval_seconds: float = Field(
        default=3600, gt=0, description="How often expired jobs, logs and keys are removed."
    )
    project_live_jobs: int | None = Field(
        default=None,
        ge=0,
        le=MAX_LIMIT,
        description="Jobs of a project that clusters have at a time; further ones wait. Unset: no limit.",
    )
    project_gpus: int | None = Field(
        default=None,
        ge=0,
        le=MAX_LIMIT,
        description="GPUs that those jobs may occupy together; further jobs wait. Unset: no limit.",
    )
    project_waiting_jobs: int = Field(
        default=1000,
        ge=0,
        le=MAX_LIMIT,
        description="Jobs of a project that may wait to be submitted; further ones are rejected with 429.",
    )
    max_events_per_attempt: int = Field(
        default=200_000,
        ge=1000,
        le=MAX_LIMIT,
        description="Steps and validations of an attempt that are stored, and a tenth more of other events; "
        "further events are dropped. Checkpoints do not count: the newest 10,000 are stored.",
    )
    max_event_bytes_per_attempt: int = Field(
        default=256 << 20,
        ge=1 << 20,
        le=MAX_LIMIT,
        description="Bytes of an attempt's events.jsonl that are read; what follows is dropped, except the "
        "final checkpoint.",
    )
    worker_threads: int = Field(default=4, description="Tasks that one worker process runs at a time.")
    worker_metrics_port: int | None = Field(
        default=None,
        ge=1,
        le=65535,
        description="Port on which a worker serves its own metrics to the network, for workers in containers "
        "of their own. Unset: none; under `sft serve` the API's /metrics has them.",
    )
    worker_metrics_socket: Path | None = Field(
        default=None,
        description="Unix socket on which a worker serves its own metrics to the API on the same machine. "
        "`sft serve` sets it.",
    )
    otlp_url: str | None = Field(
        default=None,
        validation_alias=AliasChoices("SFT_OTLP_URL", "OTEL_EXPORTER_OTLP_ENDPOINT"),
        description="OpenTelemetry collector that traces are sent to over HTTP, e.g. http://collector:4318; "
        "needs the extra `otel`. Unset: no traces.",
    )
    heartbeat_file: Path | None = Field(
        default=None,
        description="Touched every two seconds by a worker that has its broker, for health checks.",
    )
    log_level: str = Field(default="INFO", description="DEBUG, INFO, WARNING or ERROR.")

    @field_validator("rate_limit_reads", "rate_limit_writes", "rate_limit_unauthenticated")
    @classmethod
    def _is_rate(cls, text: str) -> str:
        try:
            is_rate = text == "off" or [rate.amount > 0 for rate in parse_many(text)] == [True]
        except ValueError:
            is_rate = False
        if not is_rate:
            raise ValueError(f"{text[:50]!r} is no rate; write it as 120/minute, or off")
        return text

    @field_validator("forwarded_allow_ips")
    @classmethod
    def _are_networks(cls, text: str) -> str:
        # uvicorn ignores what it cannot parse: everybody would have the address of the proxy.
        for item in text.split(",") if text not in ("", "*") else ():
            ip_network(item.strip())
        return text

    @field_validator("data_dir", "trainer_python", "clusters_file", "worker_metrics_socket", "heartbeat_file")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        # Not resolve(): a virtual environment's python is a symlink that must stay one.
        return path.expanduser().absolute() if path else None

    @property
    def sql_url(self) -> str:
        return self.database_url or f"sqlite:///{self.data_dir / 'sft.db'}"

    @property
    def broker_url(self) -> str:
        """The broker's URL. Raises Misconfigured where none is named and none was started."""
        if self.redis_url is None:
            raise Misconfigured(
                "No broker is configured.",
                hint="Set SFT_REDIS_URL=redis://host:6379/0, or start everything with `sft serve`.",
            )
        return self.redis_url

    @property
    def jobs_dir(self) -> Path:
        return self.data_dir / "jobs"

    @property
    def clusters_path(self) -> Path:
        return self.clusters_file or self.data_dir / "clusters.toml"

    @property
    def admin_key_path(self) -> Path:
        return self.data_dir / "admin.key"


@lru_cache
def get_settings() -> Settings:
    """The process's settings, read once. Raises Misconfigured, naming what is wrong."""
    try:
        return Settings()
    except ValidationError as error:
        faults = "; ".join(f"{_variable(fault['loc'])}: {fault['msg']}" for fault in error.errors())
        raise Misconfigured(
            f"The settings cannot be used. {faults}.", hint="Correct or unset them."
        ) from None


def _variable(location: tuple[int | str, ...]) -> str:
    """The environment variable of a field; one with aliases is reported by the alias that was used."""
    name = str(location[0])
    return name if name.isupper() else f"SFT_{name.upper()}"
