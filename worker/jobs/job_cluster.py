"""The cluster of a job: its profile may have been removed from the configuration, or be of another kind."""

from worker.backends.connect import connect
from worker.backends.interface import Backend
from worker.clusters.registry import Cluster, cluster, clusters
from worker.db.models import Job
from worker.errors import ClusterRemoved


def backend_of(job: Job) -> Backend:
    """Return the backend that has the job. Raises ClusterRemoved."""
    return connect(profile_of(job))


def profile_of(job: Job) -> Cluster:
    """Return the profile of the job's cluster. Raises ClusterRemoved."""
    return profile_with(job.cluster, job.backend)


def profile_with(name: str, backend: str) -> Cluster:
    """Return the profile of a cluster that had this backend. Raises ClusterRemoved."""
    if error := _removal(name, backend):
        raise error
    return cluster(name)


def removed_error(job: Job) -> ClusterRemoved | None:
    """Return the error for a job whose cluster has no profile of its kind any more, None if it has one."""
    return _removal(job.cluster, job.backend)


def _removal(name: str, backend: str) -> ClusterRemoved | None:
    profile = clusters().get(name)
    if profile is not None and profile.executor == backend:
        return None
    what = f"has become a {profile.executor} cluster" if profile else "was removed"
    return ClusterRemoved(
        f"The profile of {backend} cluster {name!r} {what}.",
        hint="Ask the operator to add it to the configuration again, or cancel the job.",
    )
