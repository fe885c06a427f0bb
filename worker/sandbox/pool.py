"""A bounded number of warm children, shared by the threads of a process."""

import atexit
from collections import deque
from contextlib import suppress
from threading import BoundedSemaphore

from worker.errors import ServiceUnavailable
from worker.sandbox.process import Child, Reply

MOST_CHILDREN = 4
WAIT_SECONDS = 10.0


class Pool:
    """Starts children when they are needed, and keeps them warm."""

    def __init__(self) -> None:
        self._free = BoundedSemaphore(MOST_CHILDREN)
        self._idle: deque[Child] = deque()
        self.version: str | None = None
        """Version of the checks, as the child that was started last has it."""
        atexit.register(self.close)

    def ask(self, function: str, seconds: float, request: str) -> Reply:
        """Let a child run a function: see Child.ask. Raises ServiceUnavailable if all stay busy."""
        if not self._free.acquire(timeout=WAIT_SECONDS):
            raise ServiceUnavailable(
                "Other requests are having their files inspected.", hint="Try again in a few seconds."
            )
        try:
            child = self._take()
            reply = child.ask(function, seconds, request)
            self._keep(child)
            return reply
        finally:
            self._free.release()

    def _take(self) -> Child:
        with suppress(IndexError):
            while True:
                child = self._idle.pop()
                if child.is_usable:
                    return child
                child.end()
        child = Child()
        self.version = child.version
        return child

    def _keep(self, child: Child) -> None:
        if child.is_usable:
            self._idle.append(child)
        else:
            child.end()

    def close(self) -> None:
        """End the children that are idle."""
        with suppress(IndexError):
            while True:
                self._idle.pop().end()
