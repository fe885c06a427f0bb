"""The body of a request is bounded before it is parsed; plans wait for a slot; reads wait for no writer."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import event

from tests.support.waiting import wait_until
from worker.auth import keys
from worker.db.session import engine

Body = dict[str, Any]
JSON = {"Content-Type": "application/json"}

# The code is the same on each kind of database.
pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)

MANY = 40_000
BOMBS = {
    "unknown fields": json.dumps({f"field{i}": i for i in range(MANY)}).encode(),
    "equal fields": b"{" + b'"name":1,' * MANY + b'"name":2}',
    "a list": b"[" + b"1," * MANY + b"1]",
    "lists in a list": b"[" + b"[]," * MANY + b"[]]",
    "behind an open quote": b'["\\"",' + b"1," * MANY + b"1]",
}


@pytest.mark.parametrize("body", BOMBS.values(), ids=BOMBS)
@pytest.mark.parametrize("url", ["/v1/jobs", "/v1/jobs:plan", "/v1/datasets:inspect", "/v1/keys"])
def test_a_body_of_many_values_is_rejected(client: TestClient, url: str, body: bytes) -> None:
    answer = client.post(url, content=body, headers=JSON)
    assert (answer.status_code, answer.json()["code"]) == (422, "too_many_values")
    assert len(answer.content) < 1000


def test_punctuation_in_a_text_is_no_value(client: TestClient, good: Body) -> None:
    hints = {**good, "labels": {"note": "," * 255}, "overrides": ["train.x=" + '"' + "[{," * 1300]}
    assert client.post("/v1/jobs:plan", json=hints).json()["code"] != "too_many_values"


def test_fewer_unknown_fields_give_twenty_errors(client: TestClient, good: Body) -> None:
    answer = client.post("/v1/jobs", json={**good, **{f"field{i}": i for i in range(29_000)}})
    assert answer.status_code == 422
    assert len(answer.json()["errors"]) == 20


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_a_body_is_utf_8(client: TestClient, good: Body, encoding: str) -> None:
    answer = client.post("/v1/jobs", content=json.dumps(good).encode(encoding), headers=JSON)
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_json")


def test_plans_wait_for_a_slot_and_health_does_not(client: TestClient, good: Body) -> None:
    slots = client.app.state.slots  # type: ignore[attr-defined]  # the app is our own
    with all_taken(client), ThreadPoolExecutor(70) as pool:
        plans = [pool.submit(client.post, "/v1/jobs:plan", json=good) for _ in range(64)]
        wait_until(lambda: slots._waiting == 64, what="all plans to wait")
        rejected = client.post("/v1/jobs:plan", json=good)
        assert (rejected.status_code, rejected.headers["Retry-After"]) == (503, "2")
        assert client.post("/v1/jobs", json=good).status_code == 503
        assert client.post("/v1/datasets:inspect", json={"path": "/data"}).status_code == 503
        assert client.get("/healthz").status_code == client.get("/v1/jobs").status_code == 200
        for _ in range(4):
            client.portal.call(_release, slots)  # type: ignore[union-attr]  # the client runs the app
        assert {plan.result().status_code for plan in plans} == {200}
    assert client.post("/v1/jobs:plan", json=good).status_code == 200


@contextmanager
def all_taken(client: TestClient) -> Iterator[None]:
    slots, portal = client.app.state.slots, client.portal  # type: ignore[attr-defined]
    assert portal
    for _ in range(4):
        portal.call(slots.acquire)
    yield


async def _release(slots: Any) -> None:
    slots.release()


def test_changes_leave_threads_to_reads(client: TestClient) -> None:
    slots = client.app.state.write_slots  # type: ignore[attr-defined]  # the app is our own
    for _ in range(16):
        client.portal.call(slots.acquire)  # type: ignore[union-attr]
    with ThreadPoolExecutor(60) as pool:
        changes = [
            pool.submit(client.post, "/v1/keys", json={"name": f"k{i}", "role": "viewer"}) for i in range(50)
        ]
        wait_until(lambda: slots._waiting == 50, what="all changes to wait")
        assert client.get("/v1/jobs").status_code == 200
        for _ in range(16):
            client.portal.call(_release, slots)  # type: ignore[union-attr]
        assert {change.result().status_code for change in changes} == {201}


def test_a_read_never_writes(client: TestClient, good: Body, environment: pytest.MonkeyPatch) -> None:
    """A read that writes waits for the writer that holds SQLite's lock."""
    environment.setattr(keys, "record_uses", lambda: None)  # the writes in the background
    names = {"iteration": 1, "path": "x", "name": "nano3", "project": "default"}
    job = client.post("/v1/jobs", json=good).json()["id"]
    others = client.post("/v1/keys", json={"name": "reader", "role": "admin"}).json()
    reader = TestClient(client.app, headers={"Authorization": f"Bearer {others['key']}"})
    begun: list[str] = []
    with counted(begun):
        for path in client.get("/openapi.json").json()["paths"]:
            if "stream" not in path:
                reader.get(path.format(job_id=job, key_id=others["id"], **names))
    assert begun
    assert [one for one in begun if one != "BEGIN"] == []


@contextmanager
def counted(begun: list[str]) -> Iterator[None]:
    """Collect how each transaction begins."""

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("BEGIN"):
            begun.append(statement)

    event.listen(engine(), "before_cursor_execute", note)
    try:
        yield
    finally:
        event.remove(engine(), "before_cursor_execute", note)
