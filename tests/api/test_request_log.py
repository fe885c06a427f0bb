"""Each request has exactly one log line."""

import sys
from collections.abc import Iterator
from io import StringIO
from typing import Any
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient

from tests.support.json_lines import Line, lines
from worker.telemetry import logging

FORGED = '\n{"event": "request", "caller": "root"}\r\n\x1b[2J\x1b]0;\x07\x7f\x85\u2028\\"end'


@pytest.fixture
def stderr(client: TestClient, environment: pytest.MonkeyPatch) -> Iterator[StringIO]:
    """Yield the application's log output."""
    stream = StringIO()
    with environment.context() as patch:
        patch.setattr(sys, "stderr", stream)
        logging.configure()
        yield stream
    logging.configure()


def only_line(stderr: StringIO) -> Line:
    [line] = lines(stderr.getvalue(), event="request")
    return line


def test_the_log_line_of_a_request_names_caller_and_route(client: TestClient, stderr: StringIO) -> None:
    client.get("/v1/jobs/job-1", headers={"X-Request-ID": "portal-7"})
    line = only_line(stderr)
    assert line.pop("duration_ms") > 0
    assert line.pop("timestamp")
    assert line == {
        "event": "request", "level": "info", "module": "api.middleware", "request_id": "portal-7",
        "method": "GET", "route": "/v1/jobs/{job_id}", "path": "/v1/jobs/job-1", "status": 404,
        "caller": "admin",
    }  # fmt: skip


def test_an_api_key_is_never_logged(client: TestClient, stderr: StringIO) -> None:
    key = client.headers["Authorization"].removeprefix("Bearer ")
    client.get("/v1/jobs", params={"owner": key, "api_key": key})
    client.get("/v1/jobs", headers={"Authorization": f"Basic {key}"})
    client.get("/v1/jobs", headers={"Authorization": f"Bearer {key}x"})
    text = stderr.getvalue()
    assert [line["caller"] for line in lines(text, event="request")] == ["admin", None, None]
    assert key not in text


@pytest.mark.parametrize("part", ["path", "method", "id"])
def test_no_request_can_forge_a_log_line(client: TestClient, stderr: StringIO, part: str) -> None:
    sent: dict[str, Any] = {
        "path": lambda: client.get(f"/v1/jobs/{quote(FORGED)}"),
        "method": lambda: client.request(FORGED, "/healthz"),
        "id": lambda: client.get("/healthz", headers={"X-Request-ID": FORGED.encode()}),  # type: ignore[dict-item]
    }
    sent[part]()
    line = only_line(stderr)
    assert line["caller"] in ("admin", None)
    if part == "path":
        assert line["path"] == f"/v1/jobs/{FORGED}"
    assert len(line["request_id"]) == 16


def test_a_long_path_is_cut(client: TestClient, stderr: StringIO) -> None:
    client.get("/v1/jobs/" + "x" * 50_000)
    assert len(only_line(stderr)["path"]) == 500


def test_the_log_of_a_bug_has_the_request_id_of_the_response(
    client: TestClient, stderr: StringIO, environment: pytest.MonkeyPatch
) -> None:
    from worker.jobs import queries

    environment.setattr(queries, "page_of_jobs", lambda *_: 1 / 0)
    careless = TestClient(client.app, headers=client.headers, raise_server_exceptions=False)
    request_id = careless.get("/v1/jobs").json()["request_id"]
    text = stderr.getvalue()
    [bug], [line] = lines(text, event="request.bug"), lines(text, event="request")
    assert bug["request_id"] == line["request_id"] == request_id
    assert "ZeroDivisionError" in bug["exception"]
    assert line["status"] == 500
