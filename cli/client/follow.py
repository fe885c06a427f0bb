"""Follow jobs: server-sent events across reconnects, and long polls until jobs have ended."""

from collections.abc import Iterator, Mapping, Sequence
from math import ceil
from typing import Any

import httpx2
from httpx2 import EventSource, ServerSentEvent

from cli.client.api import CONNECT_SECONDS, RESPONSE_SECONDS, Api, Document, document, job_path
from cli.client.errors import ClientError, NotTheService
from cli.client.retry import RetryPolicy

# Without events the service sends comments more often than this.
SILENCE_SECONDS = 60.0
# A chunk of a log is at most 1 MiB, and JSON may encode each byte in six.
MAX_EVENT_BYTES = 8 << 20
LONG_POLL_SECONDS = 30


class _StreamInterrupted(Exception):
    """The connection ended before the stream's `end` event."""


def events(api: Api, path: str, params: Mapping[str, Any], policy: RetryPolicy) -> Iterator[ServerSentEvent]:
    """Yield the events of a stream up to `end`; each new connection resumes after the last id.

    Raises ApiError, or TimedOut and Unreachable when the policy gives up.
    """
    last_id = ""
    while True:
        try:
            for event in _connection(api, path, params, last_id):
                policy.reset()
                last_id = event.id or last_id
                yield event
                if event.event == "end":
                    return
        except (httpx2.TransportError, _StreamInterrupted) as error:
            policy.wait(api.unreachable(error))
        except ClientError as error:
            policy.wait(error)


def _connection(api: Api, path: str, params: Mapping[str, Any], last_id: str) -> Iterator[ServerSentEvent]:
    """Yield the events of one connection. Raises _StreamInterrupted, TransportError, or as Api.stream."""
    headers = {"Accept": "text/event-stream", **({"Last-Event-ID": last_id} if last_id else {})}
    timeout = httpx2.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS)
    with api.stream(path, params=params, headers=headers, timeout=timeout) as response:
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            raise NotTheService(f"{response.request.url} sends no events.", "Check --url.")
        yield from EventSource(response, max_event_size=MAX_EVENT_BYTES)
    raise _StreamInterrupted("the stream was interrupted")


def until_ended(api: Api, job_ids: Sequence[str], policy: RetryPolicy) -> Iterator[Document]:
    """Yield each job now and after each change, until all jobs have ended.

    Raises ApiError, or TimedOut and Unreachable when the policy gives up.
    """
    tags = dict.fromkeys(job_ids, "")
    seconds = 0  # the first request does not wait: an unknown job is reported immediately
    while tags:
        for job_id in list(tags):
            job, tags[job_id] = _poll(api, job_id, tags[job_id], min(seconds, policy.seconds_left()), policy)
            if job is None:
                continue
            yield job
            if job["terminal"]:
                del tags[job_id]
        # Poll the jobs one after the other, with a share of the time each: only the last end matters.
        seconds = max(1, LONG_POLL_SECONDS // max(1, len(tags)))


def _poll(
    api: Api, job_id: str, tag: str, seconds: float, policy: RetryPolicy
) -> tuple[Document | None, str]:
    """Return the job and its tag when the tag has changed; None after `seconds`, or without a response."""
    try:
        response = api.send(
            "GET", job_path(job_id), retry_seconds=0, params={"wait": f"{ceil(seconds)}s"},
            headers={"If-None-Match": tag} if tag else {},
            timeout=httpx2.Timeout(seconds + RESPONSE_SECONDS, connect=CONNECT_SECONDS),
        )  # fmt: skip
        job = None if response.status_code == httpx2.codes.NOT_MODIFIED else document(response)
    except ClientError as error:
        policy.wait(error)
        return None, tag
    policy.reset()
    return job, response.headers.get("etag", tag)
