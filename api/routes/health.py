"""Is the process up, and can it work?"""

from fastapi import APIRouter, Request, Response

from api import schemas
from api.problems import declared, problem
from worker.broker import messages
from worker.db import session
from worker.errors import FieldError, ServiceUnavailable

router = APIRouter(tags=["health"])

PARTS = {"database": session.ping, "broker": messages.ping}


@router.get("/healthz")
def healthz() -> schemas.Health:
    """The process answers."""
    return schemas.Health()


@router.get("/readyz", response_model=schemas.Readiness, responses=declared())
def readyz(request: Request) -> schemas.Readiness | Response:
    """Database and broker answer; if not, 503 says which does not."""
    faults = []
    for part, ping in PARTS.items():
        try:
            ping()
        except ServiceUnavailable as error:
            faults.append(FieldError(pointer=part, code="unavailable", detail=error.message))
    if faults:
        return problem(request, 503, "not_ready", faults[0].detail, errors=faults)
    return schemas.Readiness(database="ok", broker="ok")
