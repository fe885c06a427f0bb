"""Streams: changes arrive once and in order, also across reconnects, and end with an `end` event."""

import contextlib
import json
import re
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support import raw_http
from tests.support.inputs import make_inputs
from tests.support.service import Service
from tests.support.stand_in.control import with_mode
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

Event = dict[str, Any]


def read(service: Service, path: str, after: str | None = None, key: str | None = None) -> Iterator[Event]:
    """Yield the events of a stream until its end, or until the caller stops."""
    headers = {"Last-Event-ID": after} if after else {}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    with service.client.stream("GET", path, headers=headers) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        event: Event = {}
        for line in answer.iter_lines():
            name, _, value = line.partition(": ")
            if line and name:
                event[name] = json.loads(value) if name == "data" else value
            elif not line and event:
                yield event
                event = {}


@pytest.fixture
def held(service: Service) -> Iterator[Callable[[], str]]:
    """Yield a function that creates a job and waits until it runs; it runs until the test ends."""
    made = []

    def make() -> str:
        job = service.submit(with_mode(make_inputs(service.data_dir), "hold"))
        made.append(job["id"])
        service.wait_for(job["id"], "RUNNING")
        return str(job["id"])

    yield make
    for job_id in made:
        stop(service, job_id)
        service.wait_for(job_id)


def stop(service: Service, job_id: str) -> None:
    (service.data_dir / "jobs" / job_id / "attempts/1/stop").touch()


def test_a_job_is_followed_to_its_end(service: Service, body: dict[str, Any]) -> None:
    job = service.submit(body)
    events = list(read(service, f"/v1/jobs/{job['id']}/stream"))
    states = [event["data"]["state"] for event in events if event["event"] == "job"]
    assert states[-1] == "SUCCEEDED"
    assert events[-1] == {"event": "end", "data": {"reason": "finished"}}
    tags = [event["id"] for event in events[:-1]]
    assert len(tags) == len(set(tags))
    assert list(read(service, f"/v1/jobs/{job['id']}/stream", after=tags[-1])) == events[-1:]
    answer = service.client.get(f"/v1/jobs/{job['id']}")
    assert (answer.headers["etag"], answer.json()) == (tags[-1], events[-2]["data"])


def test_events_arrive_once_and_in_order_across_reconnects(service: Service, held: Callable[[], str]) -> None:
    job_id = held()
    seen: list[Event] = []
    stream = f"/v1/jobs/{job_id}/events/stream"
    while len(seen) < 4:  # each connection is closed after one event
        reading = read(service, stream, after=seen[-1]["id"] if seen else None)
        seen.append(next(reading))
        reading.close()
    stop(service, job_id)
    seen += read(service, stream, after=seen[-1]["id"])
    assert seen.pop()["event"] == "end"
    listed = service.client.get(f"/v1/jobs/{job_id}/events?limit=200").json()["items"]
    assert [event["data"] for event in seen] == listed


def test_a_growing_log_arrives_completely_across_reconnects(
    service: Service, held: Callable[[], str]
) -> None:
    job_id = held()
    log = service.data_dir / "jobs" / job_id / "attempts/1/logs/job.log"
    stream = f"/v1/jobs/{job_id}/logs/stream"
    with log.open("ab") as file:
        file.write("½".encode()[:1])
    reading = read(service, stream)
    first = next(reading)
    reading.close()
    assert not first["data"]["text"].endswith(
        "\ufffd"
    )  # an incomplete character waits for its remaining bytes
    with log.open("ab") as file:
        file.write("½".encode()[1:] + b" and a bad \xff byte\n")
    reading = read(service, stream, after=first["id"])
    second = next(reading)
    assert second["data"]["text"] == "½ and a bad \ufffd byte\n"
    stop(service, job_id)
    rest = list(reading)
    assert rest[-1]["data"] == {"reason": "finished", "attempt": 1, "next_offset": log.stat().st_size}
    streamed = "".join(one["data"]["text"] for one in [first, second, *rest[:-1]])
    assert streamed == log.read_bytes().decode(errors="replace")


def test_the_log_of_a_rank_is_followed_from_an_offset(service: Service, body: dict[str, Any]) -> None:
    job_id = service.submit(body)["id"]
    service.wait_for(job_id)
    [piece, end] = read(service, f"/v1/jobs/{job_id}/logs/stream?rank=0&offset=5")
    assert (piece["data"]["text"], piece["data"]["rank"]) == ("0 says hello\n", 0)
    assert end["data"]["next_offset"] == 18


