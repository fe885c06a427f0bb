"""The Lepton backend without a service, on a Lepton server. Tests pass time by the dates of its notes."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.lepton.server.server import LeptonServer
from tests.support.lepton.server.workspace import ServerJob
from tests.support.lepton.service import usual
from trainer.run_layout import JobLayout
from worker.backends.interface import Handle, Submission
from worker.backends.lepton.backend import LeptonBackend
from worker.clusters.profiles import LeptonCluster
from worker.runs.observation import Observation
from worker.runs.run import Resources, Run


@dataclass
class Bare:
    """A backend and its workspace. Jobs stay in the queue unless a test sets the reported state."""

    lepton: LeptonServer
    backend: LeptonBackend

    def submission(self, number: int = 1, nodes: int = 1) -> Submission:
        """Return the submission of the first attempt of job `number`."""
        resources = Resources(nodes=nodes, gpus_per_node=1, time_limit_minutes=30)
        return self.backend.render(Run(f"job-{number}", 1, {"device": "cpu"}, resources))

    def submitted(self, number: int = 1, shown: str | None = None, nodes: int = 1) -> ServerJob:
        """Submit a job; return the job on Lepton. shown: the state that Lepton reports."""
        self.backend.submit(self.submission(number, nodes))
        job = self.on_lepton(number)
        job.shown = shown
        return job

    def on_lepton(self, number: int = 1) -> ServerJob:
        return self.lepton.workspace.job(f"job-{number}-1")

    def seen(self, *numbers: int) -> list[Observation | None]:
        """Return the observations of these jobs from one poll."""
        handles = [self.handle(number) for number in numbers]
        found = self.backend.poll(handles)
        return [found.get(one.name) for one in handles]

    def codes(self, *numbers: int) -> list[tuple[str, str] | None]:
        """Return phase and code of these jobs from one poll."""
        return [one and (one.phase.value, one.code) for one in self.seen(*numbers)]

    def directory(self, number: int = 1) -> Path:
        """Return the attempt's directory in the mirror."""
        return self.backend.mirror / "jobs" / f"job-{number}" / "attempts" / "1"

    def handle(self, number: int = 1) -> Handle:
        return Handle(self.on_lepton(number).id, f"job-{number}.1", self._remote(number))

    def collect(self, number: int = 1, *, is_over: bool = True) -> bool:
        """Mirror the run."""
        return self.backend.collect(self.handle(number), is_over=is_over)

    def _remote(self, number: int) -> Path:
        return JobLayout(self.backend.job_directory(f"job-{number}")).attempt(1).directory

    def log(self, number: int = 1) -> list[str]:
        """Return the lines of the mirrored log."""
        return (self.directory(number) / "logs" / "job.log").read_text().splitlines()

    def events(self, number: int = 1) -> list[dict[str, Any]]:
        """Return the mirrored events."""
        path = self.directory(number) / "events.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def pass_time(self, seconds: float, number: int = 1) -> None:
        """Make all notes of a job older."""
        for path in self.directory(number).iterdir():
            at = path.stat().st_mtime - seconds
            os.utime(path, (at, at))


def bare(lepton: LeptonServer, directory: Path, **more: Any) -> Bare:
    """Return a backend on an empty directory. more: fields of the profile."""
    lepton.workspace.hold_queue = True
    token = directory / "token"
    token.write_text(lepton.token)
    values = {"name": "far", **usual(lepton, directory, Path("python3"), token), **more}
    profile = LeptonCluster.model_validate(values)
    return Bare(lepton, LeptonBackend(profile, directory / "mirror"))
