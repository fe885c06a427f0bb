"""A bounded number of warm children, shared by the threads of a process.

Each child serves one project: a file that takes a child over neither learns of other projects nor decides for
them.
"""

import atexit
from dataclasses import dataclass
from threading import BoundedSemaphore, Lock
from typing import NamedTuple

from worker.errors import ServiceUnavailable
from worker.sandbox.process import Child, Reply
from worker.sandbox.view import ChildView

MAX_CHILDREN = 4
WAIT_SECONDS = 10.0


class Use(NamedTuple):
    """What a child is for: it is used for nothing else."""

    project: str
    view: ChildView


@dataclass(eq=False)
class Place:
    """Place for a child."""

    use: Use | None = None
    child: Child | None = None

    def warm(self, use: Use) -> Child:
        """Return the child if it is for this use, or a new one in its place."""
        if self.child is None or self.use != use or not self.child.is_usable:
            self.end()
            self.use, self.child = use, Child(use.view)
        return self.child

    def end(self) -> None:
        if self.child is not None:
            self.child.end()
        self.use = self.child = None


class Pool:
    """Starts children when they are needed, and keeps them warm."""

    def __init__(self) -> None:
        self._free = BoundedSemaphore(MAX_CHILDREN)
        self._lock = Lock()
        self._idle = [Place() for _ in range(MAX_CHILDREN)]
        """The place that was used longest ago is the first."""
        self.version: str | None = None
        """Version of the checks, as the child that was started last has it."""
        atexit.register(self.close)

    def ask(self, use: Use, function: str, seconds: float, request: str) -> Reply:
        """Let a child run a function: see Child.ask. Raises ServiceUnavailable if all stay busy."""
        if not self._free.acquire(timeout=WAIT_SECONDS):
            raise ServiceUnavailable(
                "Other requests are having their files inspected.", hint="Try again in a few seconds."
            )
        place = self._take(use)
        try:
            child = place.warm(use)
            self.version = child.version
            reply = child.ask(function, seconds, request)
            if not child.is_usable:
                place.end()
            return reply
        finally:
            self._give_back(place)

    def _take(self, use: Use) -> Place:
        """Take the place of a child for this use, else an empty one, else the one used longest ago."""
        with self._lock:
            place = min(self._idle, key=lambda one: (one.use != use, one.child is not None))
            self._idle.remove(place)
        return place

    def _give_back(self, place: Place) -> None:
        with self._lock:
            self._idle.append(place)
        self._free.release()

    def close(self) -> None:
        """End the children that are idle."""
        with self._lock:
            for place in self._idle:
                place.end()
