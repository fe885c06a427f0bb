"""Deliver requests to cancel and to pause to the backend. Polls observe the end."""

from datetime import timedelta
from pathlib import Path

from trainer.run_layout import STOP_PAUSE, RunLayout
from worker.backends.interface import Backend, Handle
from worker.clock import utcnow
from worker.db.models import Attempt, Job
from worker.db.session import writing
from worker.errors import BackendUnavailable
from worker.jobs import queries, transitions
from worker.jobs.job_cluster import backend_of, removed_error
from worker.lifecycle import admission, ingest
from worker.lifecycle.handles import handle_of
from worker.states import JobState, Reason
from worker.telemetry import metrics
from worker.telemetry.logging import logger

log = logger(__name__)

# Longer than any backend's submit may take: what it does not know by then was never submitted.
SUBMISSION_GRACE = timedelta(minutes=5)


def cancel(job_id: str, *, answers: bool = True) -> None:
    """Deliver a cancellation request to the backend. Safe to repeat.

    answers: whether the cluster answers; else only what it has never received is ended.
    """
    job = queries.get(job_id)
    if job.state is not JobState.CANCELLING:
        return
    attempt = queries.attempt_of(job)
    if attempt.directory is None:
        _end_unsubmitted(job)
    elif attempt.exit is not None:
        _end_over(job)
    elif answers:
        _cancel_run(job, attempt)
    # else the sweep tries again


def _end_over(job: Job) -> None:
    """Cancel a job whose run is over; ingest its output first where the cluster can be reached."""
    if error := removed_error(job):
        _end(job, f"Its run had ended before. {error.message}")
    else:
        ingest.ingest(job.id)


def _cancel_run(job: Job, attempt: Attempt) -> None:
    try:
        _end_run(job, attempt)
    except BackendUnavailable as error:
        log.warning("cancel.unavailable", job_id=job.id, error=error.message)  # the sweep tries again


def _end_run(job: Job, attempt: Attempt) -> None:
    backend = backend_of(job)
    handle = handle_of(attempt)
    external_id = attempt.external_id or _find(backend, job, handle)
    if external_id is not None:
        with metrics.observed(job.cluster, "cancel"):
            backend.cancel(handle._replace(external_id=external_id))
        with writing() as session:
            transitions.record_submission(session, job, external_id, attempt.directory or "")
    elif job.updated_at < utcnow() - SUBMISSION_GRACE and backend.abandon(handle):
        _end_unsubmitted(job)
    # else its submission may still be on its way: the sweep tries again


def _find(backend: Backend, job: Job, handle: Handle) -> str | None:
    with metrics.observed(job.cluster, "find"):
        return backend.find(handle)


def _end_unsubmitted(job: Job) -> None:
    _end(job, "Never submitted.")


def _end(job: Job, message: str) -> None:
    with writing() as session:
        transitions.move(session, job, JobState.CANCELLED, reason=Reason("cancelled", message))
    admission.release(job.project)


def pause(job_id: str) -> None:
    """Deliver a pause request to the run, which saves and ends. Safe to repeat."""
    job = queries.get(job_id)
    attempt = queries.attempt_of(job)
    if job.state is not JobState.PAUSING or attempt.directory is None or attempt.exit is not None:
        return
    layout = RunLayout(Path(attempt.directory))
    try:
        files = backend_of(job).files()
        files.make_directory(layout.directory)  # of a run that the scheduler restarts just now
        files.write(layout.stop, f"{STOP_PAUSE}\n".encode(), mode=0o640)  # a run may have its own account
    except BackendUnavailable as error:
        log.warning("pause.unavailable", job_id=job_id, error=error.message)  # the sweep tries again
