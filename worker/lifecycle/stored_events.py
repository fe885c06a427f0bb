"""Store the events of a run as metrics, checkpoints and history: a chunk of them in a few statements.

A run may write events without end: an attempt has SFT_MAX_EVENTS_PER_ATTEMPT of them, and one event of the
history says that others were dropped.
"""

from collections.abc import Sequence

from sqlmodel import Session

from trainer.events import ENVELOPE, AnyEvent, CheckpointSaved, StepDone, Validated
from worker.db.models import Attempt, Checkpoint, Event, Job, Metric
from worker.db.session import upsert
from worker.jobs import transitions
from worker.settings import get_settings

DROPPED = "events_dropped"
"""Type of the event that notes the first dropped one."""


def is_full(attempt: Attempt) -> bool:
    """Whether no more of the attempt's events is read."""
    return attempt.events_offset >= get_settings().max_event_bytes_per_attempt


def within_limit(attempt: Attempt, events: Sequence[AnyEvent]) -> list[AnyEvent]:
    """Return the events that may be stored. Those that are no metrics, which are few, have room beyond."""
    most = get_settings().max_events_per_attempt
    kept: list[AnyEvent] = []
    for event in events:
        limit = most if isinstance(event, StepDone | Validated) else most + most // 10 + 1
        if attempt.events_stored + len(kept) < limit:
            kept.append(event)
    return kept


def store(session: Session, attempt: Attempt, events: Sequence[AnyEvent]) -> None:
    """Store events; a later one of the same step or iteration replaces an earlier one."""
    metrics = [_metric(attempt, event) for event in events if isinstance(event, StepDone | Validated)]
    upsert(session, metrics)
    upsert(session, [_checkpoint(attempt, event) for event in events if isinstance(event, CheckpointSaved)])
    others = (event for event in events if not isinstance(event, StepDone | Validated))
    transitions.record_all(session, [_history(attempt, event) for event in others])


def note_dropped(session: Session, job: Job, attempt: Attempt) -> None:
    """Record that events are dropped from now on."""
    settings = get_settings()
    data = {
        "message": "The run has written more events than the service stores; further ones are dropped.",
        "max_events": settings.max_events_per_attempt,
        "max_bytes": settings.max_event_bytes_per_attempt,
    }
    transitions.record(session, job, DROPPED, data=data, attempt=attempt.number)


def _metric(attempt: Attempt, event: StepDone | Validated) -> Metric:
    data = event.model_dump(mode="json", exclude=ENVELOPE | {"step"})
    return Metric(
        job_id=attempt.job_id,
        kind=event.event,
        step=event.step,
        attempt=attempt.number,
        at=event.at,
        data=data,
    )


def _checkpoint(attempt: Attempt, event: CheckpointSaved) -> Checkpoint:
    facts = event.model_dump(include={"iteration", "path", "format", "bytes", "files"})
    return Checkpoint(job_id=attempt.job_id, attempt=attempt.number, saved_at=event.at, **facts)


def _history(attempt: Attempt, event: AnyEvent) -> Event:
    if isinstance(event, CheckpointSaved):
        kind, data = "checkpoint", {"iteration": event.iteration, "bytes": event.bytes}
    else:
        kind = f"trainer.{event.event}"
        data = event.model_dump(mode="json", exclude_none=True, exclude={"version", "seq"})
    return Event(job_id=attempt.job_id, attempt=attempt.number, type=kind, actor="trainer", data=data)
