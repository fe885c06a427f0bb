"""Hands jobs to their backend, and takes them back. No transaction is open while a backend is called."""

from datetime import timedelta
from pathlib import Path

from sqlalchemy import update
from sqlmodel import Session, col

from trainer.failures import Evidence, Failure, explain
from trainer.look import ConfigRequest
from trainer.preflight import Finding
from worker import ingest
from worker.backends.connect import connect
from worker.backends.interface import Backend, Handle, Submission
from worker.clock import utcnow
from worker.clusters.registry import cluster
from worker.db.models import Attempt, Job
from worker.db.session import affected, writing
from worker.errors import BackendUnavailable, SubmissionRejected
from worker.jobs import queries, transitions
from worker.planning.plan import parse_config
from worker.run_files import STOP
from worker.states import DesiredState, JobState, Reason
from worker.telemetry import metrics
from worker.telemetry.logging import logger

log = logger(__name__)

# Longer than any backend's submit may take: what it does not know by then was never submitted.
SUBMISSION_GRACE = timedelta(minutes=5)


def submit(job_id: str) -> None:
    """Validate a job and hand it to its backend. Safe to repeat at any point."""
    job = queries.get(job_id)
    if job.state is JobState.VALIDATING:
        _validate(job)
    if job.state is JobState.SUBMITTING:
        _hand_over(job)


def put_off(job_id: str, why: BackendUnavailable) -> None:
    """Say that a job waits for its cluster to answer; the sweep tries again."""
    job = queries.get(job_id)
    if job.state in (JobState.VALIDATING, JobState.SUBMITTING) and job.reason_code != why.code:
        _wait(job, why, "submit.put_off")


def _validate(job: Job) -> None:
    """Look, where the files are, at what may have changed since: VALIDATING -> SUBMITTING or FAILED."""
    try:
        errors = [finding for finding in _look(job) if finding.severity == "error"]
    except BackendUnavailable as error:
        _wait(job, error, "validate.unavailable")
        return
    if errors:
        _fail(job, Reason(errors[0].code, errors[0].message), _failure_of(errors[0]))
        return
    with writing() as session:
        transitions.move(session, job, JobState.SUBMITTING)


def _look(job: Job) -> list[Finding]:
    """Findings about the job's config; none where nobody can look: the trainer does before it trains."""
    profile = cluster(job.cluster)
    backend = connect(profile)
    own = [job.id, job.export_of["job"]] if job.export_of else [job.id]
    request = ConfigRequest(
        config=parse_config(job.config),
        hardware=profile.hardware(queries.run_of(job).resources),
        roots=[*profile.roots, *map(backend.job_directory, own)],
    )
    with metrics.observed(job.cluster, "look"):
        seen = backend.look(request)
    return seen.findings if seen else []


def _wait(job: Job, error: BackendUnavailable, what: str) -> None:
    """The sweep tries again; meanwhile the job says why it waits."""
    log.warning(what, job_id=job.id, error=error.message)
    message = f"{error.message.rstrip('.')}. {error.hint}" if error.hint else error.message
    with writing() as session:
        transitions.change(session, job, reason_code=error.code, reason_message=message)


def _failure_of(finding: Finding) -> Failure:
    return explain(finding.code, cause=finding.message, recovery=finding.hint, suggestion=finding.suggestion)


def _hand_over(job: Job) -> None:
    backend = connect(cluster(job.cluster))
    submission = backend.render(queries.run_of(job))
    if not _begin(job, submission.directory):
        return
    try:
        with metrics.observed(job.cluster, "submit"):
            external_id = backend.submit(submission)
    except SubmissionRejected as error:
        failure = explain("scheduler_rejected", cause=error.message, recovery=error.hint)
        _fail(job, Reason(error.code, error.message), failure)
    except BackendUnavailable as error:
        _wait(job, error, "submit.unavailable")
    else:
        _accepted(job, backend, submission, external_id)


def _begin(job: Job, directory: str) -> bool:
    """Note, before the backend hears of it, that it may have the attempt; False where the job has gone on.

    So a cancel knows which attempts it can close at once, and no run starts behind its back.
    """
    with writing() as session:
        now = queries.find(session, job.id, lock=True)
        if (now.state, now.attempt) != (job.state, job.attempt):
            return False
        attempt = session.get_one(Attempt, (job.id, job.attempt))
        attempt.directory = directory
        return True


