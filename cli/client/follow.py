"""Following: server-sent events over any number of connections, and long polls until jobs have ended."""

from collections.abc import Iterator, Mapping, Sequence
from math import ceil
from typing import Any

import httpx2
from httpx2 import EventSource, ServerSentEvent

from cli.client.api import ANSWER_SECONDS, CONNECT_SECONDS, Api, Document, document, job_path
from cli.client.errors import ClientError, NotTheService
from cli.client.retry import RetryPolicy

# The service sends a comment more often than this while there is nothing to say.
SILENCE_SECONDS = 60.0
# A piece of a log is at most 1 MiB, and JSON may write each of its bytes as six.
MAX_EVENT_BYTES = 8 << 20
LONG_POLL_SECONDS = 30


class _CutOff(Exception):
    """The connection ended before the stream did."""


def events(api: Api, path: str, params: Mapping[str, Any], policy: RetryPolicy) -> Iterator[ServerSentEvent]:
    """The events of a stream, up to and with `end`; each new connection goes on after the last id.

    Raises ApiError, or TimedOut and Unreachable where the policy gives up.
    """
    seen = ""
    while True:
        try:
            for event in _connection(api, path, params, seen):
                policy.reset()
                seen = event.id or seen
                yield event
                if event.event == "end":
                    return
        except (httpx2.TransportError, _CutOff) as error:
            policy.wait(api.unreachable(error))
        except ClientError as error:
            policy.wait(error)


def _connection(api: Api, path: str, params: Mapping[str, Any], seen: str) -> Iterator[ServerSentEvent]:
    """The events of one connection. Raises _CutOff at its end, httpx2.TransportError, or as Api.stream."""
    headers = {"Accept": "text/event-stream", **({"Last-Event-ID": seen} if seen else {})}
    timeout = httpx2.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS)
    with api.stream(path, params=params, headers=headers, timeout=timeout) as response:
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            raise NotTheService(f"{response.request.url} sends no events.", "Is --url right?")
        yield from EventSource(response, max_event_size=MAX_EVENT_BYTES)
    raise _CutOff("the stream broke off")


def until_ended(api: Api, job_ids: Sequence[str], policy: RetryPolicy) -> Iterator[Document]:
    """Each job as it is now and whenever it has changed, until all have ended.

    Raises ApiError, or TimedOut and Unreachable where the policy gives up.
    """
    tags = dict.fromkeys(job_ids, "")
    seconds = 0  # the first look waits for nothing: an unknown job is said at once
    while tags:
        for job_id in list(tags):
            job, tags[job_id] = _look(api, job_id, tags[job_id], min(seconds, policy.seconds_left()), policy)
            if job is None:
                continue
            yield job
            if job["terminal"]:
                del tags[job_id]
        # In turn, each for its part of the time: who waits for all cares for the last alone.
        seconds = max(1, LONG_POLL_SECONDS // max(1, len(tags)))


def _look(
    api: Api, job_id: str, tag: str, seconds: float, policy: RetryPolicy
) -> tuple[Document | None, str]:
    """The job and its tag once that is another; None after so many seconds, or while the service is away."""
    try:
        response = api.send(
            "GET", job_path(job_id), retry_seconds=0, params={"wait": f"{ceil(seconds)}s"},
            headers={"If-None-Match": tag} if tag else {},
            timeout=httpx2.Timeout(seconds + ANSWER_SECONDS, connect=CONNECT_SECONDS),
        )  # fmt: skip
        job = None if response.status_code == httpx2.codes.NOT_MODIFIED else document(response)
    except ClientError as error:
        policy.wait(error)
        return None, tag
    policy.reset()
    return job, response.headers.get("etag", tag)
