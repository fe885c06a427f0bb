"""Fake Slurm commands for polls: rows that a test sets, and a record of the commands."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trainer.run_layout import JobLayout
from worker.backends.access.files import Files
from worker.backends.access.local_files import LocalFiles
from worker.backends.access.transport import Answer, LocalTransport
from worker.backends.interface import Handle
from worker.backends.slurm.command_output import SEPARATOR, WIDTHS
from worker.errors import BackendUnavailable
from worker.runs.run import split_run_name


def handle(external_id: str, name: str, root: Path = Path("/nowhere")) -> Handle:
    """Return the handle of a submission whose attempts lie below a root."""
    job_id, number = split_run_name(name)
    return Handle(external_id, name, JobLayout(root / "jobs" / job_id).attempt(number).directory)


def queue_line(**fields: str) -> str:
    """Return a line of squeue with these columns."""
    usual = {
        "JobID": "7", "State": "PENDING", "RestartCnt": "0", "StartTime": "1795481215", "exit_code": "0",
        "Reason": "Priority", "Name": "job-1.1",
    }  # fmt: skip
    return "".join({**usual, **fields}[name].ljust(width) for name, width in WIDTHS.items())


def history_line(job_id: str, name: str, state: str, exit_code: str = "0:0") -> str:
    """Return a line of sacct."""
    return SEPARATOR.join([job_id, name, state, exit_code, "None", "1795481215"])


@dataclass
class FakeSlurm:
    """A transport to a cluster with these rows and with fixed answers to other commands.

    Files and file commands are those of this machine.
    """

    description = "a cluster of the tests"
    queue: list[str] = field(default_factory=list)
    history: list[str] = field(default_factory=list)
    answers: dict[str, Answer] = field(default_factory=dict)
    """Answer of a command, by its name; `submit` is the script that calls sbatch."""
    hung: set[str] = field(default_factory=set)
    """Commands that never answer; `files` stands for the cluster's files."""
    asked: list[str] = field(default_factory=list)
    cancelled: list[list[str]] = field(default_factory=list)

    def run(self, command: Sequence[str], *, stdin: str = "", timeout: float) -> Answer:
        name = _name(command)
        self.asked.append(name)
        if name in self.hung:
            raise BackendUnavailable(f"{name} did not answer within {timeout:g} s.")
        if name == "scancel":
            self.cancelled.append([word for word in command if word.isdigit() or word.startswith("--name")])
        if name == "bash":
            return LocalTransport().run(command, stdin=stdin, timeout=timeout)
        lines = {"squeue": self.queue, "sacct": self.history}.get(name, [])
        return self.answers.get(name) or Answer(0, "".join(f"{line}\n" for line in lines), "")

    def files(self) -> Files:
        if "files" in self.hung:
            raise BackendUnavailable("The files cannot be reached.")
        return LocalFiles()


def _name(command: Sequence[str]) -> str:
    if command[:2] == ["bash", "-s"]:
        return "submit"
    return next(word for word in command if word != "env" and "=" not in word)
