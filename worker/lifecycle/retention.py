"""Removes what is past its time: finished jobs, their logs, idempotency keys.

Rows first, in a transaction that holds the job's row and looks again; files after. A note in
data_dir/removals, written before that transaction, outlives a crash: where the transaction was
committed the next pass removes the files, where it was not the job is as it was. Files are only
ever removed below the backend's job_directory(): a checkpoint that was saved elsewhere is its owner's.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy import ColumnElement, and_, delete, func, tuple_
from sqlalchemy.orm import aliased
from sqlmodel import col, select

from worker.backends.connect import connect
from worker.clock import utcnow
from worker.clusters.registry import Cluster, cluster, clusters
from worker.db.models import Attempt, Event, IdempotencyKey, Job
from worker.db.session import affected, reading, writing
from worker.errors import BackendUnavailable, NotFound, ServiceUnavailable
from worker.jobs import transitions
from worker.jobs.queries import LOGS_REMOVED, logs_are_removed
from worker.settings import get_settings
from worker.states import LIVE, TERMINAL, JobState
from worker.telemetry.logging import logger

log = logger(__name__)

BATCH_JOBS = 100
BATCH_KEYS = 1000


class What(StrEnum):
    JOB = "job"
    LOGS = "logs"


class Removal(BaseModel):
    """A finished job, or its logs, as it was seen to be past its time."""

    model_config = ConfigDict(frozen=True)

    job_id: str = Field(pattern=r"^job-[0-9a-f]+$")
    cluster: str
    what: What
    attempt: int
    """The job's last attempt; another one since makes it another job for us."""
    state: JobState
    finished_at: datetime
    bytes: int = 0


# -- what is past its time -------------------------------------------------------------------------


def expired(limit: int | None = None) -> list[Removal]:
    """What would be removed now, oldest first, at most `limit` of each kind on each cluster.

    Jobs of a cluster that has no profile any more, or whose files cannot be used now, are left out.
    """
    return [
        removal.model_copy(update={"bytes": size})
        for profile in clusters().values()
        for what in (What.JOB, What.LOGS)
        for removal in _expired_on(profile, what, limit)
        if (size := _size(removal)) is not None
    ]


def _expired_on(profile: Cluster, what: What, limit: int | None) -> list[Removal]:
    query = select(Job).where(Job.cluster == profile.name, _has_expired(what))
    with reading() as session:
        found = session.exec(query.order_by(col(Job.finished_at)).limit(limit)).all()
    fields = {"job_id", "cluster", "attempt", "state", "finished_at"}
    return [Removal(job_id=job.id, what=what, **job.model_dump(include=fields)) for job in found]


def _has_expired(what: What) -> ColumnElement[bool]:
    """Whether a job, or its logs, may be removed: looked at again in the transaction that removes."""
    settings = get_settings()
    finished = col(Job.state).in_(TERMINAL)
    job_has_expired = and_(finished, col(Job.finished_at) < _ago(settings.keep_jobs_days), ~_is_exported())
    if what is What.JOB:
        return job_has_expired
    noted = select(Event.id).where(
        Event.job_id == Job.id, Event.attempt == Job.attempt, Event.type == LOGS_REMOVED
    )
    return and_(
        finished, col(Job.finished_at) < _ago(settings.keep_logs_days), ~job_has_expired, ~noted.exists()
    )


def _is_exported() -> ColumnElement[bool]:
    """Whether a live job exports a checkpoint of this one."""
    other = aliased(Job)
    exports = col(other.state).in_(LIVE), col(other.export_of)["job"].as_string() == col(Job.id)
    return select(other.id).where(*exports).exists()


def _ago(days: float | None) -> datetime:
    """So many days ago; None is for ever: before anything was."""
    return utcnow() - timedelta(days=days) if days else datetime.min


# -- removing --------------------------------------------------------------------------------------


def remove_expired(limit: int | None = BATCH_JOBS) -> list[Removal]:
    """Finish what a crash left, then remove a batch of what is due; returns what was removed.

    Raises ServiceUnavailable where another pass is at work.
    """
    with _only_pass():
        left = [removal for removal in _noted() if _finish(removal)]
        return left + [removal for removal in expired(limit) if _remove(removal)]


