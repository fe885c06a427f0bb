"""One SSH connection to a cluster: made when needed, kept, shared by threads, made anew when it is dead.

paramiko waits for some answers without a limit (RFC 4254's replies to channel requests, writes to a socket
that takes nothing), so each call has a Watch that closes under it what it waits for.
"""

import base64
import hashlib
import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from paramiko import (
    AuthenticationException,
    BadHostKeyException,
    Channel,
    ChannelException,
    MissingHostKeyPolicy,
    PKey,
    SFTPClient,
    SSHClient,
    SSHException,
)

from worker.errors import BackendUnavailable

CONNECT_SECONDS = 10.0
KEEPALIVE_SECONDS = 30
# A server that does not even open a channel for so long is hung, or gone without a word.
SILENCE_SECONDS = 5.0
# After this a call's end is no longer waited for: the connection is closed under it.
GRACE_SECONDS = 1.0

# What it logs about lost connections, tracebacks included, is raised as well.
logging.getLogger("paramiko").setLevel(logging.CRITICAL)

BROKEN = (OSError, EOFError, SSHException)


class Lost(BackendUnavailable):
    """The connection was cut while it was in use."""


class Stale(Lost):
    """It was dead before anything was asked of it: a second attempt does nothing twice."""


class _Unopened(SSHException):
    pass


class Deadline:
    """A moment at which a call is over."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._at = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds, 0 when it is over."""
        return max(0.0, self._at - time.monotonic())


@dataclass(frozen=True)
class Target:
    """Where a connection leads, and how its two sides know each other."""

    host: str
    user: str
    port: int = 22
    identity: Path | None = None
    """A private key; None: those of an agent and of ~/.ssh."""
    known_hosts: Path | None = None
    """Public keys of hosts; None: the user's own ~/.ssh/known_hosts."""

    def __str__(self) -> str:
        return f"{self.user}@{self.host}:{self.port}"


@dataclass
class Link:
    """A connection as long as it lives."""

    client: SSHClient
    socket: socket.socket
    idle: list[SFTPClient] = field(default_factory=list)
    """Sessions of SFTP that nobody uses now."""
    _asked: float | None = None
    """Since when the server has opened no channel, though it was asked to."""

    def is_alive(self) -> bool:
        transport = self.client.get_transport()
        return transport is not None and transport.is_active()

    def open(self, deadline: Deadline) -> Channel:
        """A new channel. Raises what is BROKEN, and closes a connection whose other side is silent."""
        transport = self.client.get_transport()
        if transport is None:
            raise SSHException("not connected")
        self._asked = self._asked or time.monotonic()
        try:
            channel = transport.open_session(timeout=deadline.left)
        except ChannelException:
            self._asked = None  # a refusal is an answer
            raise
        except BROKEN as error:
            if self._asked and time.monotonic() - self._asked > SILENCE_SECONDS:
                self.close()
            raise _Unopened(str(error)) from error
        self._asked = None
        return channel

    def close(self) -> None:
        self.client.close()
        self.socket.close()  # paramiko leaves it open where it got stuck on the way


