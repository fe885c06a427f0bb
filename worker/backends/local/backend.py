"""The local machine as a cluster: a spool of runs, slots, and processes that outlive the worker.

All state is on disk, so any worker can answer, and a worker may be killed at any time:

    DIR/local/CLUSTER.spool/NAME   the project of each run that has not ended, oldest first by mtime
    DIR/local/CLUSTER.turns        see turns.py
    DIR/caches/CLUSTER/PROJECT     Hugging Face cache of a project's runs
    DIR/local/CLUSTER.lock         held while slots are counted and runs are started
    jobs/ID/attempts/N/pid.json    the supervisor (supervisor.py): its pid and start time
    jobs/ID/attempts/N/exit.json   the exit record of the run
    jobs/ID/attempts/N/cancelled   marks a run that was cancelled before its start
"""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from trainer import path_roots
from trainer.preflight.remote import ConfigRequest, DataRequest, InspectionResult
from trainer.run_layout import JobLayout, RunLayout
from worker.backends.access.environment import inherited_environment
from worker.backends.access.local_files import LocalFiles
from worker.backends.attempt_claim import abandon
from worker.backends.interface import Handle, Submission
from worker.backends.local import supervisor
from worker.backends.local.isolation import View
from worker.backends.local.turns import SpooledRun, Turns
from worker.errors import BackendUnavailable, SubmissionRejected
from worker.runs.observation import Observation, ObservationCode, Phase
from worker.runs.run import Run, split_run_name
from worker.sandbox import bubblewrap, inspections
from worker.settings import PROJECT_ROOT, Isolation

