"""The route that Prometheus scrapes."""

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from api.problems import declared
from api.rate_limits import rate_limits_of
from worker.jobs.prometheus import JobCollector
from worker.telemetry import metrics_socket

router = APIRouter(tags=["health"])

_jobs = CollectorRegistry()
_jobs.register(JobCollector())


def count_stranger(request: Request) -> None:
    """Count the request by its address: a scrape costs queries. Raises TooManyRequests."""
    rate_limits_of(request.app).count_stranger(request)


@router.get(
    "/metrics",
    response_class=PlainTextResponse,
    responses={429: declared()[429]},
    dependencies=[Depends(count_stranger)],
)
def get_service_metrics() -> Response:
    """Return the service's metrics in Prometheus' text format. Needs no key."""
    content = generate_latest(metrics_socket.registry()) + generate_latest(_jobs)
    return Response(content, media_type=CONTENT_TYPE_LATEST)
