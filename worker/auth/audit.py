"""The audit log: who changed keys, jobs or limits, or used a secret; when, from where, with which outcome.

An entry is added in the transaction of its change: there is neither without the other. Nothing changes an
entry, and only retention deletes some: triggers of the database reject anything else (migration 0006).
"""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, delete, event, func
from sqlmodel import Session, col, select

from worker.auth.roles import Caller
from worker.clock import utcnow
from worker.db.models import ApiKey, AuditEntry, Job
from worker.db.session import affected, reading, writing
from worker.settings import get_settings

SERVICE = "service"
"""Actor of what nobody asked for: the first admin's key, expired jobs."""
OK = "ok"
BATCH = 1000
MINUTE_SECONDS = 60
NOTES_PER_MINUTE = 30
"""Entries of requests that changed nothing, of each key: a flood of them must not fill the disk."""


class AuditAction(StrEnum):
    """What an entry is about."""

    KEY_CREATE = "key.create"
    KEY_REVOKE = "key.revoke"
    JOB_CREATE = "job.create"
    JOB_CANCEL = "job.cancel"
    JOB_PAUSE = "job.pause"
    JOB_RESUME = "job.resume"
    JOB_RETRY = "job.retry"
    JOB_EXPORT = "job.export"
    JOB_REMOVE = "job.remove"
    JOB_REMOVE_LOGS = "job.remove_logs"
    LIMITS_CHANGE = "limits.change"
    SECRET_USE = "secret.use"  # noqa: S105 - a name  # nosec B105


# -- where a request comes from --------------------------------------------------------------------


@dataclass
class RequestOrigin:
    """The request that this code runs for."""

    address: str | None
    request_id: str
    caller: Caller | None = None
    """Known as soon as its key was checked."""
    is_recorded: bool = False
    """Whether a transaction with an entry of this request was committed."""


_current: ContextVar[RequestOrigin | None] = ContextVar("request_origin", default=None)


@contextmanager
def request(address: str | None, request_id: str) -> Iterator[RequestOrigin]:
    """Entries in this block come from this request, also those of its threads."""
    origin = RequestOrigin(address, request_id)
    token = _current.set(origin)
    try:
        yield origin
    finally:
        _current.reset(token)


def authenticated(caller: Caller) -> None:
    """Note who the caller of the current request is."""
    if origin := _current.get():
        origin.caller = caller


# -- adding entries --------------------------------------------------------------------------------


def of_job(session: Session, action: AuditAction, job: Job, caller: Caller | None, /, **details: Any) -> None:
    """Add the entry of a change of a job, in its transaction. caller: None is the service itself."""
    _add(session, _entry(action, caller, target=job.id, project=job.project, details=details))


def of_key(session: Session, action: AuditAction, key: ApiKey, caller: Caller | None) -> None:
    """Add the entry of a change of a key, in its transaction. caller: None is the service itself."""
    details = {"name": key.name, "role": key.role}
    _add(session, _entry(action, caller, target=key.id, project=key.project, details=details))


def of_limits(session: Session, project: str, limits: Mapping[str, int | None], caller: Caller) -> None:
    """Add the entry of a change of a project's limits, in its transaction."""
    details = dict(limits)
    _add(session, _entry(AuditAction.LIMITS_CHANGE, caller, target=project, project=project, details=details))


def of_secrets(session: Session, job: Job, outcome: str = OK) -> None:
    """Add an entry for each secret that the service hands to the current attempt of a job, for its owner.

    outcome: code of the error if the job does not get them.
    """
    for variable, secret in job.spec.get("secrets", {}).items():
        details = {"job": job.id, "attempt": job.attempt, "cluster": job.cluster, "variable": variable}
        entry = _entry(AuditAction.SECRET_USE, None, target=secret, project=job.project, details=details)
        entry.actor, entry.actor_project, entry.outcome = job.owner, job.project, outcome
        _add(session, entry)


def _add(session: Session, entry: AuditEntry) -> None:
    session.add(entry)
    if origin := _current.get():
        event.listen(session, "after_commit", lambda _session: setattr(origin, "is_recorded", True))


