"""Slots for requests that cost much: plans and inspections occupy a core, changes wait for the database."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Annotated

from anyio import CancelScope
from fastapi import Depends, Request
from starlette.requests import ClientDisconnect

from api.auth import CallerDep
from worker.errors import ServiceUnavailable, TooManyOpenRequests

RUNNING = 4
WAITING = 64
WRITING = 16
WAITING_TO_WRITE = 256
RETRY_AFTER_SECONDS = 2.0


class Slots:
    """Run at most `running` requests at a time, at most three quarters of them for one key; others wait.

    One key may hold half of the waiting places. At most its running share of a key's requests stand in the
    common queue, so that one key cannot delay another.
    """

    def __init__(self, running: int = RUNNING, waiting: int = WAITING) -> None:
        self._slots = asyncio.Semaphore(running)
        self._most = running + waiting
        self._running_of_key = running * 3 // 4
        self._most_of_key = self._running_of_key + waiting // 2
        self.requests: Counter[str] = Counter()
        """Those that run or wait, by key."""
        self._shares: dict[str, asyncio.Semaphore] = {}

    @asynccontextmanager
    async def held(self, key_id: str) -> AsyncIterator[None]:
        """Wait for a slot and hold it. Raises TooManyOpenRequests, ServiceUnavailable: too many wait."""
        with self._counted(key_id) as share:
            async with share, self._slots:
                yield

    @contextmanager
    def _counted(self, key_id: str) -> Iterator[asyncio.Semaphore]:
        self._check(key_id)
        self.requests[key_id] += 1
        try:
            yield self._shares.setdefault(key_id, asyncio.Semaphore(self._running_of_key))
        finally:
            self.requests[key_id] -= 1
            if not self.requests[key_id]:
                del self.requests[key_id], self._shares[key_id]

    def _check(self, key_id: str) -> None:
        if self.requests[key_id] >= self._most_of_key:
            raise TooManyOpenRequests(
                f"This key has {self._most_of_key} requests of this kind in progress, as many as it may.",
                hint="Wait for some of them.",
                retry_after=RETRY_AFTER_SECONDS,
            )
        if self.requests.total() >= self._most:
            raise ServiceUnavailable(
                "Too many requests of this kind are in progress.", hint="Try again shortly."
            )


def _held(name: str) -> Callable[[Request, CallerDep], AsyncIterator[None]]:
    """Return a dependency that holds a slot of `app.state.NAME` while the route runs.

    The dependency raises TooManyOpenRequests, ServiceUnavailable, ClientDisconnect.
    """

    async def hold(request: Request, caller: CallerDep) -> AsyncIterator[None]:
        slots: Slots = getattr(request.app.state, name)
        async with AsyncExitStack() as stack:
            await _or_disconnect(request, stack.enter_async_context(slots.held(caller.key_id)))
            yield

    return hold


async def _or_disconnect(request: Request, acquire: Awaitable[None]) -> None:
    """Wait for a request's slot. Raises ClientDisconnect, and gives the slot up, if its client goes away."""
    with CancelScope() as scope:
        watching = asyncio.create_task(_cancel_when_gone(request, scope))
        try:
            await acquire
        finally:
            watching.cancel()
        return
    raise ClientDisconnect


async def _cancel_when_gone(request: Request, scope: CancelScope) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


# Declared after the role of a route's caller: a request that is rejected takes no slot.
Slot = Annotated[None, Depends(_held("slots"), scope="function")]
WriteSlot = Annotated[None, Depends(_held("write_slots"), scope="function")]
"""Requests that wait for a writer of the database leave threads to those that read."""
