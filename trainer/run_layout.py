"""The directory of a job, and of each of its attempts: every file by which a run and the service meet.

The format is docs/job-directory.md. Both sides use this module; only shell templates of backends repeat the
names. The directory of an attempt is the one stored with it: a profile may have changed since.
"""

from dataclasses import dataclass
from pathlib import Path

STOP_PAUSE, STOP_TIME_LIMIT, STOP_PREEMPTION = "pause", "time limit", "preemption"
"""What a stop file holds: why the run should save and end."""
STOP_TERMINATED = "terminated"
"""What a run reports that was sent a SIGTERM: only the cluster knows why."""


@dataclass(frozen=True)
class JobLayout:
    """The directory of a job: checkpoints that its attempts share, and a directory for each attempt."""

    directory: Path

    @property
    def jobs(self) -> Path:
        """The directory of all jobs: no run may change what lies directly in it."""
        return self.directory.parent

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints go unless the job names another place."""
        return self.directory / "checkpoints"

    def attempt(self, number: int) -> "RunLayout":
        return RunLayout(self.directory / "attempts" / str(number))


@dataclass(frozen=True)
class RunLayout:
    """The directory of one attempt: the run's own."""

    directory: Path

    @property
    def job(self) -> JobLayout:
        return JobLayout(self.directory.parent.parent)

    def attempt(self, number: int) -> "RunLayout":
        """Another attempt of the same job."""
        return RunLayout(self.directory.with_name(str(number)))

    @property
    def config(self) -> Path:
        """The effective training config, written by the service."""
        return self.directory / "config.yaml"

    @property
    def events(self) -> Path:
        """One JSON object a line, written by the trainer."""
        return self.directory / "events.jsonl"

    @property
    def end(self) -> Path:
        """The end marker, written once by the trainer."""
        return self.directory / "end.json"

    @property
    def stop(self) -> Path:
        """A request to save and end; it holds the reason."""
        return self.directory / "stop"

    @property
    def claim(self) -> Path:
        """Who may use this directory: the first to write it, a run or the service that gives it up."""
        return self.directory / "claim"

    @property
    def secrets(self) -> Path:
        """Slurm: values of secrets, mode 0600, removed by the run at its end."""
        return self.directory / "secrets.sh"

    @property
    def external_id(self) -> Path:
        """What the scheduler answered to the submission."""
        return self.directory / "external_id"

    @property
    def image(self) -> Path:
        """Slurm: path of the container image."""
        return self.directory / "image"

    @property
    def image_import(self) -> Path:
        """Slurm: id of the import that this attempt requested."""
        return self.directory / "import"

    @property
    def launch(self) -> Path:
        """Local backend: command line, environment and time limit."""
        return self.directory / "run.json"

    @property
    def supervisor(self) -> Path:
        """Local backend: pid and start time of the supervisor."""
        return self.directory / "pid.json"

    @property
    def lock(self) -> Path:
        """Local backend: locked by the supervisor."""
        return self.directory / "run.lock"

    @property
    def exit(self) -> Path:
        """Local backend: how the supervisor's run ended."""
        return self.directory / "exit.json"

    @property
    def cancelled(self) -> Path:
        """Local backend: cancelled before it was started."""
        return self.directory / "cancelled"

    @property
    def hub_cache(self) -> Path:
        """Local backend: Hugging Face cache of a run that shares none with its project."""
        return self.directory / "hub"

    @property
    def logs(self) -> Path:
        return self.directory / "logs"

    def log(self, rank: int | None = None) -> Path:
        """The output of one rank; of the launcher and all ranks where none is named."""
        return self.logs / ("job.log" if rank is None else f"rank-{rank}.log")
