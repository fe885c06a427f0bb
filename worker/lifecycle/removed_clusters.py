"""Jobs whose cluster was removed from the configuration: their reason says so, and what cannot be done."""

from sqlalchemy import true
from sqlmodel import col, select

from worker.clusters.registry import clusters
from worker.db.models import Attempt, Job
from worker.db.session import reading, writing
from worker.errors import ClusterRemoved
from worker.jobs import transitions
from worker.jobs.job_cluster import removed_error
from worker.states import LIVE, JobState
from worker.telemetry.logging import logger

log = logger(__name__)

# A paused job needs no cluster until it is resumed.
WITH_REASON = LIVE - {JobState.PAUSED}


def set_reasons(cluster_name: str) -> None:
    """Set the reason `cluster_removed` on live jobs of a removed cluster."""
    for job, attempt in _removed(cluster_name):
        error = removed_error(job)
        if error and job.reason_message != (message := _message(error, attempt)):
            log.warning("job.cluster_removed", job_id=job.id, cluster=cluster_name)
            with writing() as session:
                transitions.change(session, job, reason_code=error.code, reason_message=message)


def _removed(cluster_name: str) -> list[tuple[Job, Attempt]]:
    profile = clusters().get(cluster_name)
    is_removed = col(Job.backend) != profile.executor if profile else true()
    query = (
        select(Job, Attempt)
        .where(col(Job.id) == Attempt.job_id, col(Job.attempt) == Attempt.number)
        .where(Job.cluster == cluster_name, col(Job.state).in_(WITH_REASON), is_removed)
    )
    with reading() as session:
        return list(session.exec(query))


def _message(error: ClusterRemoved, attempt: Attempt) -> str:
    if attempt.directory is None or attempt.exit is not None:
        return f"{error.message} {error.hint}"
    run = attempt.external_id or attempt.name
    return (
        f"{error.message} The cluster may have the run {run!r}, which the service can neither observe nor "
        "cancel: end it on the cluster. Until the profile is in the configuration again, the job stays as "
        "it is, and keeps its save directory."
    )
