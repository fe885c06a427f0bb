"""The HTTP API as one small class: authentication, timeouts, retries, and translation of errors."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn
from urllib.parse import quote

import httpx2

from cli.client.endpoint import Endpoint
from cli.client.errors import UNAVAILABLE, ApiError, ClientError, ExitCode, NotTheService, Unreachable
from cli.client.retry import MAX_PAUSE_SECONDS, RetryPolicy


class Document(dict[str, Any]):
    """A JSON object of the service. Raises NotTheService for a key that it does not have."""

    def __missing__(self, key: str) -> NoReturn:
        raise NotTheService(
            f"The response has no {key!r}.", "Check --url, and that the service has this version."
        )


def parse(text: str | bytes) -> Any:
    """Parse JSON with Documents as objects. Raises ValueError."""
    return json.loads(text, object_hook=Document)


def job_path(job_id: str, *parts: str | int) -> str:
    """Return a path below a job's path. Each part is quoted: it stays one segment."""
    return "/".join(["/v1/jobs", *(quote(str(part), safe="") for part in (job_id, *parts))])


CONNECT_SECONDS = 5.0
RESPONSE_SECONDS = 30.0
RETRY_SECONDS = 5.0
MAX_PAGE = 200


class _Retryable(Exception):
    """The request may be retried; `error` is raised if it is not."""

    def __init__(self, error: ClientError, pause_seconds: float = 0.0) -> None:
        super().__init__(error.message)
        self.error = error
        self.pause_seconds = pause_seconds


class Api:
    """Calls of one service with one key.

    Every call raises Unreachable without a response, ApiError if the service rejects the request, and
    NotTheService for the response of another server. Repeatable requests are retried for `retry_seconds`
    after the first failure, while there is no response or the service is unavailable.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.url = endpoint.base_url()
        self._client = httpx2.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {endpoint.key()}", "User-Agent": "sft"},
            timeout=httpx2.Timeout(RESPONSE_SECONDS, connect=CONNECT_SECONDS),
            # No proxy of the environment for a service on this machine: the request contains a key.
            trust_env=not endpoint.is_local(),
        )

    def close(self) -> None:
        self._client.close()

    def get(self, path: str, *, retry_seconds: float = RETRY_SECONDS, **request: Any) -> Document:
        return document(self.send("GET", path, retry_seconds=retry_seconds, **request))

    def post(self, path: str, *, repeatable: bool, **request: Any) -> Document:
        return document(self.send("POST", path, repeatable=repeatable, **request))

    def put(self, path: str, **request: Any) -> Document:
        return document(self.send("PUT", path, **request))

    def delete(self, path: str) -> Document:
        return document(self.send("DELETE", path))

    def pages(self, path: str, limit: int, params: Mapping[str, Any]) -> Document:
        """Return up to `limit` items of a list as one page."""
        items: list[Document] = []
        cursor: dict[str, str] = {}
        while True:
            wanted = {**params, **cursor, "limit": min(limit - len(items), MAX_PAGE)}
            page = self.get(path, params=wanted)
            items += page["items"]
            if page["next_cursor"] is None or len(items) >= limit:
                return Document({**page, "items": items})
            cursor = {"cursor": page["next_cursor"]}

    def send(
        self,
        method: str,
        path: str,
        *,
        repeatable: bool = True,
        retry_seconds: float = RETRY_SECONDS,
        **request: Any,
    ) -> httpx2.Response:
        """Send a request and return its response, a success or 304. request: arguments of httpx2.

        repeatable: False for a request that must not take effect twice: retried only if it never arrived.
        """
        policy = None
        while True:
            try:
                return self._once(method, path, repeatable, request)
            except _Retryable as failure:
                # The time counts from the first failure, so that it excludes a long poll.
                policy = policy or RetryPolicy(outage_seconds=retry_seconds)
                policy.wait(failure.error, at_least=failure.pause_seconds)

    def _once(self, method: str, path: str, repeatable: bool, request: Mapping[str, Any]) -> httpx2.Response:
        try:
            response = self._client.request(method, path, **request)
        except httpx2.TransportError as error:
            never_arrived = isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout)
            raise self._connection_error(error, retryable=repeatable or never_arrived) from error
        except httpx2.RequestError as error:
            raise NotTheService(f"The response of {self.url} cannot be read: {error}.") from error
        if response.is_success or response.status_code == httpx2.codes.NOT_MODIFIED:
            return response
        error_response = error_of(response)
        if repeatable and error_response.exit_code is ExitCode.UNAVAILABLE:
            raise _Retryable(error_response, _retry_after(response))
        raise error_response

    def _connection_error(self, error: httpx2.TransportError, *, retryable: bool) -> Exception:
        unreachable = self.unreachable(error)
        return _Retryable(unreachable) if retryable else unreachable

    def unreachable(self, error: Exception) -> Unreachable:
        reason = str(error) or type(error).__name__
        return Unreachable(
            f"The service at {self.url} does not respond: {reason}.", "Check that it runs, and --url."
        )

    @contextmanager
    def stream(self, path: str, **request: Any) -> Iterator[httpx2.Response]:
        """Yield a response whose body is read in chunks. No retries; errors of httpx2 are not translated.

        Raises ApiError.
        """
        with self._client.stream("GET", path, **request) as response:
            if not response.is_success:
                response.read()
                raise error_of(response)
            yield response


def _retry_after(response: httpx2.Response) -> float:
    text = response.headers.get("retry-after", "")
    return min(float(text), MAX_PAUSE_SECONDS) if text.isdecimal() else 0.0


def document(response: httpx2.Response) -> Document:
    """Return the JSON object of a response. Raises NotTheService if there is none."""
    try:
        parsed = parse(response.content)
    except (ValueError, RecursionError):
        raise _foreign_response(response) from None
    if not isinstance(parsed, Document):
        raise _foreign_response(response)
    return parsed


def error_of(response: httpx2.Response) -> ClientError:
    """Translate an unsuccessful response into an error."""
    media_type = response.headers.get("content-type", "").partition(";")[0].strip()
    if media_type != "application/problem+json":
        return _foreign_response(response)
    return ApiError(response.status_code, document(response))


def _foreign_response(response: httpx2.Response) -> ClientError:
    """Return the error for a response of a proxy or of another server."""
    message = f"{response.request.url} responded {response.status_code} {response.reason_phrase}"
    # A server that shuts down responds 500 in plain text to waiting requests.
    if response.is_server_error or response.status_code in UNAVAILABLE:
        return Unreachable(f"{message}.")
    return NotTheService(f"{message}, unlike this service.", "Check --url.")
