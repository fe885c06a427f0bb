"""Store the events of a run as metrics, checkpoints and history: a chunk of them in a few statements.

A run may write events without end: an attempt has SFT_MAX_EVENTS_PER_ATTEMPT of them, and one event of the
history says that others were dropped. Checkpoints do not count, since success needs the last of them: they
have a limit of their own, and the newest replaces the oldest.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress

from sqlmodel import Session, col, delete, select

from trainer.events import ENVELOPE, AnyEvent, CheckpointSaved, StepDone, Validated
from worker.backends.access.files import Files
from worker.db.models import Attempt, Checkpoint, Event, Job, Metric
from worker.db.session import affected, upsert, writing
from worker.jobs import transitions
from worker.lifecycle.handles import layout_of
from worker.runs.events import read_event
from worker.settings import get_settings

# A checkpoint of a hundred thousand files is reported in about ten megabytes.
MAX_LINE_BYTES = 1 << 24
MAX_CHECKPOINTS = 10_000
"""Of an attempt. Those of the highest iterations stay."""

DROPPED = "events_dropped"
"""Type of the event that notes the first dropped one."""


def is_full(attempt: Attempt) -> bool:
    """Whether no more of the attempt's events is read."""
    return attempt.events_offset >= get_settings().max_event_bytes_per_attempt


def within_limit(attempt: Attempt, events: Sequence[AnyEvent]) -> list[AnyEvent]:
    """Return the metrics and entries of the history that have room. Entries, which are few, have more."""
    most = get_settings().max_events_per_attempt
    kept: list[AnyEvent] = []
    for event in events:
        limit = most if isinstance(event, StepDone | Validated) else most + most // 10 + 1
        if attempt.events_stored + len(kept) < limit:
            kept.append(event)
    return kept


def store(session: Session, attempt: Attempt, events: Sequence[AnyEvent]) -> None:
    """Store metrics and history; a later metric of the same step replaces an earlier one."""
    metrics = [_metric(attempt, event) for event in events if isinstance(event, StepDone | Validated)]
    upsert(session, metrics)
    others = (event for event in events if not isinstance(event, StepDone | Validated))
    transitions.record_all(session, [_history(attempt, event) for event in others])


def store_checkpoints(session: Session, attempt: Attempt, events: Sequence[AnyEvent]) -> None:
    """Store the newest checkpoints; a later one of the same iteration replaces an earlier one."""
    saved = [event for event in events if isinstance(event, CheckpointSaved)]
    if not saved:
        return
    upsert(session, [_checkpoint(attempt, event) for event in saved])
    own = col(Checkpoint.job_id) == attempt.job_id, col(Checkpoint.attempt) == attempt.number
    iteration = col(Checkpoint.iteration)
    oldest = select(iteration).where(*own).order_by(iteration.desc()).offset(MAX_CHECKPOINTS - 1).limit(1)
    affected(session, delete(Checkpoint).where(*own, iteration < oldest.scalar_subquery()))


def store_unread(attempt: Attempt, iteration: int, files: Files) -> None:
    """Store the checkpoint of an iteration that was reported after the bytes that are read.

    It is searched in the last MAX_LINE_BYTES. Raises BackendUnavailable.
    """
    if is_full(attempt):
        known = _last_checkpoints(attempt, files)
        found = next((event for event in known if event.iteration == iteration), None)
        with writing() as session:
            store_checkpoints(session, attempt, [found] if found else [])


def _last_checkpoints(attempt: Attempt, files: Files) -> Iterator[CheckpointSaved]:
    """Yield the checkpoints at the end of the file of events, the last first."""
    layout = layout_of(attempt)
    path, below = layout.events, layout.job.jobs
    begin = max(0, files.stat(path, below).size - MAX_LINE_BYTES)
    for line in reversed(files.read(path, begin, MAX_LINE_BYTES, below).splitlines()):
        with suppress(ValueError):
            event = read_event(line) if b'"checkpoint"' in line else None
            if isinstance(event, CheckpointSaved):
                yield event


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