class Watch:
    """Ends a call at its deadline. First its channel is closed; where it goes on waiting, the connection."""

    def __init__(self, link: Link, deadline: Deadline) -> None:
        self.expired = False
        self.channel: Channel | None = None
        self._link = link
        self._deadline = deadline
        self._finished = threading.Event()

    def __enter__(self) -> "Watch":
        threading.Thread(target=self._hold, name="ssh-watch", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._finished.set()

    def _hold(self) -> None:
        if self._finished.wait(self._deadline.left):
            return
        self.expired = True
        if self.channel is not None:
            # Its last message may find no way out: the connection has to be closed then, not waited for.
            threading.Thread(target=_close, args=(self.channel,), daemon=True).start()
        if not self._finished.wait(GRACE_SECONDS):
            self._link.close()


def _close(channel: Channel) -> None:
    with suppress(*BROKEN):
        channel.close()


class Connection:
    """The connection to one target, and how many channels it may have at once.

    It has threads and locks: a process that uses it must not fork afterwards and use it in the child.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self._lock = threading.Lock()
        self._link: Link | None = None
        self._failure: tuple[float, BackendUnavailable] | None = None

    @contextmanager
    def use(self, slots: threading.Semaphore, deadline: Deadline) -> Iterator[tuple[Link, Watch]]:
        """A live connection for one call, within its deadline. Raises BackendUnavailable."""
        if not slots.acquire(timeout=deadline.left):
            raise BackendUnavailable(
                f"{self.target}: no channel was free for {deadline.seconds:g} s.",
                hint="Others are at work on the same connection; try again.",
            )
        try:
            link = self._alive(deadline)
            with Watch(link, deadline) as watch, self._translated(watch, deadline):
                yield link, watch
        finally:
            slots.release()

    @contextmanager
    def _translated(self, watch: Watch, deadline: Deadline) -> Iterator[None]:
        """What breaks is one of ours; FileNotFoundError is an answer."""
        try:
            yield
        except FileNotFoundError:
            raise
        except BROKEN as error:
            if watch.expired or not deadline.left:
                raise BackendUnavailable(
                    f"{self.target} did not answer within {deadline.seconds:g} s."
                ) from error
            if isinstance(error, ChannelException):
                raise BackendUnavailable(f"{self.target} opens no more channels: {error.text}") from error
            kind = Stale if isinstance(error, _Unopened) else Lost
            raise kind(f"The connection to {self.target} was cut: {error}") from error

    def _alive(self, deadline: Deadline) -> Link:
        began = time.monotonic()
        if not self._lock.acquire(timeout=deadline.left):
            raise BackendUnavailable(f"{self.target} was not connected within {deadline.seconds:g} s.")
        try:
            if self._link is None or not self._link.is_alive():
                self._share_failure(began)
                self._link = self._connect(deadline)
            return self._link
        finally:
            self._lock.release()

    def _share_failure(self, since: float) -> None:
        """Who waited while another tried in vain needs not try for itself, one after the other."""
        if self._failure is not None and self._failure[0] > since:
            raise BackendUnavailable(self._failure[1].message, hint=self._failure[1].hint)

    def _connect(self, deadline: Deadline) -> Link:
        self._drop()
        try:
            return connect(self.target, deadline)
        except BackendUnavailable as error:
            self._failure = (time.monotonic(), error)
            raise

    def _drop(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None

    def close(self) -> None:
        """End the connection; the next use makes a new one."""
        with self._lock:
            self._drop()


# -- connecting ------------------------------------------------------------------------------------


def connect(target: Target, deadline: Deadline) -> Link:
    """Connect and authenticate, in CONNECT_SECONDS each. Raises BackendUnavailable, saying what to do."""
    client = SSHClient()
    client.set_missing_host_key_policy(_Refuse())
    _load_known_hosts(client, target)
    link = Link(client, _connected_socket(target, deadline))
    # The limits of paramiko are for single steps; this one is for all of them.
    guard = threading.Timer(min(CONNECT_SECONDS, deadline.left), link.close)
    guard.start()
    try:
        _authenticate(link, target)
    except (*BROKEN, _UnknownHost) as error:
        link.close()
        raise _refusal(target, error) from error
    finally:
        guard.cancel()
    return link


def _load_known_hosts(client: SSHClient, target: Target) -> None:
    try:
        if target.known_hosts is None:
            client.load_system_host_keys()
        else:
            client.load_host_keys(str(target.known_hosts))
    except (OSError, SSHException) as error:
        raise BackendUnavailable(
            f"The known hosts for {target} cannot be read: {error}",
            hint=f"Make the file: {_learn(target)}",
        ) from error


def _connected_socket(target: Target, deadline: Deadline) -> socket.socket:
    try:
        found = socket.create_connection((target.host, target.port), min(CONNECT_SECONDS, deadline.left))
    except OSError as error:
        raise BackendUnavailable(f"{target} cannot be reached: {error}") from error
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return found


def _authenticate(link: Link, target: Target) -> None:
    link.client.connect(
        target.host,
        port=target.port,
        username=target.user,
        key_filename=str(target.identity) if target.identity else None,
        allow_agent=target.identity is None,
        look_for_keys=target.identity is None,
        sock=link.socket,
        timeout=CONNECT_SECONDS,
        banner_timeout=CONNECT_SECONDS,
        auth_timeout=CONNECT_SECONDS,
    )
    transport = link.client.get_transport()
    if transport is not None:
        transport.set_keepalive(KEEPALIVE_SECONDS)


class _UnknownHost(Exception):
    def __init__(self, key: PKey) -> None:
        super().__init__(f"its host key {_fingerprint(key)} is not known")


class _Refuse(MissingHostKeyPolicy):
    def missing_host_key(self, _client: SSHClient, _hostname: str, key: PKey) -> None:
        raise _UnknownHost(key)


def _fingerprint(key: PKey) -> str:
    """As `ssh-keygen -l` shows it."""
    digest = base64.b64encode(hashlib.sha256(key.asbytes()).digest()).decode().rstrip("=")
    return f"{key.get_name()} SHA256:{digest}"


def _learn(target: Target) -> str:
    file = target.known_hosts or "~/.ssh/known_hosts"
    return f"`ssh-keyscan -p {target.port} {target.host} >> {file}`, and compare its fingerprint."


def _refusal(target: Target, error: Exception) -> BackendUnavailable:
    """Why there is no connection, and what to do about it."""
    hint = None
    message = f"{target} cannot be used: {error or 'the connection was closed'}"
    if isinstance(error, _UnknownHost):
        hint = f"If it is the right host: {_learn(target)}"
    elif isinstance(error, BadHostKeyException):
        message = (
            f"{target} cannot be used: its host key {_fingerprint(error.key)} is not the known "
            f"{_fingerprint(error.expected_key)}."
        )
        hint = "Somebody may be in between. If the host was set up anew, `ssh-keygen -R` removes the old key."
    elif isinstance(error, AuthenticationException):
        hint = f"The key {target.identity or 'of the agent or ~/.ssh'} has to be accepted for {target.user}."
    return BackendUnavailable(message, hint=hint)
