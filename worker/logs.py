"""Logs by byte offset, for any attempt and rank, while they grow."""

import codecs
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from worker import jobs, retention
from worker.backends.base import Files
from worker.clusters import cluster, connect
from worker.errors import Gone, NotFound, RangeInvalid
from worker.models import Attempt, Job

MAX_BYTES = 1 << 20
_BLOCK_BYTES = 1 << 16


@dataclass(frozen=True)
class LogPage:
    """A piece of a log. Offsets count bytes of the file; bytes that are not UTF-8 become U+FFFD."""

    attempt: int
    rank: int | None
    offset: int
    next_offset: int
    size: int
    end: bool
    """Nothing will ever follow next_offset: the attempt is over and all of its log was read."""
    text: str


def read(
    job_id: str, *, attempt: int | None, rank: int | None, offset: int, limit: int, tail: int | None
) -> LogPage:
    """A piece of a job's log: from an offset, or its last `tail` lines.

    rank: the output of one rank; None is the whole attempt's, launcher included.
    Raises NotFound, Gone, RangeInvalid.
    """
    job = jobs.get(job_id)
    # Read before the file's size: a log that was complete then is complete now.
    chosen = jobs.attempt_of(job, attempt)
    with suppress(FileNotFoundError):  # removed between two looks at it
        if not retention.logs_are_removed(chosen):
            return _page(job, chosen, rank, offset, limit, tail)
    raise Gone(
        f"The logs of attempt {chosen.number} were removed: their time was over.",
        hint="SFT_KEEP_LOGS_DAYS says how long logs of finished jobs are kept.",
    )


def _page(job: Job, chosen: Attempt, rank: int | None, offset: int, limit: int, tail: int | None) -> LogPage:
    files = connect(cluster(job.cluster)).files()
    path = _path(job, chosen, rank)
    size = _size(files, path, rank)
    if tail is not None:
        offset = _tail_offset(files, path, size, tail)
    if offset > size:
        raise RangeInvalid(f"Offset {offset} lies beyond the log's {size} bytes.")
    data = files.read(path, offset, limit) if size else b""
    data = data if offset + len(data) >= size else _whole_characters(data)
    following = offset + len(data)
    return LogPage(
        attempt=chosen.number,
        rank=rank,
        offset=offset,
        next_offset=following,
        size=size,
        end=chosen.finished_at is not None and following >= size,
        text=data.decode(errors="replace"),
    )


def _path(job: Job, attempt: Attempt, rank: int | None) -> Path:
    directory = connect(cluster(job.cluster)).job_directory(job.id) / "attempts" / str(attempt.number)
    return directory / "logs" / ("job.log" if rank is None else f"rank-{rank}.log")


def _size(files: Files, path: Path, rank: int | None) -> int:
    try:
        return files.size(path)
    except FileNotFoundError:
        if rank is None:
            return 0  # nothing was written yet
        raise NotFound(
            f"There is no log of rank {rank}.", hint="Ranks count from 0; it may not have begun."
        ) from None


def _tail_offset(files: Files, path: Path, size: int, lines: int) -> int:
    """Where the last `lines` lines begin, read backwards, and never more than MAX_BYTES from the end."""
    start, breaks = size, 0
    while start > max(0, size - MAX_BYTES):
        begin = max(0, start - _BLOCK_BYTES)
        block = files.read(path, begin, start - begin)
        for index in range(len(block) - 1, -1, -1):
            # The newline that ends the file begins no line.
            if block[index] == 0x0A and begin + index + 1 < size:
                breaks += 1
                if breaks == lines:
                    return begin + index + 1
        start = begin
    return start


def _whole_characters(data: bytes) -> bytes:
    """Cut a page before a character whose bytes are not all in it; a bad byte cuts nothing."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    decoder.decode(data)
    pending = decoder.getstate()[0]
    return data[: len(data) - len(pending)] if len(pending) < len(data) else data