START_TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True)
class LocalBackend:
    """Runs the trainer under torchrun on this machine, at most `max_running` at a time."""

    root: Path
    python: Path
    max_running: int
    env_vars: dict[str, str]
    cluster: str
    umask: int = 0o027
    roots: tuple[Path, ...] = ()
    readable: tuple[Path, ...] = ()
    isolation: Isolation = "auto"
    run_as: str | None = None
    settle_seconds: float = 0.0
    must_collect: bool = False

    def job_directory(self, job_id: str) -> Path:
        return self._job(job_id).directory

    def _job(self, job_id: str) -> JobLayout:
        return JobLayout(self.root / "jobs" / job_id)

    def inspect(self, request: ConfigRequest | DataRequest) -> InspectionResult | None:
        return inspections.inspect(request)

    def render(self, run: Run) -> Submission:
        layout = self._job(run.job_id).attempt(run.attempt)
        command = [
            str(self.python), "-m", "torch.distributed.run", "--standalone", "--nnodes", "1",
            "--nproc-per-node", str(run.resources.gpus_per_node),
            "-m", "trainer", str(layout.config),
        ]  # fmt: skip
        launch = {
            "name": run.name,
            "command": command,
            "env": {
                "PYTHONPATH": str(PROJECT_ROOT),
                "PYTHONUNBUFFERED": "1",
                **self.env_vars,
                path_roots.VARIABLE: path_roots.variable(self.roots),
            },
            "isolation": self._isolation(run, layout),
            "time_limit_seconds": run.resources.time_limit_minutes * 60,
            "umask": f"{self.umask:03o}",
        }
        files = {
            layout.config.name: yaml.safe_dump(run.config, sort_keys=True, allow_unicode=True),
            layout.launch.name: json.dumps(launch, indent=2, sort_keys=True) + "\n",
        }
        return Submission(
            name=run.name, directory=str(layout.directory), files=files, command=command, project=run.project
        )

    def _isolation(self, run: Run, layout: RunLayout) -> dict[str, Any]:
        """Return what the run sees of this machine, and as whom."""
        view = View(
            hidden=str(self.root),
            read=[str(PROJECT_ROOT / "trainer"), *map(_plain, self.readable), *self._exported(run)],
            write=[_plain(root) for root in self.roots],
            mode=self.isolation,
            run_as=self.run_as,
            downloads=True,
            hub_cache=str(
                self.root / "caches" / self.cluster / run.project if run.project else layout.hub_cache
            ),
        )
        return asdict(view)

    def _exported(self, run: Run) -> list[str]:
        """Return the checkpoints of the job that an export reads, if they lie in that job's directory.

        Not the checkpoint itself: the exported job may have put a link in its place.
        """
        checkpoint = Path((run.config.get("export") or {}).get("checkpoint", "/"))
        jobs = self.root / "jobs"
        if not checkpoint.is_relative_to(jobs):
            return []
        return [str(self._job(checkpoint.relative_to(jobs).parts[0]).checkpoints)]

    def submit(self, submission: Submission) -> str:
        if not self.python.exists():
            raise SubmissionRejected(
                f"The trainer's environment is missing: there is no {self.python}.",
                hint="Run `make setup-trainer`, or set SFT_TRAINER_PYTHON to its interpreter.",
            )
        if self.isolation == "required" and not self.run_as and (why := bubblewrap.obstacle()):
            raise SubmissionRejected(f"The run cannot be isolated ({why}).", hint=bubblewrap.HINT)
        with _disk():
            self._place(submission)
            self._start_waiting()
        return submission.name

    def find(self, handle: Handle) -> str | None:
        return handle.name  # on this backend the name is the id

    def poll(self, handles: Collection[Handle]) -> dict[str, Observation]:
        with _disk():
            self._start_waiting()
            waiting = self._waiting()
            return {one.name: self._observe(one.name, waiting) for one in handles}

    def cancel(self, handle: Handle) -> None:
        layout = self._layout(handle.name)
        with _disk(), self._locked():
            if not supervisor.was_started(layout):
                layout.directory.mkdir(parents=True, exist_ok=True)
                layout.cancelled.touch()
                self._spool_entry(handle.name).unlink(missing_ok=True)
                return
        supervisor.stop(layout)

    def abandon(self, handle: Handle) -> bool:
        return abandon(handle.layout, self.files())

    def collect(self, handle: Handle, *, is_over: bool) -> bool:  # noqa: ARG002
        return True

    def files(self) -> LocalFiles:
        return LocalFiles()

    # -- the spool ------------------------------------------------------------------------------

    def _place(self, submission: Submission) -> None:
        """Make the attempt's directory atomically, with all its files."""
        layout = submission.layout
        if not layout.launch.exists():
            layout.directory.parent.mkdir(parents=True, exist_ok=True)
            fresh = RunLayout(Path(tempfile.mkdtemp(dir=layout.directory.parent, prefix=".new-")))
            try:
                _fill(fresh, submission.files)
                _rename(fresh, layout)
            finally:
                shutil.rmtree(fresh.directory, ignore_errors=True)
        with self._locked():
            if not supervisor.was_started(layout) and not layout.cancelled.exists():
                self._spool_entry(submission.name).write_text(submission.project)

    def _start_waiting(self) -> None:
        """Start as many waiting runs as there are free slots."""
        with self._locked():
            for name in self._ended():
                self._spool_entry(name).unlink(missing_ok=True)
            waiting = self._waiting()
            free = self.max_running - (len(self._spooled()) - len(waiting))
            for name in waiting[: max(free, 0)]:
                self._turns().serve(self._project(name), {self._project(one) for one in waiting})
                _start(self._layout(name))

    def _ended(self) -> list[str]:
        return [name for name in self._spooled() if self._has_ended(name)]

    def _has_ended(self, name: str) -> bool:
        layout = self._layout(name)
        if not layout.directory.exists():
            return True
        # A run could write the mark of a cancellation itself, to be counted no more.
        return (
            not supervisor.is_alive(layout) if supervisor.was_started(layout) else layout.cancelled.exists()
        )

    def _waiting(self) -> list[str]:
        """Names of the runs that wait, in the order in which they start."""
        return self._turns().order(
            SpooledRun(name, self._project(name), supervisor.was_started(self._layout(name)))
            for name in self._spooled()
        )

    def _turns(self) -> Turns:
        return Turns(self.root / "local" / f"{self.cluster}.turns")

    def _project(self, name: str) -> str:
        try:
            return self._spool_entry(name).read_text()
        except FileNotFoundError:  # another worker has found that the run has ended
            return ""

    def _spooled(self) -> list[str]:
        """Names of the runs that have not ended, oldest first."""
        entries = [(entry.stat().st_mtime_ns, entry.name) for entry in self._spool().iterdir()]
        return [name for _, name in sorted(entries)]

    def _spool(self) -> Path:
        spool = self.root / "local" / f"{self.cluster}.spool"
        spool.mkdir(parents=True, exist_ok=True)
        return spool

    def _spool_entry(self, name: str) -> Path:
        return self._spool() / name

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Let one process at a time count slots and start runs. The kernel releases a dead holder's lock."""
        self._spool()
        with (self.root / "local" / f"{self.cluster}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _layout(self, name: str) -> RunLayout:
        job_id, number = split_run_name(name)
        return self._job(job_id).attempt(number)

    # -- observing ------------------------------------------------------------------------------

    def _observe(self, name: str, waiting: list[str]) -> Observation:
        layout = self._layout(name)
        if supervisor.is_alive(layout):
            return Observation(Phase.RUNNING, ObservationCode.RUNNING, "Running on this machine.")
        if name in waiting:
            ahead = waiting.index(name)
            return Observation(
                Phase.QUEUED,
                ObservationCode.WAITING_FOR_SLOT,
                f"Waits for one of {self.max_running} slots of this machine; runs ahead of it: {ahead}.",
            )
        # A run that is cancelled after its start has an exit record instead.
        if layout.cancelled.exists():
            return Observation(Phase.ENDED, ObservationCode.CANCELLED, "Cancelled before it was started.")
        return _ended_observation(layout)


@contextmanager
def _disk() -> Iterator[None]:
    """Translate OSError into BackendUnavailable: like a network error, a disk error may be transient."""
    try:
        yield
    except OSError as error:
        raise BackendUnavailable(f"The directories of the runs cannot be used: {error}") from error


def _ended_observation(layout: RunLayout) -> Observation:
    if not layout.directory.exists():
        return Observation(Phase.ENDED, ObservationCode.DIRECTORY_MISSING, "The run's directory was removed.")
    if not supervisor.was_started(layout):
        # submit() has made the directory and not yet the spool entry.
        return Observation(
            Phase.QUEUED, ObservationCode.WAITING_FOR_SLOT, "Waits for its place in the queue."
        )
    record = supervisor.exit_record(layout) or supervisor.sweep_up(layout)
    code = ObservationCode(record["reason"])
    return Observation(Phase.ENDED, code, record["message"], raw=json.dumps(record))


def _fill(layout: RunLayout, files: Mapping[str, str]) -> None:
    for path, content in files.items():
        (layout.directory / path).write_text(content)
    layout.logs.mkdir()


def _plain(path: Path) -> str:
    """Return an absolute path without `..`; its links stay, as requests name them."""
    return os.path.abspath(path)  # noqa: PTH100 - Path.resolve() follows links


def _rename(source: RunLayout, target: RunLayout) -> None:
    try:
        source.directory.rename(target.directory)
    except OSError:
        # Another worker was first. Its directory has the same bytes, because rendering is pure.
        if not target.launch.exists():
            raise


def _start(layout: RunLayout) -> None:
    """Start the supervisor; the call returns when the detached supervisor has written its pid."""
    with layout.log().open("ab") as log, suppress(subprocess.TimeoutExpired):
        subprocess.run(
            [sys.executable, "-m", supervisor.__name__, str(layout.directory)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=PROJECT_ROOT, check=False,
            env={**inherited_environment(), "PYTHONPATH": str(PROJECT_ROOT)}, timeout=START_TIMEOUT_SECONDS,
        )  # fmt: skip
