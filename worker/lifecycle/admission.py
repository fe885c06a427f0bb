"""Admit jobs to their cluster as their project has room, and release those that waited for it.

A job without room stays in SUBMITTING with the reason `project_limit`. When a job leaves its cluster, as many
of the project's waiting jobs are released as have room then. The sweep does the same where a release was
lost, and when limits were raised.
"""

from sqlmodel import Session

from worker.broker import messages
from worker.broker.task_names import TaskName
from worker.db.models import Attempt, Job
from worker.db.session import writing
from worker.jobs import queries, transitions
from worker.limits import projects
from worker.limits.projects import PROJECT_LIMIT
from worker.runs.run import Resources
from worker.telemetry.logging import logger

log = logger(__name__)


def admit(job: Job, directory: str) -> bool:
    """Record that a backend may have the attempt from now on. False where its project has no room for it.

    False, too, where the job was moved meanwhile. One transaction decides and records: of several workers
    that submit at once none exceeds the limits of the project.
    """
    with writing() as session:
        shortage = _shortage(session, job)
        if shortage is None:
            return _clear_reason(session, job) and transitions.assign_directory(session, job, directory)
        if (job.reason_code, job.reason_message) != (PROJECT_LIMIT, shortage):
            transitions.change(session, job, reason_code=PROJECT_LIMIT, reason_message=shortage)
    log.info("submit.waits_for_project", job_id=job.id, project=job.project)
    return False


def _shortage(session: Session, job: Job) -> str | None:
    room = projects.room(session, job.project)
    if session.get_one(Attempt, (job.id, job.attempt)).directory is not None:
        return None  # it was admitted before: what it occupies is part of what the project uses
    return room.shortage(Resources(**job.resources).gpus)


def release(project: str) -> None:
    """Release the jobs of a project that have waited for room and have it now, and enqueue them.

    They still have to be admitted: a job that was created meanwhile may come first. The project is held
    before they are read: what a worker has just found to have no room is among them.
    """
    with writing() as session:
        waiting = [queries.find(session, job_id) for job_id in projects.with_room(session, project)]
        released = [job.id for job in waiting if _clear_reason(session, job)]
    for job_id in released:
        messages.enqueue(TaskName.SUBMIT, job_id)


def _clear_reason(session: Session, job: Job) -> bool:
    """Let the job wait for its project no longer. False where it was moved meanwhile."""
    if job.reason_code != PROJECT_LIMIT:
        return True
    return transitions.change(session, job, reason_code=None, reason_message=None)
