"""Reads what a run says of itself (events.jsonl, end.json) into the database, each line once."""

from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import update
from sqlmodel import Session, col

from trainer.checkpoints import HF_INDEX, missing_of_export
from worker import outcome, recovery
from worker.backends.access.files import Files
from worker.backends.connect import connect
from worker.backends.interface import Backend, Handle
from worker.clock import utcnow
from worker.clusters.registry import cluster
from worker.db.models import Attempt, Checkpoint, Job, Json, Metric
from worker.db.session import affected, reading, writing
from worker.errors import BackendUnavailable, NotReachable
from worker.jobs import logs, queries, retry, transitions
from worker.run_files import END, EVENTS, SECRETS
from worker.runs.events import (
    AnyEvent,
    CheckpointSaved,
    Ending,
    Finished,
    Started,
    StepDone,
    Validated,
    read_ending,
    read_event,
)
from worker.states import LIVE, JobState
from worker.telemetry import metrics
from worker.telemetry.logging import logger

log = logger(__name__)

CHUNK_BYTES = 1 << 20
# A checkpoint of a hundred thousand files is reported in about ten megabytes.
LONGEST_LINE_BYTES = 1 << 26
LARGEST_INDEX_BYTES = 1 << 26


def ingest(job_id: str) -> None:
    """Take in the new event lines of a job's attempt, and, where its run is over, decide its outcome."""
    try:
        read_up(job_id)
    except BackendUnavailable as error:
        log.warning("ingest.unavailable", job_id=job_id, error=error.message)  # the next look asks again


def read_up(job_id: str) -> None:
    """The same for who relies on it. Raises BackendUnavailable."""
    job = queries.get(job_id)
    if job.state not in LIVE:
        return
    attempt = queries.attempt_of(job)
    if attempt.directory is None:
        return
    with metrics.observed(job.cluster, "ingest"):
        _take_in(job, attempt, connect(cluster(job.cluster)))


def _take_in(job: Job, attempt: Attempt, backend: Backend) -> None:
    handle, directory = Handle(attempt.external_id or "", attempt.name), Path(attempt.directory or "")
    is_over = attempt.exit is not None
    is_whole = backend.collect(handle, directory, is_over=is_over)
    while lines := _next_lines(attempt, backend.files()):
        if not _take(job.id, attempt, lines):
            return  # another worker is at it, and goes on
    if is_over and is_whole:
        _finalize(job, attempt, backend)


def _next_lines(attempt: Attempt, files: Files) -> bytes:
    """The complete lines that follow the attempt's offset, as many as fit a chunk, and one at least."""
    path = Path(attempt.directory or "") / EVENTS
    size = CHUNK_BYTES
    while True:
        try:
            data = files.read(path, attempt.events_offset, size)
        except FileNotFoundError:
            return b""
        if b"\n" in data or len(data) < size:
            return data[: data.rfind(b"\n") + 1]
        if size >= LONGEST_LINE_BYTES:
            return data  # this is no event; it is passed over piece by piece
        size *= 2


def _take(job_id: str, attempt: Attempt, lines: bytes) -> bool:
    """Store some lines. Returns False, and stores nothing, where another worker has taken them."""
    events = [event for line in lines.splitlines() if (event := _event(line, job_id)) is not None]
    with writing() as session:
        job = queries.find(session, job_id, lock=True)
        if not _advance(session, attempt, len(lines)):
            return False
        for event in events:
            _store(session, job, attempt, event)
        if job.attempt == attempt.number and job.state in LIVE:
            _update_job(session, job, events)
    attempt.events_offset += len(lines)
    _count(job.cluster, lines, events)
    return True


def _count(cluster_name: str, lines: bytes, events: list[AnyEvent]) -> None:
    metrics.INGESTED_LINES.labels(cluster_name).inc(lines.count(b"\n"))
    if events:
        age = utcnow() - events[0].at
        metrics.INGEST_SECONDS.labels(cluster_name).observe(max(age.total_seconds(), 0.0))


def _event(line: bytes, job_id: str) -> AnyEvent | None:
    """One event. A line that is none is noted and passed over."""
    try:
        return read_event(line)
    except ValueError as error:
        shown = line[:200].decode(errors="replace")
        log.warning("ingest.bad_line", job_id=job_id, line=shown, error=str(error)[:500])
        return None


def _advance(session: Session, attempt: Attempt, by: int) -> bool:
    """Move the offset in the transaction that stores the lines: of two readers one wins."""
    statement = (
        update(Attempt)
        .where(col(Attempt.job_id) == attempt.job_id, col(Attempt.number) == attempt.number)
        .where(col(Attempt.events_offset) == attempt.events_offset)
        .values(events_offset=attempt.events_offset + by)
    )
    return affected(session, statement) > 0


