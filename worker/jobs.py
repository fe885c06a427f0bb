"""Jobs: made, read, moved from state to state and attempt to attempt. The only writer of a job's state.

Every function opens and closes its own transaction, or is given the one it belongs to.
Nothing here talks to a backend or a broker.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import update
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, select

from worker.auth.roles import Caller
from worker.backends.connect import connect
from worker.clock import utcnow
from worker.clusters.registry import cluster
from worker.db.models import Attempt, Event, IdempotencyKey, Job, Json, Origin, new_id
from worker.db.session import affected, reading, writing
from worker.errors import IdempotencyMismatch, IllegalAction, NotFound
from worker.planning.plan import Plan, checked_plan, run
from worker.planning.spec import JobSpec
from worker.runs.run import Resources, Run
from worker.states import LIVE, TERMINAL, TRANSITIONS, JobState, allowed_actions
from worker.telemetry.logging import logger

SYSTEM = "system"

log = logger(__name__)


@dataclass(frozen=True)
class Reason:
    """Why a job is in its state: a code for programs, words for people, the scheduler's own text."""

    code: str
    message: str
    raw: str | None = None


# -- making ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Created:
    """A job that was made now, or by an earlier request with the same key."""

    job_id: str
    response: Json
    is_new: bool


def create(
    spec: JobSpec,
    caller: Caller,
    respond: Callable[[Job], Json],
    idempotency_key: str | None = None,
    make: Callable[[JobSpec, Caller], Job] | None = None,
) -> Created:
    """Store a new job, or find the one that the same key made before.

    respond: makes the body that the client is answered with; it is kept for replays of the key.
    make: makes the job where it is not an ordinary one; not asked where the key has made it before.
    The key's row belongs to the job's transaction: of many equal requests at once one makes the
    job, the others wait for it and get the same. A request that died left nothing behind.

    Raises InvalidSpec, PlanDrift, IdempotencyMismatch, what `make` raises, and NotFound where a job that
    it exports was removed just now.
    """
    used = _UsedKey(caller.project, caller.name, idempotency_key, _hash(spec.model_dump(mode="json")))
    if replay := used.replay():
        return replay
    job = (make or _new_job)(spec, caller)
    response = respond(job)
    try:
        with writing() as session:
            _hold_exported(session, job, caller)
            session.add(job)
            session.flush()
            used.remember(session, job.id, response)
            session.add(Attempt(job_id=job.id, number=1, resources=job.resources))
            record(session, job, "created", actor=caller.name, data={"state": job.state.value})
    except IntegrityError:
        if replay := used.replay():
            return replay
        raise
    log.info("job.created", job_id=job.id, owner=caller.name)
    return Created(job.id, response, is_new=True)


def _new_job(spec: JobSpec, caller: Caller) -> Job:
    return new_job(spec, caller, caller.project)


def new_job(spec: JobSpec, caller: Caller, project: str, export_of: Json | None = None) -> Job:
    """A job that is not stored yet. Raises InvalidSpec, PlanDrift."""
    plan = checked_plan(spec, caller.seen_project, exported=(export_of or {}).get("checkpoint"))
    job_id = new_id("job")
    return Job(
        id=job_id,
        name=spec.name,
        owner=caller.name,
        project=project,
        export_of=export_of,
        labels=dict(spec.labels),
        cluster=plan.cluster,
        backend=cluster(plan.cluster).executor,
        **planned(spec, plan, job_id),
    )


def _hold_exported(session: Session, job: Job, caller: Caller) -> None:
    """Keep the job that is exported until this transaction ends; its history tells of it. Raises NotFound."""
    if job.export_of:
        source = find(session, job.export_of["job"], lock=True)
        data = {"job": job.id, "iteration": job.export_of["iteration"]}
        record(session, source, "export", actor=caller.name, data=data)


def planned(spec: JobSpec, plan: Plan, job_id: str) -> Json:
    """The columns that a plan decides about."""
    return {
        "spec": spec.model_dump(mode="json"),
        "config": plan.config_in(connect(cluster(plan.cluster)).job_directory(job_id)),
        "resources": plan.resources.model_dump(mode="json"),
        "plan_hash": plan.plan_hash,
    }


@dataclass(frozen=True)
class _UsedKey:
    """The Idempotency-Key of a request, if it has one."""

    project: str
    owner: str
    key: str | None
    body_hash: str

    def remember(self, session: Session, job_id: str, response: Json) -> None:
        if self.key:
            row = IdempotencyKey(**vars(self), job_id=job_id, response=response)
            session.add(row)

    def replay(self) -> Created | None:
        if not self.key:
            return None
        with reading() as session:
            known = session.get(IdempotencyKey, (self.project, self.owner, self.key))
        if known is None:
            return None
        if known.body_hash != self.body_hash:
            raise IdempotencyMismatch(
                "This Idempotency-Key was used with another body.", hint="Use a new key for a new job."
            )
        return Created(known.job_id, known.response, is_new=False)


def _hash(value: Json) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


# -- reading ---------------------------------------------------------------------------------------


def get(job_id: str) -> Job:
    """A job. Raises NotFound."""
    with reading() as session:
        return find(session, job_id)


def find(session: Session, job_id: str, *, lock: bool = False) -> Job:
    """A job in a transaction; locked, nobody else changes it before the transaction ends. Raises NotFound."""
    # SQLite has no row locks and needs none: its writing transactions come one after the other.
    job = session.get(Job, job_id, with_for_update=lock or None)
    if job is None:
        raise no_such_job(job_id)
    return job


