"""The HTTP API as one small class: who calls, how long to wait, what to send again, and what errors mean."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn
from urllib.parse import quote

import httpx2

from cli.client.errors import UNAVAILABLE, ApiError, ClientError, ExitCode, NotTheService, Unreachable
from cli.client.retry import LONGEST_PAUSE_SECONDS, RetryPolicy
from cli.client.where import Where


class Document(dict[str, Any]):
    """A JSON object of the service. Raises NotTheService for a key that it does not have."""

    def __missing__(self, key: str) -> NoReturn:
        raise NotTheService(f"The answer lacks {key!r}.", "Is --url right, and the service of this version?")


def parse(text: str | bytes) -> Any:
    """JSON whose objects are Documents. Raises ValueError."""
    return json.loads(text, object_hook=Document)


def job_path(job_id: str, *parts: str | int) -> str:
    """A path below a job's. Nothing in it is taken for more than one part."""
    return "/".join(["/v1/jobs", *(quote(str(part), safe="") for part in (job_id, *parts))])


CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 30.0
RETRY_SECONDS = 5.0
MAX_PAGE = 200


class _Retryable(Exception):
    """The request may be sent again; `error` is what to say if it is not."""

    def __init__(self, error: ClientError, pause_seconds: float = 0.0) -> None:
        super().__init__(error.message)
        self.error = error
        self.pause_seconds = pause_seconds


class Api:
    """Calls of one service with one key.

    Every call raises Unreachable where nobody answers, ApiError where the service refuses, NotTheService
    where the answer is somebody else's. What can be sent twice is sent again for `retry_seconds` after the
    first failure, while nobody answers or the service is not available.
    """

    def __init__(self, where: Where) -> None:
        self.url = where.base_url()
        self._client = httpx2.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {where.key()}", "User-Agent": "sft"},
            timeout=httpx2.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
            # What is meant for this machine goes through no proxy of the environment: it holds a key.
            trust_env=not where.is_here(),
        )

    def close(self) -> None:
        self._client.close()

    def get(self, path: str, *, retry_seconds: float = RETRY_SECONDS, **request: Any) -> Document:
        return document(self.send("GET", path, retry_seconds=retry_seconds, **request))

    def post(self, path: str, *, repeatable: bool, **request: Any) -> Document:
        return document(self.send("POST", path, repeatable=repeatable, **request))

    def pages(self, path: str, limit: int, params: Mapping[str, Any]) -> Document:
        """As many pages of a list as `limit` items take, as if they were one."""
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
        """The answer, which is a success or 304. `request` is what httpx2 takes.

        repeatable: False for what must not happen twice; then it is sent again only if it never arrived.
        """
        policy = None
        while True:
            try:
                return self._once(method, path, repeatable, request)
            except _Retryable as failure:
                # The time runs from the first failure: a long poll is none.
                policy = policy or RetryPolicy(outage_seconds=retry_seconds)
                policy.wait(failure.error, at_least=failure.pause_seconds)

    def _once(self, method: str, path: str, repeatable: bool, request: Mapping[str, Any]) -> httpx2.Response:
        try:
            response = self._client.request(method, path, **request)
        except httpx2.TransportError as error:
            never_arrived = isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout)
            raise self._lost(error, again=repeatable or never_arrived) from error
        except httpx2.RequestError as error:
            raise NotTheService(f"The answer of {self.url} cannot be read: {error}.") from error
        if response.is_success or response.status_code == httpx2.codes.NOT_MODIFIED:
            return response
        refused = refusal(response)
        if repeatable and refused.exit_code is ExitCode.UNAVAILABLE:
            raise _Retryable(refused, _retry_after(response))
        raise refused

    def _lost(self, error: httpx2.TransportError, *, again: bool) -> Exception:
        lost = self.unreachable(error)
        return _Retryable(lost) if again else lost

    def unreachable(self, error: Exception) -> Unreachable:
        why = str(error) or type(error).__name__
        return Unreachable(f"The service at {self.url} does not answer: {why}.", "Is it running? See --url.")

    @contextmanager
    def stream(self, path: str, **request: Any) -> Iterator[httpx2.Response]:
        """One answer whose body is read piece by piece; nothing is sent again, httpx2's errors are its own.

        Raises ApiError.
        """
        with self._client.stream("GET", path, **request) as response:
            if not response.is_success:
                response.read()
                raise refusal(response)
            yield response


def _retry_after(response: httpx2.Response) -> float:
    text = response.headers.get("retry-after", "")
    return min(float(text), LONGEST_PAUSE_SECONDS) if text.isdecimal() else 0.0


def document(response: httpx2.Response) -> Document:
    """The JSON object of an answer. Raises NotTheService where there is none."""
    try:
        parsed = parse(response.content)
    except (ValueError, RecursionError):
        raise _foreign(response) from None
    if not isinstance(parsed, Document):
        raise _foreign(response)
    return parsed


def refusal(response: httpx2.Response) -> ClientError:
    """What an answer that is no success says."""
    media_type = response.headers.get("content-type", "").partition(";")[0].strip()
    if media_type != "application/problem+json":
        return _foreign(response)
    return ApiError(response.status_code, document(response))


def _foreign(response: httpx2.Response) -> ClientError:
    """Something that is not this service: a proxy before it, or another server."""
    what = f"{response.request.url} answered {response.status_code} {response.reason_phrase}"
    # A server that is being ended answers 500 in plain text to those who still wait.
    if response.is_server_error or response.status_code in UNAVAILABLE:
        return Unreachable(f"{what}.")
    return NotTheService(f"{what}, and not as this service does.", "Is --url right?")
