"""What a request that makes a job is answered with."""

from fastapi.responses import JSONResponse

from worker.jobs.create import Created


def response(created: Created) -> JSONResponse:
    """201, also for a replay."""
    headers = {
        "Location": f"/v1/jobs/{created.job_id}",
        "Idempotency-Replayed": str(not created.is_new).lower(),
    }
    return JSONResponse(created.response, 201, headers=headers)
