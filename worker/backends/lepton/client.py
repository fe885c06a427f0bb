"""HTTP with one workspace. Nothing is tried again here: looks come again, and submissions ask first."""

import json
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any, TypeVar

import httpx2
from pydantic import ValidationError

from worker.backends.lepton import wire
from worker.clusters.secrets import Secret
from worker.errors import BackendUnavailable, CredentialsRefused, SubmissionRejected
from worker.telemetry.logging import logger

CONNECT_SECONDS = 5.0
CALL_SECONDS = 30.0
"""Of a call, all in all."""
LARGEST_ANSWER_BYTES = 256 << 20
PAGE_JOBS = 500
# With it a page is always followed by another one: an empty page ends a list.
MOST_PAGES = 100
PLAIN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")
# What a header takes (RFC 6750: visible ASCII); its errors would quote anything else.
TOKEN = re.compile(r"[!-~]+")
USUAL_PAUSE_SECONDS = 10.0
LONGEST_PAUSE_SECONDS = 600.0
RENEWAL = "The operator renews it where the cluster's profile says that the token is."
ALIVE, EVER = "alive_only", "alive_and_archive"

log = logger(__name__)

Answer = TypeVar("Answer", bound=wire.Wire)


class Absent(Exception):
    """There is no such job."""


class Taken(Exception):
    """The workspace has a job of this name."""


@dataclass
class Line:
    """A line of a replica's log."""

    at_ns: int
    replica: str
    text: str


