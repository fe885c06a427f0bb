"""Transport to a cluster, for commands and files: LocalTransport here, SSH in ssh.py."""

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple, Protocol

from worker.backends.access.environment import inherited_environment
from worker.backends.access.files import Files
from worker.backends.access.local_files import LocalFiles
from worker.errors import BackendUnavailable

# Exit codes of POSIX shells for commands that could not be started.
NOT_EXECUTABLE = 126
NOT_FOUND = 127


class Answer(NamedTuple):
    """Exit code and output of a command. Bytes that are not UTF-8 become U+FFFD."""

    code: int
    """127 if the command does not exist, 126 if it cannot be executed."""
    out: str
    err: str


class Transport(Protocol):
    """Runs commands on one cluster; thread-safe."""

    @property
    def description(self) -> str:
        """The cluster's address, for messages."""
        ...

    def run(self, command: Sequence[str], *, stdin: str = "", timeout: float) -> Answer:
        """Run a command and wait for it, at most `timeout` seconds in total.

        Raises BackendUnavailable if there is no answer: the cluster cannot be reached, the connection
        was cut, the time limit was reached, or a signal ended the command. The command may have taken
        effect.
        """
        ...

    def files(self) -> Files: ...


class LocalTransport:
    """Runs commands on this machine, in an environment without the service's keys and passwords."""

    description = "this machine"

    def __init__(self, environment: dict[str, str] | None = None) -> None:
        """environment: additional variables for the commands, e.g. SLURM_CONF."""
        self._environment = environment or {}

    def run(self, command: Sequence[str], *, stdin: str = "", timeout: float) -> Answer:
        try:
            process = subprocess.Popen(
                command, env={**inherited_environment(), **self._environment}, start_new_session=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip
        except FileNotFoundError as error:
            return Answer(NOT_FOUND, "", f"{command[0]}: {error.strerror}")
        except OSError as error:
            return Answer(NOT_EXECUTABLE, "", f"{command[0]}: {error.strerror}")
        return answer(command, *_communicate(process, command, stdin.encode(), timeout))

    def files(self) -> Files:
        return LocalFiles()


def _communicate(
    process: subprocess.Popen[bytes], command: Sequence[str], stdin: bytes, timeout: float
) -> tuple[int, bytes, bytes]:
    try:
        out, err = process.communicate(stdin, timeout)
    except subprocess.TimeoutExpired:
        raise timed_out(command, timeout) from None
    finally:
        _end(process)
    return process.returncode, out, err


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the rest of the command's process group; do not wait for processes that left the group."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with suppress(BrokenPipeError):
                stream.close()


def answer(command: Sequence[str], code: int, out: bytes, err: bytes) -> Answer:
    """Return the Answer of an ended command. Raises BackendUnavailable if a signal ended it."""
    if code < 0:
        raise BackendUnavailable(f"{command[0]} was ended by a signal.")
    return Answer(code, out.decode(errors="replace"), err.decode(errors="replace"))


def timed_out(command: Sequence[str], seconds: float) -> BackendUnavailable:
    return BackendUnavailable(f"{command[0]} did not answer within {seconds:g} s.")