@pytest.mark.parametrize(
    ("query", "after", "status"),
    [
        ("logs/stream?rank=9", None, 404),
        ("logs/stream?attempt=7", None, 404),
        ("logs/stream?offset=999999999", None, 416),
        ("logs/stream", "one-two", 422),
        ("logs/stream", "9-0", 404),
        ("events/stream", "x", 422),
    ],
)
def test_a_stream_that_cannot_start_is_a_problem(
    service: Service, body: dict[str, Any], query: str, after: str | None, status: int
) -> None:
    job_id = service.submit(body)["id"]
    headers = {"Last-Event-ID": after} if after else {}
    answer = service.client.get(f"/v1/jobs/{job_id}/{query}", headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    service.wait_for(job_id)


@pytest.mark.parametrize("stream", ["stream", "events/stream", "logs/stream"])
def test_a_revoked_key_ends_its_streams(service: Service, held: Callable[[], str], stream: str) -> None:
    job_id = held()
    key = service.client.post("/v1/keys", json={"name": "anna", "role": "viewer"}).json()
    reading = read(service, f"/v1/jobs/{job_id}/{stream}", key=key["key"])
    next(reading)
    service.client.post(f"/v1/keys/{key['id']}/revoke")
    rest = list(reading)
    assert (rest[-1]["event"], rest[-1]["data"]["reason"]) == ("end", "revoked")


def test_a_truncated_log_ends_its_stream(service: Service, held: Callable[[], str]) -> None:
    job_id = held()
    log = service.data_dir / "jobs" / job_id / "attempts/1/logs/job.log"
    reading = read(service, f"/v1/jobs/{job_id}/logs/stream")
    next(reading)
    log.write_bytes(b"")
    assert list(reading)[-1] == {"event": "end", "data": {"reason": "gone"}}


def test_a_revoked_key_is_rejected_at_the_end_of_its_wait(service: Service, held: Callable[[], str]) -> None:
    job_id = held()
    key = service.client.post("/v1/keys", json={"name": "anna", "role": "viewer"}).json()
    with_key = {"Authorization": f"Bearer {key['key']}"}
    tag = service.client.get(f"/v1/jobs/{job_id}").headers["etag"]
    with ThreadPoolExecutor() as pool:
        wait = {"url": f"/v1/jobs/{job_id}?wait=60s", "headers": {**with_key, "If-None-Match": f"W/{tag}"}}
        poll = pool.submit(service.client.get, **wait, timeout=90)
        used = lambda: service.client.get(f"/v1/keys/{key['id']}").json()["last_used_at"]  # noqa: E731
        wait_until(used, what="the poll to be under way")
        service.client.post(f"/v1/keys/{key['id']}/revoke")
        assert poll.result().status_code == 401


def test_a_long_poll_returns_when_the_job_changes(service: Service, held: Callable[[], str]) -> None:
    job_id = held()
    tag = service.client.get(f"/v1/jobs/{job_id}").headers["etag"]
    stop(service, job_id)
    answer = service.client.get(f"/v1/jobs/{job_id}?wait=30s", headers={"If-None-Match": tag})
    assert answer.status_code == 200
    assert answer.headers["etag"] != tag


def test_five_hundred_streams_cost_little(service: Service, held: Callable[[], str]) -> None:
    """The API's memory stays small, although half of the clients never read a log larger than all buffers."""
    job_id = held()
    log = service.data_dir / "jobs" / job_id / "attempts/1/logs/job.log"
    log.write_bytes(b"a line of the log\n" * 1_000_000)
    api = service.children()["api"]
    streams = ("stream", "events/stream", "logs/stream", "logs/stream")
    with contextlib.ExitStack() as stack:
        opened = [
            stack.enter_context(open_stream(service, job_id, streams[number % 4])) for number in range(500)
        ]
        for one in opened[:250]:
            assert b" 200 OK" in one.recv(4096)
        assert service.job(job_id)["state"] == "RUNNING"  # clients that do not read do not block others
        stop(service, job_id)
        for one in opened[:2]:
            assert b"event: end" in b"".join(iter(lambda: one.recv(1 << 16), b""))  # noqa: B023
    assert peak_memory(api) < 400 << 20
    wait_until(lambda: len(api.net_connections()) < 50, what="the end of the streams whose clients left")


def open_stream(service: Service, job_id: str, stream: str) -> socket.socket:
    """Return a connection that has requested a stream and has read nothing."""
    head = f"Host: x\r\nAuthorization: {service.client.headers['Authorization']}\r\nConnection: close"
    request = f"GET /v1/jobs/{job_id}/{stream} HTTP/1.1\r\n{head}\r\n\r\n"
    return raw_http.connect(service.client, request.encode())


def peak_memory(process: psutil.Process) -> int:
    """Return the peak memory in bytes."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    match = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert match
    return int(match[1]) * 1024
