"""Traces, where a collector is configured; otherwise nothing of OpenTelemetry's SDK is imported.

A trace begins with an HTTP request, and continues with the tasks that it causes and their calls of a backend.
Polls and sweeps, which the clock causes, are not traced: there would be little else.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from worker.errors import Misconfigured
from worker.settings import get_settings

PACKAGES = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http")
STOP_TIMEOUT_SECONDS = 2.0


def check() -> None:
    """Raises Misconfigured where traces are wanted and cannot be sent."""
    if get_settings().otlp_url and not _is_installed():
        raise Misconfigured(
            "OTEL_EXPORTER_OTLP_ENDPOINT is set, but OpenTelemetry is not installed.",
            hint="Install sft-service[otel], or unset it.",
        )


def _is_installed() -> bool:
    try:
        return all(map(find_spec, PACKAGES))
    except ModuleNotFoundError:
        return False


def start(service: str) -> None:
    """Send this process's spans, from a thread, to the collector if one is configured.

    Raises Misconfigured. A collector that is away costs spans, and lines in the log.
    """
    check()
    url = get_settings().otlp_url
    if not url:
        return
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    name = os.environ.get("OTEL_SERVICE_NAME", service)
    provider = TracerProvider(resource=Resource.create({"service.name": name}), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{url.rstrip('/')}/v1/traces")))
    trace.set_tracer_provider(provider)


def stop() -> None:
    """Send what is left, for a short time."""
    if get_settings().otlp_url:
        from opentelemetry import trace

        # A time limit that is given to force_flush itself is not kept (opentelemetry-python#4568).
        provider: Any = trace.get_tracer_provider()
        thread = threading.Thread(target=provider.force_flush, daemon=True)
        thread.start()
        thread.join(STOP_TIMEOUT_SECONDS)


def carrier() -> dict[str, str]:
    """The current trace as headers of a message; empty where there is none."""
    headers: dict[str, str] = {}
    if get_settings().otlp_url:
        from opentelemetry import propagate

        propagate.inject(headers)
    return headers


@contextmanager
def continued(headers: dict[str, str], name: str, attributes: dict[str, Any]) -> Iterator[None]:
    """A span of the trace that the headers of a message carry, if they carry one."""
    if not (headers and get_settings().otlp_url):
        yield
        return
    from opentelemetry import propagate, trace

    tracer, parent = trace.get_tracer(__name__), propagate.extract(headers)
    with tracer.start_as_current_span(name, parent, trace.SpanKind.CONSUMER, attributes):
        yield


@contextmanager
def span(name: str, **attributes: str) -> Iterator[None]:
    """A part of the current trace, if there is one."""
    if _current_span() is None:
        yield
        return
    from opentelemetry import trace

    with trace.get_tracer(__name__).start_as_current_span(name, attributes=attributes):
        yield


def annotate(attributes: dict[str, str]) -> None:
    """Set attributes of the current span, if there is one."""
    if current := _current_span():
        current.set_attributes(attributes)


def _current_span() -> Any:
    if not get_settings().otlp_url:
        return None
    from opentelemetry import trace

    current = trace.get_current_span()
    return current if current.is_recording() else None
