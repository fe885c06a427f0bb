"""Faults of a server or its network that a test injects."""

import asyncio
import re
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from starlette.types import ASGIApp, Message, Receive, Scope, Send

Kind = Literal["slow", "slow_after", "status", "cut", "cut_after", "cut_within", "broken"]


@dataclass
class InjectedFault:
    """One fault for matching requests: the next `times`, or all until the faults are lifted (None)."""

    kind: Kind
    method: str = ".*"
    path: str = ".*"
    times: int | None = None
    seconds: float = 0.0
    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b'{"message": "not now"}'

    def matches(self, method: str, path: str) -> bool:
        return bool(re.fullmatch(self.method, method) and re.fullmatch(self.path, path))


class InjectedFaults:
    """The active faults, and variants of the server's behavior."""

    def __init__(self) -> None:
        self.suffix_names = False
        """Ids get a suffix."""
        self.repeat_lines = False
        self.late_seconds: dict[int, float] = {}
        """Replica index -> seconds by which its lines appear late in the log history."""
        self.clock_tick_ns = 1
        """Lines within a tick have the same time."""
        self.bare_lists = False
        self.split_characters = True
        self._on: list[InjectedFault] = []
        self._lock = threading.Lock()

    def add(self, kind: Kind, **more: Any) -> InjectedFault:
        fault = InjectedFault(kind, **more)
        with self._lock:
            self._on.append(fault)
        return fault

    def lift(self) -> None:
        """Remove all faults."""
        with self._lock:
            self._on.clear()

    def take(self, method: str, path: str) -> InjectedFault | None:
        """Return the first fault that matches a request, and count it."""
        with self._lock:
            for fault in self._on:
                if fault.matches(method, path):
                    if fault.times is not None:
                        fault.times -= 1
                        if fault.times == 0:
                            self._on.remove(fault)
                    return fault
        return None


class FaultMiddleware:
    """Apply the faults to an app, and record its requests."""

    def __init__(self, app: ASGIApp, faults: InjectedFaults, note: Callable[[str, str, bytes], str]) -> None:
        """note: records (method, path, query) and returns the path without the common prefix."""
        self.app, self.faults, self.note = app, faults, note

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = self.note(scope["method"], scope["path"], scope["query_string"])
        fault = self.faults.take(scope["method"], path)
        if fault is None:
            await self.app(scope, receive, send)
        else:
            await self._apply(fault, scope, receive, send)

    async def _apply(self, fault: InjectedFault, scope: Scope, receive: Receive, send: Send) -> None:
        match fault.kind:
            case "slow":
                await asyncio.sleep(fault.seconds)
                await self.app(scope, receive, send)
            case "slow_after":
                answer = await self._answer(scope, receive)
                await asyncio.sleep(fault.seconds)
                await _send_all(send, answer)
            case "cut":
                _cut(send)
            case "cut_after":
                await self._answer(scope, receive)
                _cut(send)
            case "cut_within":
                await _half(send, await self._answer(scope, receive))
                _cut(send)
            case "status":
                await asyncio.sleep(fault.seconds)
                await _answer(send, fault.status, fault.headers, fault.body)
            case "broken":
                await _answer(send, 200, {"Content-Type": "application/json"}, b'{"jobs": [{"meta')

    async def _answer(self, scope: Scope, receive: Receive) -> list[Message]:
        """Return the messages that the app would send."""
        messages: list[Message] = []

        async def keep(message: Message) -> None:
            messages.append(message)

        await self.app(scope, receive, keep)
        return messages


def _cut(send: Any) -> None:
    """Close the connection without an answer. ASGI has no message for that, so use uvicorn's transport."""
    send.__self__.transport.abort()


async def _send_all(send: Send, answer: list[Message]) -> None:
    for message in answer:
        await send(message)


async def _half(send: Send, answer: list[Message]) -> None:
    """Send the headers and half of the body."""
    head, *bodies = answer
    body = b"".join(one.get("body", b"") for one in bodies)
    await send(head)
    await send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})


async def _answer(
    send: Callable[[Message], Awaitable[None]], status: int, headers: dict[str, str], body: bytes
) -> None:
    pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})
