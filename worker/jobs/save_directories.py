"""A save directory belongs to one live job: two runs that save into it would overwrite each other's files."""

import os
from pathlib import PurePath

from sqlmodel import Session, col, select

from worker.clusters.registry import Cluster, clusters
from worker.db.models import Job, Json
from worker.db.session import serialize
from worker.errors import SaveDirectoryInUse
from worker.states import LIVE

LOCK = "save_directories"


def of(config: Json, profile: Cluster) -> str:
    """Return the save directory of a config; links are resolved where the service sees the files."""
    save = str(config["checkpoint"]["save"])
    return os.path.realpath(save) if profile.sees_files else os.path.normpath(save)


def claim(session: Session, job: Job) -> None:
    """Raise SaveDirectoryInUse if another live job saves into the job's directory, into or above it.

    Belongs to the transaction that makes the job live: of two jobs that claim a directory, one gets it.
    """
    serialize(session, LOCK)
    query = select(Job.id, Job.project, Job.cluster, Job.save_directory).where(
        col(Job.state).in_(LIVE), Job.id != job.id
    )
    for other, project, cluster, directory in session.exec(query):
        if _overlap(job.save_directory, directory) and _file_system(cluster) == _file_system(job.cluster):
            owner = f"Job {other}" if project == job.project else "A job of another project"
            raise SaveDirectoryInUse(
                f"{owner} saves into {directory!r} and has not ended.",
                hint="Wait until it has ended, or set checkpoint.save to another directory.",
            )


def _overlap(one: str | None, other: str | None) -> bool:
    if not one or not other:
        return False
    return PurePath(one).is_relative_to(other) or PurePath(other).is_relative_to(one)


def _file_system(name: str) -> str:
    profile = clusters().get(name)
    return profile.file_system if profile else name
