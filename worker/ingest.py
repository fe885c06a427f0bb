"""Reads what a run says of itself (events.jsonl, end.json) into the database, each line once."""

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import update
from sqlmodel import Session, col

from worker import jobs, outcome
from worker.backends.base import Files
from worker.clusters import cluster, connect
from worker.db import affected, reading, writing
from worker.log import logger
from worker.models import Attempt, Checkpoint, Job, Json, Metric
from worker.states import LIVE, JobState

log = logger(__name__)

CHUNK_BYTES = 1 << 20


def ingest(job_id: str) -> None:
    """Take in the new event lines of a job's attempt, and, where its run is over, decide its outcome."""
    job = jobs.get(job_id)
    if job.state not in LIVE:
        return
    attempt = jobs.attempt_of(job)
    if attempt.directory is None:
        return
    files = connect(cluster(job.cluster)).files()
    while lines := _next_lines(attempt, files):
        if not _take(job_id, attempt, lines):
            return  # another worker is at it, and goes on
    if attempt.exit is not None:
        _finalize(job, attempt, files)


def _next_lines(attempt: Attempt, files: Files) -> bytes:
    """The complete lines that follow the attempt's offset, as many as fit a chunk, and one at least."""
    path = Path(attempt.directory or "") / "events.jsonl"
    size = CHUNK_BYTES
    while True:
        try:
            data = files.read(path, attempt.events_offset, size)
        except FileNotFoundError:
            return b""
        if b"\n" in data or len(data) < size:
            return data[: data.rfind(b"\n") + 1]
        size *= 2


def _take(job_id: str, attempt: Attempt, lines: bytes) -> bool:
    """Store some lines. Returns False, and stores nothing, where another worker has taken them."""
    events = [event for line in lines.splitlines() if (event := _parsed(line, job_id)) is not None]
    with writing() as session:
        job = jobs.find(session, job_id, lock=True)
        if not _advance(session, attempt, len(lines)):
            return False
        for event in events:
            _store(session, job, attempt, event)
        if job.attempt == attempt.number and job.state in LIVE:
            _update_job(session, job, events)
    attempt.events_offset += len(lines)
    return True


def _parsed(line: bytes, job_id: str) -> Json | None:
    """One event. A line that is none, or lacks what its kind has, is noted and passed over."""
    try:
        event = parse(line)
        datetime.fromisoformat(event["at"])
        for field, kind in REQUIRED.get(event["event"], {}).items():
            if not isinstance(event[field], kind):
                raise TypeError(f"{field} is {event[field]!r}")
    except (ValueError, KeyError, TypeError) as error:
        shown = line[:200].decode(errors="replace")
        log.warning("ingest.bad_line", job_id=job_id, line=shown, error=str(error))
        return None
    return event


def parse(text: bytes) -> Json:
    """What a run has written, without what a database cannot hold. Raises ValueError, TypeError."""
    value = json.loads(text.decode(errors="replace"), parse_constant=lambda _: None)
    return dict(_storable(value))


def _storable(value: Any) -> Any:
    """NUL and lone surrogates, which Postgres has no place for, become U+FFFD."""
    match value:
        case str():
            return value.replace("\0", "\ufffd").encode(errors="replace").decode()
        case dict():
            return {_storable(key): _storable(item) for key, item in value.items()}
        case list():
            return [_storable(item) for item in value]
    return value


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


def _store(session: Session, job: Job, attempt: Attempt, event: Json) -> None:
    handler = HANDLERS.get(event.get("event", ""))
    if handler:
        handler(session, job, attempt, event)


def _metric(session: Session, job: Job, attempt: Attempt, event: Json) -> None:
    data = {key: value for key, value in event.items() if key not in ("event", "seq", "rank", "at", "step")}
    session.merge(
        Metric(
            job_id=job.id, kind=event["event"], step=event["step"], attempt=attempt.number,
            at=datetime.fromisoformat(event["at"]), data=data,
        )
    )  # fmt: skip


