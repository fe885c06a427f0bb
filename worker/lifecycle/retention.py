"""Delete what has expired: finished jobs, their logs, idempotency keys. Audit entries: worker/auth/audit.py.

Rows are deleted first, in a transaction that locks the job's row and checks again; files follow. A note in
data_dir/removals, written before that transaction, survives a crash: where the transaction was committed the
next pass removes the files, where it was not the job is as it was. Files are removed only below the job's own
directory: a checkpoint that was saved elsewhere is its owner's.
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

from trainer.run_layout import JobLayout, RunLayout
from worker.auth import audit
from worker.auth.audit import AuditAction
from worker.backends.access.local_files import LocalFiles
from worker.backends.connect import connect
from worker.backends.interface import Backend
from worker.clock import utcnow
from worker.clusters.profiles import Cluster
from worker.clusters.registry import cluster, clusters
from worker.db.models import Attempt, Event, IdempotencyKey, Job
from worker.db.session import affected, reading, writing
from worker.errors import BackendError, NotFound, ServiceUnavailable
from worker.jobs import transitions
from worker.jobs.job_cluster import profile_with
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


REMOVALS = {What.JOB: AuditAction.JOB_REMOVE, What.LOGS: AuditAction.JOB_REMOVE_LOGS}


class Removal(BaseModel):
    """A finished job, or its logs, that had expired when it was read."""

    model_config = ConfigDict(frozen=True)

    job_id: str = Field(pattern=r"^job-[0-9a-f]+$")
    cluster: str
    backend: str | None = None
    """Of the job: a profile of another kind leads to other files. Older notes have none."""
    what: What
    attempt: int
    """The job's last attempt; after another one it is not the job that had expired."""
    state: JobState
    finished_at: datetime
    directory: Path | None = None
    """Of the job, as it is stored with its attempts. None: the job has no attempt with a directory."""
    bytes: int = 0

    @property
    def cluster_backend(self) -> Backend:
        """The backend that has the files. Raises ClusterRemoved, NotFound."""
        return connect(profile_with(self.cluster, self.backend) if self.backend else cluster(self.cluster))

    @property
    def layout(self) -> JobLayout:
        """Notes of version 0.1.0 have no directory: it is that of today's profile then."""
        return JobLayout(self.directory or self.cluster_backend.job_directory(self.job_id))

    @property
    def paths(self) -> list[Path]:
        """What is removed on the cluster."""
        if self.what is What.JOB:
            return [self.layout.directory]
        return [self.layout.attempt(number).logs for number in range(1, self.attempt + 1)]


# -- what has expired ------------------------------------------------------------------------------


def expired(limit: int | None = None) -> list[Removal]:
    """Return what would be removed now, oldest first, at most `limit` of each kind on each cluster.

    Jobs of a cluster that has no profile of their kind any more, or whose files cannot be used now, are left
    out.
    """
    return [
        removal.model_copy(update={"bytes": size})
        for profile in clusters().values()
        for what in (What.JOB, What.LOGS)
        for removal in _expired_on(profile, what, limit)
        if (size := _size(removal)) is not None
    ]


def _expired_on(profile: Cluster, what: What, limit: int | None) -> list[Removal]:
    directory = select(func.max(Attempt.directory)).where(Attempt.job_id == Job.id).scalar_subquery()
    is_there = Job.cluster == profile.name, Job.backend == profile.executor
    query = select(Job, directory).where(*is_there, _has_expired(what))
    with reading() as session:
        found = session.exec(query.order_by(col(Job.finished_at)).limit(limit)).all()
    return [_removal(job, what, directory) for job, directory in found]


def _removal(job: Job, what: What, attempt_directory: str | None) -> Removal:
    """attempt_directory: of any attempt of the job."""
    same = {"cluster", "backend", "attempt", "state", "finished_at"}
    fields = {"job_id": job.id, **job.model_dump(include=same)}
    directory = RunLayout(Path(attempt_directory)).job.directory if attempt_directory else None
    return Removal(what=what, directory=directory, **fields)


def _has_expired(what: What) -> ColumnElement[bool]:
    """Whether a job, or its logs, may be removed: checked again in the transaction that removes."""
    settings = get_settings()
    finished = col(Job.state).in_(TERMINAL)
    job_has_expired = and_(finished, col(Job.finished_at) < _ago(settings.keep_jobs_days), ~_is_exported())
    if what is What.JOB:
        return job_has_expired
    noted = select(Event.id).where(
        Event.job_id == Job.id, Event.attempt == Job.attempt, Event.type == LOGS_REMOVED
    )
    logs_have_expired = col(Job.finished_at) < _ago(settings.keep_logs_days)
    return and_(finished, logs_have_expired, ~job_has_expired, ~noted.exists())


