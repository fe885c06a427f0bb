"""Slurm's commands as far as a look needs them: rows that a test sets, and what was asked of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from worker.backends.base import Files
from worker.backends.files import LocalFiles
from worker.backends.slurm.answers import SEPARATOR, WIDTHS
from worker.backends.transport import Answer
from worker.errors import BackendUnavailable


def queue_line(**fields: str) -> str:
    """A line of squeue with these columns."""
    usual = {
        "JobID": "7", "State": "PENDING", "RestartCnt": "0", "StartTime": "1795481215", "exit_code": "0",
        "Reason": "Priority", "Name": "job-1.1",
    }  # fmt: skip
    return "".join({**usual, **fields}[name].ljust(width) for name, width in WIDTHS.items())


def history_line(job_id: str, name: str, state: str, exit_code: str = "0:0") -> str:
    """A line of sacct."""
    return SEPARATOR.join([job_id, name, state, exit_code, "None", "1795481215"])


@dataclass
class FakeSlurm:
    """A transport to a cluster that has these rows. Commands that are in `hung` never answer."""

    description = "a cluster of the tests"
    queue: list[str] = field(default_factory=list)
    history: list[str] = field(default_factory=list)
    hung: set[str] = field(default_factory=set)
    cancelled: list[list[str]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def run(self, command: Sequence[str], *, stdin: str = "", timeout: float) -> Answer:  # noqa: ARG002
        name = next(word for word in command if word in ("squeue", "sacct", "scancel"))
        self.asked.append(name)
        if name in self.hung:
            raise BackendUnavailable(f"{name} did not answer within {timeout:g} s.")
        if name == "scancel":
            self.cancelled.append([word for word in command if word.isdigit() or word.startswith("--name")])
        lines = {"squeue": self.queue, "sacct": self.history}.get(name, [])
        return Answer(0, "".join(f"{line}\n" for line in lines), "")

    def files(self) -> Files:
        return LocalFiles()
