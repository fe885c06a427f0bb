"""Looks at live jobs: one call per cluster, whatever their number; writes only what changed."""

from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import func, or_, update
from sqlalchemy.orm import defer
from sqlmodel import Session, col, select

from worker import ingest, recovery
from worker.backends.connect import connect
from worker.backends.interface import Backend, Handle, Observation, Phase
from worker.clock import utcnow
from worker.clusters.registry import Cluster, cluster
from worker.db.models import Attempt, Job, Origin
from worker.db.session import reading, writing
from worker.errors import BackendUnavailable, CredentialsRefused
from worker.jobs import queries, transitions
from worker.outcome import VANISHED
from worker.pace import Turn
from worker.run_files import CLAIM, END, EVENTS
from worker.settings import get_settings
from worker.states import AWAITING_TASK, TRANSITIONS, WATCHED, DesiredState, JobState, Reason
from worker.telemetry import metrics
from worker.telemetry.logging import logger

log = logger(__name__)

Watched = tuple[Job, Attempt]
News = tuple[Job, Attempt, Observation]
Write = Callable[[Session, Job, Observation], None]

# Schedulers think again about when a job may begin with each of their rounds.
ESTIMATE_STEP = timedelta(minutes=2)
# In these states a job has no reason of its own that would be lost.
SHOWN_TROUBLE = frozenset({JobState.QUEUED, JobState.STARTING, JobState.RUNNING})


def look(cluster_name: str, turn: Turn | None = None) -> list[str]:
    """Observe all watched jobs of a cluster, move them on, and return the ids that have files to read.

    The cluster is asked even where there are none: whether it answers is news to those that wait for it.

    A look that fails changes nothing: the jobs keep their state, and become stale by the clock.
    turn: where it has one; no run is given up for lost before the cluster is steady.
    Raises BackendUnavailable.
    """
    profile = cluster(cluster_name)
    watched = _watched(profile)
    backend = connect(profile)
    with metrics.observed(cluster_name, "poll"):
        seen = _poll(backend, watched)
        news = [(job, attempt, seen[attempt.name]) for job, attempt in watched if attempt.name in seen]
        known = [one for one in news if one[2].phase is not Phase.UNKNOWN]
        unknown = [one for one in news if one[2].phase is Phase.UNKNOWN]
        known += _marked(backend, unknown, may_be_lost=turn is None or turn.is_steady)
        if turn:
            turn.is_whole = all(seen.code == UNKNOWN for _, _, seen in unknown)
        to_read = list(_with_files(backend, news if backend.must_collect else known))
    for job, attempt, observation in known:
        try:
            _apply(backend, job, attempt, observation)
        except BackendUnavailable as error:  # of one job: the others go their way
            log.warning("look.unavailable", job_id=job.id, error=error.message)
    _note_observed([job for job, _, _ in known])
    return to_read


def _poll(backend: Backend, watched: list[Watched]) -> dict[str, Observation]:
    try:
        return backend.poll([_handle(attempt) for _, attempt in watched])
    except CredentialsRefused as error:
        # Their owners can do nothing but tell somebody: so they are told.
        for job, _ in watched:
            if job.state in SHOWN_TROUBLE and job.reason_code != error.code:
                with writing() as session:
                    transitions.change(session, job, reason_code=error.code, reason_message=error.message)
        raise


def _handle(attempt: Attempt) -> Handle:
    return Handle(attempt.external_id or "", attempt.name)


def _watched(profile: Cluster) -> list[Watched]:
    """Jobs that were submitted to this kind of cluster: a profile may have become another one since."""
    with reading() as session:
        query = (
            select(Job, Attempt)
            .where(col(Job.id) == Attempt.job_id, col(Job.attempt) == Attempt.number)
            .where(Job.cluster == profile.name, Job.backend == profile.executor)
            .where(col(Job.state).in_(WATCHED))
            .where(col(Attempt.external_id).is_not(None))
            # Large, and not looked at: reading them was most of the time of a look.
            .options(defer(col(Job.spec)), defer(col(Job.config)))  # type: ignore[arg-type]
        )
        return [(job, attempt) for job, attempt in session.exec(query)]


def _with_files(backend: Backend, news: list[News]) -> Iterator[str]:
    """Ids of the jobs whose run has written something, or is over. One look at all files."""
    begun = [one for one in news if one[2].phase is not Phase.QUEUED]
    asks = bool(begun) and not backend.must_collect
    sizes = backend.files().sizes([_events(attempt) for _, attempt, _ in begun]) if asks else {}
    for job, attempt, seen in begun:
        is_over = seen.phase is Phase.ENDED or attempt.exit is not None
        if is_over or backend.must_collect or sizes.get(_events(attempt), 0) != attempt.events_offset:
            yield job.id


def _events(attempt: Attempt) -> Path:
    return Path(attempt.directory or "") / EVENTS


# -- one job ---------------------------------------------------------------------------------------


