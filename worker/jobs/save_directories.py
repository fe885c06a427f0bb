"""A save directory belongs to one live job: two runs that save into it would overwrite each other's files."""

import os
from pathlib import PurePath

from sqlalchemy.orm import defer
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
    others = select(Job).where(col(Job.state).in_(LIVE), Job.id != job.id)
    large = defer(col(Job.spec)), defer(col(Job.config))  # type: ignore[arg-type]
    for other in session.exec(others.options(*large)):
        if _overlap(job.save_directory, other.save_directory) and _may_share_files(job, other):
            owner = f"Job {other.id}" if other.project == job.project else "A job of another project"
            raise SaveDirectoryInUse(
                f"{owner} saves into {other.save_directory!r} and has not ended.",
                hint="Wait until it has ended, or set checkpoint.save to another directory.",
            )


def _overlap(one: str | None, other: str | None) -> bool:
    if not one or not other:
        return False
    return PurePath(one).is_relative_to(other) or PurePath(other).is_relative_to(one)


def _may_share_files(one: Job, other: Job) -> bool:
    """Whether the jobs may save to one file system: that which was stored with them, or today's.

    A run that has begun saves where its profile said then, the next attempt where the profile says now.
    """
    names = _file_systems(one), _file_systems(other)
    return not all(names) or not names[0].isdisjoint(names[1])


def _file_systems(job: Job) -> set[str]:
    """Return the names of the file systems of a job; none if that is not known."""
    if job.file_system is None:
        return set()
    profile = clusters().get(job.cluster)
    return {job.file_system, profile.file_system_name if profile else job.file_system}
