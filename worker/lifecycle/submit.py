"""Validate jobs and submit them to their backend. No transaction is open while a backend is called."""

from trainer.failures import Evidence, Failure, explain
from trainer.preflight import Finding
from trainer.preflight.remote import ConfigRequest
from worker.auth import audit
from worker.backends.connect import connect
from worker.backends.interface import Backend, Submission
from worker.clock import utcnow
from worker.clusters.registry import Cluster
from worker.db.models import Job
from worker.db.session import writing
from worker.errors import BackendUnavailable, SubmissionRejected
from worker.jobs import queries, transitions
from worker.jobs.job_cluster import profile_of
from worker.lifecycle import admission
from worker.planning.plan import parse_config
from worker.states import DesiredState, JobState, Reason
from worker.telemetry import metrics
from worker.telemetry.logging import logger

log = logger(__name__)


def submit(job_id: str) -> None:
    """Validate a job and submit it to its backend. Safe to repeat at any point."""
    job = queries.get(job_id)
    if job.state is JobState.VALIDATING:
        _validate(job)
    if job.state is JobState.SUBMITTING:
        _submit(job)


def defer(job_id: str, why: BackendUnavailable) -> None:
    """Record that a job waits for its cluster to answer; the sweep enqueues it again."""
    job = queries.get(job_id)
    if job.state in (JobState.VALIDATING, JobState.SUBMITTING) and job.reason_code != why.code:
        _wait(job, why, "submit.deferred")


def _wait(job: Job, error: BackendUnavailable, event: str) -> None:
    """Record why a job waits; the sweep tries again."""
    log.warning(event, job_id=job.id, error=error.message)
    message = f"{error.message.rstrip('.')}. {error.hint}" if error.hint else error.message
    with writing() as session:
        transitions.change(session, job, reason_code=error.code, reason_message=message)


def _fail(job: Job, reason: Reason, failure: Failure) -> None:
    failure.evidence = Evidence(attempt=job.attempt)
    stored = failure.model_dump(mode="json", by_alias=True)
    with writing() as session:
        transitions.move(session, job, JobState.FAILED, reason=reason, failure=stored)
    admission.release(job.project)
    log.info("job.failed", job_id=job.id, code=reason.code)


# -- validating ------------------------------------------------------------------------------------


def _validate(job: Job) -> None:
    """Inspect, where the files are, what may have changed since: VALIDATING -> SUBMITTING or FAILED."""
    try:
        errors = [finding for finding in _inspect(job) if finding.severity == "error"]
    except BackendUnavailable as error:
        _wait(job, error, "validate.unavailable")
        return
    if errors:
        _fail(job, Reason(errors[0].code, errors[0].message), _failure_of(errors[0]))
        return
    with writing() as session:
        transitions.move(session, job, JobState.SUBMITTING)


def _inspect(job: Job) -> list[Finding]:
    """Findings about the job's config; none where nothing can inspect: the trainer does before it trains."""
    profile = profile_of(job)
    backend = connect(profile)
    own = [job.id, job.export_of["job"]] if job.export_of else [job.id]
    request = ConfigRequest(
        config=parse_config(job.config),
        hardware=profile.hardware(queries.run_of(job).resources),
        roots=[*profile.for_project(job.project).roots, *map(backend.job_directory, own)],
        project=job.project,
    )
    with metrics.observed(job.cluster, "look"):
        seen = backend.inspect(request)
    return seen.findings if seen else []


def _failure_of(finding: Finding) -> Failure:
    return explain(finding.code, cause=finding.message, recovery=finding.hint, suggestion=finding.suggestion)


# -- submitting ------------------------------------------------------------------------------------


def _submit(job: Job) -> None:
    profile = profile_of(job).for_tenant(queries.tenant_of(job))
    backend = connect(profile)
    submission = backend.render(queries.run_of(job))
    try:
        _require_secrets(job, submission, profile)
        if not admission.admit(job, submission.directory):
            return
        with metrics.observed(job.cluster, "submit"):
            external_id = backend.submit(submission)
    except SubmissionRejected as error:
        failure = explain("scheduler_rejected", cause=error.message, recovery=error.hint)
        _fail(job, Reason(error.code, error.message), failure)
    except BackendUnavailable as error:
        _wait(job, error, "submit.unavailable")
    else:
        _accepted(job, backend, submission, external_id)


def _require_secrets(job: Job, submission: Submission, profile: Cluster) -> None:
    """Raise SubmissionRejected if the job may not use a secret any more, before it is handed out.

    A submission that is repeated may have arrived: the backend finds that out, and then checks the secrets.
    """
    if queries.attempt_of(job).directory is not None:
        return
    try:
        profile.require_secrets(submission.secrets.values())
    except SubmissionRejected as error:
        with writing() as session:
            audit.of_secrets(session, job, error.code)
        raise


def _accepted(job: Job, backend: Backend, submission: Submission, external_id: str) -> None:
    with writing() as session:
        # Its events are numbered in the order in which they can be seen: all writers hold the job.
        queries.find(session, job.id, lock=True)
        is_new = transitions.record_submission(session, job, external_id, submission.directory)
        if is_new:
            transitions.record(session, job, "submitted", data={"external_id": external_id})
        moved = transitions.move(session, job, JobState.QUEUED)
    if is_new:
        delay = utcnow() - queries.attempt_of(job).created_at
        metrics.SUBMISSION_SECONDS.labels(job.cluster).observe(delay.total_seconds())
    if not moved and _is_unwanted(job):
        with metrics.observed(job.cluster, "cancel"):
            # The cancellation was requested while the submission was on its way.
            backend.cancel(submission.handle(external_id))
    log.info("submit.done", job_id=job.id, external_id=external_id)


def _is_unwanted(job: Job) -> bool:
    """Whether the attempt that `job` was read in has been cancelled, and perhaps retried, meanwhile."""
    now = queries.get(job.id)
    return now.attempt != job.attempt or now.desired_state == DesiredState.CANCEL
