"""Metrics of the worker in the API's answer: over a Unix socket, without files.

Files that processes share, as prometheus_client offers them, are memory-mapped: on a full disk an access ends
the process with SIGBUS.
"""

import contextlib
import os
import socket
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingUnixStreamServer

from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from worker.settings import get_settings
from worker.telemetry import metrics
from worker.telemetry.logging import logger

TIMEOUT_SECONDS = 2.0
# Far more than the labels of all clusters need.
MAX_BYTES = 16 << 20

log = logger(__name__)

_own = CollectorRegistry()
for _metric in metrics.ALL:
    _own.register(_metric)


# -- the worker --------------------------------------------------------------------------------------


def listen(path: Path) -> None:
    """Serve this process's metrics to its own account, from a thread: text, then the end of the connection.

    If that fails, the failure is logged and the process works without.
    """
    try:
        path.unlink(missing_ok=True)  # of a worker that was killed
        server = _Server(str(path), _Scrape)
    except OSError as error:
        log.warning("metrics.not_served", path=str(path), error=str(error))
        return
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()


class _Server(ThreadingUnixStreamServer):
    daemon_threads = True

    def server_bind(self) -> None:
        os.fchmod(self.fileno(), 0o600)  # Linux gives the file that bind() makes the mode of the socket
        super().server_bind()


class _Scrape(StreamRequestHandler):
    timeout = TIMEOUT_SECONDS

    def handle(self) -> None:
        with contextlib.suppress(OSError):  # the API has gone away
            self.wfile.write(generate_latest(_own))


# -- the API -----------------------------------------------------------------------------------------


def registry() -> CollectorRegistry:
    """Return what this process has counted and, where SFT_WORKER_METRICS_SOCKET is set, the worker, too."""
    if path := get_settings().worker_metrics_socket:
        both = CollectorRegistry()
        both.register(_Sums(path))
        return both
    return REGISTRY


class _Sums(Collector):
    """The metrics of this process and of the worker: all are counters and histograms, which add up."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def collect(self) -> Iterator[Metric]:
        by_name: dict[str, list[Metric]] = {}
        for family in (*_own.collect(), *_scraped(self.path)):
            by_name.setdefault(family.name, []).append(family)
        yield from map(_sum, by_name.values())


def _sum(families: list[Metric]) -> Metric:
    """Add up the samples of equal names and labels."""
    first = families[0]
    total = Metric(first.name, first.documentation, first.type)
    values: defaultdict[tuple[str, frozenset[tuple[str, str]]], float] = defaultdict(float)
    for sample in (sample for family in families for sample in family.samples):
        if not sample.name.endswith("_created"):  # start times do not add up
            values[sample.name, frozenset(sample.labels.items())] += sample.value
    for (name, labels), value in values.items():
        total.add_sample(name, dict(labels), value)
    return total


def _scraped(path: Path) -> Iterable[Metric]:
    """Return the worker's metrics; none where it does not answer in time."""
    try:
        text = _read(path)
        return [family for family in text_string_to_metric_families(text) if family.type != "gauge"]
    except (OSError, ValueError) as error:
        log.warning("metrics.worker_unavailable", error=str(error))
        return []


def _read(path: Path) -> str:
    """Read a socket to its end. Raises OSError, and ValueError for what is no text or over MAX_BYTES."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(TIMEOUT_SECONDS)
        connection.connect(str(path))
        with connection.makefile("rb") as file:
            content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"the answer is larger than {MAX_BYTES} bytes")
    return content.decode()
