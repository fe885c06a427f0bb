"""Files of a job's checkpoints: only those that the trainer reported, wherever the cluster stores them.

No link is followed below the root that the save directory was allowed under: a run, or whoever can write
there, may have put one anywhere since.
"""

import tarfile
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from trainer.run_layout import JobLayout, RunLayout
from worker.backends.access.files import BehindLink, Files, FileStat, OpenFile, names_below
from worker.backends.interface import Backend
from worker.db.models import Checkpoint, Job
from worker.errors import CheckpointChanged, CheckpointNotServed, NotFound
from worker.jobs import queries
from worker.jobs.job_cluster import backend_of, profile_of

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class StoredFile:
    """A file of a checkpoint, as it was when it was requested."""

    name: str
    """Relative to the checkpoint's directory."""
    path: Path
    below: Path
    """No link is followed below this directory."""
    stat: FileStat
    files: Files

    def chunks(self, begin: int, end: int) -> Generator[bytes]:
        """Yield the bytes from `begin` to before `end`, in chunks. The file is open until the iterator ends.

        Raises CheckpointChanged, before the last piece at the latest, where the file is no longer the
        same, and BackendUnavailable.
        """
        with self._opened() as file:
            for offset in range(begin, end, CHUNK_BYTES):
                wanted = min(CHUNK_BYTES, end - offset)
                data = file.read(offset, wanted)
                is_last = offset + wanted == end
                if len(data) != wanted or (is_last and file.stat() != self.stat):
                    raise _changed(self.name)
                yield data

    @contextmanager
    def _opened(self) -> Iterator[OpenFile]:
        try:
            with self.files.open(self.path, self.below) as file:
                if file.stat() != self.stat:
                    raise _changed(self.name)
                yield file
        except FileNotFoundError:
            raise _changed(self.name) from None


def saved_file(job: Job, iteration: int, name: str) -> StoredFile:
    """A file of a checkpoint. Raises NotFound, BackendUnavailable.

    A name has to be one of the reported files: a client's text is never joined to a path.
    """
    checkpoint = queries.checkpoint(job.id, iteration)
    known = [file["path"] for file in checkpoint.files if file["path"] == name]
    try:
        return next(_saved(job, checkpoint, known))
    except (StopIteration, CheckpointChanged):
        raise NotFound(
            f"Checkpoint {iteration} of job {job.id!r} has no file {name!r}.",
            hint=f"Its files: GET /v1/jobs/{job.id}/checkpoints/{iteration}",
        ) from None


def complete_files(job: Job, checkpoint: Checkpoint) -> list[StoredFile]:
    """Return all files, each of its reported size.

    Raises CheckpointNotServed, else CheckpointChanged, and BackendUnavailable.
    """
    sizes = {file["path"]: file["bytes"] for file in checkpoint.files}
    files = list(_saved(job, checkpoint, sizes))
    for file in files:
        if file.stat.size != sizes[file.name]:
            raise _changed(file.name)
    return files


def _saved(job: Job, checkpoint: Checkpoint, names: Iterable[str]) -> Iterator[StoredFile]:
    """Reported files. Raises CheckpointChanged at one that is not in the job's directory of checkpoints."""
    backend = backend_of(job)
    files, save, below = backend.files(), Path(job.config["checkpoint"]["save"]), _top(job, backend)
    for name in names:
        path = Path(checkpoint.path) / name
        try:
            names_below(path, save)  # the directory that was checked: a run may report another one
            stat = files.stat(path, below)
        except BehindLink:
            raise _not_served(name) from None
        except FileNotFoundError:
            raise _changed(name) from None
        yield StoredFile(name, path, below, stat, files)


def _top(job: Job, backend: Backend) -> Path:
    """Return the directory below which no link may lead to the job's checkpoints.

    It is that of all jobs for a save in the job's own directory, else the root of the profile. Raises
    CheckpointNotServed if the profile no longer has the root.
    """
    save, attempt = Path(job.config["checkpoint"]["save"]), queries.attempt_of(job).directory
    own = RunLayout(Path(attempt)).job if attempt else JobLayout(backend.job_directory(job.id))
    if save.is_relative_to(own.directory):
        return own.jobs
    if root := profile_of(job).for_project(job.project).root_of(save):
        return root
    raise CheckpointNotServed(
        f"The save directory {str(save)!r} does not lie under a path that cluster {job.cluster!r} allows.",
        hint="Ask the operator to add its root to the cluster's profile again.",
    )


def _changed(name: str) -> CheckpointChanged:
    return CheckpointChanged(
        f"The file {name!r} is gone or no longer what the trainer saved.",
        hint="Use another checkpoint of the job. Links on the way to a checkpoint are not followed.",
    )


def _not_served(name: str) -> CheckpointNotServed:
    return CheckpointNotServed(
        f"The file {name!r} lies behind a link, which the service does not follow.",
        hint="Use another checkpoint, or fetch the file on the cluster. "
        "Save below a path that the cluster allows, without links.",
    )


# -- archives --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Member:
    """A file of an archive."""

    name: str
    file: StoredFile

    @property
    def size(self) -> int:
        return self.file.stat.size

    @property
    def header(self) -> bytes:
        info = tarfile.TarInfo(self.name)
        info.size, info.mtime = self.size, self.file.stat.modified_ns // 1_000_000_000
        return info.tobuf(tarfile.GNU_FORMAT)

    @property
    def padding(self) -> bytes:
        return b"\0" * (-self.size % tarfile.BLOCKSIZE)


@dataclass(frozen=True)
class Archive:
    """A checkpoint as a tar file (GNU format) that is made while it is read, in constant memory."""

    name: str
    members: list[_Member]

    @property
    def size(self) -> int:
        """Bytes of the archive, known before the first is read."""
        parts = ((len(one.header), one.size, len(one.padding)) for one in self.members)
        return sum(map(sum, parts)) + len(_END)

    def chunks(self) -> Generator[bytes]:
        """The archive piece by piece. Raises as StoredFile.chunks."""
        for member in self.members:
            yield member.header
            yield from member.file.chunks(0, member.size)
            yield member.padding
        yield _END


# Two empty blocks end a tar file.
_END = b"\0" * (2 * tarfile.BLOCKSIZE)


def archive(job: Job, iteration: int) -> Archive:
    """A checkpoint's files in one archive. Raises NotFound, CheckpointChanged, BackendUnavailable."""
    directory = PurePosixPath(f"iter_{iteration:07d}")
    files = complete_files(job, queries.checkpoint(job.id, iteration))
    members = [_Member(str(directory / file.name), file) for file in files]
    return Archive(f"{job.name}-{directory}.tar", members)
