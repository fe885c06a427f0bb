"""Ingest the event lines of a run into the database, each line once."""

from datetime import datetime

from sqlmodel import Session

from trainer.events import AnyEvent, CheckpointSaved, Started, StepDone, Validated
from worker.backends.access.files import Files
from worker.backends.interface import Backend
from worker.clock import utcnow
from worker.db.models import Attempt, Job, Json
from worker.db.session import writing
from worker.errors import BackendUnavailable
from worker.jobs import queries, transitions
from worker.jobs.job_cluster import backend_of
from worker.lifecycle import finalize, stored_events
from worker.lifecycle.handles import handle_of, layout_of
from worker.lifecycle.stored_events import MAX_LINE_BYTES
from worker.runs.events import read_event
from worker.states import LIVE, JobState
from worker.telemetry import metrics
from worker.telemetry.logging import logger

log = logger(__name__)

# One transaction each: a thousand lines take less than half a second, in which no other request can write.
CHUNK_BYTES = 1 << 16
# Limit of one task, so that a run that writes without end does not delay others.
TASK_BYTES = 1 << 20


def ingest(job_id: str) -> bool:
    """Ingest new event lines of a job's attempt and, where its run is over, decide the job's outcome.

    At most TASK_BYTES: returns whether there may be more, for which a later task has to come.
    """
    try:
        return ingest_some(job_id)
    except BackendUnavailable as error:
        log.warning("ingest.unavailable", job_id=job_id, error=error.message)  # the next poll asks again
        return False


def ingest_some(job_id: str) -> bool:
    """Ingest up to TASK_BYTES of new event lines; where the run is over, decide the job's outcome.

    Returns whether there may be more lines. Raises BackendUnavailable, ClusterRemoved.
    """
    job = queries.get(job_id)
    if job.state not in LIVE:
        return False
    attempt = queries.attempt_of(job)
    if attempt.directory is None:
        return False
    with metrics.observed(job.cluster, "ingest"):
        return _ingest(job, attempt, backend_of(job))


def _ingest(job: Job, attempt: Attempt, backend: Backend) -> bool:
    is_over = attempt.exit is not None
    is_complete = backend.collect(handle_of(attempt), is_over=is_over)
    enough = attempt.events_offset + TASK_BYTES
    while lines := _next_lines(attempt, backend.files()):
        # Where they are not stored another worker ingests, and continues.
        if not _ingest_lines(job.id, attempt, lines) or attempt.events_offset >= enough:
            return True
    if is_over and is_complete:
        finalize.finalize(job, attempt, backend)
    return False


def _next_lines(attempt: Attempt, files: Files) -> bytes:
    """Read the complete lines after the attempt's offset: as many as fit a chunk, or a longer one alone."""
    layout = layout_of(attempt)
    size = CHUNK_BYTES
    while not stored_events.is_full(attempt):
        try:
            data = files.read(layout.events, attempt.events_offset, size, layout.job.jobs)
        except FileNotFoundError:
            return b""
        if b"\n" in data or len(data) < size:
            end = data.rfind(b"\n") if size == CHUNK_BYTES else data.find(b"\n")
            return data[: end + 1]
        if size >= MAX_LINE_BYTES:
            return data  # this is no event; it is skipped chunk by chunk
        size *= 2
    return b""


def _ingest_lines(job_id: str, attempt: Attempt, lines: bytes) -> bool:
    """Store some lines. Returns False, and stores nothing, where another worker has stored them."""
    events = _events(lines, job_id)
    kept = stored_events.within_limit(attempt, events)
    dropped, has_dropped = len(events) - len(kept), attempt.events_dropped > 0
    with writing() as session:
        job = queries.find(session, job_id, lock=True)
        if not transitions.advance_events(session, attempt, len(lines), stored=len(kept), dropped=dropped):
            return False
        stored_events.store(session, attempt, kept)
        stored_events.store_checkpoints(session, attempt, events)
        if not has_dropped and (dropped or stored_events.is_full(attempt)):
            stored_events.note_dropped(session, job, attempt)
        if job.attempt == attempt.number and job.state in LIVE:
            _update_job(session, job, events)
    _count(job.cluster, lines, events)
    return True


def _count(cluster_name: str, lines: bytes, events: list[AnyEvent]) -> None:
    metrics.INGESTED_LINES.labels(cluster_name).inc(lines.count(b"\n"))
    if events:
        age = utcnow() - events[0].at
        metrics.INGEST_SECONDS.labels(cluster_name).observe(max(age.total_seconds(), 0.0))


def _events(lines: bytes, job_id: str) -> list[AnyEvent]:
    """Parse events. Lines that are none are skipped, and logged once: a run may write many."""
    events: list[AnyEvent] = []
    bad: list[str] = []
    for line in lines.splitlines():
        try:
            events.append(read_event(line))
        except ValueError as error:
            bad.append("" if bad else f"{line[:200].decode(errors='replace')}: {str(error)[:500]}")
    if bad:
        log.warning("ingest.bad_line", job_id=job_id, lines=len(bad), first=bad[0])
    return events


# -- the job -----------------------------------------------------------------------------------------


def _update_job(session: Session, job: Job, events: list[AnyEvent]) -> None:
    progress = advanced(job.progress, events)
    if progress != job.progress or any(isinstance(event, CheckpointSaved) for event in events):
        transitions.change(session, job, progress=progress)
    trains = any(isinstance(event, Started | StepDone) for event in events)
    if trains and job.state in (JobState.QUEUED, JobState.STARTING):
        transitions.move(session, job, JobState.RUNNING)


def advanced(progress: Json, events: list[AnyEvent]) -> Json:
    """A job's progress after some more events: step, total_steps, loss, eta_seconds, ..."""
    progress = dict(progress)
    for event in events:
        match event:
            case Started():
                progress |= {"start_step": event.start_step, "total_steps": event.total_steps}
                progress |= {"step": event.start_step, "started_at": event.at.isoformat()}
            # A line may come late, where lines come through a log.
            case StepDone() if event.step >= progress.get("step", 0):
                progress |= {"step": event.step, "loss": event.loss, "eta_seconds": _eta(progress, event)}
            case Validated():
                progress |= {"validation_loss": event.loss}
    return progress


def _eta(progress: Json, event: StepDone) -> float | None:
    """Seconds left at the mean pace since the run's start, saves and validations included."""
    done: int = event.step - progress.get("start_step", 0)
    if done <= 0 or "started_at" not in progress:
        return None
    elapsed = event.at - datetime.fromisoformat(progress["started_at"])
    pace = elapsed.total_seconds() / done
    return round(pace * max(int(progress["total_steps"]) - event.step, 0), 1)
