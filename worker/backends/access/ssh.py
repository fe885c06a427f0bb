"""A cluster over SSH: commands by exec channels, files by SFTP.

sshd allows 10 sessions on a connection by default (MaxSessions); this uses at most 8 of them.
"""

import asyncio
import os
import shlex
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from asyncssh import ConnectionLost, SSHClientChannel, SSHClientSession

from worker.backends.access.files import Files
from worker.backends.access.sftp_files import SftpFiles
from worker.backends.access.ssh_connection import Connection, Deadline, Link, Stale, Target, wait_for
from worker.backends.access.transport import Answer, answer

MAX_COMMANDS = 4
# Of a command: squeue prints some 200 bytes for each job.
MAX_OUTPUT_BYTES = 64 << 20
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


class _Command(SSHClientSession[bytes]):
    """One run of a command, which does not start after its deadline."""

    def __init__(self, link: Link, deadline: Deadline) -> None:
        self._link = link
        self._deadline = deadline
        self._channel: SSHClientChannel[bytes] | None = None
        self._out, self._err = bytearray(), bytearray()

    async def run(self, line: Any, stdin: bytes) -> tuple[int, bytes, bytes]:
        """Exit code, output and errors. Raises ConnectionLost where the command was cut off."""
        try:
            await self._link.open(self._link.ssh.create_session(lambda: self, line, encoding=None))
            assert self._channel is not None
            with suppress(BrokenPipeError):  # it may end without having read everything
                self._channel.write(stdin)
            self._channel.write_eof()
            await self._channel.wait_closed()
            code = self._channel.get_returncode()
        finally:
            self._close()
        # The code may come before the output's end.
        if code is None or self._link.ssh.is_closed():
            raise ConnectionLost("before the command had ended")
        return max(code, -1), bytes(self._out), bytes(self._err)

    def _close(self) -> None:
        if self._channel is not None:
            self._channel.abort()

    def connection_made(self, chan: SSHClientChannel[bytes]) -> None:
        self._channel = chan
        if self._deadline.is_over():
            self._close()
            raise ConnectionLost("after the deadline")

    def data_received(self, data: bytes, datatype: int | None) -> None:
        (self._out if datatype is None else self._err).extend(data)
        if len(self._out) + len(self._err) > MAX_OUTPUT_BYTES:
            self._close()  # its exit code stays unknown, as of a connection that was cut

    def eof_received(self) -> bool:
        return True  # keep the channel: the exit code may follow


class _Shared:
    """What all transports to one target have in common in a process."""

    def __init__(self, target: Target) -> None:
        self.connection = Connection(target)
        self.files = SftpFiles(self.connection, self.execute)
        self._slots = asyncio.BoundedSemaphore(MAX_COMMANDS)

    def execute(self, command: Sequence[str], stdin: bytes, timeout: float) -> tuple[int, bytes, bytes]:
        """Exit code (-1: ended by a signal), output and errors. Raises BackendUnavailable."""
        deadline, line = Deadline(timeout), _line(command, timeout)
        try:
            return wait_for(self._execute(line, stdin, deadline))
        except Stale:
            return wait_for(self._execute(line, stdin, deadline))

    async def _execute(self, line: bytes, stdin: bytes, deadline: Deadline) -> tuple[int, bytes, bytes]:
        async with self.connection.use(self._slots, deadline) as link:
            return await _Command(link, deadline).run(line, stdin)


def _line(command: Sequence[str], timeout: float) -> bytes:
    """The command as the login shell of the other side takes it (POSIX), with a time limit of its own."""
    if any("\0" in word for word in command):
        raise ValueError("a command cannot have a NUL in it")
    limit = f"{timeout + REMOTE_GRACE_SECONDS:.3f}"
    return os.fsencode(shlex.join(["exec", "timeout", "--signal=KILL", limit, *command]))


# -- one for each target and process ---------------------------------------------------------------

_targets: dict[Target, _Shared] = {}
_targets_lock = threading.Lock()


def _shared(target: Target) -> _Shared:
    with _targets_lock:
        return _targets.setdefault(target, _Shared(target))


def disconnect() -> None:
    """Close all connections of this process; the next use opens new ones."""
    with _targets_lock:
        for shared in _targets.values():
            wait_for(shared.connection.close())
