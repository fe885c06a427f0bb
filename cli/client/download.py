"""A checkpoint's files, each whole under its name or not at all; what broke off is gone on with."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from urllib.parse import quote

import httpx2

from cli.client.api import Api, Document, job_path
from cli.client.errors import BadDownload, ClientError
from cli.client.retry import RetryPolicy

Advance = Callable[[int], None]


@dataclass(frozen=True)
class File:
    """One file of a checkpoint: where it comes from, and where it goes."""

    url: str
    target: Path
    size_bytes: int
    attempt: int
    saved_at: float

    @property
    def part(self) -> Path:
        """Where it grows. The name tells of what: a retry may save the same iteration anew."""
        return self.target.with_name(f".{self.target.name}.{self.attempt}-{self.saved_at:.0f}.part")

    def is_whole(self) -> bool:
        """Whether it is there, of this checkpoint's size and time."""
        if not self.target.is_file():
            return False
        found = self.target.stat()
        return found.st_size == self.size_bytes and abs(found.st_mtime - self.saved_at) < 1

    def finish(self) -> None:
        """Give the part its name. Raises BadDownload where it is not as long as was promised."""
        found = self.part.stat().st_size
        if found != self.size_bytes:
            self.part.unlink()
            raise BadDownload(f"{self.target.name} came with {found} bytes instead of {self.size_bytes}.")
        os.utime(self.part, (self.saved_at, self.saved_at))
        self.part.replace(self.target)


def files(job_id: str, detail: Document, directory: Path) -> list[File]:
    """The files of a checkpoint as the service describes it, below a directory.

    Raises BadDownload for a path that leads out of it.
    """
    url = job_path(job_id, "checkpoints", detail["iteration"], "files")
    saved_at = datetime.fromisoformat(detail["saved_at"]).timestamp()
    return [
        File(f"{url}/{quote(one['path'])}", _inside(directory, one["path"]), int(one["bytes"]),
             int(detail["attempt"]), saved_at)
        for one in detail["files"]
    ]  # fmt: skip


def _inside(directory: Path, path: str) -> Path:
    root = directory.resolve()
    parts = PurePosixPath(path).parts
    target = root.joinpath(*parts)
    odd = not parts or not path.isprintable()
    if odd or target == root or not target.resolve().is_relative_to(root):
        raise BadDownload(f"The service names a file {path!r}, which does not lie in {directory}.")
    return target


def fetch(api: Api, wanted: Sequence[File], policy: RetryPolicy, advance: Advance) -> None:
    """Download what is not there. `advance` hears of every byte, also of those that were there.

    Raises BadDownload, ApiError, Unreachable, OSError.
    """
    for file in wanted:
        if file.is_whole():
            advance(file.size_bytes)
            continue
        file.target.parent.mkdir(parents=True, exist_ok=True)
        _fetch_part(api, file, policy, advance)
        file.finish()


def _fetch_part(api: Api, file: File, policy: RetryPolicy, advance: Advance) -> None:
    """Let the part grow to its size, over as many connections as that takes."""
    file.part.touch()
    advance(file.part.stat().st_size)
    while file.part.stat().st_size < file.size_bytes:
        try:
            for number in _append(api, file):
                policy.reset()
                advance(number)
            return  # all that there is
        except httpx2.TransportError as error:
            policy.wait(api.unreachable(error))
        except ClientError as error:
            policy.wait(error)


def _append(api: Api, file: File) -> Iterator[int]:
    """Numbers of bytes written; a negative one where the service begins anew. Raises as Api.stream."""
    have = file.part.stat().st_size
    # Not compressed: what is counted is the file's own bytes.
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
    with api.stream(file.url, headers=headers) as response, file.part.open("r+b") as out:
        if response.status_code == httpx2.codes.PARTIAL_CONTENT:
            out.seek(have)
        else:
            out.truncate()
            yield -have
        for chunk in response.iter_raw():
            if out.tell() + len(chunk) > file.size_bytes:
                raise BadDownload(f"The service sends more of {file.target.name} than it said there is.")
            out.write(chunk)
            out.flush()
            yield len(chunk)
