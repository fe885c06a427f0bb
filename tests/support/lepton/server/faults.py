"""What a server, or the way to it, may do wrong. A test switches it on."""

import asyncio
import re
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from starlette.types import ASGIApp, Message, Receive, Scope, Send

Kind = Literal["slow", "slow_after", "status", "cut", "cut_after", "cut_within", "broken"]


@dataclass
class Fault:
    """One misbehaviour: for requests of a method and a path, the next `times` (None: until it is lifted)."""

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


class Faults:
    """The misbehaviours that are on, and what the server does otherwise than it might."""

    def __init__(self) -> None:
        self.suffix_names = False
        """Ids get a suffix."""
        self.repeat_lines = False
        self.late_seconds: dict[int, float] = {}
        """Replica's index -> the history has nothing yet of what it printed in the last so many seconds."""
        self.clock_tick_ns = 1
        """Lines within a tick have the same time."""
        self.bare_lists = False
        self.split_characters = True
        self._on: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, kind: Kind, **more: Any) -> Fault:
        fault = Fault(kind, **more)
        with self._lock:
            self._on.append(fault)
        return fault

    def lift(self) -> None:
        """Everything works again."""
        with self._lock:
            self._on.clear()

    def take(self, method: str, path: str) -> Fault | None:
        """The first that this request meets."""
        with self._lock:
            for fault in self._on:
                if fault.matches(method, path):
                    if fault.times is not None:
                        fault.times -= 1
                        if fault.times == 0:
                            self._on.remove(fault)
                    return fault
        return None


class Misbehaving:
    """The app behind its faults, and a record of what was asked."""

    def __init__(self, app: ASGIApp, faults: Faults, note: Callable[[str, str, bytes], str]) -> None:
        """note: (method, path, query) -> the path without what all have in common."""
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
            await self._misbehave(fault, scope, receive, send)

    async def _misbehave(self, fault: Fault, scope: Scope, receive: Receive, send: Send) -> None:
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
        """What the app would have sent."""
        messages: list[Message] = []

        async def keep(message: Message) -> None:
            messages.append(message)

        await self.app(scope, receive, keep)
        return messages


def _cut(send: Any) -> None:
    """End the connection without an answer. ASGI has no word for that: it is uvicorn's own transport."""
    send.__self__.transport.abort()


async def _send_all(send: Send, answer: list[Message]) -> None:
    for message in answer:
        await send(message)


async def _half(send: Send, answer: list[Message]) -> None:
    """The head, and half of what it announces."""
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
