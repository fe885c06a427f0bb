"""Processes that outlive the one that started them, known again by pid and start time."""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

START_SECONDS = 60.0
STOP_SECONDS = 20.0
_LOOK_AGAIN_SECONDS = 0.05


class ClusterError(Exception):
    """A part of the cluster did not do what it was asked; the text has its last words."""


@dataclass
class Daemon:
    """One daemon. `run/NAME.pid` of the cluster's directory holds its pid and its start."""

    name: str
    command: list[str]
    directory: Path
    """Of the cluster."""
    environment: Mapping[str, str]
    answers: Callable[[], bool]
    """Whether it does its work."""
    _child: "subprocess.Popen[bytes] | None" = field(default=None, init=False)
    """Where this process started it: its end has to be collected here."""

    @property
    def _pid_file(self) -> Path:
        return self.directory / "run" / f"{self.name}.pid"

    def pid(self) -> int | None:
        """None: it does not run."""
        try:
            pid, ticks = json.loads(self._pid_file.read_text())
        except FileNotFoundError:
            return None
        # None was noted for one that ended at once.
        if ticks is not None and start_ticks(pid) == ticks:
            return int(pid)
        if self._child:
            self._child.wait()
        return None

    def start(self) -> None:
        """Start it unless it runs; one that was stopped by a signal goes on."""
        if (pid := self.pid()) is not None:
            os.kill(pid, signal.SIGCONT)
            return
        with (self.directory / "log" / f"{self.name}.out").open("ab") as output:
            self._child = subprocess.Popen(
                self.command, env=self.environment, cwd=self.directory / "log", start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip
        fresh = self._pid_file.with_suffix(".new")
        fresh.write_text(json.dumps([self._child.pid, start_ticks(self._child.pid)]))
        fresh.rename(self._pid_file)

    def wait_ready(self, timeout: float = START_SECONDS) -> None:
        """Raises ClusterError where it ends, or does not answer within so many seconds."""
        deadline = time.monotonic() + timeout
        while True:
            if self.pid() is None:
                raise ClusterError(f"{self.name} ended: {self.last_words()}")
            if self.answers():
                return
            if time.monotonic() > deadline:
                raise ClusterError(f"{self.name} did not answer for {timeout:.0f} s: {self.last_words()}")
            time.sleep(_LOOK_AGAIN_SECONDS)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal; after SIGKILL it is gone. Raises ClusterError where it does not run."""
        pid = self.pid()
        if pid is None:
            raise ClusterError(f"{self.name} does not run: {self.last_words()}")
        os.kill(pid, number)
        if number == signal.SIGKILL:
            self._wait_end(STOP_SECONDS)

    def stop(self) -> None:
        """End it and its children, in order if it does so within 20 s."""
        children: list[psutil.Process] = []
        if (pid := self.pid()) is not None:
            with suppress(psutil.NoSuchProcess):
                children = _children(psutil.Process(pid))
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
                os.kill(pid, signal.SIGTERM)
            with suppress(ClusterError):
                self._wait_end(STOP_SECONDS)
            if self.pid() is not None:
                self.kill()
            end(children)
        self._pid_file.unlink(missing_ok=True)

    def _wait_end(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while self.pid() is not None:
            if time.monotonic() > deadline:
                raise ClusterError(f"{self.name} did not end within {timeout:.0f} s.")
            time.sleep(_LOOK_AGAIN_SECONDS)

    def last_words(self) -> str:
        """The last lines of its output and its log."""
        logs = sorted((self.directory / "log").glob(f"{self.name}.*"))
        lines = [line for log in logs for line in log.read_text(errors="replace").splitlines()[-5:]]
        return "\n".join(lines)


def start_ticks(pid: int) -> int | None:
    """Start of a living process in clock ticks since boot (proc(5), stat, field 22); None if it is gone.

    A zombie is gone, too: pid 1 of a container may never collect it.
    """
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else int(fields[18])


def _children(process: psutil.Process) -> list[psutil.Process]:
    """None of a process that is gone, whoever has its pid now."""
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def end(processes: Iterable[psutil.Process]) -> None:
    """Kill processes and what they have started."""
    families = [member for process in processes for member in (process, *_children(process))]
    for member in families:
        with suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs(families, timeout=STOP_SECONDS)


def listens(port: int, greeting: bytes = b"") -> bool:
    """Whether a port of this machine takes connections, and greets."""
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as connected:
            connected.settimeout(1)
            return not greeting or connected.recv(len(greeting)) == greeting
    except OSError:
        return False
