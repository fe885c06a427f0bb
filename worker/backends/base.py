"""What every cluster kind can do. The engine knows a backend only through this module."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple, Protocol

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


@dataclass(frozen=True)
class Run:
    """All that a rendering may depend on: the same run renders to the same bytes."""

    job_id: str
    attempt: int
    config: dict[str, Any]
    resources: Resources

    @property
    def name(self) -> str:
        """Unique for each attempt; what a scheduler is asked for before anything is submitted again."""
        return f"{self.job_id}.{self.attempt}"


class Submission(BaseModel):
    """An attempt as it is handed to a backend: files, and the command that starts it."""

    model_config = ConfigDict(frozen=True)

    name: str
    directory: str
    files: dict[str, str]
    """Path relative to `directory` -> content."""
    command: list[str]


class Phase(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    ENDED = "ended"


@dataclass(frozen=True)
class Observation:
    """What a backend knows about one external id at one moment."""

    phase: Phase
    code: str
    """Machine-readable reason, e.g. `waiting_for_slot`, `time_limit`, `exited`."""
    message: str
    raw: str | None = None
    """The scheduler's own words."""


class Backend(Protocol):
    """One cluster. Every call has a time limit of its own and raises BackendError."""

    def job_directory(self, job_id: str) -> Path:
        """Directory of the job on the cluster; see docs/job-directory.md."""
        ...

    def render(self, run: Run) -> Submission:
        """Pure: no I/O."""
        ...

    def submit(self, submission: Submission) -> str:
        """Hand it over and return its external id. A second call with the same name changes nothing."""
        ...

    def find(self, name: str) -> str | None:
        """The external id of the run with this name, or None: asked where an answer was lost."""
        ...

    def poll(self, external_ids: Iterable[str]) -> dict[str, Observation]:
        """One look at all of them. An id that is not in the answer is no news."""
        ...

    def cancel(self, external_id: str) -> None:
        """End it, queued or running. Ending what has ended is no error."""
        ...

    def files(self) -> "Files":
        """The cluster's files, as far as the service can see them."""
        ...


class FileStat(NamedTuple):
    """What tells whether a file has changed."""

    size: int
    modified_ns: int


class Files(Protocol):
    """The cluster's file system, by absolute paths. Where files are read only regular ones count.

    Raises FileNotFoundError, BackendUnavailable. What was to be changed may have changed nevertheless
    where BackendUnavailable is raised: an answer can be lost.
    """

    def stat(self, path: Path) -> FileStat: ...

    def read(self, path: Path, offset: int, limit: int) -> bytes: ...

    def tree_size(self, path: Path, below: Path) -> int:
        """Bytes of all files in a directory. `below`: as for remove_tree."""
        ...

    def remove_tree(self, path: Path, below: Path) -> None:
        """Remove a directory and all that is in it; links go, what they point at stays.

        below: the directory above it that is the service's own, and has to be there. From it on, down
            to `path` and beyond, no link is followed: a run may have put one anywhere.
        """
        ...

    def sizes(self, paths: Sequence[Path]) -> dict[Path, int]:
        """Bytes of those that are regular files, in one look; the others are left out."""
        ...

    def write(self, path: Path, content: bytes, mode: int = 0o600) -> None:
        """Write a file, or replace it: readers see the old content or the new one. Its directory exists."""
        ...

    def create(self, path: Path, content: bytes, mode: int = 0o600) -> bool:
        """Write a file whose name nobody has; False where it is taken, by whatever.

        The name appears with its whole content, and of several that try at once, on any machine, one
        is told True.
        """
        ...

    def make_directory(self, path: Path, mode: int = 0o700) -> None:
        """Make a directory, and those above it that are missing, with this mode. One that exists stays."""
        ...

    def remove(self, path: Path) -> None:
        """Remove a file or a link; what is missing already is no error."""
        ...
