"""Download a checkpoint's files. A file gets its name when it is complete; interrupted downloads resume."""

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
    """One file of a checkpoint: its URL and its target path."""

    url: str
    target: Path
    size_bytes: int
    attempt: int
    saved_at: float

    @property
    def part(self) -> Path:
        """Path of the incomplete file. Its name identifies the save: a retry may repeat the iteration."""
        return self.target.with_name(f".{self.target.name}.{self.attempt}-{self.saved_at:.0f}.part")

    def is_complete(self) -> bool:
        """Return whether the target exists with the size and the time of this checkpoint."""
        if not self.target.is_file():
            return False
        found = self.target.stat()
        return found.st_size == self.size_bytes and abs(found.st_mtime - self.saved_at) < 1

    def finish(self) -> None:
        """Rename the part to the target. Raises BadDownload if its size is not the declared size."""
        found = self.part.stat().st_size
        if found != self.size_bytes:
            self.part.unlink()
            raise BadDownload(
                f"{self.target.name} arrived with {found} bytes instead of {self.size_bytes}.",
                "Repeat the command.",
            )
        os.utime(self.part, (self.saved_at, self.saved_at))
        self.part.replace(self.target)


def files(job_id: str, detail: Document, directory: Path) -> list[File]:
    """Return the files of a checkpoint from the service's description, below a directory.

    Raises BadDownload for a path outside the directory.
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
    invalid = not parts or not path.isprintable()
    if invalid or target == root or not target.resolve().is_relative_to(root):
        raise BadDownload(f"The service names a file {path!r}, which is not inside {directory}.")
    return target


def fetch(api: Api, files: Sequence[File], policy: RetryPolicy, advance: Advance) -> None:
    """Download the missing files. `advance` is called with all bytes, including those downloaded before.

    Raises BadDownload, ApiError, Unreachable, OSError.
    """
    for file in files:
        if file.is_complete():
            advance(file.size_bytes)
            continue
        file.target.parent.mkdir(parents=True, exist_ok=True)
        _fetch_part(api, file, policy, advance)
        file.finish()


def _fetch_part(api: Api, file: File, policy: RetryPolicy, advance: Advance) -> None:
    """Download the part to its size, over as many connections as needed."""
    file.part.touch()
    advance(file.part.stat().st_size)
    while file.part.stat().st_size < file.size_bytes:
        try:
            for number in _append(api, file):
                policy.reset()
                advance(number)
            return  # the response is complete
        except httpx2.TransportError as error:
            policy.wait(api.unreachable(error))
        except ClientError as error:
            policy.wait(error)


def _append(api: Api, file: File) -> Iterator[int]:
    """Yield numbers of bytes written; a negative one if the response restarts at 0. Raises as Api.stream."""
    present = file.part.stat().st_size
    # Not compressed: offsets and progress count the file's own bytes.
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={present}-"} if present else {})}
    with api.stream(file.url, headers=headers) as response, file.part.open("r+b") as out:
        if response.status_code == httpx2.codes.PARTIAL_CONTENT:
            out.seek(present)
        else:
            out.truncate()
            yield -present
        for chunk in response.iter_raw():
            if out.tell() + len(chunk) > file.size_bytes:
                raise BadDownload(
                    f"The service sends more than the {file.size_bytes} bytes of {file.target.name}."
                )
            out.write(chunk)
            out.flush()
            yield len(chunk)
