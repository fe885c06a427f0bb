"""One SSH connection to a cluster: opened on first use, shared by all threads, replaced when it is dead.

asyncssh runs in one event loop in a thread of its own; other threads pass coroutines to it and wait. The
deadline of a call cancels its coroutine, so cleanup never awaits: a server that hangs answers nothing.
"""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import asyncssh
from asyncssh import (
    ChannelOpenError,
    SFTPClient,
    SFTPConnectionLost,
    SFTPError,
    SFTPNoConnection,
    SSHClientConnection,
    SSHKey,
    SSHKnownHosts,
)

from worker.errors import BackendUnavailable

DEFAULT_PORT = 22
CONNECT_SECONDS = 10.0
KEEPALIVE_SECONDS = 30
# A server that opens no channel for this long hangs, or is gone without notice.
SILENCE_SECONDS = 5.0

# It logs each command, and lost connections that are raised as well.
logging.getLogger("asyncssh").setLevel(logging.CRITICAL)

_BROKEN = (OSError, EOFError, asyncssh.DisconnectError, SFTPConnectionLost, SFTPNoConnection)


class Lost(BackendUnavailable):
    """The connection was cut while it was in use."""


class Stale(Lost):
    """The connection was dead before anything was sent over it: a retry does nothing twice."""


_loop_lock = threading.Lock()


@cache
def _event_loop() -> asyncio.AbstractEventLoop:
    """The event loop of all connections. A process that has it must not fork and use it in the child."""
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # errors of cancelled calls, which nobody awaits
    threading.Thread(target=loop.run_forever, name="ssh", daemon=True).start()
    return loop


