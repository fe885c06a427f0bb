"""Actions of a client: cancel, pause, resume, retry. Each commits, then enqueues the task that does it."""

from dataclasses import replace

from sqlmodel import Session

from worker import states
from worker.auth import audit
from worker.auth.audit import AuditAction
from worker.auth.roles import Caller, Tenant
from worker.broker import messages
from worker.broker.task_names import TaskName
from worker.clusters.registry import clusters
from worker.db.models import Job, Json, Origin
from worker.db.session import writing
from worker.errors import Forbidden, IllegalAction, NotReachable
from worker.jobs import queries, save_directories, transitions
from worker.jobs.create import planned
from worker.jobs.job_cluster import profile_of
from worker.jobs.queries import allowed_actions
from worker.jobs.retry import OF_JOB, RetryRequest, changes, revise
from worker.limits import projects
from worker.planning.plan import reject_unusable_secrets
from worker.planning.request_guards import invalid_spec
from worker.runs.run import Resources
from worker.states import Action, DesiredState, JobState, Reason

AUDITED = {Action.CANCEL: AuditAction.JOB_CANCEL, Action.PAUSE: AuditAction.JOB_PAUSE}


def cancel(job_id: str, caller: Caller) -> Job:
    """Request a cancellation; a second request changes nothing. Raises NotFound, IllegalAction."""
    reason = Reason("cancel_requested", f"Cancelled by {caller.name}.")
    job = _request(job_id, caller, Action.CANCEL, JobState.CANCELLING, DesiredState.CANCEL, reason)
    messages.enqueue(TaskName.CANCEL, job.id)
    return job


def pause(job_id: str, caller: Caller) -> Job:
    """Request a save and a stop; a second request changes nothing.

    Raises NotFound, IllegalAction, NotReachable, ClusterRemoved.
    """
    _require_pausable(queries.get(job_id))
    reason = Reason("pause_requested", f"Paused by {caller.name}.")
    job = _request(job_id, caller, Action.PAUSE, JobState.PAUSING, DesiredState.PAUSE, reason)
    messages.enqueue(TaskName.PAUSE, job.id)
    return job


def _require_pausable(job: Job) -> None:
    if job.config.get("export"):
        raise IllegalAction(
            "An export saves nothing before its end: it cannot be paused.", allowed=allowed_actions(job)
        )
    if not profile_of(job).can_pause:
        raise NotReachable(
            f"Runs on cluster {job.cluster!r} cannot be paused: the service cannot reach their files.",
            hint="Cancel it: it keeps its checkpoints. With `local_mount` in the profile it can be paused.",
        )


def _request(
    job_id: str, caller: Caller, action: Action, to: JobState, desired: DesiredState, reason: Reason
) -> Job:
    while True:
        with writing() as session:
            job = queries.find(session, job_id)
            _require_allowed(job, action)
            if job.state is to:
                return job
            if transitions.move(
                session, job, to, actor=caller.name, reason=reason, desired_state=desired.value
            ):
                audit.of_job(session, AUDITED[action], job, caller)
                return job


def resume(job_id: str, caller: Caller) -> Job:
    """Resume a paused job from its last complete checkpoint.

    Raises NotFound, IllegalAction, Forbidden, InvalidSpec, TooManyWaitingJobs.
    """
    seen = queries.get(job_id)
    _require_allowed(seen, Action.RESUME)
    _require_open_cluster(seen, caller)
    _require_startable(seen, caller)
    with writing() as session:
        job = queries.find(session, job_id)
        _require_allowed(job, Action.RESUME)
        projects.require_place(session, job.project)
        reason = Reason("resumed", f"Resumed by {caller.name}.")
        if not _start_attempt(session, job, caller, JobState.SUBMITTING, Origin.RESUMED, reason=reason):
            raise _changed_meanwhile(Action.RESUME)
        audit.of_job(session, AuditAction.JOB_RESUME, job, caller, attempt=job.attempt)
    messages.enqueue(TaskName.SUBMIT, job.id)
    return job


