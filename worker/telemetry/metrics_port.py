"""A process's metrics on a port of its own, for Prometheus."""

import socket
import threading
from contextlib import suppress
from http.server import ThreadingHTTPServer
from typing import Any

from prometheus_client import MetricsHandler

from worker.errors import Misconfigured

MAX_SCRAPES = 16
TIMEOUT_SECONDS = 5.0
"""Longest wait for a client that sends or reads nothing."""


def listen(port: int) -> None:
    """Answer scrapes on the port, from a thread. Raises Misconfigured where it is taken."""
    try:
        server = _PortServer(("", port), _PortHandler)
    except OSError as error:
        raise Misconfigured(
            f"Metrics cannot be served on port {port}: {error.strerror}.",
            hint="Change SFT_WORKER_METRICS_PORT.",
        ) from error
    threading.Thread(target=server.serve_forever, name="metrics port", daemon=True).start()


class _PortHandler(MetricsHandler):
    timeout = TIMEOUT_SECONDS


class _PortServer(ThreadingHTTPServer):
    """Close the oldest connection when more than MAX_SCRAPES are open.

    So idle clients do not keep Prometheus out.
    """

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