def _is_exported() -> ColumnElement[bool]:
    """Whether a live job exports a checkpoint of this one."""
    other = aliased(Job)
    exports = col(other.state).in_(LIVE), col(other.export_of)["job"].as_string() == col(Job.id)
    return select(other.id).where(*exports).exists()


def _ago(days: float | None) -> datetime:
    """So many days ago. None keeps everything: the moment is before all others."""
    return utcnow() - timedelta(days=days) if days else datetime.min


# -- removing --------------------------------------------------------------------------------------


def remove_expired(limit: int | None = BATCH_JOBS) -> list[Removal]:
    """Finish what a crash left, then remove a batch of what has expired; return what was removed.

    Raises ServiceUnavailable where another pass is running.
    """
    with _only_pass():
        left = [removal for removal in _noted() if _finish(removal)]
        return left + [removal for removal in expired(limit) if _remove(removal)]


@contextmanager
def _only_pass() -> Iterator[None]:
    """One pass at a time: each note belongs to one pass. The kernel releases the lock with its holder."""
    _notes().mkdir(parents=True, exist_ok=True)
    with (_notes() / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ServiceUnavailable(
                "Another pass of removals is running.", hint="Try again when it has ended."
            ) from None
        yield


def _remove(removal: Removal) -> bool:
    """Remove rows, then files. Returns False where the job has changed since, or its files cannot be used."""
    LocalFiles().write(_note(removal), removal.model_dump_json().encode())
    if not _remove_rows(removal):
        _note(removal).unlink()
        return False
    return _remove_files(removal)


def _finish(removal: Removal) -> bool:
    """Continue where an earlier pass ended. Returns whether anything was removed now."""
    if _rows_are_removed(removal):
        return _remove_files(removal)
    _note(removal).unlink()
    return False


def _remove_rows(removal: Removal) -> bool:
    """Remove the rows of a job, or note that its logs are removed; False where it is no longer expired."""
    query = select(Job).where(
        Job.id == removal.job_id, Job.attempt == removal.attempt, _has_expired(removal.what)
    )
    with writing() as session:
        # Checked again when the row is locked: whoever locked it meanwhile may have started an export.
        job = session.exec(query.with_for_update()).first() and session.exec(query).first()
        if job is None:
            return False
        audit.of_job(session, REMOVALS[removal.what], job, None, state=job.state.value)
        if removal.what is What.JOB:
            transitions.remove(session, job.id)
        else:
            transitions.record(session, job, LOGS_REMOVED)
    return True


def _rows_are_removed(removal: Removal) -> bool:
    with reading() as session:
        if session.get(Job, removal.job_id) is None:
            return True
    return removal.what is What.LOGS and logs_are_removed(removal.job_id, removal.attempt)


# -- files -----------------------------------------------------------------------------------------


def _remove_files(removal: Removal) -> bool:
    """Returns False, and leaves the note for the next pass, where they cannot be removed now."""
    try:
        files = removal.cluster_backend.files()
        for path in removal.paths:
            with suppress(FileNotFoundError):
                files.remove_tree(path, removal.layout.jobs)
    except (BackendError, NotFound) as error:
        log.warning("retention.files_left", job_id=removal.job_id, error=error.message)
        return False
    _note(removal).unlink()
    log.info("retention.removed", job_id=removal.job_id, what=removal.what, bytes=removal.bytes)
    return True


def _size(removal: Removal) -> int | None:
    """Bytes of the files that would be removed; None where they cannot be used now."""
    size = 0
    try:
        files = removal.cluster_backend.files()
        for path in removal.paths:
            with suppress(FileNotFoundError):
                size += files.tree_size(path, removal.layout.jobs)
    except BackendError as error:
        # A run may spoil the directory of its own job: the others proceed.
        log.warning("retention.unavailable", job_id=removal.job_id, error=error.message)
        return None
    return size


# -- notes -----------------------------------------------------------------------------------------


def _notes() -> Path:
    return get_settings().data_dir / "removals"


def _note(removal: Removal) -> Path:
    return _notes() / f"{removal.job_id}.{removal.what}.json"


def _noted() -> Iterator[Removal]:
    """What earlier passes did not finish. An incomplete note promised nothing yet: nothing was removed."""
    for path in sorted(_notes().glob("*.json")):
        try:
            yield Removal.model_validate_json(path.read_bytes())
        except ValidationError:
            path.unlink()


# -- idempotency keys ------------------------------------------------------------------------------


def count_expired_keys() -> int:
    """Count the idempotency keys that have expired."""
    with reading() as session:
        return session.exec(select(func.count()).where(_key_has_expired())).one()


def delete_expired_keys() -> int:
    """Delete the idempotency keys that have expired, in batches; return their number."""
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
