"""Logs by byte offset, for any attempt and rank, while they grow."""

import codecs
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from trainer.failures import LogTail
from trainer.run_layout import RunLayout
from worker.backends.access.files import Files, FileStat
from worker.errors import Gone, NotFound, NotReachable, RangeInvalid
from worker.jobs import queries
from worker.jobs.job_cluster import backend_of

MAX_BYTES = 1 << 20
_BLOCK_BYTES = 1 << 16
# The cause of a failure stands near the end of a log.
EVIDENCE_BYTES = 1 << 18


@dataclass(frozen=True)
class Log:
    """The log of an attempt or of one of its ranks, and where it is."""

    job_id: str
    attempt: int
    rank: int | None
    """None: the log of the launcher and all ranks."""
    layout: RunLayout | None
    """None: the attempt was not submitted yet, and has no directory."""
    files: Files
    is_over: bool
    """The attempt has ended: nothing will be added."""

    def stat(self) -> FileStat:
        """Raises FileNotFoundError, also where a run has put a link on the way to its log."""
        if self.layout is None:
            raise FileNotFoundError
        return self.files.stat(self.layout.log(self.rank), self.layout.job.jobs)

    def read(self, offset: int, limit: int) -> bytes:
        """As stat."""
        if self.layout is None:
            raise FileNotFoundError
        return self.files.read(self.layout.log(self.rank), offset, limit, self.layout.job.jobs)


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


def tails(layout: RunLayout, ranks: int, files: Files) -> Iterator[LogTail]:
    """The end of each rank's log of an attempt, then of the launcher's; one in memory at a time.

    Raises BackendUnavailable.
    """
    jobs = layout.job.jobs
    for rank in (*range(ranks), None):
        path = layout.log(rank)
        try:
            offset = max(0, files.stat(path, jobs).size - EVIDENCE_BYTES)
            yield LogTail(rank, offset, files.read(path, offset, EVIDENCE_BYTES, jobs))
        except (FileNotFoundError, NotReachable):
            continue


def find(job_id: str, attempt: int | None = None, rank: int | None = None) -> Log:
    """The log of an attempt (default: the current one) or of one of its ranks.

    Raises NotFound, Gone, ClusterRemoved.
    """
    job = queries.get(job_id)
    chosen = queries.attempt_of(job, attempt)
    if queries.logs_are_removed(job_id, chosen.number):
        raise _gone(chosen.number)
    layout = RunLayout(Path(chosen.directory)) if chosen.directory else None
    files = backend_of(job).files()
    return Log(job.id, chosen.number, rank, layout, files, chosen.finished_at is not None)


def read(log: Log, *, offset: int = 0, limit: int = MAX_BYTES, tail: int | None = None) -> LogPage:
    """A piece of a log: from an offset, or its last `tail` lines. Raises NotFound, Gone, RangeInvalid."""
    try:
        return _page(log, offset, limit, tail)
    except FileNotFoundError:
        raise _gone(log.attempt) from None  # it was there a moment ago


def _gone(attempt: int) -> Gone:
    return Gone(
        f"The logs of attempt {attempt} were removed: they had expired.",
        hint="SFT_KEEP_LOGS_DAYS sets how long logs of finished jobs are kept.",
    )


def _page(log: Log, offset: int, limit: int, tail: int | None) -> LogPage:
    size = _size(log)
    if tail is not None:
        offset = _tail_offset(log, size, tail)
    if offset > size:
        raise RangeInvalid(f"Offset {offset} lies beyond the log's {size} bytes.")
    data = log.read(offset, limit) if size else b""
    if not (log.is_over and offset + len(data) >= size):
        data = _complete_characters(data)
    following = offset + len(data)
    return LogPage(
        attempt=log.attempt,
        rank=log.rank,
        offset=offset,
        next_offset=following,
        size=size,
        end=log.is_over and following >= size,
        text=data.decode(errors="replace"),
    )


def _size(log: Log) -> int:
    with suppress(FileNotFoundError):
        return log.stat().size
    if log.rank is None:
        return 0  # nothing was written yet
    raise NotFound(f"There is no log of rank {log.rank}.", hint="Ranks count from 0; it may not have begun.")


def _tail_offset(log: Log, size: int, lines: int) -> int:
    """Where the last `lines` lines begin, read backwards, and never more than MAX_BYTES from the end."""
    start, breaks = size, 0
    while start > max(0, size - MAX_BYTES):
        begin = max(0, start - _BLOCK_BYTES)
        block = log.read(begin, start - begin)
        for index in range(len(block) - 1, -1, -1):
            # The newline that ends the file begins no line.
            if block[index] == 0x0A and begin + index + 1 < size:
                breaks += 1
                if breaks == lines:
                    return begin + index + 1
        start = begin
    return start


def _complete_characters(data: bytes) -> bytes:
    """Cut off the beginning of a character whose other bytes may follow; a bad byte cuts nothing."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    decoder.decode(data)
    return data[: len(data) - len(decoder.getstate()[0])]
