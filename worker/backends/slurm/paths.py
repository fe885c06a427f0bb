"""Paths on the cluster. The job's directory is described in docs/job-directory.md."""

from dataclasses import dataclass
from pathlib import Path

from trainer.run_layout import JobLayout


@dataclass(frozen=True)
class Paths:
    """Paths of the service's files, all below one directory that all nodes see."""

    root: Path
    code_hash: str

    def job(self, job_id: str) -> JobLayout:
        return JobLayout(self.root / "jobs" / job_id)

    @property
    def code(self) -> Path:
        """The trainer's code, by the hash of its content: the code of a running job never changes."""
        return self.root / "code" / self.code_hash

    @property
    def images(self) -> Path:
        return self.root / "images"
