"""A cluster over SSH: commands by exec channels, files by SFTP.

sshd allows 10 sessions on a connection by default (MaxSessions); this uses at most 8 of them.
"""

import os
import shlex
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from paramiko import Channel, SSHException

from worker.backends.access.files import Files
from worker.backends.access.sftp_files import SftpFiles
from worker.backends.access.ssh_connection import BROKEN, Connection, Deadline, Stale, Target
from worker.backends.access.transport import Answer, answer

MAX_COMMANDS = 4
_BLOCK_BYTES = 1 << 17
# The other side ends a command by itself shortly after nobody waits for it any more.
REMOTE_GRACE_SECONDS = 2.0


class SshTransport:
    """Commands and files of another host; objects with the same parameters share a connection."""

    def __init__(
        self,
        host: str,
        user: str,
        port: int = 22,
        identity: Path | None = None,
        known_hosts: Path | None = None,
    ) -> None:
        self._shared = _shared(Target(host, user, port, identity, known_hosts))

    @property
    def description(self) -> str:
        return str(self._shared.connection.target)

    def run(self, command: Sequence[str], *, stdin: str = "", timeout: float) -> Answer:
        return answer(command, *self._shared.execute(command, stdin.encode(), timeout))

    def files(self) -> Files:
        return self._shared.files


class _Shared:
    """What all transports to one target have in common in a process."""

    def __init__(self, target: Target) -> None:
        self.connection = Connection(target)
        self.files = SftpFiles(self.connection, self.execute)
        self._slots = threading.BoundedSemaphore(MAX_COMMANDS)

    def execute(self, command: Sequence[str], stdin: bytes, timeout: float) -> tuple[int, bytes, bytes]:
        """Exit code (-1: ended by a signal), output and errors. Raises BackendUnavailable."""
        deadline, line = Deadline(timeout), _line(command, timeout, reads=bool(stdin))
        try:
            return self._execute(line, stdin, deadline)
        except Stale:
            return self._execute(line, stdin, deadline)

    def _execute(self, line: bytes, stdin: bytes, deadline: Deadline) -> tuple[int, bytes, bytes]:
        with (
            self.connection.use(self._slots, deadline) as (link, watch),
            link.open(deadline) as channel,
        ):
            watch.channel = channel
            channel.exec_command(line)
            out, err = _exchange(channel, stdin)
            code = channel.recv_exit_status()
            # What comes without an end was cut off, be there an exit code or not.
            if watch.expired or not channel.eof_received:
                raise SSHException("before the command had ended")
            return code, out, err


def _line(command: Sequence[str], timeout: float, *, reads: bool) -> bytes:
    """The command as the login shell of the other side takes it (POSIX), with an end of its own.

    reads: whether it is sent something. Else its input is closed there and not by a message of ours: paramiko
        may send that after the channel's end, for which sshd ends the whole connection.
    """
    if any("\0" in word for word in command):
        raise ValueError("a command cannot have a NUL in it")
    limit = f"{timeout + REMOTE_GRACE_SECONDS:.3f}"
    line = shlex.join(["timeout", "--signal=KILL", limit, *command])
    return os.fsencode(line if reads else f"exec {line} < /dev/null")


def _exchange(channel: Channel, stdin: bytes) -> tuple[bytes, bytes]:
    """Write and read all three streams at once: they share what the other side waits for."""
    with ThreadPoolExecutor(2, "ssh-stream") as threads:
        if stdin:
            threads.submit(_feed, channel, stdin)
        err = threads.submit(_drain, channel.recv_stderr)
        return _drain(channel.recv), err.result()


def _feed(channel: Channel, stdin: bytes) -> None:
    with suppress(*BROKEN):  # it may end without having read everything
        channel.sendall(stdin)
        channel.shutdown_write()


def _drain(receive: Callable[[int], bytes]) -> bytes:
    return b"".join(iter(lambda: receive(_BLOCK_BYTES), b""))


# -- one for each target and process ---------------------------------------------------------------

_targets: dict[Target, _Shared] = {}
_targets_lock = threading.Lock()


def _shared(target: Target) -> _Shared:
    with _targets_lock:
        return _targets.setdefault(target, _Shared(target))


def disconnect() -> None:
    """Close all connections of this process; whoever goes on connects anew."""
    with _targets_lock:
        for shared in _targets.values():
            shared.connection.close()
