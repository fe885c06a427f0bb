"""The route that Prometheus scrapes."""

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from worker.jobs.prometheus import JobCollector
from worker.telemetry import metrics_socket

router = APIRouter(tags=["health"])

_jobs = CollectorRegistry()
_jobs.register(JobCollector())


@router.get("/metrics", response_class=PlainTextResponse)
def get_service_metrics() -> Response:
    """Return the service's metrics in Prometheus' text format. Needs no key."""
    content = generate_latest(metrics_socket.registry()) + generate_latest(_jobs)
    return Response(content, media_type=CONTENT_TYPE_LATEST)