def _accepted(job: Job, backend: Backend, submission: Submission, external_id: str) -> None:
    with writing() as session:
        # Its events are numbered in the order in which they can be seen: all writers hold the job.
        queries.find(session, job.id, lock=True)
        is_new = _store_external_id(session, job, external_id, submission.directory)
        if is_new:
            transitions.record(session, job, "submitted", data={"external_id": external_id})
        moved = transitions.move(session, job, JobState.QUEUED)
    if is_new:
        delay = utcnow() - queries.attempt_of(job).created_at
        metrics.SUBMISSION_SECONDS.labels(job.cluster).observe(delay.total_seconds())
    if not moved and _is_unwanted(job):
        with metrics.observed(job.cluster, "cancel"):
            # The wish came while the submission was on its way.
            backend.cancel(Handle(external_id, submission.name))
    log.info("submit.done", job_id=job.id, external_id=external_id)


def _is_unwanted(job: Job) -> bool:
    """Whether the attempt that `job` was seen in has been cancelled, and perhaps retried, meanwhile."""
    now = queries.get(job.id)
    return now.attempt != job.attempt or now.desired_state == DesiredState.CANCEL


def _store_external_id(session: Session, job: Job, external_id: str, directory: str) -> bool:
    """Note where the attempt went; False where it was known already."""
    statement = (
        update(Attempt)
        .where(col(Attempt.job_id) == job.id, col(Attempt.number) == job.attempt)
        .where(col(Attempt.external_id).is_(None))
        .values(external_id=external_id, directory=directory, submitted_at=utcnow())
    )
    return affected(session, statement) > 0


def _fail(job: Job, reason: Reason, failure: Failure) -> None:
    failure.evidence = Evidence(attempt=job.attempt)
    stored = failure.model_dump(mode="json", by_alias=True)
    with writing() as session:
        transitions.move(session, job, JobState.FAILED, reason=reason, failure=stored)
    log.info("job.failed", job_id=job.id, code=reason.code)


def cancel(job_id: str, *, answers: bool = True) -> None:
    """Bring a wish to cancel to the backend; the watch sees the end. Safe to repeat.

    answers: whether its cluster answers; else only what it has never heard of is ended.
    """
    job = queries.get(job_id)
    if job.state is not JobState.CANCELLING:
        return
    attempt = queries.attempt_of(job)
    if attempt.directory is None:
        _never_submitted(job)
        return
    if attempt.exit is not None:
        ingest.ingest(job_id)  # the run is over: it was paused
        return
    if not answers:
        return  # the sweep asks again
    try:
        _end_run(job, attempt)
    except BackendUnavailable as error:
        log.warning("cancel.unavailable", job_id=job_id, error=error.message)  # the sweep tries again


def _end_run(job: Job, attempt: Attempt) -> None:
    backend = connect(cluster(job.cluster))
    external_id = attempt.external_id or _find(backend, job, attempt.name)
    if external_id is not None:
        with metrics.observed(job.cluster, "cancel"):
            backend.cancel(Handle(external_id, attempt.name))
        with writing() as session:
            _store_external_id(session, job, external_id, attempt.directory or "")
    elif job.updated_at < utcnow() - SUBMISSION_GRACE and backend.abandon(
        Handle("", attempt.name), Path(attempt.directory or "")
    ):
        _never_submitted(job)
    # else its submission may still be on its way: the sweep asks again


def pause(job_id: str) -> None:
    """Bring a wish to pause to the run, which saves and ends; the watch sees its end. Safe to repeat."""
    job = queries.get(job_id)
    attempt = queries.attempt_of(job)
    if job.state is not JobState.PAUSING or attempt.directory is None or attempt.exit is not None:
        return
    directory = Path(attempt.directory)
    files = connect(cluster(job.cluster)).files()
    try:
        files.make_directory(directory)  # of a run that the scheduler begins again just now
        files.write(directory / STOP, b"pause\n")
    except BackendUnavailable as error:
        log.warning("pause.unavailable", job_id=job_id, error=error.message)  # the sweep tries again


def _find(backend: Backend, job: Job, name: str) -> str | None:
    with metrics.observed(job.cluster, "find"):
        return backend.find(name)


def _never_submitted(job: Job) -> None:
    with writing() as session:
        transitions.move(session, job, JobState.CANCELLED, reason=Reason("cancelled", "Never submitted."))