# -- one line --------------------------------------------------------------------------------------


def _store(session: Session, job: Job, attempt: Attempt, event: AnyEvent) -> None:
    match event:
        case StepDone() | Validated():
            _store_metric(session, job, attempt, event)
        case CheckpointSaved():
            _store_checkpoint(session, job, attempt, event)
        case _:
            data = event.model_dump(mode="json", exclude_none=True)
            transitions.record(
                session, job, f"trainer.{event.event}", actor="trainer", data=data, attempt=attempt.number
            )


def _store_metric(session: Session, job: Job, attempt: Attempt, event: StepDone | Validated) -> None:
    data = event.model_dump(mode="json", exclude={"event", "rank", "at", "step"})
    row = Metric(
        job_id=job.id, kind=event.event, step=event.step, attempt=attempt.number, at=event.at, data=data
    )
    session.merge(row)


def _store_checkpoint(session: Session, job: Job, attempt: Attempt, event: CheckpointSaved) -> None:
    facts = event.model_dump(include={"iteration", "path", "format", "bytes", "files"})
    session.merge(Checkpoint(job_id=job.id, attempt=attempt.number, saved_at=event.at, **facts))
    data = {"iteration": event.iteration, "bytes": event.bytes}
    transitions.record(session, job, "checkpoint", actor="trainer", data=data, attempt=attempt.number)


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


def _finalize(job: Job, attempt: Attempt, backend: Backend) -> None:
    files = backend.files()
    marker = _end_marker(attempt, files)
    if marker is None and _may_settle(attempt, backend.settle_seconds):
        return  # the next look asks again
    decision = outcome.decide(
        marker=marker,
        ended=attempt.exit or {},
        desired=job.desired_state,
        checkpoint_is_whole=isinstance(marker, Finished) and _is_whole(job, marker.iteration, files),
        attempt=attempt.number,
        logs=logs.tails(Path(attempt.directory or ""), queries.run_of(job).resources.gpus, files),
    )
    failure = _failure(job, decision)
    _remove_secrets(job, attempt, files)
    if recovery.goes_on(job, decision):
        recovery.go_on(job, decision.reason, failure)
        return
    with writing() as session:
        transitions.move(session, job, decision.state, reason=decision.reason, failure=failure)
    log.info("job.ended", job_id=job.id, state=decision.state)


def _remove_secrets(job: Job, attempt: Attempt, files: Files) -> None:
    """A run removes them at its end; one that was killed, or never began, could not."""
    if job.spec.get("secrets") and attempt.directory:
        submitted = Path(attempt.directory).with_name(str(attempt.submission or attempt.number))
        files.remove(submitted / SECRETS)


def _may_settle(attempt: Attempt, seconds: float) -> bool:
    """Whether the run ended so recently that its end marker may not be seen here yet."""
    ended = attempt.exit or {}
    if ended.get("code") in outcome.CUT_OFF:
        return False
    seen_at = ended.get("at")
    age = utcnow() - datetime.fromisoformat(seen_at) if seen_at else timedelta.max
    return timedelta(0) <= age < timedelta(seconds=seconds)


def _failure(job: Job, decision: outcome.Outcome) -> Json | None:
    """A failure as it is stored, with a change that may help."""
    if decision.failure is None:
        return None
    suggestion = retry.suggestion(job, decision.fault or "")
    failure = decision.failure.model_copy(update={"suggestion": suggestion})
    return failure.model_dump(mode="json", by_alias=True)


def _end_marker(attempt: Attempt, files: Files) -> Ending | None:
    try:
        return read_ending(files.read(Path(attempt.directory or "") / END, 0, CHUNK_BYTES))
    except (FileNotFoundError, ValueError):
        return None


def _is_whole(job: Job, iteration: int | None, files: Files) -> bool:
    """Whether the final checkpoint was reported, and every file of it is there with its size."""
    with reading() as session:
        final = session.get(Checkpoint, (job.id, iteration)) if iteration is not None else None
    if final is None:
        return False
    try:
        sizes = [files.stat(Path(final.path) / file["path"]).size == file["bytes"] for file in final.files]
        missing = _missing(final, files)
    except (FileNotFoundError, ValueError):
        return False
    except NotReachable:
        return True  # nobody but the trainer can tell, and it reports a checkpoint when that is on disk
    return bool(sizes) and all(sizes) and not missing


def _missing(final: Checkpoint, files: Files) -> set[str]:
    """What an export lacks to be loaded. Raises FileNotFoundError, ValueError, NotReachable."""
    if final.format != "huggingface":
        return set()
    names = {file["path"] for file in final.files}
    index = files.read(Path(final.path) / HF_INDEX, 0, LARGEST_INDEX_BYTES) if HF_INDEX in names else None
    return missing_of_export(names, index)
