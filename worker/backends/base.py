"""What every cluster kind can do. The engine knows a backend only through this module."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict

from trainer.look import ConfigRequest, DataRequest, Seen


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
    """Import the container image anew."""

    @property
    def name(self) -> str:
        return run_name(self.job_id, self.attempt)


class Handle(NamedTuple):
    """A submission, as it is asked about. An id alone may mean another run by now: schedulers reuse them."""

    external_id: str
    name: str


class Submission(BaseModel):
    """An attempt as it is handed to a backend: files, and the command that starts it."""

    model_config = ConfigDict(frozen=True)

    name: str
    directory: str
    files: dict[str, str]
    """Path relative to `directory` -> content."""
    command: list[str]
    secrets: dict[str, str] = {}
    """Environment name -> name of a secret. The values are read when it is submitted, and kept nowhere."""
    image: str | None = None
    """Container image that the cluster has to have before it can run."""
    fresh_image: bool = False


class Phase(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    INTERRUPTED = "interrupted"
    """Ended by the cluster, which may put it into its queue again."""
    ENDED = "ended"
    UNKNOWN = "unknown"
    """The scheduler answers, and does not know it."""


@dataclass(frozen=True)
class Observation:
    """What a backend knows about one external id at one moment."""

    phase: Phase
    code: str
    """Machine-readable reason, e.g. `waiting_for_slot`, `time_limit`, `exited`."""
    message: str
    raw: str | None = None
    """The scheduler's own words."""
    external_id: str | None = None
    """What it is called now, where that is not the id that was asked for."""
    restarts: int = 0
    """How often the scheduler has begun it again."""
    estimated_start: datetime | None = None


class Backend(Protocol):
    """One cluster. Every call has a time limit of its own and raises BackendError."""

    @property
    def settle_seconds(self) -> float:
        """For so long after a run's end its last files may not be seen yet."""
        ...

    @property
    def must_collect(self) -> bool:
        """Whether what a run writes is seen only after collect()."""
        ...

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

    def poll(self, handles: Collection[Handle]) -> dict[str, Observation]:
        """One look at all of them, by name. A name that is not in the answer is no news."""
        ...

    def cancel(self, handle: Handle) -> None:
        """End it, queued or running. Ending what has ended is no error."""
        ...

    def abandon(self, handle: Handle, directory: Path) -> bool:
        """Make sure that a run that the scheduler does not know never begins.

        False where it has begun, or where that cannot be made sure.
        """
        ...

    def collect(self, handle: Handle, directory: Path, *, is_over: bool) -> bool:
        """Bring what a run has written to where files() finds it; True where nothing is to follow."""
        ...

    def look(self, request: ConfigRequest | DataRequest) -> Seen | None:
        """Look at what a config or a client names, where its files are; None where nothing there can.

        It takes at most the request's seconds, and some for the start.
        """
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

    Raises FileNotFoundError, BackendUnavailable, NotReachable. What was to be changed may have changed
    nevertheless where BackendUnavailable is raised: an answer can be lost.
    """

    def stat(self, path: Path) -> FileStat: ...

    def read(self, path: Path, offset: int, limit: int) -> bytes: ...

    def resolve(self, path: Path) -> Path:
        """The path of the same thing that has no link in it."""
        ...

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
