"""HTTP client of one workspace. It does not retry: polls repeat, and a submission first asks for the job."""

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
"""Total time limit of a call."""
MAX_ANSWER_BYTES = 256 << 20
PAGE_JOBS = 500
# A list ends with the first empty page; the limit holds against a server that never sends one.
MAX_PAGES = 100
PLAIN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")
# The characters of a valid header value (RFC 6750: visible ASCII). Errors of httpx2 would quote other values.
TOKEN = re.compile(r"[!-~]+")
USUAL_PAUSE_SECONDS = 10.0
MAX_PAUSE_SECONDS = 600.0
RENEWAL = "Ask the operator to renew the token in the place that the cluster's profile names."
ALIVE, EVER = "alive_only", "alive_and_archive"

log = logger(__name__)

Answer = TypeVar("Answer", bound=wire.Wire)


class Absent(Exception):
    """The job does not exist."""


class Taken(Exception):
    """The workspace already has a job of this name."""


@dataclass
class Line:
    """A line of a replica's log."""

    at_ns: int
    replica: str
    text: str


@dataclass
class Workspace:
    """The API of one workspace; thread-safe. Calls raise BackendUnavailable, CredentialsRefused."""

    url: str
    token: Secret
    _http: httpx2.Client = field(init=False, repr=False)
    _paused_until: float = field(default=0.0, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        self._http = httpx2.Client(timeout=httpx2.Timeout(CALL_SECONDS, connect=CONNECT_SECONDS))

    # -- jobs -----------------------------------------------------------------------------------

    def create(self, body: dict[str, Any]) -> wire.LeptonJob:
        """Create a job. Raises Taken, SubmissionRejected. After BackendUnavailable the job may exist too."""
        status, content = self._call("POST", "/jobs", json=body)
        if status == httpx2.codes.CONFLICT:
            raise Taken
        if httpx2.codes.is_client_error(status):
            raise SubmissionRejected(
                f"Lepton rejected the job: {_message(status, content)}",
                hint="Correct the cluster's profile, or the resources that the job requests.",
            )
        job = self._parsed(wire.LeptonJob, content)
        if not PLAIN_ID.fullmatch(job.metadata.id or ""):
            raise BackendUnavailable("Lepton accepted the job and did not return a valid id.")
        return job

    def job(self, job_id: str) -> wire.LeptonJob:
        """Return a job, also an archived one. Raises Absent."""
        return self._parsed(wire.LeptonJob, self._read(f"/jobs/{job_id}", job_query_mode=EVER))

    def jobs(self, mode: str = ALIVE, name: str | None = None) -> Iterator[wire.LeptonJob]:
        """Yield all jobs of the workspace, page by page. name: only jobs whose name contains this text."""
        query = {"job_query_mode": mode, "page_size": PAGE_JOBS, **({"q": name} if name else {})}
        seen: set[str | None] = set()
        for page in range(1, MAX_PAGES + 1):
            fresh = [job for job in self._page({**query, "page": page}) if job.metadata.id not in seen]
            if not fresh:
                return
            seen |= {job.metadata.id for job in fresh}
            yield from fresh

    def _page(self, query: dict[str, Any]) -> list[wire.LeptonJob]:
        try:
            content = self._read("/jobs", **query)
        except Absent:
            raise BackendUnavailable(f"There is no workspace at {self.url}.") from None
        items = content.get("jobs") if isinstance(content, dict) else content
        return self._valid(wire.LeptonJob, items)

    def _valid(self, kind: type[Answer], items: Any) -> list[Answer]:
        """Return the valid items; log and skip the others."""
        found = []
        for item in _list(items):
            try:
                found.append(kind.model_validate(item))
            except ValidationError as error:
                log.warning("lepton.bad_item", kind=kind.__name__, error=str(error)[:500])
        return found

    def stop(self, job_id: str) -> None:
        """Stop a job; its record stays. An ended or missing job is no error."""
        status, content = self._call("PATCH", f"/jobs/{job_id}", json={"spec": {"stopped": True}})
        if httpx2.codes.is_client_error(status) and status not in (404, 409):
            raise BackendUnavailable(f"Lepton did not stop the job: {_message(status, content)}")

    def events(self, job_id: str) -> list[wire.JobEvent]:
        """Return the events of a job. Raises Absent."""
        return self._valid(wire.JobEvent, self._read(f"/jobs/{job_id}/events"))

    # -- logs -----------------------------------------------------------------------------------

    def lines(self, job_id: str, begin_ns: int, end_ns: int, limit: int, containing: str) -> list[Line]:
        """Return the first `limit` lines of all replicas in [begin_ns, end_ns), oldest first."""
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
            raise BackendUnavailable(f"Lepton rejected {path}: {_message(status, content)}")
        return content

    def _call(self, method: str, path: str, **request: Any) -> tuple[int, Any]:
        """Return status and content of an answer to the request itself; raise for all other answers."""
        self._raise_if_paused()
        headers = {"Authorization": f"Bearer {self._valid_token()}"}
        try:
            with self._http.stream(method, self.url + path, headers=headers, **request) as response:
                body = _body(response)
        except httpx2.HTTPError as error:
            raise BackendUnavailable(f"Lepton cannot be reached: {_description(error)}") from error
        self._raise_for_status(response, method)
        try:
            return response.status_code, _json(response, body)
        except ValueError as error:
            raise BackendUnavailable(f"Lepton's answer to {method} {path} is not JSON.") from error

    def _valid_token(self) -> str:
        token = self.token.value().strip()
        if not TOKEN.fullmatch(token):
            raise CredentialsRefused(
                "The workspace's token is empty, or has characters that are not allowed in a token.",
                hint=RENEWAL,
            )
        return token

    def _raise_if_paused(self) -> None:
        with self._lock:
            left = self._paused_until - time.monotonic()
        if left > 0:
            raise BackendUnavailable(
                "Lepton asked for fewer calls. The service pauses its calls.", retry_after=left
            )

    def _raise_for_status(self, response: httpx2.Response, method: str) -> None:
        """Raise if the status is not about the request, but about the caller or the server."""
        status = response.status_code
        # A token that may read may still not create: FORBIDDEN for a POST is about the request.
        if status == httpx2.codes.UNAUTHORIZED or (status == httpx2.codes.FORBIDDEN and method != "POST"):
            raise CredentialsRefused(
                f"Lepton rejected the workspace's token (HTTP {status}). The token may have expired.",
                hint=RENEWAL,
            )
        if status in (429, 503):
            pause = _retry_after(response)
            with self._lock:
                self._paused_until = max(self._paused_until, time.monotonic() + pause)
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
    """Return the client of a workspace, one per process: it keeps its connections."""
    return Workspace(url, token)


def _description(error: httpx2.HTTPError) -> str:
    """Return the error's class, with the text only of a ConnectError: other texts may quote the request."""
    kind = type(error).__name__
    return f"{kind}: {error}" if isinstance(error, httpx2.ConnectError) else kind


def _body(response: httpx2.Response) -> bytes:
    """Read the body. Raises BackendUnavailable beyond the limits of time and size."""
    ends = time.monotonic() + CALL_SECONDS
    body = bytearray()
    for chunk in response.iter_bytes():
        body += chunk
        if time.monotonic() > ends or len(body) > MAX_ANSWER_BYTES:
            raise BackendUnavailable("Lepton's answer took too long, or is too large.")
    return bytes(body)


def _json(response: httpx2.Response, body: bytes) -> Any:
    """Parse the body; a client error's body may be plain text. Raises ValueError."""
    if response.is_client_error:
        return body.decode(errors="replace")
    return json.loads(body) if body else None


def _message(status: int, content: Any) -> str:
    text = " ".join(str(content).split())
    return f"HTTP {status}: {text[:500]}" if text else f"HTTP {status}"


def _retry_after(response: httpx2.Response) -> float:
    """Return the pause in seconds. RFC 9110 allows a number of seconds or a date."""
    value = response.headers.get("Retry-After", "")
    if not value.isdigit():
        return _until(value)
    return min(float(value), MAX_PAUSE_SECONDS)


def _until(date: str) -> float:
    try:
        left = parsedate_to_datetime(date).timestamp() - time.time()
    except (ValueError, OverflowError):
        return USUAL_PAUSE_SECONDS
    return min(max(left, 0.0), MAX_PAUSE_SECONDS)


def _list(content: Any) -> list[Any]:
    return content if isinstance(content, list) else []


def _line(stream: wire.Stream, value: list[Any]) -> Line | None:
    """Return a line of a stream; None if the value is not a line."""
    if len(value) < 2 or not str(value[0]).isdigit():
        return None
    replica = str(stream.stream.get("replica") or stream.stream.get("pod") or "")
    text = str(value[1]).encode(errors="replace").decode()
    return Line(int(value[0]), replica, text.rstrip("\n"))
