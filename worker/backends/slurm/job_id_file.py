"""Files that hold a Slurm job id: external_id, claim and image_import of an attempt."""

from contextlib import suppress
from pathlib import Path

from worker.backends.access.files import Files


def read_job_id(path: Path, files: Files) -> str | None:
    """Return the job id in a file; None if the file is missing or holds something else."""
    with suppress(FileNotFoundError):
        text = files.read(path, 0, 32).decode(errors="replace").strip()
        return text if text.isdigit() else None
    return None
