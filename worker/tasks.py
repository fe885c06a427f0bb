"""The Celery tasks: short, each does one thing, each may run twice at once or not at all."""

from worker.auth import audit
from worker.broker import messages
from worker.broker.app import app
from worker.broker.leases import last_poll_error
from worker.broker.task_names import FIRST, POLLS, SUBMISSIONS, TaskName
from worker.clusters import registry
from worker.errors import NotFound, ServiceUnavailable
from worker.jobs import queries
from worker.lifecycle import ingest, poll_schedule, reconcile, retention, stop_requests
from worker.lifecycle import submit as submission
from worker.states import JobState
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
    """Validate a job and submit it to its backend."""
    if why := last_poll_error(queries.get(job_id).cluster):
        submission.defer(job_id, why)
    else:
        submission.submit(job_id)


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
    """Enqueue a poll of every cluster that has live jobs, unless earlier ones still wait.

    Polls come before everything else: only a poll finds out that a cluster answers again.
    """
    if messages.count_waiting_first(POLLS) >= MAX_BACKLOG:
        return
    for name in queries.live_clusters():
        messages.enqueue(TaskName.POLL, name, priority=FIRST)


@app.task(name=TaskName.POLL.value)
def poll(cluster_name: str) -> None:
    """Poll a cluster's live jobs once, if a poll is due."""
    try:
        profile = registry.cluster(cluster_name)
    except NotFound as error:
        log.warning("poll.no_such_cluster", error=error.message)  # its profile was removed
        return
    result = poll_schedule.poll_if_due(
        profile, lambda is_steady: reconcile.poll_cluster(cluster_name, may_be_lost=is_steady)
    )
    for job_id in result.to_ingest if result else ():
        messages.enqueue(TaskName.INGEST, job_id)


@app.task(name=TaskName.INGEST.value)
def ingest_events(job_id: str) -> None:
    """Ingest what a run has written since the last time."""
    if _answers(job_id):
        ingest.ingest(job_id)


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
