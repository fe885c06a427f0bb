"""A request that the server cancels at its shutdown gets a problem, and no 500."""

import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import psutil
import psycopg
import pytest

from tests.support import raw_http
from tests.support.databases import new_database
from tests.support.json_lines import lines
from tests.support.service import Service
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def own(data_dir: Path, stand_in: Path) -> Iterator[Service]:
    with Service(data_dir, SFT_TRAINER_PYTHON=str(stand_in)) as service:
        yield service


HALF_A_BODY = "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"


@contextmanager
def sent(service: Service, method: str, rest: str) -> Iterator[socket.socket]:
    """Send a request for jobs, and yield its connection once it has arrived."""
    key = service.client.headers["Authorization"]
    head = f"{method} /v1/jobs HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\nX-Request-ID: waits\r\n"
    api = service.children()["api"]
    with raw_http.connect(service.client, f"{head}{rest}".encode()) as connection:
        wait_until(lambda: connection.getsockname() in [tuple(one.raddr) for one in api.net_connections()])
        yield connection


def assert_shut_down(service: Service, answer: httpx2.Response) -> None:
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert int(answer.headers["retry-after"]) > 0
    assert answer.headers["x-request-id"] == "waits"
    assert (answer.json()["code"], answer.json()["retryable"]) == ("shutting_down", True)
    log = (service.data_dir.parent / "serve.err").read_text()
    [line] = lines(log, event="request", request_id="waits")
    assert line["status"] == 503
    assert "Exception in ASGI application" not in log


@pytest.mark.parametrize("end", ["service", "api"])
def test_a_request_that_waits_for_its_body(own: Service, end: str) -> None:
    with sent(own, "POST", HALF_A_BODY) as connection:
        process = psutil.Process(own.process.pid) if end == "service" else own.children()["api"]
        process.send_signal(signal.SIGTERM)
        assert_shut_down(own, raw_http.response(raw_http.received(connection)))


def test_a_request_that_waits_in_a_thread(
    data_dir: Path, stand_in: Path, postgres: Any, migrated_postgres: str
) -> None:
    url = new_database(postgres, migrated_postgres)
    with (
        Service(data_dir, SFT_TRAINER_PYTHON=str(stand_in), SFT_DATABASE_URL=url) as own,
        psycopg.connect(url.replace("+psycopg", "")) as other,
    ):
        other.execute("LOCK TABLE job IN ACCESS EXCLUSIVE MODE")
        with sent(own, "GET", "\r\n") as connection:
            own.process.send_signal(signal.SIGTERM)
            assert_shut_down(own, raw_http.response(raw_http.received(connection)))
