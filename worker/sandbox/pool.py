"""A bounded number of warm children, shared by the threads of a process.

Each child serves one project: a file that takes a child over neither learns of other projects nor decides for
them. A project that needs another child ends one of its own before one of another project.
"""

import atexit
from collections import Counter
from dataclasses import dataclass
from threading import Condition
from typing import NamedTuple

from worker.errors import ServiceUnavailable
from worker.sandbox.process import Child, Reply
from worker.sandbox.view import ChildView

MAX_CHILDREN, MAX_OF_PROJECT = 4, 2
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

    def is_of(self, project: str) -> bool:
        return self.use is not None and self.use.project == project

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
        self._changed = Condition()
        self._busy = Counter[str]()
        """Children that are running a function, by project."""
        self._idle = [Place() for _ in range(MAX_CHILDREN)]
        """The place that was used longest ago is the first."""
        self.version: str | None = None
        """Version of the checks, as the child that was started last has it."""
        atexit.register(self.close)

    def ask(self, use: Use, function: str, seconds: float, request: str) -> Reply:
        """Let a child run a function: see Child.ask. Raises ServiceUnavailable if all stay busy."""
        place = self._take(use)
        try:
            child = place.warm(use)
            self.version = child.version
            reply = child.ask(function, seconds, request)
            if not child.is_usable:
                place.end()
            return reply
        finally:
            self._give_back(place, use.project)

    def _take(self, use: Use) -> Place:
        """Take the best place for a use, when there is one. Raises ServiceUnavailable."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._free(use.project), WAIT_SECONDS):
                raise ServiceUnavailable(
                    "Other requests are having their files inspected.", hint="Try again in a few seconds."
                )
            place = min(self._free(use.project), key=lambda one: _cost(one, use))
            self._idle.remove(place)
            self._busy[use.project] += 1
        return place

    def _free(self, project: str) -> list[Place]:
        """Return the idle places that a project may use: its own, if it has as many as it may have."""
        own = [place for place in self._idle if place.is_of(project)]
        return own if len(own) + self._busy[project] >= MAX_OF_PROJECT else self._idle

    def _give_back(self, place: Place, project: str) -> None:
        with self._changed:
            self._idle.append(place)
            self._busy -= Counter([project])
            self._changed.notify_all()

    def close(self) -> None:
        """End the children that are idle."""
        with self._changed:
            for place in self._idle:
                place.end()


def _cost(place: Place, use: Use) -> tuple[bool, bool, bool, int]:
    """Rank a place for a use: its own child, an empty place, one of its project, one of another.

    Of its project's children, one that sees most is replaced first: it sees the directory of one job, and
    serves only requests about that.
    """
    is_own = place.is_of(use.project)
    shown = len(place.use.view.shown) if place.use and is_own else 0
    return place.use != use, place.child is not None, not is_own, -shown