def _apply(backend: Backend, job: Job, attempt: Attempt, seen: Observation) -> None:
    """Bring one job to what was observed of it, in a transaction of its own if there is anything new."""
    _note_name(attempt, seen)
    write = _news(job, attempt, seen)
    if write is None:
        return
    if write is _requeued:
        ingest.read_up(job.id)  # what the last run has written belongs to the last attempt
        write = _again(job)
    if _must_not_begin_again(write, job):
        backend.cancel(_handle(attempt))
    if write is _requeued and job.desired_state != DesiredState.RUN:
        return
    with writing() as session:
        now = queries.find(session, job.id, lock=True)
        # What was observed is of this attempt; meanwhile the job may have gone on.
        if now.attempt == attempt.number and now.state in WATCHED:
            write(session, now, seen)


def _note_name(attempt: Attempt, seen: Observation) -> None:
    """Of a submission that was doubled the scheduler may go on with the other one."""
    if seen.external_id and seen.external_id != attempt.external_id:
        with writing() as session:
            session.get_one(Attempt, (attempt.job_id, attempt.number)).external_id = seen.external_id


def _must_not_begin_again(write: Write, job: Job) -> bool:
    """Whether the scheduler may still begin a run again that is over for us."""
    if job.desired_state != DesiredState.RUN:
        return write in (_requeued, _interrupted)
    return write is _worn_out or (write is _interrupted and _is_given_up(job))


def _again(job: Job) -> Write:
    """What it means that the scheduler begins a run again; it may as often as we do, between two saves."""
    is_wanted = job.desired_state == DesiredState.RUN and job.state is not JobState.FINALIZING
    return _worn_out if is_wanted and recovery.is_used_up(job) else _requeued


def _is_given_up(job: Job) -> bool:
    """Whether a run that its cluster has ended was not begun again for long enough."""
    grace = timedelta(seconds=get_settings().requeue_grace_seconds)
    return job.state is JobState.RECOVERING and utcnow() - job.updated_at > grace


def _news(job: Job, attempt: Attempt, seen: Observation) -> Write | None:
    """What is to be written about an observation, if anything."""
    is_unwanted = job.desired_state != DesiredState.RUN
    if seen.restarts > _restarts(attempt) and not (is_unwanted and seen.phase is Phase.ENDED):
        return _requeued
    match seen.phase:
        case Phase.QUEUED if job.state is JobState.QUEUED and _waits_otherwise(job, seen):
            return _waits
        case Phase.RUNNING if job.state is JobState.QUEUED:
            return _started
        case Phase.RUNNING if job.reason_code == CredentialsRefused.code:
            return _answers_again
        case Phase.INTERRUPTED if attempt.exit is None:
            return _interrupted
        case Phase.ENDED if attempt.exit is None:
            return _ended
    return None


def _restarts(attempt: Attempt) -> int:
    return attempt.number - (attempt.submission or attempt.number)


def _waits_otherwise(job: Job, seen: Observation) -> bool:
    old, new = job.estimated_start, seen.estimated_start
    moved = abs(new - old) > ESTIMATE_STEP if old and new else old != new
    return job.reason_message != seen.message or moved


def _waits(session: Session, job: Job, seen: Observation) -> None:
    transitions.change(
        session,
        job,
        reason_code=seen.code,
        reason_message=seen.message,
        reason_raw=seen.raw,
        estimated_start=seen.estimated_start,
    )


def _started(session: Session, job: Job, seen: Observation) -> None:  # noqa: ARG001
    if job.state is JobState.QUEUED:
        now = utcnow()
        transitions.move(
            session, job, JobState.STARTING, started_at=job.started_at or now, estimated_start=None
        )
        _set_attempt(session, job, started_at=now)


def _answers_again(session: Session, job: Job, seen: Observation) -> None:  # noqa: ARG001
    if job.reason_code == CredentialsRefused.code:
        transitions.change(session, job, reason_code=None, reason_message=None)


def _interrupted(session: Session, job: Job, seen: Observation) -> None:
    """The cluster ended the run, and may begin it again: if it does not in a while, that was the end."""
    if job.desired_state != DesiredState.RUN or job.state is JobState.FINALIZING or _is_given_up(job):
        _ended(session, job, seen)
    elif job.state is not JobState.RECOVERING:
        reason = Reason(seen.code, seen.message, seen.raw)
        transitions.move(session, job, JobState.RECOVERING, reason=reason)


def _requeued(session: Session, job: Job, seen: Observation) -> None:
    """The scheduler begins the run again: another attempt of the same submission, in its own directory."""
    if job.state is JobState.FINALIZING:
        return
    attempt = session.get_one(Attempt, (job.id, job.attempt))
    number = attempt.number + 1
    columns = {
        "external_id": seen.external_id or attempt.external_id,
        "directory": str(Path(attempt.directory or "").parent / str(number)),
        "submission": attempt.submission or attempt.number,
        "submitted_at": utcnow(),
    }
    reason = Reason("requeued", "The scheduler has put the run into its queue again.", seen.raw)
    why = recovery.interruption(job)
    if job.state is not JobState.RECOVERING:
        transitions.move(session, job, JobState.RECOVERING, reason=reason)
    transitions.next_attempt(
        session,
        job,
        JobState.QUEUED,
        Origin.REQUEUED,
        reason=reason,
        failure_of_last=why,
        attempt=columns,
    )