def no_such_job(job_id: str) -> NotFound:
    return NotFound(f"There is no job {job_id!r}.", hint="List yours with GET /v1/jobs.")


def attempts(job_id: str) -> list[Attempt]:
    """The attempts of a job, oldest first. Raises NotFound."""
    with reading() as session:
        find(session, job_id)
        query = select(Attempt).where(Attempt.job_id == job_id).order_by(col(Attempt.number))
        return list(session.exec(query))


def attempt_of(job: Job, number: int | None = None) -> Attempt:
    """One attempt, the current one if none is named. Raises NotFound."""
    with reading() as session:
        attempt = session.get(Attempt, (job.id, number or job.attempt))
    if attempt is None:
        raise NotFound(f"Job {job.id!r} has no attempt {number}.", hint=f"It has 1 to {job.attempt}.")
    return attempt


def run_of(job: Job) -> Run:
    """What a backend is given to render."""
    return run(JobSpec.model_validate(job.spec), job.id, job.attempt, job.config, Resources(**job.resources))


# -- changing --------------------------------------------------------------------------------------


def move(
    session: Session,
    job: Job,
    to: JobState,
    *,
    actor: str = SYSTEM,
    reason: Reason | None = None,
    **changes: Any,
) -> bool:
    """Bring a job from the state it was seen in to another: the one place where a state changes.

    Returns False, and changes nothing, where somebody else moved the job first.
    Raises IllegalAction where no path leads there.
    """
    seen = job.state
    if to not in TRANSITIONS[seen]:
        raise IllegalAction(f"A job that is {seen} cannot become {to}.", allowed=allowed_actions(seen))
    values: dict[str, Any] = {"state": to, **_reason_values(reason), **changes}
    if to in TERMINAL:
        values["finished_at"] = utcnow()
    if not change(session, job, **values):
        return False
    data = {"from": seen.value, "to": to.value, "code": reason.code if reason else None}
    data["message"] = reason.message if reason else None
    record(session, job, "state", actor=actor, data=data)
    if to in TERMINAL or to is JobState.PAUSED:
        _close_attempt(session, job.id, job.attempt, to, failure=job.failure)
    return True


def _reason_values(reason: Reason | None) -> dict[str, str | None]:
    if reason is None:
        return {"reason_code": None, "reason_message": None, "reason_raw": None}
    return {"reason_code": reason.code, "reason_message": reason.message, "reason_raw": reason.raw}


def next_attempt(
    session: Session,
    job: Job,
    to: JobState,
    origin: Origin,
    *,
    actor: str = SYSTEM,
    reason: Reason | None = None,
    failure_of_last: Json | None = None,
    attempt: Json | None = None,
    **changes: Any,
) -> bool:
    """Move a job on to another attempt. The last one is closed; what it ended in is the job's state now.

    failure_of_last: why the last attempt did not get to its end.
    attempt: columns of the new attempt.
    Returns False, and changes nothing, where somebody else moved the job first.
    """
    number, outcome = job.attempt, job.state
    changes = {"attempt": number + 1, "progress": {}, "estimated_start": None, **changes}
    if not move(session, job, to, actor=actor, reason=reason, **changes):
        return False
    _close_attempt(session, job.id, number, outcome, failure_of_last)
    columns = {"resources": job.resources, "origin": origin.value, **(attempt or {})}
    session.add(Attempt(job_id=job.id, number=job.attempt, **columns))
    return True


def _close_attempt(
    session: Session, job_id: str, number: int, outcome: JobState, failure: Json | None = None
) -> None:
    """Note in what an attempt ended, unless that is known already."""
    session.execute(
        update(Attempt)
        .where(col(Attempt.job_id) == job_id, col(Attempt.number) == number)
        .where(col(Attempt.finished_at).is_(None))
        .values(outcome=outcome.value, finished_at=utcnow(), failure=failure)
    )


def change(session: Session, job: Job, **values: Any) -> bool:
    """Set columns of a job, count the change, and bring `job` up to date.

    Returns False, and changes nothing, where it is no longer in the state and attempt it was seen in.
    """
    statement = (
        update(Job)
        .where(col(Job.id) == job.id, col(Job.state) == job.state, col(Job.attempt) == job.attempt)
        .values(version=col(Job.version) + 1, updated_at=utcnow(), **values)
    )
    if affected(session, statement) == 0:
        return False
    session.expire_all()
    fresh = find(session, job.id)
    if fresh is not job:
        job.sqlmodel_update(fresh.model_dump())
    return True


def record(
    session: Session,
    job: Job,
    kind: str,
    *,
    actor: str = SYSTEM,
    data: Json | None = None,
    attempt: int | None = None,
) -> None:
    """Write an event of the job's history.

    The transaction holds the job (`find(lock=True)`, or it has changed it): a reader who goes on
    after the last id that it has seen would else pass over an event that was committed later.
    attempt: whose event it is; by default of the current one.
    """
    number = attempt or job.attempt
    session.add(Event(job_id=job.id, attempt=number, type=kind, actor=actor, data=data or {}))


# -- what the tasks look for -----------------------------------------------------------------------


def live_clusters() -> list[str]:
    """Names of the clusters that have jobs to look at, or to submit."""
    with reading() as session:
        query = select(Job.cluster).where(col(Job.state).in_(LIVE - {JobState.PAUSED})).distinct()
        return list(session.exec(query))
