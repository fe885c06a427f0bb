"""Files of a job's checkpoints: only those that the trainer reported, only where the service sees them."""

from pathlib import Path

from worker import jobs, queries
from worker.errors import NotFound


def local_file(job_id: str, iteration: int, name: str) -> Path:
    """The path of a checkpoint's file. Raises NotFound.

    A name is looked up among the reported files and never joined to a path on a client's word.
    """
    checkpoint = queries.checkpoint(job_id, iteration)
    known = any(file["path"] == name for file in checkpoint.files)
    # Where the job was told to save, which was checked: not where a run says that it did.
    root = Path(jobs.get(job_id).config["checkpoint"]["save"]).resolve()
    path = (Path(checkpoint.path) / name).resolve() if known else None
    if path is None or not path.is_relative_to(root) or not path.is_file():
        raise NotFound(
            f"Checkpoint {iteration} of job {job_id!r} has no file {name!r}.",
            hint=f"Its files: GET /v1/jobs/{job_id}/checkpoints/{iteration}",
        )
    return path