def retry(job_id: str, caller: Caller, request: RetryRequest | None = None) -> Job:
    """Give a job that ended without success another attempt, with changes if some are requested.

    Raises NotFound, IllegalAction, Forbidden, InvalidSpec, SaveDirectoryInUse, TooManyWaitingJobs.
    """
    seen = queries.get(job_id)
    _require_allowed(seen, Action.RETRY)
    _require_open_cluster(seen, caller)
    revised = _revised(seen, caller, request)
    with writing() as session:
        # Whoever has moved the job since it was read has won: nothing of it is changed then.
        job = seen.model_copy()
        projects.require_place(session, job.project)
        if not _start_attempt(session, job, caller, JobState.VALIDATING, Origin.RETRIED, **revised):
            raise _changed_meanwhile(Action.RETRY)
        save_directories.claim(session, job)
        changed = _changes(seen, job)
        fields = [one["field"] for one in changed]
        audit.of_job(session, AuditAction.JOB_RETRY, job, caller, attempt=job.attempt, fields=fields)
        if changed:
            transitions.record(session, job, "changed", actor=caller.name, data={"changes": changed})
    messages.enqueue(TaskName.SUBMIT, job.id)
    return job


def _require_open_cluster(job: Job, caller: Caller) -> None:
    """Raise Forbidden if the profile of the job's cluster is no longer open to its project."""
    tenant = replace(caller.tenant, project=job.project)
    if job.cluster in clusters() and not tenant.may_use(clusters()[job.cluster].projects):
        raise Forbidden(
            f"Project {job.project!r} may not use cluster {job.cluster!r} any more.",
            hint="Ask an admin, or create the job on another cluster: GET /v1/clusters lists yours.",
        )


def _require_startable(job: Job, caller: Caller) -> None:
    """Raise InvalidSpec if a job, unchanged, needs GPUs or secrets that its project may not use today."""
    if error := projects.beyond_limit(job.project, Resources(**job.resources)):
        raise invalid_spec([error.model_copy(update={"pointer": OF_JOB + error.pointer})])
    if job.cluster in clusters():
        profile = clusters()[job.cluster].for_tenant(_tenant(job, caller))
        reject_unusable_secrets(job.spec.get("secrets", {}), profile, OF_JOB)


def _tenant(job: Job, caller: Caller) -> Tenant:
    """For whom a caller starts another attempt: with an admin's rights if owner and caller are admins."""
    tenant = queries.tenant_of(job)
    return replace(tenant, is_admin=tenant.is_admin and caller.tenant.is_admin)


def _revised(job: Job, caller: Caller, request: RetryRequest | None) -> Json:
    """The columns that a retry changes. Raises InvalidSpec."""
    if request is None or not request.changes_something():
        _require_startable(job, caller)
        return {}
    return planned(*revise(job, request, _tenant(job, caller)), job.id)


def _start_attempt(
    session: Session,
    job: Job,
    caller: Caller,
    to: JobState,
    origin: Origin,
    reason: Reason | None = None,
    **revised: Json,
) -> bool:
    return transitions.next_attempt(
        session,
        job,
        to,
        origin,
        actor=caller.name,
        reason=reason,
        desired_state=DesiredState.RUN.value,
        failure=None,
        finished_at=None,
        **revised,
    )


def _changed_meanwhile(action: Action) -> IllegalAction:
    return IllegalAction("Somebody else changed this job just now.", allowed=[action])


def _changes(before: Job, after: Job) -> list[Json]:
    """What the config and the resources of two attempts do not have in common."""
    return changes(before.config, after.config) + changes(
        {"resources": before.resources}, {"resources": after.resources}
    )


def _require_allowed(job: Job, action: Action) -> None:
    if action not in states.allowed_actions(job.state):
        raise IllegalAction(f"Cannot {action} a job in state {job.state}.", allowed=allowed_actions(job))
