"""Daemon processes that outlive their starter, identified by pid and start time."""

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
_POLL_SECONDS = 0.05


class ClusterError(Exception):
    """A part of the cluster failed; the text contains its last output."""


@dataclass
class Daemon:
    """One daemon. `run/NAME.pid` in the cluster's directory holds its pid and its start time."""

    name: str
    command: list[str]
    directory: Path
    """Directory of the cluster."""
    environment: Mapping[str, str]
    is_ready: Callable[[], bool]
    """Whether the daemon works."""
    _child: "subprocess.Popen[bytes] | None" = field(default=None, init=False)
    """The process if this process started it: it must be waited for here."""

    @property
    def _pid_file(self) -> Path:
        return self.directory / "run" / f"{self.name}.pid"

    def pid(self) -> int | None:
        """Return the pid; None if the daemon does not run."""
        try:
            pid, ticks = json.loads(self._pid_file.read_text())
        except FileNotFoundError:
            return None
        # The ticks are None for a daemon that ended immediately.
        if ticks is not None and start_ticks(pid) == ticks:
            return int(pid)
        if self._child:
            self._child.wait()
        return None

    def start(self) -> None:
        """Start the daemon unless it runs; continue it if a signal has stopped it."""
        if (pid := self.pid()) is not None:
            os.kill(pid, signal.SIGCONT)
            return
        with (self.directory / "log" / f"{self.name}.out").open("ab") as output:
            self._child = subprocess.Popen(
                self.command, env=self.environment, cwd=self.directory / "log", start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip
        new_file = self._pid_file.with_suffix(".new")
        new_file.write_text(json.dumps([self._child.pid, start_ticks(self._child.pid)]))
        new_file.rename(self._pid_file)

    def wait_ready(self, timeout: float = START_SECONDS) -> None:
        """Wait until the daemon works. Raises ClusterError if it ends, or after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while True:
            if self.pid() is None:
                raise ClusterError(f"{self.name} ended: {self.last_output()}")
            if self.is_ready():
                return
            if time.monotonic() > deadline:
                raise ClusterError(f"{self.name} was not ready after {timeout:.0f} s: {self.last_output()}")
            time.sleep(_POLL_SECONDS)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal; wait for the end after SIGKILL. Raises ClusterError if the daemon does not run."""
        pid = self.pid()
        if pid is None:
            raise ClusterError(f"{self.name} does not run: {self.last_output()}")
        os.kill(pid, number)
        if number == signal.SIGKILL:
            self._wait_end(STOP_SECONDS)

    def stop(self) -> None:
        """Stop the daemon and its children: SIGTERM, and SIGKILL after 20 s."""
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
            time.sleep(_POLL_SECONDS)

    def last_output(self) -> str:
        """Return the last lines of the daemon's output and log."""
        logs = sorted((self.directory / "log").glob(f"{self.name}.*"))
        lines = [line for log in logs for line in log.read_text(errors="replace").splitlines()[-5:]]
        return "\n".join(lines)


def start_ticks(pid: int) -> int | None:
    """Return a process's start in clock ticks since boot (proc(5), stat, field 22); None if it has ended.

    A zombie counts as ended: pid 1 of a container may never reap it.
    """
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else int(fields[18])


def _children(process: psutil.Process) -> list[psutil.Process]:
    """Return all descendants; none if the process has ended, even if its pid is in use again."""
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def end(processes: Iterable[psutil.Process]) -> None:
    """Kill processes and their descendants."""
    families = [member for process in processes for member in (process, *_children(process))]
    for member in families:
        with suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs(families, timeout=STOP_SECONDS)


def listens(port: int, greeting: bytes = b"") -> bool:
    """Return whether a port of this machine accepts connections and sends the greeting."""
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as connected:
            connected.settimeout(1)
            return not greeting or connected.recv(len(greeting)) == greeting
    except OSError:
        return False