@contextmanager
def _only_pass() -> Iterator[None]:
    """One pass at a time: a note is its own. The kernel frees the lock with its holder."""
    _notes().mkdir(parents=True, exist_ok=True)
    with (_notes() / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ServiceUnavailable(
                "Another pass of removals is at work.", hint="Try again when it has ended."
            ) from None
        yield


def _remove(removal: Removal) -> bool:
    """Remove rows, then files. Returns False where the job has changed since, or its files cannot be used."""
    _note(removal).write_text(removal.model_dump_json())
    if not _remove_rows(removal):
        _note(removal).unlink()
        return False
    return _remove_files(removal)


def _finish(removal: Removal) -> bool:
    """Go on where an earlier pass ended. Returns whether anything was removed now."""
    if _rows_are_removed(removal):
        return _remove_files(removal)
    _note(removal).unlink()
    return False


def _remove_rows(removal: Removal) -> bool:
    """Remove the rows of a job, or note that its logs go; False where that is not due any more."""
    query = select(Job).where(
        Job.id == removal.job_id, Job.attempt == removal.attempt, _has_expired(removal.what)
    )
    with writing() as session:
        # Asked for again when the row is ours: what held it meanwhile may have begun an export.
        job = session.exec(query.with_for_update()).first() and session.exec(query).first()
        if job is None:
            return False
        if removal.what is What.JOB:
            transitions.remove(session, job.id)
        else:
            transitions.record(session, job, LOGS_REMOVED)
    return True


def _rows_are_removed(removal: Removal) -> bool:
    with reading() as session:
        if session.get(Job, removal.job_id) is None:
            return True
    attempt = Attempt(job_id=removal.job_id, number=removal.attempt)
    return removal.what is What.LOGS and logs_are_removed(attempt)


# -- files -----------------------------------------------------------------------------------------


def _remove_files(removal: Removal) -> bool:
    """Returns False, and leaves the note for the next pass, where they cannot be removed now."""
    try:
        files = connect(cluster(removal.cluster)).files()
        for path in _paths(removal):
            with suppress(FileNotFoundError):
                files.remove_tree(path, _below(removal))
    except (BackendUnavailable, NotFound) as error:
        log.warning("retention.files_left", job_id=removal.job_id, error=error.message)
        return False
    _note(removal).unlink()
    log.info("retention.removed", job_id=removal.job_id, what=removal.what, bytes=removal.bytes)
    return True


def _size(removal: Removal) -> int | None:
    """Bytes of the files that would be removed; None where they cannot be used now."""
    size = 0
    try:
        files = connect(cluster(removal.cluster)).files()
        for path in _paths(removal):
            with suppress(FileNotFoundError):
                size += files.tree_size(path, _below(removal))
    except BackendUnavailable as error:
        # One job's directory is its run's to spoil: the others go their way.
        log.warning("retention.unavailable", job_id=removal.job_id, error=error.message)
        return None
    return size


def _below(removal: Removal) -> Path:
    return _job_directory(removal).parent


def _paths(removal: Removal) -> list[Path]:
    directory = _job_directory(removal)
    if removal.what is What.JOB:
        return [directory]
    return [directory / "attempts" / str(number) / "logs" for number in range(1, removal.attempt + 1)]


def _job_directory(removal: Removal) -> Path:
    return connect(cluster(removal.cluster)).job_directory(removal.job_id)


# -- notes -----------------------------------------------------------------------------------------


def _notes() -> Path:
    return get_settings().data_dir / "removals"


def _note(removal: Removal) -> Path:
    return _notes() / f"{removal.job_id}.{removal.what}.json"


def _noted() -> Iterator[Removal]:
    """What earlier passes did not finish. A note that ends early was no promise yet: nothing was removed."""
    for path in sorted(_notes().glob("*.json")):
        try:
            yield Removal.model_validate_json(path.read_bytes())
        except ValidationError:
            path.unlink()


# -- idempotency keys ------------------------------------------------------------------------------


def count_expired_keys() -> int:
    """Number of the idempotency keys that are past their time."""
    with reading() as session:
        return session.exec(select(func.count()).where(_key_has_expired())).one()


def delete_expired_keys() -> int:
    """Remove the idempotency keys that are past their time, some at a time; returns their number."""
    columns = (col(IdempotencyKey.project), col(IdempotencyKey.owner), col(IdempotencyKey.key))
    key = tuple_(*columns)
    some = select(*columns).where(_key_has_expired()).limit(BATCH_KEYS)
    total = 0
    while True:
        with writing() as session:
            number = affected(session, delete(IdempotencyKey).where(key.in_(some)))
        total += number
        if number < BATCH_KEYS:
            return total


def _key_has_expired() -> ColumnElement[bool]:
    return col(IdempotencyKey.created_at) < _ago(get_settings().keep_idempotency_keys_days)