def _checkpoint(session: Session, job: Job, attempt: Attempt, event: Json) -> None:
    session.merge(
        Checkpoint(
            job_id=job.id, iteration=event["iteration"], attempt=attempt.number, path=event["path"],
            bytes=event["bytes"], files=event["files"], saved_at=datetime.fromisoformat(event["at"]),
        )
    )  # fmt: skip
    data = {"iteration": event["iteration"], "bytes": event["bytes"]}
    jobs.record(session, job, "checkpoint", actor="trainer", data=data)


def _note(session: Session, job: Job, _attempt: Attempt, event: Json) -> None:
    data = {key: value for key, value in event.items() if key not in ("event", "seq")}
    jobs.record(session, job, f"trainer.{event['event']}", actor="trainer", data=data)


# What a line of a kind must have to be taken in: docs/job-directory.md.
REQUIRED: dict[str, dict[str, type]] = {
    "started": {"start_step": int, "total_steps": int},
    "step": {"step": int},
    "validation": {"step": int},
    "checkpoint": {"iteration": int, "path": str, "bytes": int, "files": list},
}

HANDLERS: dict[str, Callable[[Session, Job, Attempt, Json], None]] = {
    "started": _note,
    "step": _metric,
    "validation": _metric,
    "checkpoint": _checkpoint,
    "stopping": _note,
    "stopped": _note,
    "finished": _note,
    "failed": _note,
}


# -- the job -----------------------------------------------------------------------------------------


def _update_job(session: Session, job: Job, events: list[Json]) -> None:
    progress = advanced(job.progress, events)
    if progress != job.progress:
        jobs.change(session, job, progress=progress)
    trains = any(event["event"] in ("started", "step") for event in events)
    if trains and job.state in (JobState.QUEUED, JobState.STARTING):
        jobs.move(session, job, JobState.RUNNING)


def advanced(progress: Json, events: list[Json]) -> Json:
    """A job's progress after some more events: step, total_steps, loss, eta_seconds, ..."""
    progress = dict(progress)
    for event in events:
        match event["event"]:
            case "started":
                progress |= {key: event[key] for key in ("start_step", "total_steps")}
                progress |= {"step": event["start_step"], "started_at": event["at"]}
            case "step":
                progress |= {
                    "step": event["step"],
                    "loss": event.get("loss"),
                    "eta_seconds": _eta(progress, event),
                }
            case "validation":
                progress |= {"validation_loss": event.get("loss")}
    return progress


def _eta(progress: Json, event: Json) -> float | None:
    """Seconds left at the mean pace since the run's start, saves and validations included."""
    done = event["step"] - progress.get("start_step", 0)
    if done <= 0 or "started_at" not in progress:
        return None
    elapsed = datetime.fromisoformat(event["at"]) - datetime.fromisoformat(progress["started_at"])
    left = max(progress["total_steps"] - event["step"], 0)
    return round(float(elapsed.total_seconds() / done * left), 1)


def _finalize(job: Job, attempt: Attempt, files: Files) -> None:
    marker = _end_marker(attempt, files)
    with reading() as session:
        final = session.get(Checkpoint, (job.id, (marker or {}).get("iteration") or -1))
    decision = outcome.decide(
        marker=marker,
        ended=attempt.exit or {},
        desired=job.desired_state,
        checkpoint_is_whole=final is not None and _is_whole(final, files),
        attempt=attempt.number,
    )
    with writing() as session:
        jobs.move(session, job, decision.state, reason=decision.reason, failure=decision.failure)
    log.info("job.ended", job_id=job.id, state=decision.state)


def _end_marker(attempt: Attempt, files: Files) -> Json | None:
    try:
        return parse(files.read(Path(attempt.directory or "") / "end.json", 0, CHUNK_BYTES))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _is_whole(checkpoint: Checkpoint, files: Files) -> bool:
    """Whether every file that the trainer reported is there with its size."""
    try:
        sizes = [
            files.size(Path(checkpoint.path) / file["path"]) == file["bytes"] for file in checkpoint.files
        ]
    except FileNotFoundError:
        return False
    return bool(sizes) and all(sizes)
