"""A child process, as the service sees it. What a child says is not trusted: files may have taken it over."""

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

import psutil

from trainer import bounded_json
from trainer.preflight import limits
from worker.errors import ServiceUnavailable
from worker.sandbox import bubblewrap, mounts, status
from worker.sandbox.seen import Seen
from worker.sandbox.view import ChildView
from worker.settings import PROJECT_ROOT
from worker.telemetry.logging import logger

log = logger(__name__)

START_SECONDS = 30.0
END_SECONDS = 1.0
# A busy machine gives a process a part of its cores. A child that has had less waits for its files.
WALL_FACTOR, BUSY_SHARE = 2.0, 0.1
NOTHING_HIDDEN = ChildView()
MAX_REPLY_BYTES = 64 << 20
MAX_SEEN = 20_000
# A child is replaced after so many requests, or when it keeps so much memory.
MAX_REQUESTS, MAX_RESIDENT_BYTES = 500, 256 << 20

# Nothing of the service's own: no keys, passwords or URLs.
ENVIRONMENT = {"LANG": "C.UTF-8", "MALLOC_ARENA_MAX": "1", **limits.ENVIRONMENT}


@dataclass
class Reply:
    """What a child answered, or why it did not, and the files that it used."""

    answer: str | None = None
    """JSON text; None if the child failed."""
    why: str = ""
    """Why it failed, as the end of a sentence about the file `opened`."""
    stalled: bool = False
    """Whether it waited for files that did not come, and may have better luck later."""
    opened: str | None = None
    """The file that was opened last."""
    seen: dict[tuple[str, bool, bool], Seen] = field(default_factory=dict)


class Child:
    """A running child. Not thread-safe."""

    def __init__(self, view: ChildView = NOTHING_HIDDEN) -> None:
        """Start a child. Raises ServiceUnavailable."""
        self.served = self._resident = 0
        try:
            self._socket, self._process, self._first = _started(view)
        except OSError as error:
            raise _not_started(error.strerror or "it cannot be started") from error
        try:
            _, self.version, is_isolated = next(self._messages(time.monotonic() + START_SECONDS))
        except (OSError, EOFError, ValueError) as error:
            raise _not_started(f"it ended with {self.end()}") from error
        status.note_start()
        is_hidden = self._first is not None
        log.info("sandbox.started", pid=self.pid, without_network=is_isolated, read_only=is_hidden)

    @property
    def pid(self) -> int:
        """The process that inspects files: the one in its PID namespace beside the first, if it has one."""
        inside = self._first.children() if self._first else []
        return inside[0].pid if inside else self._process.pid

    @property
    def is_usable(self) -> bool:
        is_spent = self.served >= MAX_REQUESTS or self._resident > MAX_RESIDENT_BYTES
        return not is_spent and self._process.poll() is None

    def ask(self, function: str, seconds: float, request: str) -> Reply:
        """Run a function, which may take so many seconds of CPU. If it fails, the child has ended."""
        reply, begun = Reply(), self._cpu_seconds()
        deadline = time.monotonic() + WALL_FACTOR * seconds
        self.served += 1
        try:
            self._send(function, seconds, request, deadline)
            self._receive(reply, deadline)
        except TimeoutError:
            reply.stalled = self._cpu_seconds() - begun < BUSY_SHARE * WALL_FACTOR * seconds
            reply.why = _exceeded(seconds)
        except (EOFError, OSError):
            reply.why = _end_of(self.end(), seconds)
        except (ValueError, TypeError):
            reply.why = "the process that inspected it gave no valid answer"
        if reply.answer is None:
            self.end()
        return reply

    def end(self) -> int:
        """Kill the child if it still runs, and return its exit code."""
        self._socket.close()
        try:
            return self._process.wait(END_SECONDS)  # it has closed its side, and is ending by itself
        except subprocess.TimeoutExpired:
            with suppress(psutil.Error):
                (self._first or self._process).kill()
            return self._process.wait()

    def _cpu_seconds(self) -> float:
        try:
            return sum(psutil.Process(self.pid).cpu_times()[:2])
        except psutil.Error:
            return 0.0

    # -- messages -------------------------------------------------------------------------------

    def _send(self, function: str, seconds: float, request: str, deadline: float) -> None:
        self._socket.settimeout(max(0.001, deadline - time.monotonic()))
        self._socket.sendall(json.dumps([function, seconds, request]).encode() + b"\n")

    def _receive(self, reply: Reply, deadline: float) -> None:
        for kind, *values in self._messages(deadline):
            match kind:
                case "inspect" | "list" | "open":
                    _note(reply, kind, *values)
                case "failed":
                    reply.why = _unforeseen(reply.opened, *values)
                    return
                case "done":
                    self._resident, reply.answer = int(values[0]), str(values[1])
                    return
        raise EOFError

    def _messages(self, deadline: float) -> Iterator[list[Any]]:
        """Yield the child's messages. Raises TimeoutError, EOFError, OSError and ValueError."""
        rest, total = b"", 0
        while True:
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            data = self._socket.recv(1 << 20)
            total += len(data)
            if not data:
                raise EOFError
            if total > MAX_REPLY_BYTES:
                raise ValueError("the answer is too long")
            *lines, rest = (rest + data).split(b"\n")
            yield from (bounded_json.parse(line.decode()) for line in lines)


