"""Counters and timers of the service, for Prometheus. Every process counts for itself, in its memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from prometheus_client import Counter, Histogram

from worker.errors import SftError
from worker.telemetry import tracing

# From a poll of one local run to a scheduler that is asked over ssh and does not answer.
_CALL_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_WAIT_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)

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
