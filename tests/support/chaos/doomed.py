"""Run another module like `python -m`, and kill its process at chosen points.

`python -m tests.support.chaos.doomed MODULE ARG ...`

A test controls the process by files in CHAOS_DIR:

    doom.PART   POINT before|after N    SIGKILL at the N-th call of one of POINTS, counted from now, in the
                                        first process of CHAOS_PART that reaches it
    clock       SECONDS                 offset of the clock, if CHAOS_CLOCK is this file's name;
                                        the monotonic clock is unchanged
"""

import functools
import os
import runpy
import signal
import sys
import threading
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

POINTS = (
    "worker.jobs.idempotency:RequestKey.store",
    "worker.jobs.transitions:move",
    "worker.jobs.transitions:_close_attempt",
    "worker.broker.messages:enqueue",
    "worker.lifecycle.submit:_validate",
    "worker.lifecycle.submit:_accepted",
    "worker.jobs.transitions:record_submission",
    "worker.backends.local.backend:LocalBackend.submit",
    "worker.backends.local.backend:LocalBackend._place",
    "worker.backends.local.backend:LocalBackend.cancel",
    "worker.backends.local.backend:_rename",
    "worker.backends.local.backend:_start",
    "worker.lifecycle.reconcile:_apply",
    "worker.lifecycle.apply_changes:start",
    "worker.lifecycle.apply_changes:end",
    "worker.jobs.transitions:advance_events",
    "worker.lifecycle.stored_events:_metric",
    "worker.lifecycle.ingest:_ingest_lines",
    "worker.lifecycle.finalize:finalize",
    "celery.beat:Scheduler.apply_async",
)
WATCH_SECONDS = 0.05


class Doom:
    """Kills this process at the point that a file names; only the process that removes the file dies."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.calls: dict[str, int] = {}

    def wrap(self, point: str) -> None:
        module, _, name = point.partition(":")
        *outer, last = name.split(".")
        owner = functools.reduce(getattr, outer, import_module(module))
        setattr(owner, last, self.mortal(point, getattr(owner, last)))

    def mortal(self, point: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            self.strike(point, "before")
            result = function(*args, **kwargs)
            self.strike(point, "after")
            return result

        return call

    def strike(self, point: str, when: str) -> None:
        try:
            doom = self.path.read_text()
        except FileNotFoundError:
            return
        if not doom.startswith(f"{point} {when} "):
            return
        self.calls[doom] = self.calls.get(doom, 0) + 1
        if self.calls[doom] >= int(doom.split()[2]):
            self.path.unlink(missing_ok=True)
            os.kill(os.getpid(), signal.SIGKILL)
            signal.pause()  # the kernel may take a moment


def follow_clock(path: Path) -> None:
    """Set this process's wall clock by the offset in a file, now and after each change of the file."""
    import time_machine

    traveller = time_machine.travel(time.time(), tick=True).start()
    off = 0.0

    def watch() -> None:
        nonlocal off
        while True:
            wanted = float(path.read_text() or off)
            if wanted != off:
                traveller.shift(wanted - off)
                off = wanted
            time.sleep(WATCH_SECONDS)

    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    directory = Path(os.environ["CHAOS_DIR"])
    clock = directory / os.environ["CHAOS_CLOCK"]
    if clock.exists():
        follow_clock(clock)
    doom = Doom(directory / f"doom.{os.environ['CHAOS_PART']}")
    for point in POINTS:
        doom.wrap(point)
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
