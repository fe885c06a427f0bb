"""Prometheus metrics by route, state and cluster, also while the database is unavailable."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient
from starlette.types import Message

from api.middleware import RequestLog
from tests.support.process import forget_settings
from tests.support.prometheus import samples, value
from tests.support.service import Service
from tests.support.waiting import wait_until

REQUESTS = "sft_http_requests_total"
TIMED = "sft_http_request_duration_seconds_count"


def scrape(client: Any) -> str:
    answer = client.get("/metrics", headers={"Authorization": ""})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    text: str = answer.text
    return text


@pytest.fixture
def change(client: TestClient) -> Callable[..., float]:
    """Return a function: the increase of a value since its last call, or since the test's start."""
    last = scrape(client)

    def increase(name: str, **labels: str) -> float:
        return value(scrape(client), name, **labels) - value(last, name, **labels)

    return increase


def test_requests_are_counted_by_the_template_of_their_route(
    client: TestClient, change: Callable[..., float]
) -> None:
    for job_id in ("job-1", "job-2", "job-3"):
        client.get(f"/v1/jobs/{job_id}/events")
    labels = {"method": "GET", "route": "/v1/jobs/{job_id}/events"}
    assert change(REQUESTS, **labels, status="404") == 3
    assert change(TIMED, **labels) == 3
    client.post("/v1/jobs", json={})
    assert change(REQUESTS, method="POST", route="/v1/jobs", status="422") == 1
    client.delete("/v1/jobs/job-1")
    assert change(REQUESTS, method="DELETE", route="/v1/jobs/{job_id}", status="405") == 1
    client.get("/v1/jobs", params={"owner": "\0"})  # rejected before routing
    assert change(REQUESTS, route="unmatched", status="400") == 1


def test_no_client_can_create_a_metric_series(client: TestClient, change: Callable[..., float]) -> None:
    for word in ("one", "two"):
        client.get(f"/made/up/{word}")
        client.request(word.upper(), "/healthz")
    assert change(REQUESTS, method="GET", route="unmatched", status="404") == 2
    assert change(REQUESTS, method="other", route="/healthz", status="405") == 2
    text = scrape(client)
    assert "made" not in text
    assert "ONE" not in text


def test_a_long_poll_is_counted_and_not_timed(client: TestClient, change: Callable[..., float]) -> None:
    client.get("/v1/jobs/job-1", params={"wait": "1s"})
    assert change(REQUESTS, route="/v1/jobs/{job_id}", status="404") == 1
    assert change(TIMED, route="/v1/jobs/{job_id}") == 0


def test_a_bug_is_counted_as_500(client: TestClient, environment: pytest.MonkeyPatch) -> None:
    from worker.jobs import queries

    before = value(scrape(client), REQUESTS, route="/v1/jobs", status="500")
    environment.setattr(queries, "page_of_jobs", lambda *_: 1 / 0)
    careless = TestClient(client.app, headers=client.headers, raise_server_exceptions=False)
    assert careless.get("/v1/jobs").status_code == 500
    after = value(scrape(client), REQUESTS, route="/v1/jobs", status="500")
    assert after - before == 1


def test_a_stream_is_unbuffered_counted_at_its_start_and_not_timed() -> None:
    app = FastAPI()
    app.add_middleware(RequestLog)
    going_on = asyncio.Event()

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"first"
            await going_on.wait()
            yield b"last"

        return StreamingResponse(chunks())

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    arrived: list[tuple[bytes, float]] = []

    async def send(message: Message) -> None:
        if message.get("body"):
            # Reached before the last chunk exists: the first chunk was not buffered.
            arrived.append((message["body"], _counted("sft_http_requests_total")))
            going_on.set()

    scope = {
        "type": "http", "method": "GET", "path": "/stream", "raw_path": b"/stream", "query_string": b"",
        "headers": [], "http_version": "1.1", "scheme": "http", "asgi": {"spec_version": "2.4"},
    }  # fmt: skip
    before = _counted("sft_http_requests_total")
    asyncio.run(app(scope, receive, send))
    assert arrived == [(b"first", before + 1), (b"last", before + 1)]
    assert _counted("sft_http_request_duration_seconds_count") == 0


def _counted(name: str) -> float:
    from prometheus_client import REGISTRY, generate_latest

    return value(generate_latest(REGISTRY).decode(), name, route="/stream")


def test_without_a_database_the_other_metrics_are_served(
    client: TestClient, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("SFT_DATABASE_URL", "postgresql+psycopg://nobody@127.0.0.1:1/none")
    forget_settings()
    client.get("/v1/jobs")
    text = scrape(client)
    assert samples(text)["sft_database_up"] == {frozenset(): 0}
    assert "sft_jobs" not in samples(text)
    assert value(text, REQUESTS, route="/v1/jobs", status="503") >= 1


def test_the_openapi_document_declares_the_media_type_of_metrics(client: TestClient) -> None:
    route = client.get("/openapi.json").json()["paths"]["/metrics"]["get"]
    assert list(route["responses"]["200"]["content"]) == ["text/plain"]
    assert "security" not in route


# -- the complete service --------------------------------------------------------------------------


@pytest.mark.slow
def test_one_scrape_shows_the_metrics_of_every_process(service: Service, body: dict[str, Any]) -> None:
    before = scrape(service.client)

    def increase(name: str, **labels: str) -> float:
        return value(scrape(service.client), name, **labels) - value(before, name, **labels)

    job = service.wait_for(service.submit(body)["id"])
    assert increase(REQUESTS, method="POST", route="/v1/jobs", status="201") == 1
    assert increase("sft_jobs", cluster="local", state="SUCCEEDED") == 1
    # Counted by the worker after it has stored. A sweep may have submitted, and so called, again.
    call = "sft_backend_call_duration_seconds_count"
    assert wait_until(lambda: increase(call, cluster="local", operation="submit", outcome="ok"))
    assert increase(call, cluster="local", operation="poll", outcome="ok") >= 1
    assert wait_until(lambda: increase("sft_submission_delay_seconds_count", cluster="local")) == 1
    events = service.data_dir / "jobs" / job["id"] / "attempts" / "1" / "events.jsonl"
    lines = len(events.read_text().splitlines())
    assert wait_until(lambda: increase("sft_ingested_lines_total", cluster="local") == lines)
    assert increase("sft_ingest_lag_seconds_count", cluster="local") >= 1


@pytest.mark.slow
def test_without_an_answer_of_the_worker_the_metrics_of_the_api_are_served(service: Service) -> None:
    with service.suspended("worker"):
        service.client.get("/v1/whoami")
        assert value(scrape(service.client), REQUESTS, route="/v1/whoami", status="200") >= 1
