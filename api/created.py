"""What a request that makes a job is answered with."""

from fastapi.responses import JSONResponse

from api import schemas
from worker import tasks
from worker.db.models import Job, Json
from worker.jobs import Created


def body(job: Job) -> Json:
    """The new job; it is kept for replays of the request."""
    return schemas.JobView.of(job).model_dump(mode="json", by_alias=True)


def response(created: Created) -> JSONResponse:
    """201, also for a replay; what is new is on its way then."""
    if created.is_new:
        tasks.nudge(tasks.submit, created.job_id)
    headers = {
        "Location": f"/v1/jobs/{created.job_id}",
        "Idempotency-Replayed": str(not created.is_new).lower(),
    }
    return JSONResponse(created.response, 201, headers=headers)