def _entry(action: AuditAction, caller: Caller | None, **fields: Any) -> AuditEntry:
    origin = _current.get()
    return AuditEntry(
        action=action,
        outcome=OK,
        actor=caller.name if caller else SERVICE,
        actor_project=caller.project if caller else None,
        key_id=caller.key_id or None if caller else None,
        role=caller.role if caller else None,
        address=origin.address if origin else None,
        request_id=origin.request_id if origin else None,
        **fields,
    )


# -- requests that changed nothing -----------------------------------------------------------------


def note(origin: RequestOrigin, action: AuditAction, target: str | None, outcome: str) -> None:
    """Add the entry of a request that changed nothing: rejected, or a repetition. Raises ServiceUnavailable.

    Of each key NOTES_PER_MINUTE are added in a minute; the next entry has the number of those left out.
    """
    caller = origin.caller
    if caller is None or (left_out := _quota.admit(caller.key_id)) is None:
        return
    details: dict[str, Any] = {"changed": False} if outcome == OK else {}
    entry = AuditEntry(
        action=action, outcome=outcome, target=target, project=caller.project, actor=caller.name,
        actor_project=caller.project, key_id=caller.key_id, role=caller.role, address=origin.address,
        request_id=origin.request_id, details=details | ({"left_out": left_out} if left_out else {}),
    )  # fmt: skip
    with writing() as session:
        session.add(entry)


@dataclass
class _Minute:
    """What one key has asked for in a minute."""

    begun: float
    admitted: int = 0
    left_out: int = 0


@dataclass
class _Quota:
    """How many notes each key has left in its minute, in this process."""

    minutes: dict[str, _Minute] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def admit(self, key_id: str) -> int | None:
        """Return how many notes were left out before this one; None if it is left out, too."""
        now = time.time()
        with self.lock:
            minute = self.minutes.setdefault(key_id, _Minute(begun=now))
            left_out = 0
            if not 0 <= now - minute.begun < MINUTE_SECONDS:  # less than 0: the clock was set back
                left_out = minute.left_out
                minute = self.minutes[key_id] = _Minute(begun=now)
            if minute.admitted >= NOTES_PER_MINUTE:
                minute.left_out += 1
                return None
            minute.admitted += 1
            return left_out


_quota = _Quota()


# -- reading and retention -------------------------------------------------------------------------


@dataclass(frozen=True)
class AuditFilter:
    """Which entries to list. None: all."""

    since: datetime | None = None
    until: datetime | None = None
    actor: str | None = None
    action: str | None = None
    project: str | None = None
    target: str | None = None
    outcome: str | None = None

    def conditions(self) -> Iterator[ColumnElement[bool]]:
        if self.since:
            yield col(AuditEntry.at) >= self.since
        if self.until:
            yield col(AuditEntry.at) < self.until
        for name in ("actor", "action", "project", "target", "outcome"):
            if (value := getattr(self, name)) is not None:
                yield col(getattr(AuditEntry, name)) == value


def page(wanted: AuditFilter, after: str | None, limit: int) -> tuple[list[AuditEntry], str | None]:
    """Return the newest entries first, after the entry `after`, and the cursor of the next page."""
    query = select(AuditEntry).where(*wanted.conditions()).order_by(col(AuditEntry.id).desc())
    if after:
        query = query.where(col(AuditEntry.id) < after)
    with reading() as session:
        entries = list(session.exec(query.limit(limit + 1)))
    return entries[:limit], entries[limit - 1].id if len(entries) > limit else None


def count_expired() -> int:
    """Count the entries that have expired."""
    with reading() as session:
        return session.exec(select(func.count()).where(_has_expired())).one()


def delete_expired() -> int:
    """Delete the entries that have expired, in batches; return their number."""
    some = select(AuditEntry.id).where(_has_expired()).limit(BATCH)
    total = 0
    while True:
        with writing() as session:
            number = affected(session, delete(AuditEntry).where(col(AuditEntry.id).in_(some)))
        total += number
        if number < BATCH:
            return total


def _has_expired() -> ColumnElement[bool]:
    return col(AuditEntry.at) < utcnow() - timedelta(days=get_settings().keep_audit_days)
