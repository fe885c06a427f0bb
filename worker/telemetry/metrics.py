"""Counters and timers of the service, for Prometheus. Every process counts for itself, in its memory."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import ThreadingHTTPServer
from time import perf_counter
from typing import Any

from prometheus_client import Counter, Histogram, MetricsHandler

from worker.errors import Misconfigured, SftError
from worker.telemetry import tracing

# From a poll of one local run to a scheduler that is asked over ssh and does not answer.
_CALL_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_WAIT_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)

MAX_SCRAPES = 16
TIMEOUT_SECONDS = 5.0
"""Longest wait for a client of the port that sends or reads nothing."""

HTTP_REQUESTS = Counter(
    "sft_http_requests", "Requests by the template of their route.", ("method", "route", "status")
)
HTTP_SECONDS = Histogram(
    "sft_http_request_duration_seconds",
    "Time to the end of the answer; without streams and requests that ask to wait.",
    ("method", "route"),
)
BACKEND_SECONDS = Histogram(
    "sft_backend_call_duration_seconds",
    "Calls of a cluster's backend. Outcome: ok, or the code of the error.",
    ("cluster", "operation", "outcome"),
    buckets=_CALL_SECONDS,
)
SUBMISSION_SECONDS = Histogram(
    "sft_submission_delay_seconds",
    "From the request for an attempt to the cluster's acceptance.",
    ("cluster",),
    buckets=_WAIT_SECONDS,
)
INSPECTIONS = Counter(
    "sft_inspections",
    "Inspections of files that clients name. Outcome: done, failed (the child was killed), or reused.",
    ("function", "outcome"),
)
INGESTED_LINES = Counter("sft_ingested_lines", "Ingested lines of runs' event files.", ("cluster",))
INGEST_SECONDS = Histogram(
    "sft_ingest_lag_seconds",
    "Age of the oldest event of each ingested chunk.",
    ("cluster",),
    buckets=_WAIT_SECONDS,
)
ALL = (
    HTTP_REQUESTS, HTTP_SECONDS, BACKEND_SECONDS, SUBMISSION_SECONDS, INSPECTIONS, INGESTED_LINES,
    INGEST_SECONDS,
)  # fmt: skip


@contextmanager
def observed(cluster: str, operation: str) -> Iterator[None]:
    """Time a call of a backend, and note how it ended; in a trace it is a span."""
    started, outcome = perf_counter(), "ok"
    try:
        with tracing.span(f"backend.{operation}", cluster=cluster):
            yield
    except Exception as error:
        outcome = error.code if isinstance(error, SftError) else "error"
        raise
    finally:
        BACKEND_SECONDS.labels(cluster, operation, outcome).observe(perf_counter() - started)


def listen(port: int) -> None:
    """Answer scrapes on a port of this process's own. Raises Misconfigured where it is taken."""
    try:
        server = _Server(("", port), _Scrape)
    except OSError as error:
        raise Misconfigured(
            f"Metrics cannot be served on port {port}: {error.strerror}.",
            hint="Change SFT_WORKER_METRICS_PORT.",
        ) from error
    threading.Thread(target=server.serve_forever, name="metrics port", daemon=True).start()


class _Scrape(MetricsHandler):
    timeout = TIMEOUT_SECONDS


class _Server(ThreadingHTTPServer):
    """Closes the oldest connection where there are more than MAX_SCRAPES: no client keeps out Prometheus."""

    def __init__(self, *args: Any) -> None:
        self._open: list[socket.socket] = []
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.append(request)
        if len(self._open) > MAX_SCRAPES:
            with suppress(OSError):  # it has just ended
                self._open.pop(0).shutdown(socket.SHUT_RDWR)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with suppress(ValueError):  # it was the oldest
            self._open.remove(request)
        super().shutdown_request(request)
