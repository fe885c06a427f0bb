"""Poll all live jobs of a cluster in one call, and write only what changed."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy.orm import defer
from sqlmodel import col, select

from worker.backends.connect import connect
from worker.backends.interface import Backend
from worker.clock import utcnow
from worker.clusters.profiles import Cluster
from worker.clusters.registry import cluster
from worker.db.models import Attempt, Job
from worker.db.session import reading, writing
from worker.errors import BackendUnavailable, CredentialsRefused
from worker.jobs import queries, transitions
from worker.lifecycle import apply_changes, ingest, missing_runs, recovery, stored_events
from worker.lifecycle.changes import Change, KnownRun, change_of, may_not_restart
from worker.lifecycle.handles import handle_of, layout_of, restarts_of
from worker.runs.observation import Observation, ObservationCode, Phase
from worker.settings import get_settings
from worker.states import POLLED, DesiredState, JobState
from worker.telemetry import metrics
from worker.telemetry.logging import logger

log = logger(__name__)

Polled = tuple[Job, Attempt]
Observed = tuple[Job, Attempt, Observation]

# In these states a job has no reason of its own that would be overwritten.
SHOWS_POLL_ERROR = frozenset({JobState.QUEUED, JobState.STARTING, JobState.RUNNING})


@dataclass(frozen=True)
class PollResult:
    """What a poll of a cluster found."""

    to_ingest: list[str]
    """Ids of the jobs whose run has written something, or is over."""
    is_complete: bool
    """Everything has answered: the scheduler, and its accounting where that was asked."""


def poll_cluster(cluster_name: str, *, may_be_lost: bool = True) -> PollResult:
    """Observe all live jobs of a cluster, and move them on.

    The cluster is polled even where it has none: jobs wait to be submitted until it answers.
    A poll that fails changes nothing: the jobs keep their state, and become stale by the clock.

    may_be_lost: whether a run that the cluster does not know may be declared lost.
    Raises BackendUnavailable.
    """
    profile = cluster(cluster_name)
    polled = _polled(profile)
    backend = connect(profile)
    with metrics.observed(cluster_name, "poll"):
        observed = _poll(backend, polled)
        known, unknown = _split(observed)
        known += missing_runs.ended(backend, unknown, may_be_lost=may_be_lost)
        to_ingest = list(_with_files(backend, observed if backend.must_collect else known))
    for job, attempt, seen in known:
        try:
            _apply(backend, job, attempt, seen)
        except BackendUnavailable as error:  # of one job: the others proceed
            log.warning("poll.job_unavailable", job_id=job.id, error=error.message)
    _record_observation([job for job, _, _ in known])
    is_complete = all(seen.code is ObservationCode.UNKNOWN_TO_SCHEDULER for _, _, seen in unknown)
    return PollResult(to_ingest, is_complete)


def _polled(profile: Cluster) -> list[Polled]:
    """Jobs that were submitted to this kind of cluster: a profile may have changed its kind since."""
    with reading() as session:
        query = (
            select(Job, Attempt)
            .where(col(Job.id) == Attempt.job_id, col(Job.attempt) == Attempt.number)
            .where(Job.cluster == profile.name, Job.backend == profile.executor)
            .where(col(Job.state).in_(POLLED))
            .where(col(Attempt.external_id).is_not(None))
            # Large, and not needed: reading them was most of the time of a poll.
            .options(defer(col(Job.spec)), defer(col(Job.config)))  # type: ignore[arg-type]
        )
        return [(job, attempt) for job, attempt in session.exec(query)]


def _poll(backend: Backend, polled: list[Polled]) -> list[Observed]:
    """A run that is not in the answer keeps its state."""
    try:
        seen = backend.poll([handle_of(attempt) for _, attempt in polled])
    except CredentialsRefused as error:
        _show_poll_error([job for job, _ in polled], error)
        raise
    return [(job, attempt, seen[attempt.name]) for job, attempt in polled if attempt.name in seen]


def _show_poll_error(jobs: list[Job], error: CredentialsRefused) -> None:
    """Show the error to the owners of jobs: they can ask an operator to renew the credentials."""
    for job in jobs:
        if job.state in SHOWS_POLL_ERROR and job.reason_code != error.code:
            with writing() as session:
                transitions.change(session, job, reason_code=error.code, reason_message=error.message)


def _split(observed: list[Observed]) -> tuple[list[Observed], list[Observed]]:
    """Runs that the scheduler knows, and those that it does not."""
    known = [one for one in observed if one[2].phase is not Phase.UNKNOWN]
    unknown = [one for one in observed if one[2].phase is Phase.UNKNOWN]
    return known, unknown


def _with_files(backend: Backend, observed: Iterable[Observed]) -> Iterator[str]:
    """Ids of the jobs whose run has written something, or is over, from one call for all files."""
    begun = [one for one in observed if one[2].phase is not Phase.QUEUED]
    asks = bool(begun) and not backend.must_collect
    sizes = backend.files().sizes([layout_of(attempt).events for _, attempt, _ in begun]) if asks else {}
    for job, attempt, seen in begun:
        is_over = seen.phase is Phase.ENDED or attempt.exit is not None
        size = sizes.get(layout_of(attempt).events, 0)
        has_written = size != attempt.events_offset and not stored_events.is_full(attempt)
        if is_over or backend.must_collect or has_written:
            yield job.id


# -- one job ---------------------------------------------------------------------------------------


def _apply(backend: Backend, job: Job, attempt: Attempt, seen: Observation) -> None:
    """Bring one job to what was observed of it, in a transaction of its own if anything changed."""
    _follow_rename(attempt, seen)
    known = _known_run(job, attempt)
    change = change_of(known, seen)
    if change is Change.REQUEUED:
        # What the last run has written belongs to the last attempt. The next poll continues.
        if ingest.ingest_some(job.id):
            return
        change = _limited(change, job)
    if change is None:
        return
    if may_not_restart(change, known):
        backend.cancel(handle_of(attempt))
    if change is Change.REQUEUED and not known.is_wanted:
        return
    with writing() as session:
        now = queries.find(session, job.id, lock=True)
        # The observation is of this attempt; meanwhile the job may have moved.
        if now.attempt == attempt.number and now.state in POLLED:
            apply_changes.apply(change, session, now, seen)


def _follow_rename(attempt: Attempt, seen: Observation) -> None:
    if seen.external_id and seen.external_id != attempt.external_id:
        with writing() as session:
            transitions.rename_submission(session, attempt, seen.external_id)


def _known_run(job: Job, attempt: Attempt) -> KnownRun:
    return KnownRun(
        state=job.state,
        is_wanted=job.desired_state == DesiredState.RUN,
        reason_code=job.reason_code,
        reason_message=job.reason_message,
        estimated_start=job.estimated_start,
        restarts=restarts_of(attempt),
        has_ended=attempt.exit is not None,
        is_given_up=recovery.is_given_up(job),
    )


def _limited(change: Change, job: Job) -> Change:
    """Schedulers may restart a run as often as the service may, between two checkpoints."""
    is_wanted = job.desired_state == DesiredState.RUN and job.state is not JobState.FINALIZING
    return Change.RECOVERY_LIMIT_REACHED if is_wanted and recovery.limit_is_reached(job) else change


def _record_observation(jobs: list[Job]) -> None:
    """Keep observed_at fresh enough for `stale`, and write no more often than that needs."""
    now = utcnow()
    old = now - timedelta(seconds=get_settings().stale_after_seconds / 3)
    # What lies ahead was written before the clock was set back.
    due = [job.id for job in jobs if job.observed_at is None or not old <= job.observed_at <= now]
    if due:
        with writing() as session:
            transitions.record_observation(session, due, now)
