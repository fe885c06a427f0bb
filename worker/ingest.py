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
    while _take_chunk(job, attempt, files):
        pass
    if attempt.exit is not None:
        _finalize(job, attempt, files)


def _take_chunk(job: Job, attempt: Attempt, files: Files) -> bool:
    """Store the next complete lines. Returns whether there was anything."""
    try:
        data = files.read(Path(attempt.directory or "") / "events.jsonl", attempt.events_offset, CHUNK_BYTES)
    except FileNotFoundError:
        return False
    end = data.rfind(b"\n") + 1
    if end == 0:
        return False
    events = [event for line in data[:end].splitlines() if (event := _parsed(line, job)) is not None]
    with writing() as session:
        if not _advance(session, attempt, end):
            return False  # another worker has taken these lines
        for event in events:
            _store(session, job, attempt, event)
        _update_job(session, job, events)
    attempt.events_offset += end
    return True


def _parsed(line: bytes, job: Job) -> Json | None:
    try:
        event = json.loads(line)
        datetime.fromisoformat(event["at"])
    except (ValueError, KeyError, TypeError):
        log.warning("ingest.bad_line", job_id=job.id, line=line[:200].decode(errors="replace"))
        return None
    return dict(event)


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
                    "loss": event["loss"],
                    "eta_seconds": _eta(progress, event),
                }
            case "validation":
                progress |= {"validation_loss": event["loss"]}
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
        marker: Any = json.loads(files.read(Path(attempt.directory or "") / "end.json", 0, CHUNK_BYTES))
    except (FileNotFoundError, ValueError):
        return None
    return marker if isinstance(marker, dict) else None


def _is_whole(checkpoint: Checkpoint, files: Files) -> bool:
    """Whether every file that the trainer reported is there with its size."""
    try:
        sizes = [
            files.size(Path(checkpoint.path) / file["path"]) == file["bytes"] for file in checkpoint.files
        ]
    except FileNotFoundError:
        return False
    return bool(sizes) and all(sizes)
