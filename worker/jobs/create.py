"""Create jobs: find the replay, plan, store, enqueue."""

from dataclasses import dataclass, replace

from sqlalchemy.exc import IntegrityError
from sqlmodel import Session

from worker.auth import audit
from worker.auth.audit import AuditAction
from worker.auth.roles import Caller
from worker.backends.connect import connect
from worker.broker import messages
from worker.broker.task_names import TaskName
from worker.clusters.registry import cluster
from worker.db.models import Job, Json, new_id
from worker.db.session import writing
from worker.errors import SaveDirectoryInUse, TooManyWaitingJobs
from worker.jobs import save_directories, transitions
from worker.jobs.idempotency import RequestKey
from worker.jobs.queries import find
from worker.jobs.views import JobView
from worker.limits import projects
from worker.planning.plan import Plan, checked_plan
from worker.planning.spec import JobSpec
from worker.telemetry.logging import logger

log = logger(__name__)


@dataclass(frozen=True)
class Created:
    """A job that was created now, or by an earlier request with the same key."""

    job_id: str
    response: Json
    """The body that the client is answered with."""
    is_new: bool


def create(spec: JobSpec, caller: Caller, idempotency_key: str | None = None) -> Created:
    """Store a new job, or find the one that the same key created before.

    Raises InvalidSpec, PlanDrift, IdempotencyMismatch, SaveDirectoryInUse, TooManyWaitingJobs, and
    ServiceUnavailable without a broker.
    """
    messages.ping()
    request = RequestKey.of(spec, caller, idempotency_key)
    return replay(request) or store(new_job(spec, caller, caller.project), caller, request)


def replay(request: RequestKey) -> Created | None:
    """Return what an earlier request with the same key has created. Raises IdempotencyMismatch."""
    known = request.find()
    return Created(known.job_id, known.response, is_new=False) if known else None


def new_job(spec: JobSpec, caller: Caller, project: str, export_of: Json | None = None) -> Job:
    """Plan a job that is not stored yet. Raises InvalidSpec, PlanDrift."""
    plan = checked_plan(
        spec, replace(caller.tenant, project=project), exported=(export_of or {}).get("checkpoint")
    )
    job_id = new_id("job")
    return Job(
        id=job_id,
        name=spec.name,
        owner=caller.name,
        project=project,
        export_of=export_of,
        labels=dict(spec.labels),
        cluster=plan.cluster,
        backend=cluster(plan.cluster).executor,
        **planned(spec, plan, job_id),
    )


def planned(spec: JobSpec, plan: Plan, job_id: str) -> Json:
    """Return the columns that a plan decides about."""
    profile = cluster(plan.cluster)
    config = plan.config_in(connect(profile).job_directory(job_id))
    return {
        "spec": spec.model_dump(mode="json"),
        "config": config,
        "save_directory": save_directories.of(config, profile),
        "file_system": profile.file_system_name,
        "resources": plan.resources.model_dump(mode="json"),
        "plan_hash": plan.plan_hash,
    }


def store(job: Job, caller: Caller, request: RequestKey) -> Created:
    """Store a new job with its first attempt, and enqueue it.

    Raises NotFound where what it exports is gone, SaveDirectoryInUse, TooManyWaitingJobs.

    The row of the key belongs to the job's transaction: of many equal requests at once one creates the
    job, the others wait for it and get the same. A request that died left nothing behind.
    """
    response = JobView.of(job).model_dump(mode="json", by_alias=True)
    try:
        with writing() as session:
            projects.require_place(session, job.project)
            _lock_exported(session, job, caller)
            save_directories.claim(session, job)
            transitions.insert(session, job, actor=caller.name)
            _audit(session, job, caller)
            request.store(session, job.id, response)
    except (IntegrityError, SaveDirectoryInUse, TooManyWaitingJobs):
        if found := replay(request):
            return found
        raise
    log.info("job.created", job_id=job.id, owner=caller.name)
    messages.enqueue(TaskName.SUBMIT, job.id)
    return Created(job.id, response, is_new=True)


def _audit(session: Session, job: Job, caller: Caller) -> None:
    secrets = {"secrets": job.spec["secrets"]} if job.spec["secrets"] else {}
    audit.of_job(session, AuditAction.JOB_CREATE, job, caller, cluster=job.cluster, **secrets)


def _lock_exported(session: Session, job: Job, caller: Caller) -> None:
    """Lock the job that is exported until this transaction ends, and note it there. Raises NotFound."""
    if job.export_of:
        source = find(session, job.export_of["job"], lock=True)
        data = {"job": job.id, "iteration": job.export_of["iteration"]}
        transitions.record(session, source, "export", actor=caller.name, data=data)
        audit.of_job(session, AuditAction.JOB_EXPORT, source, caller, **data)
