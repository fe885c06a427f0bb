"""Runs that the scheduler does not know: restarted, ended by their own end marker, or lost."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

from worker.backends.interface import Backend
from worker.clock import utcnow
from worker.db.models import Attempt, Job
from worker.errors import BackendUnavailable
from worker.lifecycle import recovery
from worker.lifecycle.handles import handle_of, layout_of, restarts_of
from worker.runs.observation import Observation, ObservationCode, Phase
from worker.settings import get_settings
from worker.states import DesiredState, Reason

Missing = tuple[Job, Attempt, Observation]


def ended(backend: Backend, unknown: list[Missing], *, may_be_lost: bool) -> list[Missing]:
    """Observe by their files those that have ended or were restarted, and those that are declared lost."""
    if not unknown:
        return []
    attempts = [attempt for _, attempt, _ in unknown]
    markers = [layout_of(attempt).end for attempt in attempts]
    left = backend.files().sizes([*markers, *map(_next_claim, attempts)])
    over: list[Missing] = []
    for job, attempt, seen in unknown:
        if _next_claim(attempt) in left:
            restarts = restarts_of(attempt) + 1
            over.append((job, attempt, replace(seen, phase=Phase.QUEUED, restarts=restarts)))
        elif layout_of(attempt).end in left:
            over.append((job, attempt, _forgotten(seen)))
        elif may_be_lost and _is_overdue(job, attempt, seen):
            with suppress(BackendUnavailable):  # of one job's directory: the others proceed
                over += _declared_lost(backend, job, attempt, seen)
    return over


def _next_claim(attempt: Attempt) -> Path:
    """The file that the run leaves when the scheduler restarts it: see docs/job-directory.md."""
    return layout_of(attempt).attempt(attempt.number + 1).claim


def _forgotten(seen: Observation) -> Observation:
    message = "The scheduler no longer knows the run, which has left its end marker."
    return Observation(Phase.ENDED, ObservationCode.FORGOTTEN, message, seen.raw)


def _is_overdue(job: Job, attempt: Attempt, seen: Observation) -> bool:
    """Whether scheduler and accounting have not known the run for so long that it is given up."""
    since = max((one for one in (job.observed_at, attempt.submitted_at) if one), default=datetime.min)
    is_unknown = seen.code is ObservationCode.UNKNOWN_TO_SCHEDULER
    return is_unknown and utcnow() - since > timedelta(seconds=get_settings().lost_after_seconds)


def _declared_lost(backend: Backend, job: Job, attempt: Attempt, seen: Observation) -> Iterator[Missing]:
    never_began = backend.abandon(handle_of(attempt))
    if never_began and job.desired_state == DesiredState.RUN and not recovery.limit_is_reached(job):
        message = "The scheduler lost the run before it began; it is submitted again."
        recovery.recover(job, Reason("lost_by_scheduler", message))
        return
    message = "Neither the scheduler nor its accounting knows the run any more, and it left no end marker."
    yield job, attempt, Observation(Phase.ENDED, ObservationCode.VANISHED, message, seen.raw)
