"""Files of a job's checkpoints: only those that the trainer reported, only where the service sees them."""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from worker import queries
from worker.backends.base import Files, FileStat
from worker.clusters import cluster, connect
from worker.errors import CheckpointChanged, NotFound
from worker.models import Checkpoint, Job

CHUNK_BYTES = 1 << 20


def local_file(job: Job, iteration: int, name: str) -> Path:
    """The path of a checkpoint's file. Raises NotFound.

    A name is looked up among the reported files and never joined to a path on a client's word.
    """
    checkpoint = queries.checkpoint(job.id, iteration)
    known = any(file["path"] == name for file in checkpoint.files)
    path = _path(job, checkpoint, name) if known else None
    if path is None or not path.is_file():
        raise NotFound(
            f"Checkpoint {iteration} of job {job.id!r} has no file {name!r}.",
            hint=f"Its files: GET /v1/jobs/{job.id}/checkpoints/{iteration}",
        )
    return path


def _path(job: Job, checkpoint: Checkpoint, name: str) -> Path | None:
    """Where a reported file is, or None where that is not in the job's directory of checkpoints."""
    # Where the job was told to save, which was checked: not where a run says that it did.
    root = Path(job.config["checkpoint"]["save"]).resolve()
    path = (Path(checkpoint.path) / name).resolve()
    return path if path.is_relative_to(root) else None


# -- archives --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Member:
    """A file of an archive, as it was when the archive was asked for."""

    name: str
    path: Path
    stat: FileStat

    @property
    def header(self) -> bytes:
        info = tarfile.TarInfo(self.name)
        info.size, info.mtime = self.stat.size, self.stat.modified_ns // 1_000_000_000
        return info.tobuf(tarfile.GNU_FORMAT)

    @property
    def padding(self) -> bytes:
        return b"\0" * (-self.stat.size % tarfile.BLOCKSIZE)


@dataclass(frozen=True)
class Archive:
    """A checkpoint as a tar file (GNU format) that is made while it is read, in constant memory."""

    name: str
    members: list[_Member]
    files: Files

    @property
    def size(self) -> int:
        """Bytes of the whole, known before the first is read."""
        parts = ((len(one.header), one.stat.size, len(one.padding)) for one in self.members)
        return sum(map(sum, parts)) + len(_END)

    def chunks(self) -> Iterator[bytes]:
        """The archive piece by piece. Raises CheckpointChanged at the file that is no longer the same."""
        for member in self.members:
            yield member.header
            yield from self._content(member)
            yield member.padding
        yield _END

    def _content(self, member: _Member) -> Iterator[bytes]:
        for offset in range(0, member.stat.size, CHUNK_BYTES):
            wanted = min(CHUNK_BYTES, member.stat.size - offset)
            data = _read(self.files, member, offset, wanted)
            if len(data) != wanted:
                raise _changed(member.name)
            yield data
        if _stat(self.files, member.path, member.name) != member.stat:
            raise _changed(member.name)


# Two empty blocks end a tar file.
_END = b"\0" * (2 * tarfile.BLOCKSIZE)


def archive(job: Job, iteration: int) -> Archive:
    """A checkpoint's files in one archive. Raises NotFound, CheckpointChanged, BackendUnavailable."""
    checkpoint = queries.checkpoint(job.id, iteration)
    files = connect(cluster(job.cluster)).files()
    members = [_member(job, checkpoint, file["path"], file["bytes"], files) for file in checkpoint.files]
    return Archive(f"{job.name}-iter_{iteration:07d}.tar", members, files)


def _member(job: Job, checkpoint: Checkpoint, name: str, size: int, files: Files) -> _Member:
    path = _path(job, checkpoint, name)
    stat = _stat(files, path, name) if path else None
    if path is None or stat is None or stat.size != size:
        raise _changed(name)
    return _Member(str(PurePosixPath(f"iter_{checkpoint.iteration:07d}") / name), path, stat)


def _stat(files: Files, path: Path, name: str) -> FileStat:
    try:
        return files.stat(path)
    except FileNotFoundError:
        raise _changed(name) from None


def _read(files: Files, member: _Member, offset: int, limit: int) -> bytes:
    try:
        return files.read(member.path, offset, limit)
    except FileNotFoundError:
        raise _changed(member.name) from None


def _changed(name: str) -> CheckpointChanged:
    return CheckpointChanged(
        f"The file {name!r} is gone or no longer what the trainer saved.",
        hint="This checkpoint cannot be trusted; use another one of the job.",
    )