@dataclass
class Workspace:
    """The API of one workspace; threads may share it. Calls raise BackendUnavailable, CredentialsRefused."""

    url: str
    token: Secret
    _http: httpx2.Client = field(init=False, repr=False)
    _left_alone_until: float = field(default=0.0, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        self._http = httpx2.Client(timeout=httpx2.Timeout(CALL_SECONDS, connect=CONNECT_SECONDS))

    # -- jobs -----------------------------------------------------------------------------------

    def create(self, body: dict[str, Any]) -> wire.Job:
        """Create a job. Raises Taken, SubmissionRejected. After BackendUnavailable it may exist too."""
        status, content = self._call("POST", "/jobs", json=body)
        if status == httpx2.codes.CONFLICT:
            raise Taken
        if httpx2.codes.is_client_error(status):
            raise SubmissionRejected(
                f"Lepton refused the job: {_words(status, content)}",
                hint="Correct the cluster's profile, or what the job asks for.",
            )
        job = self._parsed(wire.Job, content)
        if not PLAIN_ID.fullmatch(job.metadata.id or ""):
            raise BackendUnavailable("Lepton has taken the job, and did not say what it calls it.")
        return job

    def job(self, job_id: str) -> wire.Job:
        """A job, also an archived one. Raises Absent."""
        return self._parsed(wire.Job, self._read(f"/jobs/{job_id}", job_query_mode=EVER))

    def jobs(self, mode: str = ALIVE, name: str | None = None) -> Iterator[wire.Job]:
        """All jobs of the workspace, page by page; name: those that have it in their own."""
        asked = {"job_query_mode": mode, "page_size": PAGE_JOBS, **({"q": name} if name else {})}
        seen: set[str | None] = set()
        for page in range(1, MOST_PAGES + 1):
            fresh = [job for job in self._page({**asked, "page": page}) if job.metadata.id not in seen]
            if not fresh:
                return
            seen |= {job.metadata.id for job in fresh}
            yield from fresh

    def _page(self, asked: dict[str, Any]) -> list[wire.Job]:
        try:
            content = self._read("/jobs", **asked)
        except Absent:
            raise BackendUnavailable(f"There is no workspace at {self.url}.") from None
        items = content.get("jobs") if isinstance(content, dict) else content
        return self._those(wire.Job, items)

    def _those(self, kind: type[Answer], items: Any) -> list[Answer]:
        """What is none of the kind is passed over: the others are."""
        found = []
        for item in _list(items):
            try:
                found.append(kind.model_validate(item))
            except ValidationError as error:
                log.warning("lepton.bad_item", kind=kind.__name__, error=str(error)[:500])
        return found

    def stop(self, job_id: str) -> None:
        """End a job; its record stays. What has ended, or is not there, is no error."""
        status, content = self._call("PATCH", f"/jobs/{job_id}", json={"spec": {"stopped": True}})
        if httpx2.codes.is_client_error(status) and status not in (404, 409):
            raise BackendUnavailable(f"Lepton did not stop the job: {_words(status, content)}")

    def events(self, job_id: str) -> list[wire.JobEvent]:
        """What has happened to a job. Raises Absent."""
        return self._those(wire.JobEvent, self._read(f"/jobs/{job_id}/events"))

    # -- logs -----------------------------------------------------------------------------------

    def lines(self, job_id: str, begin_ns: int, end_ns: int, limit: int, containing: str) -> list[Line]:
        """The first `limit` lines of all replicas from `begin_ns` on, before `end_ns`, oldest first."""
        try:
            content = self._read(
                "/logs", job=job_id, start=begin_ns, end=end_ns, limit=limit, direction="forward",
                q=containing, timestamps=True, job_query_mode=EVER,
            )  # fmt: skip
        except Absent:
            return []
        found = self._parsed(wire.LogHistory, content).data.result
        lines = [line for stream in found for value in stream.values if (line := _line(stream, value))]
        return sorted(lines, key=lambda line: line.at_ns)[:limit]

    # -- one call -------------------------------------------------------------------------------

    def _read(self, path: str, **parameters: Any) -> Any:
        status, content = self._call("GET", path, params=parameters)
        if status == httpx2.codes.NOT_FOUND:
            raise Absent
        if httpx2.codes.is_client_error(status):
            raise BackendUnavailable(f"Lepton refused {path}: {_words(status, content)}")
        return content

    def _call(self, method: str, path: str, **request: Any) -> tuple[int, Any]:
        """The status and the content of an answer that says something about what was asked."""
        self._refuse_while_limited()
        headers = {"Authorization": f"Bearer {self._plain_token()}"}
        try:
            with self._http.stream(method, self.url + path, headers=headers, **request) as response:
                body = _whole(response)
        except httpx2.HTTPError as error:
            raise BackendUnavailable(f"Lepton cannot be reached: {_said(error)}") from error
        self._refuse(response, method)
        try:
            return response.status_code, _json(response, body)
        except ValueError as error:
            raise BackendUnavailable(f"Lepton's answer to {method} {path} is no JSON.") from error

    def _plain_token(self) -> str:
        token = self.token.value().strip()
        if not TOKEN.fullmatch(token):
            raise CredentialsRefused(
                "The workspace's token is empty, or has characters that no token has.",
                hint=RENEWAL,
            )
        return token

    def _refuse_while_limited(self) -> None:
        with self._lock:
            left = self._left_alone_until - time.monotonic()
        if left > 0:
            raise BackendUnavailable(
                "Lepton asked for fewer calls: it is left alone for a while.", retry_after=left
            )

    def _refuse(self, response: httpx2.Response, method: str) -> None:
        """Raise what says nothing about the request, but about the caller or the server."""
        status = response.status_code
        # What may look may still not create: that is about the request.
        if status == httpx2.codes.UNAUTHORIZED or (status == httpx2.codes.FORBIDDEN and method != "POST"):
            raise CredentialsRefused(
                f"Lepton does not take the workspace's token (HTTP {status}): it may have expired.",
                hint=RENEWAL,
            )
        if status in (429, 503):
            pause = _retry_after(response)
            with self._lock:
                self._left_alone_until = max(self._left_alone_until, time.monotonic() + pause)
            raise BackendUnavailable(f"Lepton asks for fewer calls (HTTP {status}).", retry_after=pause)
        if status in (408, 425) or not (response.is_success or response.is_client_error):
            raise BackendUnavailable(f"Lepton answered with HTTP {status}.")

    def _parsed(self, kind: type[Answer], content: Any) -> Answer:
        try:
            return kind.model_validate(content)
        except ValidationError as error:
            raise BackendUnavailable(f"Lepton's answer is not a {kind.__name__}: {error}"[:500]) from error


@lru_cache
def workspace(url: str, token: Secret) -> Workspace:
    """One for each workspace and process: it keeps its connections."""
    return Workspace(url, token)


def _said(error: httpx2.HTTPError) -> str:
    """Its kind; in words where those are the operating system's: others may quote what was sent."""
    kind = type(error).__name__
    return f"{kind}: {error}" if isinstance(error, httpx2.ConnectError) else kind


def _whole(response: httpx2.Response) -> bytes:
    """The body, within the time and size that any answer has."""
    ends = time.monotonic() + CALL_SECONDS
    body = bytearray()
    for chunk in response.iter_bytes():
        body += chunk
        if time.monotonic() > ends or len(body) > LARGEST_ANSWER_BYTES:
            raise BackendUnavailable("Lepton's answer takes too long, or is too large.")
    return bytes(body)


def _json(response: httpx2.Response, body: bytes) -> Any:
    """Raises ValueError. What is refused may come in other words than JSON."""
    if response.is_client_error:
        return body.decode(errors="replace")
    return json.loads(body) if body else None


def _words(status: int, content: Any) -> str:
    text = " ".join(str(content).split())
    return f"HTTP {status}: {text[:500]}" if text else f"HTTP {status}"


def _retry_after(response: httpx2.Response) -> float:
    """Seconds; RFC 9110 allows a date too."""
    asked = response.headers.get("Retry-After", "")
    if not asked.isdigit():
        return _until(asked)
    return min(float(asked), LONGEST_PAUSE_SECONDS)


def _until(date: str) -> float:
    try:
        left = parsedate_to_datetime(date).timestamp() - time.time()
    except (ValueError, OverflowError):
        return USUAL_PAUSE_SECONDS
    return min(max(left, 0.0), LONGEST_PAUSE_SECONDS)


def _list(content: Any) -> list[Any]:
    return content if isinstance(content, list) else []


def _line(stream: wire.Stream, value: list[Any]) -> Line | None:
    """None where that is no line."""
    if len(value) < 2 or not str(value[0]).isdigit():
        return None
    replica = str(stream.stream.get("replica") or stream.stream.get("pod") or "")
    text = str(value[1]).encode(errors="replace").decode()
    return Line(int(value[0]), replica, text.rstrip("\n"))
