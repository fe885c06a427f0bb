"""One run of the trainer: what it occupies, what it is rendered from, what schedulers call it. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict


class Resources(BaseModel):
    """What one run occupies."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    nodes: int
    gpus_per_node: int
    time_limit_minutes: int

    @property
    def gpus(self) -> int:
        return self.nodes * self.gpus_per_node


def run_name(job_id: str, attempt: int) -> str:
    """Unique for each submission; what a scheduler is asked for before anything is submitted again."""
    return f"{job_id}.{attempt}"


def split_run_name(name: str) -> tuple[str, int]:
    """Return job id and number of the submitted attempt. Raises ValueError for any other name."""
    job_id, _, number = name.rpartition(".")
    return job_id, int(number)


@dataclass(frozen=True)
class Run:
    """All that a rendering may depend on: the same run renders to the same bytes."""

    job_id: str
    attempt: int
    config: dict[str, Any]
    resources: Resources
    attached: bool = False
    """Somebody waits for it: it may go to another partition."""
    secrets: Mapping[str, str] = field(default_factory=dict)
    """Environment name -> name of a secret of the cluster."""
    fresh_image: bool = False
    """Import the container image again."""
    project: str = ""
    """Whose run it is. On the service's machine each project has a cache of models."""

    @property
    def name(self) -> str:
        return run_name(self.job_id, self.attempt)
