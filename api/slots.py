"""Slots for requests that cost much: plans and inspections occupy a core, changes wait for the database."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Annotated

from fastapi import Depends, Request

from worker.errors import ServiceUnavailable

RUNNING = 4
WAITING = 64
WRITING = 16
WAITING_TO_WRITE = 256


class Slots:
    """At most `running` requests at a time; at most `waiting` others wait for a slot, in order."""

    def __init__(self, running: int = RUNNING, waiting: int = WAITING) -> None:
        self._slots = asyncio.Semaphore(running)
        self._waiting = 0
        self._max_waiting = waiting

    async def acquire(self) -> None:
        """Wait for a slot. Raises ServiceUnavailable if too many requests wait already."""
        if self._waiting >= self._max_waiting:
            raise ServiceUnavailable(
                "Too many requests of this kind are in progress.", hint="Try again shortly."
            )
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1

    def release(self) -> None:
        self._slots.release()


def _held(name: str) -> Callable[[Request], AsyncIterator[None]]:
    """Return a dependency that holds a slot of `app.state.NAME` while the route runs.

    The dependency raises ServiceUnavailable.
    """

    async def hold(request: Request) -> AsyncIterator[None]:
        slots: Slots = getattr(request.app.state, name)
        await slots.acquire()
        try:
            yield
        finally:
            slots.release()

    return hold


# Declared after the caller of a route: a request that is rejected takes no slot.
Slot = Annotated[None, Depends(_held("slots"), scope="function")]
WriteSlot = Annotated[None, Depends(_held("write_slots"), scope="function")]
"""Requests that wait for a writer of the database leave threads to those that read."""
