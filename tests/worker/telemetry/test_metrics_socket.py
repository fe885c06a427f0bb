"""The API adds the worker's metrics, which come over a socket, to its own."""

import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest
from prometheus_client import generate_latest

from tests.support.process import forget_settings
from tests.support.prometheus import samples, value
from worker.telemetry import metrics, metrics_socket

CALLS = "sft_backend_call_duration_seconds"


@pytest.fixture
def path(tmp_path: Path, environment: pytest.MonkeyPatch) -> Path:
    """Return the socket of a worker that is not there yet."""
    path = tmp_path / "s"
    environment.setenv("SFT_WORKER_METRICS_SOCKET", str(path))
    forget_settings()
    return path


def scrape() -> str:
    return generate_latest(metrics_socket.registry()).decode()


@pytest.fixture
def answering(path: Path) -> Iterator[list[bytes]]:
    """Yield a list: each connection to the socket gets what is in it, and is then closed."""
    content: list[bytes] = []
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()

    def answer() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return  # closed
            with connection:
                connection.sendall(b"".join(content))

    thread = Thread(target=answer)
    thread.start()
    yield content
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join()


def test_only_the_account_of_the_service_may_ask(path: Path) -> None:
    metrics_socket.listen(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_equal_samples_of_both_are_added(path: Path) -> None:
    metrics.BACKEND_SECONDS.labels("twice", "poll", "ok").observe(0.5)
    alone = samples(scrape())
    metrics_socket.listen(path)  # this process is the worker, too
    both = samples(scrape())
    for name in (f"{CALLS}_count", f"{CALLS}_sum", f"{CALLS}_bucket"):
        assert both[name] == {labels: 2 * number for labels, number in alone[name].items()}
    assert alone.keys() == both.keys()
    assert not [name for name in both if name.endswith("_created")]


def test_samples_of_the_worker_alone_are_there(answering: list[bytes]) -> None:
    answering.append(
        b"# HELP sft_ingested_lines_total Lines.\n# TYPE sft_ingested_lines_total counter\n"
        b'sft_ingested_lines_total{cluster="only-there"} 7.0\n'
    )
    assert value(scrape(), "sft_ingested_lines_total", cluster="only-there") == 7


@pytest.mark.parametrize(
    "answer", [b"", b"\xff\xfe", b"no metrics {\n", b"x" * (metrics_socket.MAX_BYTES + 2)]
)
def test_a_useless_answer_costs_only_the_metrics_of_the_worker(answering: list[bytes], answer: bytes) -> None:
    answering.append(answer)
    metrics.BACKEND_SECONDS.labels("here", "poll", "ok").observe(0.5)
    assert value(scrape(), f"{CALLS}_count", cluster="here") >= 1


def test_a_worker_that_does_not_answer_costs_only_its_metrics(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_socket, "TIMEOUT_SECONDS", 0.01)
    metrics.BACKEND_SECONDS.labels("here", "poll", "ok").observe(0.5)
    assert value(scrape(), f"{CALLS}_count", cluster="here") >= 1  # nobody listens
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen()
        assert value(scrape(), f"{CALLS}_count", cluster="here") >= 1


def test_a_socket_that_cannot_be_made_stops_no_worker(tmp_path: Path) -> None:
    metrics_socket.listen(tmp_path / "nowhere" / "s")
    metrics_socket.listen(tmp_path / ("s" * 200))


def test_a_worker_takes_over_the_socket_of_one_that_was_killed(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
    metrics.BACKEND_SECONDS.labels("again", "poll", "ok").observe(0.5)
    metrics_socket.listen(path)
    assert value(scrape(), f"{CALLS}_count", cluster="again") == 2