def _started(view: ChildView) -> "tuple[socket.socket, subprocess.Popen[bytes], psutil.Process | None]":
    """Start a child, with the view if bubblewrap works here. Raises OSError."""
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-m", "worker.sandbox.child"]
    with theirs:
        options: dict[str, Any] = {
            "stdin": theirs.fileno(), "stdout": subprocess.DEVNULL, "env": ENVIRONMENT, "cwd": PROJECT_ROOT,
            "start_new_session": True,
        }  # fmt: skip
        if status.obstacle():
            return ours, subprocess.Popen(command, **options), None
        full = [*mounts.arguments(view), "--", *command, json.dumps(asdict(view))]
        return ours, *bubblewrap.start(full, **options)


def _not_started(why: str) -> ServiceUnavailable:
    """Note why for the operator, who alone may know."""
    status.note_start(f"the process that inspects them does not start ({why})")
    return ServiceUnavailable(
        "The process that inspects files does not start.", hint="The log of the service says why."
    )


def _note(reply: Reply, kind: str, path: str, follow: bool, listed: bool, identity: list[int]) -> None:
    """Note a path. Raises TypeError for values that no child sends unless it was taken over."""
    if type(path) is not str or any(type(number) is not int for number in identity):
        raise TypeError("a path and the numbers of its identity are expected")
    if len(reply.seen) <= MAX_SEEN:
        reply.seen.setdefault((path, follow, listed), Seen(path, follow, listed, tuple(identity)))
    if kind == "open":
        reply.opened = path


def _exceeded(seconds: float) -> str:
    return f"it takes more than {seconds:g} s"


def _exhausted() -> str:
    return f"it takes more than {limits.MEMORY_BYTES >> 20} MiB of memory"


def _end_of(code: int, seconds: float) -> str:
    """Describe the end of a child by its exit code. bwrap returns 128 and the number of a signal."""
    code = 128 - code if code > 128 else code
    if -code == signal.SIGXCPU:
        return _exceeded(seconds)
    if code < 0:
        return f"{_exhausted()}, or is corrupt ({_signal_name(-code)})"
    return f"the process that inspected it ended with {code}"


def _signal_name(number: int) -> str:
    return signal.Signals(number).name if number in set(signal.Signals) else str(number)


def _unforeseen(path: str | None, kind: str, trace: str) -> str:
    """Describe an exception that no check expected: the file holds what nobody thought of."""
    log.error("sandbox.unforeseen", path=path, traceback=trace)
    if kind == MemoryError.__name__:
        return _exhausted()
    return f"its content is not what was expected ({kind})"
