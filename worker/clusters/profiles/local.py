"""This machine as a cluster."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from worker.clusters.profiles.base import Cluster


class LocalCluster(Cluster):
    """The machine of the service."""

    executor: Literal["local"] = "local"
    max_nodes: int | None = Field(default=1, ge=1)
    max_running: int = Field(default=1, ge=1, description="Concurrent runs on this machine; others wait.")
    python: Path | None = Field(default=None, description="Interpreter of the trainer's environment.")
    run_as: str | None = Field(
        default=None,
        min_length=1,
        description="Account of the runs, for a service that runs as root. Default: the service's own.",
    )
    readable: list[Path] = Field(
        default_factory=list,
        description="Further directories that isolated runs may read, e.g. of packages outside `python`'s "
        "environment.",
    )
