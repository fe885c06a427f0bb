"""Liveness and readiness of the service."""

from fastapi import APIRouter, Request, Response

from api import schemas
from api.problems import declared, problem
from worker.backends.local import status
from worker.broker import messages
from worker.db import session
from worker.errors import FieldError, ServiceUnavailable

router = APIRouter(tags=["health"])

PARTS = {"database": session.ping, "broker": messages.ping}


@router.get("/healthz")
async def healthz() -> schemas.Health:
    """Return 200 while the process responds."""
    return schemas.Health()


@router.get("/readyz", response_model=schemas.Readiness, responses=declared())
def readyz(request: Request) -> schemas.Readiness | Response:
    """Return 200 if database and broker respond; otherwise 503 names the one that does not.

    `warnings` says what an operator should change, e.g. that local runs are not isolated.
    """
    unavailable = []
    for part, ping in PARTS.items():
        try:
            ping()
        except ServiceUnavailable as error:
            unavailable.append(FieldError(pointer=part, code="unavailable", detail=error.message))
    if unavailable:
        return problem(request, 503, "not_ready", unavailable[0].detail, errors=unavailable)
    return schemas.Readiness(database="ok", broker="ok", warnings=status.warnings())
