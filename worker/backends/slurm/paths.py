"""Where things are on the cluster. The job's directory: docs/job-directory.md."""

from dataclasses import dataclass
from pathlib import Path

from trainer.run_layout import JobLayout


@dataclass(frozen=True)
class Paths:
    """Everything of the service lies below one directory that all nodes see."""

    root: Path
    code_hash: str

    def job(self, job_id: str) -> JobLayout:
        return JobLayout(self.root / "jobs" / job_id)

    @property
    def code(self) -> Path:
        """The trainer's code, by the hash of its content: what runs is never changed under it."""
        return self.root / "code" / self.code_hash

    @property
    def images(self) -> Path:
        return self.root / "images"
