"""Keep the service's processes running: start each, restart one that ends, stop them together."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from worker.errors import SftError
from worker.settings import PROJECT_ROOT

FIRST_PAUSE_SECONDS = 0.5
MAX_PAUSE_SECONDS = 30.0
# A process that has run for so long was restarted with success.
HEALTHY_SECONDS = 10.0
# Restarts in a row, without success: their pauses take half a minute.
MAX_RESTARTS = 6
STOP_GRACE_SECONDS = 15.0
POLL_SECONDS = 0.1


class ProcessFailed(SftError):
    """A process ends again after each restart."""

    code = "process_failed"


@dataclass
class SupervisedProcess:
    """One process of the service. Times are those of time.monotonic()."""

    name: str
    command: list[str]
    restarts: int = 0
    """How often in a row it was restarted without success."""
    started: float = 0.0
    due: float | None = None
    """When it starts again; None while it runs."""
    process: subprocess.Popen[bytes] = field(init=False)

    def start(self) -> None:
        """Start the process. Raises OSError."""
        self.started = time.monotonic()
        # A session of its own: Ctrl-C reaches only this process, which then stops the children in order.
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cli.child", *self.command], cwd=PROJECT_ROOT, start_new_session=True
        )
        self.due = None

    @property
    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def schedule(self) -> float:
        """Set when the ended process starts again, and return the pause in seconds. Raises ProcessFailed."""
        now = time.monotonic()
        if now - self.started >= HEALTHY_SECONDS:
            self.restarts = 0
        if self.restarts == MAX_RESTARTS:
            raise ProcessFailed(
                f"The {self.name} process ended again after {MAX_RESTARTS} restarts: {self.ending()}.",
                hint="The service ends. The output of the process is above.",
            )
        pause: float = min(MAX_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2**self.restarts)
        self.restarts += 1
        self.due = now + pause
        return pause

    def ending(self) -> str:
        """Return how the process has ended."""
        code = self.process.returncode
        if code >= 0:
            return f"exit code {code}"
        known = {each.value: each.name for each in signal.Signals}
        return f"killed by {known.get(-code, f'signal {-code}')}"


class Supervisor:
    """The child processes by name."""

    def __init__(self, report: Callable[[str], None]) -> None:
        """report: receives a line for each process that ends."""
        self.children: dict[str, SupervisedProcess] = {}
        self.report = report

    def start(self, name: str, command: list[str]) -> None:
        child = SupervisedProcess(name, command)
        child.start()
        self.children[name] = child

    def ended(self) -> SupervisedProcess | None:
        """Return a child that has ended, if any."""
        return next((child for child in self.children.values() if child.has_ended), None)

    def keep_running(self) -> None:
        """Restart children that end, until one ends after each restart. Raises ProcessFailed."""
        while True:
            for child in self.children.values():
                self._check(child)
            time.sleep(POLL_SECONDS)

    def _check(self, child: SupervisedProcess) -> None:
        if child.due is None and child.has_ended:
            self._schedule(child, f"ended ({child.ending()})")
        elif child.due is not None and time.monotonic() >= child.due:
            try:
                child.start()
            except OSError as error:  # the machine has no memory or no process id left
                self._schedule(child, f"cannot be started ({error.strerror})")

    def _schedule(self, child: SupervisedProcess, what: str) -> None:
        pause = child.schedule()
        self.report(f"The {child.name} process {what}. It starts again in {pause:g} s.")

    def stop(self) -> None:
        """Stop all children, the broker last: the others still send it messages when they stop."""
        broker = [child.process for child in self.children.values() if child.name == "broker"]
        others = [child.process for child in self.children.values() if child.name != "broker"]
        for group in (others, broker):
            for process in group:
                process.terminate()
            deadline = time.monotonic() + STOP_GRACE_SECONDS
            for process in group:
                _end(process, deadline)


def _end(process: subprocess.Popen[bytes], deadline: float) -> None:
    try:
        process.wait(max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
