"""Responses that several routes share."""

from fastapi.responses import JSONResponse

from worker.jobs.create import Created


def job_created(created: Created) -> JSONResponse:
    """Return 201 with the stored response, also for a replayed request."""
    headers = {
        "Location": f"/v1/jobs/{created.job_id}",
        "Idempotency-Replayed": str(not created.is_new).lower(),
    }
    return JSONResponse(created.response, 201, headers=headers)
