"""`python -m worker.sandbox.child [VIEW]`: answer requests on the socket that is descriptor 0, one at a time.

VIEW, JSON, is given to a child in bubblewrap: what it sees of this machine.

A request is a line, a JSON array: name of a function, seconds of CPU, its request as JSON text. The answer is
lines, JSON arrays, too:

    ["ready", version, isolated]                                 once, after the start
    ["inspect" | "list" | "open", path, follow, listed, identity]   before the path is used
    ["done", resident bytes, answer as JSON text]
    ["failed", type of the exception, traceback]

The process ends when the other side closes the socket, so also when the service is killed. The thread that
started it may end earlier, so that a signal at its parent's death (prctl) would end it too early.
"""

import json
import os
import signal
import socket
import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

from trainer.config.bridge_schema import recipes
from trainer.preflight.limits import limit_cpu, limit_resources
from trainer.sources import code_hash
from worker.sandbox.confinement import drop_output, leave_network
from worker.sandbox.functions import FUNCTIONS
from worker.sandbox.observer import Observer
from worker.sandbox.view import ChildView

# Imported before the first request, which would wait for them.
MODULES = ("pyarrow.parquet", "pyarrow.compute", "jsonschema")
# The service ends a child earlier; this is for a child whose service was killed.
ORPHAN_FACTOR = 3
TRACEBACK_CHARACTERS = 4000


def main() -> None:
    channel = socket.socket(fileno=0)
    view = ChildView(**json.loads(sys.argv[1])) if sys.argv[1:] else ChildView()
    is_isolated = bool(sys.argv[1:]) or leave_network()
    for name in MODULES:
        import_module(name)
    recipes()
    os.chdir("/")
    sys.dont_write_bytecode = True
    drop_output()

    def send(*message: Any) -> None:
        channel.sendall(json.dumps(message).encode() + b"\n")

    observer = Observer(lambda kind, seen: send(kind, *seen), view)
    requests = channel.makefile("rb")
    version = code_hash()
    limit_resources()
    observer.install()
    send("ready", version, is_isolated)
    for line in requests:
        send(*_answer(line, observer))


def _answer(line: bytes, observer: Observer) -> tuple[Any, ...]:
    name, seconds, request = json.loads(line)
    limit_cpu(seconds)
    signal.setitimer(signal.ITIMER_REAL, ORPHAN_FACTOR * seconds)
    observer.start()
    try:
        answer = FUNCTIONS[name](request)
    except Exception as error:
        return "failed", type(error).__name__, traceback.format_exc()[-TRACEBACK_CHARACTERS:]
    finally:
        observer.stop()
        signal.setitimer(signal.ITIMER_REAL, 0)
    return "done", _resident_bytes(), answer


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