def _worn_out(session: Session, job: Job, seen: Observation) -> None:
    """Once too often: an attempt of its own, for it may have begun, which is over at once."""
    code, said = recovery.last_word(job)
    _requeued(session, job, seen)
    message = f"{said} It has gone on as often as it may without a new checkpoint."
    _ended(session, job, replace(seen, code=code, message=message))


def _ended(session: Session, job: Job, seen: Observation) -> None:
    exit_record = {"code": seen.code, "message": seen.message, "raw": seen.raw, "at": utcnow().isoformat()}
    _set_attempt(session, job, exit=exit_record)
    if JobState.FINALIZING in TRANSITIONS[job.state]:
        transitions.move(session, job, JobState.FINALIZING, reason=Reason(seen.code, seen.message, seen.raw))


def _set_attempt(session: Session, job: Job, **values: object) -> None:
    session.execute(
        update(Attempt)
        .where(col(Attempt.job_id) == job.id, col(Attempt.number) == job.attempt)
        .values(**values)
    )


# -- runs that the scheduler does not know ---------------------------------------------------------


def _marked(backend: Backend, unknown: list[News], *, may_be_lost: bool) -> list[News]:
    """Runs that the scheduler has forgotten and that are over, by their own word or by our waiting."""
    if not unknown:
        return []
    attempts = [attempt for _, attempt, _ in unknown]
    left = backend.files().sizes([*map(_end_marker, attempts), *map(_next_claim, attempts)])
    over = []
    for job, attempt, seen in unknown:
        if _next_claim(attempt) in left:
            restarts = _restarts(attempt) + 1
            over.append((job, attempt, replace(seen, phase=Phase.QUEUED, restarts=restarts)))
        elif _end_marker(attempt) in left:
            message = "The scheduler no longer knows the run, which has left its end marker."
            over.append((job, attempt, Observation(Phase.ENDED, "forgotten", message, seen.raw)))
        elif may_be_lost and seen.code == UNKNOWN and _is_missed(job, attempt):
            with suppress(BackendUnavailable):  # of one job's directory: the others go their way
                over += _given_up(backend, job, attempt, seen)
    return over


# The scheduler and its accounting answer, and neither knows the run.
UNKNOWN = "unknown_to_scheduler"


def _end_marker(attempt: Attempt) -> Path:
    return Path(attempt.directory or "") / END


def _next_claim(attempt: Attempt) -> Path:
    """What the run leaves when the scheduler begins it again: see docs/job-directory.md."""
    return Path(attempt.directory or "").with_name(str(attempt.number + 1)) / CLAIM


def _is_missed(job: Job, attempt: Attempt) -> bool:
    """Whether the scheduler has not known the run for so long that it is given up."""
    since = max((one for one in (job.observed_at, attempt.submitted_at) if one), default=datetime.min)
    return utcnow() - since > timedelta(seconds=get_settings().lost_after_seconds)


def _given_up(backend: Backend, job: Job, attempt: Attempt, seen: Observation) -> Iterator[News]:
    never_began = backend.abandon(_handle(attempt), Path(attempt.directory or ""))
    if never_began and job.desired_state == DesiredState.RUN and not recovery.is_used_up(job):
        reason = Reason(
            "lost_by_scheduler", "The scheduler lost the run before it began; it is submitted again."
        )
        recovery.go_on(job, reason)
        return
    message = "Neither the scheduler nor its accounting knows the run any more, and it left no end marker."
    yield job, attempt, Observation(Phase.ENDED, VANISHED, message, seen.raw)


# -- what keeps the watch going --------------------------------------------------------------------


def _note_observed(seen: list[Job]) -> None:
    """Keep observed_at fresh enough for `stale`, and write no more often than that needs."""
    now = utcnow()
    old = now - timedelta(seconds=get_settings().stale_after_seconds / 3)
    # What lies ahead was written before the clock was put back.
    due = [job.id for job in seen if job.observed_at is None or not old <= job.observed_at <= now]
    if due:
        with writing() as session:
            session.execute(update(Job).where(col(Job.id).in_(due)).values(observed_at=now))


def owed(limit: int, states: Collection[JobState] = AWAITING_TASK) -> list[tuple[str, JobState]]:
    """Jobs that wait, in one of these states, for a task whose message may have been lost: id and state."""
    now = utcnow()
    recent = now - timedelta(seconds=get_settings().stuck_after_seconds)
    with reading() as session:
        query = (
            select(Job.id, Job.state)
            .where(col(Job.state).in_(states))
            # What lies ahead was written before the clock was put back.
            .where(or_(~col(Job.updated_at).between(recent, now), col(Job.state) == JobState.CANCELLING))
            .order_by(func.random())  # so that none keeps the others from their turn
            .limit(limit)
        )
        return [(job_id, JobState(state)) for job_id, state in session.exec(query)]
