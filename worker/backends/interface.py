"""The interface of all backends. The engine uses a backend only through this module."""

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from trainer.preflight.remote import ConfigRequest, DataRequest, InspectionResult
from trainer.run_layout import RunLayout
from worker.backends.access.files import Files
from worker.runs.observation import Observation
from worker.runs.run import Run, split_run_name


class Handle(NamedTuple):
    """Identifies a submission. The id alone is not enough: schedulers reuse ids."""

    external_id: str
    name: str
    directory: Path
    """Directory of the current attempt. It differs from the submitted one after a scheduler's restart."""

    @property
    def layout(self) -> RunLayout:
        return RunLayout(self.directory)

    @property
    def submitted(self) -> RunLayout:
        """Layout of the attempt that was submitted under this name."""
        _, number = split_run_name(self.name)
        return self.layout.attempt(number)


class Submission(BaseModel):
    """An attempt as it is submitted to a backend: files, and the command that starts it."""

    model_config = ConfigDict(frozen=True)

    name: str
    directory: str
    files: dict[str, str]
    """Path relative to `directory` -> content."""
    command: list[str]
    secrets: dict[str, str] = {}
    """Environment name -> name of a secret. The values are read at submission and never stored."""
    image: str | None = None
    """Container image that the cluster needs before the run can start."""
    fresh_image: bool = False
    project: SkipJsonSchema[str] = Field(default="", exclude=True)
    """Whose it is, for a queue of the service's own. No part of the plan."""

    @property
    def layout(self) -> RunLayout:
        return RunLayout(Path(self.directory))

    def handle(self, external_id: str) -> Handle:
        return Handle(external_id, self.name, Path(self.directory))


class Backend(Protocol):
    """One cluster. Every call has its own time limit and raises BackendError."""

    @property
    def settle_seconds(self) -> float:
        """Seconds after a run's end during which its last files may not be visible yet."""
        ...

    @property
    def must_collect(self) -> bool:
        """Whether a run's files are visible only after collect()."""
        ...

    def job_directory(self, job_id: str) -> Path:
        """Return the job's directory on the cluster; see docs/job-directory.md."""
        ...

    def render(self, run: Run) -> Submission:
        """Render a run as a submission. Pure: no I/O."""
        ...

    def submit(self, submission: Submission) -> str:
        """Submit and return the external id. Idempotent: a second call with the same name does nothing."""
        ...

    def find(self, handle: Handle) -> str | None:
        """Return the external id of the run with this name, or None. Used after a lost answer."""
        ...

    def poll(self, handles: Collection[Handle]) -> dict[str, Observation]:
        """Poll all of them in one call; return observations by name. A missing name means no change."""
        ...

    def cancel(self, handle: Handle) -> None:
        """Cancel the run, queued or running. If it has ended already, do nothing."""
        ...

    def abandon(self, handle: Handle) -> bool:
        """Make sure that a run that the scheduler does not know never starts.

        Return False if the run has started, or if its start cannot be ruled out.
        """
        ...

    def collect(self, handle: Handle, *, is_over: bool) -> bool:
        """Copy the run's output to where files() finds it; return True if no more output will follow."""
        ...

    def inspect(self, request: ConfigRequest | DataRequest) -> InspectionResult | None:
        """Inspect the files that a request names, where they are; None if the cluster cannot inspect files.

        The inspection takes at most the request's seconds plus its start.
        """
        ...

    def files(self) -> Files:
        """Return the cluster's files, as far as the service can see them."""
        ...