def wait_for[T](coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in the event loop of all connections."""
    with _loop_lock:
        future = asyncio.run_coroutine_threadsafe(coroutine, _event_loop())
    try:
        return future.result()
    finally:
        future.cancel()  # where this thread was interrupted


class Deadline:
    """The moment at which a call is over, on the event loop's clock."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.at = time.monotonic() + seconds

    def is_over(self) -> bool:
        return time.monotonic() >= self.at


@dataclass(frozen=True)
class Target:
    """Where a connection leads, and how its two sides know each other."""

    host: str
    user: str
    port: int = DEFAULT_PORT
    identity: Path | None = None
    """A private key; None: those of an agent and of ~/.ssh."""
    known_hosts: Path | None = None
    """Public keys of hosts; None: the user's own ~/.ssh/known_hosts."""

    def __str__(self) -> str:
        return f"{self.user}@{self.host}:{self.port}"


@dataclass
class Link:
    """A connection while it is alive, and its SFTP sessions that no call uses."""

    ssh: SSHClientConnection
    _idle: list[SFTPClient] = field(default_factory=list)
    _asked_at: float | None = None
    """Since when the server has opened no channel although it was asked to."""

    async def open[T](self, opening: Awaitable[T]) -> T:
        """Await a channel. Abort the connection where the server is silent for too long.

        A cancelled call leaves the opening alone: asyncssh would forget the channel, and the server keep it.
        """
        self._asked_at = self._asked_at or time.monotonic()
        task = asyncio.ensure_future(opening)
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            task.add_done_callback(_exit_late)
            # None: another call was answered meanwhile.
            if self._asked_at is not None and time.monotonic() - self._asked_at > SILENCE_SECONDS:
                self.ssh.abort()
            raise
        self._asked_at = None  # a rejection is an answer as well
        return task.result()

    @asynccontextmanager
    async def sftp(self) -> AsyncIterator[SFTPClient]:
        """An SFTP session that no other call uses."""
        session = self._idle.pop() if self._idle else await self.open(self.ssh.start_sftp_client())
        try:
            yield session
        except BaseException as error:
            if isinstance(error, SFTPError) and not isinstance(error, _BROKEN):
                self._idle.append(session)
            else:
                self._exit(session)
            raise
        self._idle.append(session)

    def _exit(self, session: SFTPClient) -> None:
        """End a session that broke, and the idle ones, which may be broken as well."""
        for each in (session, *self._idle):
            each.exit()
        self._idle.clear()


def _exit_late(task: asyncio.Task[Any]) -> None:
    if task.exception() is None and isinstance(task.result(), SFTPClient):
        task.result().exit()


class Connection:
    """The connection to one target."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._lock = asyncio.Lock()
        self._link: Link | None = None
        self._failure: tuple[float, BackendUnavailable] | None = None

    @asynccontextmanager
    async def use(self, slots: asyncio.Semaphore, deadline: Deadline) -> AsyncIterator[Link]:
        """A live connection for one call, within its deadline. Raises BackendUnavailable."""
        await self._acquire(slots, deadline)
        try:
            async with asyncio.timeout_at(deadline.at):
                link = await self._alive()
                with self._translated(link):
                    yield link
        except TimeoutError as error:
            message = f"{self.target} did not answer within {deadline.seconds:g} s."
            raise BackendUnavailable(message) from error
        finally:
            slots.release()

    async def _acquire(self, slots: asyncio.Semaphore, deadline: Deadline) -> None:
        try:
            async with asyncio.timeout_at(deadline.at):
                await slots.acquire()
        except TimeoutError:
            raise BackendUnavailable(
                f"{self.target}: no channel was free for {deadline.seconds:g} s.",
                hint="Others are at work on the same connection; try again.",
            ) from None

    @contextmanager
    def _translated(self, link: Link) -> Iterator[None]:
        """Raise a broken connection as an error of ours; another SFTPError is an answer."""
        try:
            yield
        except ChannelOpenError as error:
            if not link.ssh.is_closed():
                raise BackendUnavailable(f"{self.target} opens no more channels: {error.reason}") from error
            kind = Stale if error.code == asyncssh.OPEN_CONNECT_FAILED else Lost
            raise kind(f"The connection to {self.target} was cut: {error.reason}") from error
        except _BROKEN as error:
            raise Lost(f"The connection to {self.target} was cut: {error}") from error

    async def _alive(self) -> Link:
        began = time.monotonic()
        async with self._lock:
            if self._link is None or self._link.ssh.is_closed():
                self._share_failure(began)
                self._link = await self._connect()
            return self._link

    def _share_failure(self, since: float) -> None:
        """Calls that waited while another failed to connect do not try one after the other."""
        if self._failure is not None and self._failure[0] > since:
            raise BackendUnavailable(self._failure[1].message, hint=self._failure[1].hint)

    async def _connect(self) -> Link:
        try:
            return Link(await connect(self.target))
        except BackendUnavailable as error:
            self._failure = (time.monotonic(), error)
            raise

    async def close(self) -> None:
        """End the connection; the next use opens a new one."""
        async with self._lock:
            if self._link is not None:
                self._link.ssh.abort()
                self._link = None


# -- connecting ------------------------------------------------------------------------------------


class _Client(asyncssh.SSHClient):
    """Rejects the key of a host that is not a known one, and keeps it for the message."""

    rejected: SSHKey | None = None

    def validate_host_public_key(self, _host: str, _addr: str, _port: int, key: SSHKey) -> bool:
        self.rejected = key
        return False


async def connect(target: Target) -> SSHClientConnection:
    """Connect and authenticate in CONNECT_SECONDS. Raises BackendUnavailable, which says what to do."""
    client, hosts = _Client(), _known_hosts(target)
    try:
        return await asyncssh.connect(
            target.host,
            target.port,
            username=target.user,
            config=None,
            known_hosts=hosts,
            # Known types first; a key of another type is rejected as well, but can be shown.
            server_host_key_algs="+ssh-ed25519,ecdsa-sha2-*,rsa-sha2-*",
            client_factory=lambda: client,
            client_keys=str(target.identity) if target.identity else (),
            agent_path=None if target.identity else (),
            preferred_auth="publickey",
            x509_trusted_certs=None,
            connect_timeout=CONNECT_SECONDS,
            keepalive_interval=KEEPALIVE_SECONDS,
        )
    except (OSError, EOFError, ValueError, asyncssh.Error) as error:
        raise _rejection(target, error, client.rejected, hosts) from error


def _known_hosts(target: Target) -> SSHKnownHosts:
    try:
        return asyncssh.read_known_hosts(str(target.known_hosts or Path("~/.ssh/known_hosts").expanduser()))
    except (OSError, ValueError) as error:
        raise BackendUnavailable(
            f"The known hosts for {target} cannot be read: {error}",
            hint=f"Make the file: {_learn(target)}",
        ) from error


def _fingerprint(key: SSHKey) -> str:
    """As `ssh-keygen -l` shows it."""
    return f"{key.get_algorithm()} {key.get_fingerprint()}"


def _learn(target: Target) -> str:
    file = target.known_hosts or "~/.ssh/known_hosts"
    return f"`ssh-keyscan -p {target.port} {target.host} >> {file}`, and compare its fingerprint."


def _rejection(
    target: Target, error: Exception, rejected: SSHKey | None, hosts: SSHKnownHosts
) -> BackendUnavailable:
    """Why there is no connection, and what to do about it."""
    reason, hint = str(error) or f"no answer within {CONNECT_SECONDS:g} s", None
    if rejected is not None:
        reason, hint = _key_rejection(target, rejected, hosts)
    elif isinstance(error, asyncssh.PermissionDenied):
        hint = f"The key {target.identity or 'of the agent or ~/.ssh'} has to be accepted for {target.user}."
    elif isinstance(error, OSError) and not error.filename:
        return BackendUnavailable(f"{target} cannot be reached: {reason}")
    return BackendUnavailable(f"{target} cannot be used: {reason}", hint=hint)


def _key_rejection(target: Target, rejected: SSHKey, hosts: SSHKnownHosts) -> tuple[str, str]:
    known = hosts.match(target.host, "", target.port if target.port != DEFAULT_PORT else None)[0]
    if not known:
        return (
            f"its host key {_fingerprint(rejected)} is not known",
            f"If it is the right host: {_learn(target)}",
        )
    return (
        f"its host key {_fingerprint(rejected)} is not the known {_fingerprint(known[0])}.",
        "Somebody may be in between. If the host was set up again, `ssh-keygen -R` removes the old key.",
    )
