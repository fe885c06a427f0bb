"""Clients that open connections and do not use them keep out nobody."""

import resource
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from select import select

import httpx2
import pytest

from tests.support import raw_http
from tests.support.service import Service
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

DESCRIPTORS = 384
HEAD = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
POST = b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Yield a service that waits a second for its clients, and has few file descriptors."""
    directory = tmp_path_factory.mktemp("impatient") / "data"
    with Service(directory, SFT_CLIENT_TIMEOUT_SECONDS="1") as service:
        service.children()["api"].rlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
        yield service


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Yield a service that waits an hour for its clients, trusts a proxy, and has few file descriptors."""
    directory = tmp_path_factory.mktemp("patient") / "data"
    with Service(directory, SFT_CLIENT_TIMEOUT_SECONDS="3600", FORWARDED_ALLOW_IPS="127.0.0.1") as service:
        service.children()["api"].rlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
        yield service


@contextmanager
def connected(service: Service, number: int, data: bytes = b"") -> Iterator[list[socket.socket]]:
    """Yield connections that have sent some data."""
    with ExitStack() as stack:
        yield [stack.enter_context(raw_http.connect(service.client, data)) for _ in range(number)]


@pytest.mark.parametrize("sent", [b"", HEAD, HEAD[:10]], ids=["nothing", "half headers", "half a line"])
def test_a_connection_without_a_request_is_closed(impatient: Service, sent: bytes) -> None:
    with connected(impatient, 1, sent) as (connection,):
        assert raw_http.received(connection) == b""


def test_a_body_that_does_not_come_is_a_408(impatient: Service) -> None:
    with connected(impatient, 1, POST) as (connection,):
        answer = raw_http.received(connection)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"application/problem+json" in answer


def test_a_second_request_has_its_own_time(impatient: Service) -> None:
    with connected(impatient, 1, HEAD + b"\r\n" + HEAD) as (connection,):
        assert raw_http.received(connection).count(b"HTTP/1.1 200") == 1


def test_a_client_that_reads_nothing_is_disconnected(impatient: Service, tmp_path: Path) -> None:
    api = impatient.children()["api"]
    requests = (HEAD.replace(b"/healthz", b"/openapi.json") + b"\r\n") * 200
    with connected(impatient, 1) as (connection,):
        port = connection.getsockname()[1]
        is_open = lambda: port in {one.raddr.port for one in api.net_connections() if one.raddr}  # noqa: E731
        wait_until(is_open, what="the connection to be accepted")
        connection.setblocking(False)
        with suppress(BlockingIOError):
            connection.sendall(requests)
        wait_until(lambda: not is_open(), what="the connection to be closed")


CHUNKED = POST.replace(b"Content-Length: 100\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\n")
CHUNKS = b"2\r\n{}\r\n0\r\n\r\n"
NOT_HTTP = {
    "length and chunks": CHUNKED.replace(b"Transfer", b"Content-Length: 2\r\nTransfer") + CHUNKS,
    "chunks and length": CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Length: 2\r\n\r\n") + CHUNKS,
    "chunks of HTTP/1.0": CHUNKED.replace(b"HTTP/1.1", b"HTTP/1.0") + CHUNKS,
    "HTTP/2": HEAD.replace(b"HTTP/1.1", b"HTTP/2.0") + b"\r\n",
    "HTTP/0.9": HEAD.replace(b"HTTP/1.1", b"HTTP/0.9") + b"\r\n",
    "two lengths": POST.replace(b"{", b"{}").replace(b"\r\n\r\n", b"\r\nContent-Length: 2\r\n\r\n"),
    "a length with a sign": POST.replace(b"100", b"+100"),
    "two codings": CHUNKED.replace(b"chunked", b"identity, chunked") + CHUNKS,
    "a coding twice": CHUNKED.replace(b"chunked", b"chunked\r\nTransfer-Encoding: chunked") + CHUNKS,
    "a long size": CHUNKED + b"0" * 21 + CHUNKS,
    "a long extension": CHUNKED + b"2;" + b"a" * 1_000_000,
    "long trailers": CHUNKED + CHUNKS[:-2] + b"X: a\r\n" * 100_000,
    "a chunk that does not end": CHUNKED + b"2\r\n{}{}\r\n0\r\n\r\n",
    "long headers": HEAD + b"X: a\r\n" * 100_000,
}


@pytest.mark.parametrize("sent", NOT_HTTP.values(), ids=NOT_HTTP)
def test_what_is_not_valid_http_is_a_400_and_the_end(patient: Service, sent: bytes) -> None:
    """The server and a proxy could see the end of such a request at two places."""
    with connected(patient, 1) as (connection,):
        with suppress(ConnectionError):  # the server has closed it
            connection.sendall(sent + HEAD + b"\r\n")
        data = raw_http.received(connection)
    answer = raw_http.response(data)
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")
    assert answer.json()["code"] == "bad_request"
    assert data.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("sent", [b"", HEAD, POST], ids=["idle", "half headers", "half bodies"])
def test_many_connections_keep_out_nobody(patient: Service, sent: bytes) -> None:
    api = patient.children()["api"]
    with connected(patient, 2 * DESCRIPTORS, sent):
        for path in ("/healthz", "/readyz", "/v1/jobs"):
            assert httpx2.get(patient.client.base_url.join(path), headers=patient.client.headers).is_success
        assert api.num_fds() < DESCRIPTORS
    assert api.is_running()


@pytest.mark.parametrize(("which", "address"), [("impatient", "127.0.0.1"), ("patient", "203.0.113.7")])
def test_only_a_proxy_of_the_settings_names_the_client(
    request: pytest.FixtureRequest, which: str, address: str
) -> None:
    """A job that runs on this machine is no proxy."""
    client = request.getfixturevalue(which).client
    client.post("/v1/jobs/job-none/cancel", headers={"X-Forwarded-For": "203.0.113.7"})
    [entry] = client.get("/v1/audit?target=job-none").json()["items"]
    assert entry["address"] == address


def test_a_client_that_has_gone_leaves_its_place(patient: Service) -> None:
    """It waited for its turn to write, behind requests that wait for the database."""
    body = b'{"name":"gone","role":"viewer"}'
    key = patient.client.headers["Authorization"].encode()
    head = b"POST /v1/keys HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nAuthorization: " + key
    sent = head + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    api = patient.children()["api"]
    with closing(sqlite3.connect(patient.data_dir / "sft.db", isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        with connected(patient, 12 + 128 + 1, sent) as connections:
            [beyond], _, _ = select(connections, [], [], 30)
            assert raw_http.response(beyond.recv(1 << 16)).status_code == 429
            ports = {one.getsockname()[1] for one in connections}
        wait_until(lambda: ports.isdisjoint({one.raddr.port for one in api.net_connections() if one.raddr}))
    patient.client.post("/v1/keys", json={"name": "last", "role": "viewer"}).raise_for_status()
    names = [one["name"] for one in patient.client.get("/v1/keys?limit=200").json()["items"]]
    assert names.count("gone") <= 12
