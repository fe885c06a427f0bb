"""Admit jobs to their cluster as their project has room, and release those that waited for it.

A job without room stays in SUBMITTING with the reason `project_limit`. When a job leaves its cluster, as many
of the project's waiting jobs are released as have room then, in the order in which they were created: a
small job does not overtake a large one. The sweep does the same where a release was lost, and when limits
were changed.
"""

from sqlmodel import Session

from worker.broker import messages
from worker.broker.task_names import TaskName
from worker.db.models import Attempt, Job
from worker.db.session import writing
from worker.jobs import queries, transitions
from worker.limits import projects
from worker.limits.projects import PROJECT_LIMIT, WaitingJob
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
        _set_reason(session, job, shortage)
    log.info("submit.waits_for_project", job_id=job.id, project=job.project)
    return False


def _shortage(session: Session, job: Job) -> str | None:
    room = projects.room(session, job.project)
    if session.get_one(Attempt, (job.id, job.attempt)).directory is not None:
        return None  # it was admitted before: what it occupies is part of what the project uses
    gpus = Resources(**job.resources).gpus
    if shortage := room.shortage(gpus):
        return shortage
    for older in projects.waiting_for_room(session, job.project, before=job.id):
        room.take(older.gpus)
    return room.shortage(gpus)


def release(project: str) -> None:
    """Release the jobs of a project that have waited for room and have it now, and enqueue them.

    They still have to be admitted: a job that was created meanwhile may come first. The project is locked
    before they are read: what a worker has just found to have no room is among them.
    """
    with writing() as session:
        room = projects.room(session, project)
        waiting = projects.waiting_for_room(session, project)
        released = [one.job_id for one in waiting if _update(session, one, room.take(one.gpus))]
    for job_id in released:
        messages.enqueue(TaskName.SUBMIT, job_id)


def _update(session: Session, waiting: WaitingJob, shortage: str | None) -> bool:
    """Let a job wait no longer, or say why it still waits. Returns whether it was released."""
    if shortage == waiting.shortage:
        return False
    job = queries.find(session, waiting.job_id)
    if shortage is None:
        return _clear_reason(session, job)
    _set_reason(session, job, shortage)
    return False


def _set_reason(session: Session, job: Job, shortage: str) -> None:
    if (job.reason_code, job.reason_message) != (PROJECT_LIMIT, shortage):
        transitions.change(session, job, reason_code=PROJECT_LIMIT, reason_message=shortage)


def _clear_reason(session: Session, job: Job) -> bool:
    """Let the job wait for its project no longer. False where it was moved meanwhile."""
    if job.reason_code != PROJECT_LIMIT:
        return True
    return transitions.change(session, job, reason_code=None, reason_message=None)
