"""What every cluster kind can do. The engine knows a backend only through this module."""

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict

from trainer.preflight.remote import ConfigRequest, DataRequest, InspectionResult
from trainer.run_layout import RunLayout
from worker.backends.access.files import Files
from worker.runs.observation import Observation
from worker.runs.run import Run, split_run_name


class Handle(NamedTuple):
    """A submission, as it is asked about. An id alone may mean another run by now: schedulers reuse them."""

    external_id: str
    name: str
    directory: Path
    """Of the current attempt. Its submission's is another one where the scheduler has restarted the run."""

    @property
    def layout(self) -> RunLayout:
        return RunLayout(self.directory)

    @property
    def submitted(self) -> RunLayout:
        """Layout of the attempt that was submitted under this name."""
        _, number = split_run_name(self.name)
        return self.layout.attempt(number)


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

    @property
    def layout(self) -> RunLayout:
        return RunLayout(Path(self.directory))

    def handle(self, external_id: str) -> Handle:
        return Handle(external_id, self.name, Path(self.directory))


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

    def find(self, handle: Handle) -> str | None:
        """Return the external id of the run with this name, or None: asked where an answer was lost."""
        ...

    def poll(self, handles: Collection[Handle]) -> dict[str, Observation]:
        """One look at all of them, by name. A name that is not in the answer is no news."""
        ...

    def cancel(self, handle: Handle) -> None:
        """End it, queued or running. Ending what has ended is no error."""
        ...

    def abandon(self, handle: Handle) -> bool:
        """Make sure that a run that the scheduler does not know never begins.

        False where it has begun, or where that cannot be made sure.
        """
        ...

    def collect(self, handle: Handle, *, is_over: bool) -> bool:
        """Bring what a run has written to where files() finds it; True where nothing is to follow."""
        ...

    def look(self, request: ConfigRequest | DataRequest) -> InspectionResult | None:
        """Look at what a config or a client names, where its files are; None where nothing there can.

        It takes at most the request's seconds, and some for the start.
        """
        ...

    def files(self) -> Files:
        """The cluster's files, as far as the service can see them."""
        ...
