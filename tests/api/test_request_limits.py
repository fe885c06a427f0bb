"""The body of a request is bounded before it is parsed; plans wait for a slot; reads wait for no writer."""

import asyncio
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
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


Hold = Callable[..., ExitStack]


@pytest.fixture
def hold(client: TestClient) -> Iterator[Hold]:
    """Return a function that takes slots for a key, and returns what releases them."""
    portal = client.portal
    assert portal

    with ExitStack() as everything:

        def take(kind: str, key: str, number: int) -> ExitStack:
            slots, held = getattr(client.app.state, kind), everything.enter_context(ExitStack())  # type: ignore[attr-defined]
            for _ in range(number):
                held.enter_context(portal.wrap_async_context_manager(slots.held(key)))
            return held

        yield take


@contextmanager
def waiting(client: TestClient, key: str, number: int) -> Iterator[None]:
    """Let requests of a key wait for a slot, and hold it."""

    async def wait() -> None:
        async with client.app.state.slots.held(key):  # type: ignore[attr-defined]
            await asyncio.Event().wait()

    tasks = [client.portal.start_task_soon(wait) for _ in range(number)]  # type: ignore[union-attr]
    yield
    for task in tasks:
        task.cancel()


def in_progress(client: TestClient, kind: str = "slots") -> int:
    return sum(getattr(client.app.state, kind).requests.values())  # type: ignore[attr-defined]


def test_plans_wait_for_a_slot_and_health_does_not(client: TestClient, good: Body, hold: Hold) -> None:
    held = [hold("slots", key, 2) for key in ("anna", "bert")]
    with ThreadPoolExecutor(40) as pool:
        plans = [pool.submit(client.post, "/v1/jobs:plan", json=good) for _ in range(35)]
        wait_until(lambda: in_progress(client) == 4 + 35, what="all plans to wait")
        for path, body in (("jobs:plan", good), ("jobs", good), ("datasets:inspect", {"path": "/data"})):
            rejected = client.post(f"/v1/{path}", json=body)
            assert (rejected.status_code, rejected.json()["code"]) == (429, "too_many_open_requests")
            assert rejected.headers["Retry-After"] == "2"
        assert client.get("/healthz").status_code == client.get("/v1/jobs").status_code == 200
        for one in held:
            one.close()
        assert {plan.result().status_code for plan in plans} == {200}
    assert client.post("/v1/jobs:plan", json=good).status_code == 200


def test_all_keys_together_have_so_many_places(client: TestClient, good: Body, hold: Hold) -> None:
    for key in range(4):
        hold("slots", str(key), 1)
    with ExitStack() as stack:
        for key in range(4):
            stack.enter_context(waiting(client, str(key), 16))
        wait_until(lambda: in_progress(client) == 68, what="all places to be taken")
        rejected = client.post("/v1/jobs:plan", json=good)
        assert (rejected.status_code, rejected.headers["Retry-After"]) == (503, "2")
    wait_until(lambda: in_progress(client) == 4, what="all places to be free")


def test_one_key_does_not_delay_another(client: TestClient, good: Body, hold: Hold) -> None:
    hold("slots", "greedy", 3)
    with waiting(client, "greedy", 32):
        wait_until(lambda: in_progress(client) == 35, what="the others to wait")
        assert client.post("/v1/jobs:plan", json=good).status_code == 200


def test_keys_take_turns(client: TestClient, good: Body, hold: Hold) -> None:
    """Of those that have waited longer, only so many come first as their key may run."""
    mine, theirs = hold("slots", "anna", 2), hold("slots", "bert", 2)
    with waiting(client, "anna", 10), waiting(client, "bert", 10), ThreadPoolExecutor(1) as pool:
        wait_until(lambda: in_progress(client) == 24, what="the others to wait")
        plan = pool.submit(client.post, "/v1/jobs:plan", json=good)
        wait_until(lambda: in_progress(client) == 25, what="the plan to wait")
        mine.close()
        theirs.close()
        assert plan.result(30).status_code == 200
        assert in_progress(client) == 20


def test_changes_leave_threads_to_reads(client: TestClient, hold: Hold) -> None:
    held = [hold("write_slots", str(key), 4) for key in range(4)]
    with ThreadPoolExecutor(60) as pool:
        changes = [
            pool.submit(client.post, "/v1/keys", json={"name": f"k{i}", "role": "viewer"}) for i in range(50)
        ]
        wait_until(lambda: in_progress(client, "write_slots") == 66, what="all changes to wait")
        assert client.get("/v1/jobs").status_code == 200
        for one in held:
            one.close()
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
