"""Checkpoints of a job, and their files."""

from typing import Annotated

from fastapi import APIRouter, Depends, Header
from fastapi import Path as PathParam
from fastapi.responses import JSONResponse, StreamingResponse

from api import downloads, responses, schemas
from api.auth import STAYS_OPEN, SubmitterDep, VisibleJob, get_caller
from api.deps import IdempotencyKeyHeader
from api.problems import declared
from api.slots import Slot
from worker.jobs import checkpoints, exports, queries
from worker.jobs.exports import ExportRequest
from worker.jobs.views import CheckpointView, JobView

router = APIRouter(tags=["checkpoints"], dependencies=[Depends(get_caller)])

Iteration = Annotated[int, PathParam(ge=0, le=2**31 - 1)]
# For the archive, too: generated clients know no other type for bytes.
BINARY = {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}


@router.get("/jobs/{job_id}/checkpoints", responses=declared(404, 422))
def list_checkpoints(job: VisibleJob) -> schemas.CheckpointList:
    """List the complete checkpoints of a job, oldest first."""
    return schemas.CheckpointList(items=[CheckpointView.of(saved) for saved in queries.checkpoints(job.id)])


@router.get("/jobs/{job_id}/checkpoints/{iteration}", responses=declared(404, 422))
def get_checkpoint(job: VisibleJob, iteration: Iteration) -> schemas.CheckpointDetail:
    """Return one checkpoint with its files."""
    files = queries.checkpoint(job.id, iteration).files
    saved = next(one for one in queries.checkpoints(job.id) if one.iteration == iteration)
    return schemas.CheckpointDetail(**CheckpointView.of(saved).model_dump(), files=files)


@router.get(
    "/jobs/{job_id}/checkpoints/{iteration}/files/{path:path}",
    response_class=StreamingResponse,
    responses={
        200: BINARY | {"description": "The file."},
        206: BINARY | {"description": "The requested range."},
        **declared(404, 409, 416, 422),
    },
    dependencies=STAYS_OPEN,
)
def download_checkpoint_file(
    job: VisibleJob,
    iteration: Iteration,
    path: str,
    range: Annotated[str | None, Header(description="`bytes=0-1023`")] = None,  # noqa: A002
    if_range: Annotated[str | None, Header(description="ETag of the file that the range belongs to.")] = None,
) -> StreamingResponse:
    """Download a file of a checkpoint, or a range of it. If the file changes, the connection is closed."""
    return downloads.response(checkpoints.saved_file(job, iteration, path), range, if_range)


@router.get(
    "/jobs/{job_id}/checkpoints/{iteration}/archive",
    response_class=StreamingResponse,
    responses={200: BINARY | {"description": "A tar file."}, **declared(404, 409, 422)},
    dependencies=STAYS_OPEN,
)
def download_checkpoint(job: VisibleJob, iteration: Iteration) -> StreamingResponse:
    """Download a checkpoint as one tar file. If a file changes meanwhile, the connection is closed."""
    archive = checkpoints.archive(job, iteration)
    headers = {"Content-Disposition": f'attachment; filename="{archive.name}"'}
    return downloads.Download(archive.chunks(), headers, archive.size)


@router.post(
    "/jobs/{job_id}/checkpoints/{iteration}/export",
    status_code=201,
    response_model=JobView,
    responses=declared(403, 404, 409, 413, 415, 422),
)
def export_checkpoint(
    caller: SubmitterDep,
    job: VisibleJob,
    _slot: Slot,
    iteration: Iteration,
    request: ExportRequest | None = None,
    idempotency_key: IdempotencyKeyHeader = None,
) -> JSONResponse:
    """Export a checkpoint to a Hugging Face directory, as a new job with the directory as its checkpoint.

    The body is optional. The job runs on the same cluster, on one node with one GPU, and computes on the CPU;
    adapters are merged.
    """
    return responses.job_created(exports.create(job, iteration, request, caller, idempotency_key))
