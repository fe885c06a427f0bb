"""The Celery tasks: short, each does one thing, each may run twice at once or not at all."""

from worker.auth import audit
from worker.broker import messages
from worker.broker.app import app
from worker.broker.leases import is_poll_due, last_poll_error
from worker.broker.task_names import FIRST, NEXT, POLLS, SUBMISSIONS, TaskName
from worker.clusters import registry
from worker.errors import ServiceUnavailable
from worker.jobs import queries
from worker.jobs.job_cluster import removed_error
from worker.lifecycle import (
    admission,
    ingest,
    poll_schedule,
    reconcile,
    removed_clusters,
    retention,
    stop_requests,
    submission_queue,
)
from worker.lifecycle import submit as submission
from worker.limits import projects
from worker.states import JobState
from worker.telemetry import task_context
from worker.telemetry.logging import logger

log = logger(__name__)

# Where so many messages wait the workers are behind, and no message was lost that another would replace.
MAX_BACKLOG = 20

# The task that a job awaits in a state, by the queue of the task.
AWAITED: dict[str, dict[JobState, TaskName]] = {
    SUBMISSIONS: {JobState.VALIDATING: TaskName.SUBMIT, JobState.SUBMITTING: TaskName.SUBMIT},
    POLLS: {
        JobState.CANCELLING: TaskName.CANCEL,
        JobState.PAUSING: TaskName.PAUSE,
        JobState.FINALIZING: TaskName.INGEST,
    },
}


@app.task(name=TaskName.SUBMIT.value)
def submit(job_id: str) -> None:
    """Validate a job and submit it to its backend: the next one, whose turn it is."""
    job = queries.get(job_id)
    if why := removed_error(job) or last_poll_error(job.cluster):
        submission.defer(job_id, why)
    with submission_queue.next_job() as next_id:
        if next_id:
            with task_context.working_for(next_id, instead_of=job_id):
                submission.submit(next_id)


@app.task(name=TaskName.CANCEL.value)
def cancel(job_id: str) -> None:
    """Deliver a cancellation request to the backend."""
    stop_requests.cancel(job_id, answers=_answers(job_id))


@app.task(name=TaskName.PAUSE.value)
def pause(job_id: str) -> None:
    """Deliver a pause request to the run."""
    if _answers(job_id):
        stop_requests.pause(job_id)


@app.task(name=TaskName.TICK.value)
def tick() -> None:
    """Enqueue a poll of every cluster that has live jobs, if one is due and none waits or runs.

    Polls come before everything else: only a poll finds out that a cluster answers again.
    """
    waiting = messages.waiting(POLLS, FIRST)
    for name in queries.live_clusters():
        if (TaskName.POLL, name) not in waiting and is_poll_due(name):
            messages.enqueue(TaskName.POLL, name, priority=FIRST)


@app.task(name=TaskName.POLL.value)
def poll(cluster_name: str) -> None:
    """Poll a cluster's live jobs once, if a poll is due."""
    removed_clusters.set_reasons(cluster_name)
    profile = registry.clusters().get(cluster_name)
    if profile is None:
        return
    result = poll_schedule.poll_if_due(
        profile, lambda is_steady: reconcile.poll_cluster(cluster_name, may_be_lost=is_steady)
    )
    _enqueue_ingestion(result.to_ingest if result else [])


def _enqueue_ingestion(job_ids: list[str]) -> None:
    """Enqueue what is not enqueued yet: each poll finds the same files until a worker has read them."""
    waiting = messages.waiting(POLLS, NEXT) if job_ids else set()
    for job_id in job_ids:
        if (TaskName.INGEST, job_id) not in waiting:
            messages.enqueue(TaskName.INGEST, job_id)


@app.task(name=TaskName.INGEST.value)
def ingest_events(job_id: str) -> None:
    """Ingest what a run has written since the last time: a part of it, behind which other runs come."""
    if _answers(job_id) and ingest.ingest(job_id):
        _enqueue_ingestion([job_id])


def _answers(job_id: str) -> bool:
    """Whether a job's cluster has answered the last poll; if not, sweep and polls enqueue the task again.

    Calls to a cluster that hangs block a thread for long: one poll at a time finds out when it is over.
    """
    return last_poll_error(queries.get(job_id).cluster) is None


@app.task(name=TaskName.SWEEP.value)
def sweep() -> None:
    """Enqueue again the tasks that jobs have awaited for too long."""
    for queue, awaited in AWAITED.items():
        room = max(0, MAX_BACKLOG - messages.count_waiting(queue))
        for job_id, state in queries.awaiting_task(room, awaited):
            messages.enqueue(awaited[state], job_id)
    for project in projects.projects_without_room():
        admission.release(project)


@app.task(name=TaskName.RETAIN.value)
def retain() -> None:
    """Delete what has expired, a batch of jobs; where there may be more, enqueue the next batch."""
    try:
        retention.delete_expired_keys()
        audit.delete_expired()
        removed = retention.remove_expired()
    except ServiceUnavailable as error:
        log.warning("retention.unavailable", error=error.message)  # the beat ticks again
        return
    if removed:
        messages.enqueue(TaskName.RETAIN)
