"""Decide the outcome of a run that is over: by its end marker, its logs and its final checkpoint."""

from contextlib import suppress
from datetime import timedelta

from trainer.checkpoints import HF_INDEX, missing_export_files
from trainer.events import Ending, Finished
from worker.backends.access.files import Files
from worker.backends.interface import Backend
from worker.clock import utcnow
from worker.db.models import Attempt, Checkpoint, Job, Json
from worker.db.session import reading, writing
from worker.errors import CheckpointChanged, CheckpointNotServed, NotReachable
from worker.jobs import checkpoints, logs, queries, retry, transitions
from worker.jobs.checkpoints import StoredFile
from worker.lifecycle import admission, outcome, recovery, stored_events
from worker.lifecycle.handles import handle_of, layout_of
from worker.runs.events import read_ending
from worker.runs.observation import ExitRecord
from worker.sandbox import inspections
from worker.telemetry.logging import logger

log = logger(__name__)

MAX_MARKER_BYTES = 1 << 20
# The index of a model with 100,000 weights has ten megabytes.
MAX_WEIGHT_INDEX_BYTES = 1 << 24


def finalize(job: Job, attempt: Attempt, backend: Backend) -> None:
    """Move a job whose run has ended to its outcome, or recover it. Raises BackendUnavailable."""
    assert attempt.exit is not None
    files = backend.files()
    marker = _end_marker(attempt, files)
    if marker is None and _may_settle(attempt.exit, backend.settle_seconds):
        return  # the next poll asks again
    decision = outcome.decide(
        marker=marker,
        ended=attempt.exit,
        desired=job.desired_state,
        checkpoint_is_complete=isinstance(marker, Finished)
        and _has_final_checkpoint(job, attempt, marker, files),
        attempt=attempt.number,
        logs=logs.tails(layout_of(attempt), queries.run_of(job).resources.gpus, files),
    )
    failure = _failure(job, decision)
    _remove_secrets(job, attempt, files)
    if recovery.should_recover(job, decision):
        recovery.recover(job, decision.reason, failure)
        return
    with writing() as session:
        transitions.move(session, job, decision.state, reason=decision.reason, failure=failure)
    admission.release(job.project)
    log.info("job.ended", job_id=job.id, state=decision.state)


def _remove_secrets(job: Job, attempt: Attempt, files: Files) -> None:
    """A run removes them at its end; one that was killed, or never began, could not."""
    if job.spec.get("secrets") and attempt.directory:
        files.remove(handle_of(attempt).submitted.secrets)


def _may_settle(ended: ExitRecord, seconds: float) -> bool:
    """Whether the run ended so recently that its end marker may not be visible here yet."""
    if ended.code in outcome.CUT_OFF:
        return False
    age = utcnow() - ended.at if ended.at else timedelta.max
    return timedelta(0) <= age < timedelta(seconds=seconds)


def _failure(job: Job, decision: outcome.Outcome) -> Json | None:
    """The failure as it is stored, with a suggested fix."""
    if decision.failure is None:
        return None
    suggestion = retry.suggestion(job, decision.explanation or "")
    failure = decision.failure.model_copy(update={"suggestion": suggestion})
    return failure.model_dump(mode="json", by_alias=True)


def _end_marker(attempt: Attempt, files: Files) -> Ending | None:
    layout = layout_of(attempt)
    try:
        return read_ending(files.read(layout.end, 0, MAX_MARKER_BYTES, layout.job.jobs))
    except (FileNotFoundError, ValueError):
        return None


def _has_final_checkpoint(job: Job, attempt: Attempt, marker: Finished, files: Files) -> bool:
    """Whether the final checkpoint was reported, and is complete."""
    if marker.iteration is None:
        return False
    with suppress(FileNotFoundError):
        stored_events.store_unread(attempt, marker.iteration, files)
    with reading() as session:
        final = session.get(Checkpoint, (job.id, marker.iteration))
    return final is not None and _is_complete(job, final)


def _is_complete(job: Job, final: Checkpoint) -> bool:
    """Whether every file of a checkpoint is there with its size.

    Where it lies was reported by the run: only files of the job's save directory count. Where the service
    does not open them nobody but the trainer can tell, and it reports a checkpoint when that is on disk.
    """
    try:
        files = checkpoints.complete_files(job, final)
        return bool(files) and (final.format != "huggingface" or _can_be_loaded(files, job.project))
    except CheckpointNotServed as error:
        log.warning("job.checkpoint_not_served", job_id=job.id, error=error.message)
        return True
    except NotReachable:
        return True
    except (CheckpointChanged, FileNotFoundError):
        return False


def _can_be_loaded(files: list[StoredFile], project: str) -> bool:
    """Whether an export has a config and all weights. Raises FileNotFoundError, BackendUnavailable."""
    names = [file.name for file in files]
    index = next((file for file in files if file.name == HF_INDEX), None)
    if index is None:
        return not missing_export_files(names, None)
    content = index.files.read(index.path, 0, MAX_WEIGHT_INDEX_BYTES, index.below)
    return inspections.is_export_complete(names, content, project)
