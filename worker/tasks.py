"""The Celery tasks: short, each does one thing, each may run twice at once or not at all."""

from worker import dispatch, ingest, pace, retention, watch
from worker.broker.app import app
from worker.broker.messages import count_waiting, count_waiting_first, enqueue
from worker.broker.task_names import FIRST, POLLS, SUBMISSIONS, TaskName
from worker.clusters import registry
from worker.errors import NotFound, ServiceUnavailable
from worker.jobs import queries
from worker.states import JobState
from worker.telemetry.logging import logger

log = logger(__name__)

# Where so many messages wait, the workers are behind, and nothing was lost that asking again would bring.
MAX_BACKLOG = 20


@app.task
def submit(job_id: str) -> None:
    """Validate a job and hand it to its backend."""
    if why := pace.trouble(queries.get(job_id).cluster):
        dispatch.put_off(job_id, why)
    else:
        dispatch.submit(job_id)


@app.task
def cancel(job_id: str) -> None:
    """Bring a wish to cancel to the backend."""
    dispatch.cancel(job_id, answers=_answers(job_id))


@app.task
def pause(job_id: str) -> None:
    """Bring a wish to pause to the run."""
    if _answers(job_id):
        dispatch.pause(job_id)


@app.task
def tick() -> None:
    """Ask for a look at every cluster that has live jobs, unless earlier ones wait still.

    They come before all else: what waits for a cluster that hangs is let go by a look that says so.
    """
    if count_waiting_first(POLLS) >= MAX_BACKLOG:
        return
    for name in queries.live_clusters():
        enqueue(TaskName.POLL, name, priority=FIRST)


@app.task
def poll(cluster_name: str) -> None:
    """Look at a cluster's live jobs once, if it is time."""
    try:
        profile = registry.cluster(cluster_name)
    except NotFound as error:
        log.warning("poll.no_such_cluster", error=error.message)  # its profile was removed
        return
    with pace.turn(profile) as turn:
        for job_id in watch.look(cluster_name, turn) if turn.is_due else ():
            enqueue(TaskName.INGEST, job_id)


@app.task(name=TaskName.INGEST.value)
def ingest_events(job_id: str) -> None:
    """Take in what a run has written since the last time."""
    if _answers(job_id):
        ingest.ingest(job_id)


def _answers(job_id: str) -> bool:
    """Whether a job's cluster has answered the last look; if not, sweep and looks ask for the task again.

    Calls to what hangs keep a thread for long: one look at a time finds out when it is over.
    """
    return pace.trouble(queries.get(job_id).cluster) is None


@app.task
def sweep() -> None:
    """Send again the tasks that jobs have waited for too long."""
    for queue, owed in OWED.items():
        for job_id, state in watch.owed(max(0, MAX_BACKLOG - count_waiting(queue)), owed):
            enqueue(owed[state], job_id)


@app.task
def retain() -> None:
    """Remove what is past its time, a batch of jobs; where there may be more, ask for the next one."""
    try:
        retention.forget_keys()
        removed = retention.collect()
    except ServiceUnavailable as error:
        log.warning("retention.unavailable", error=error.message)  # the beat asks again
        return
    if removed:
        enqueue(TaskName.RETAIN)


# By the queue that they go to.
OWED: dict[str, dict[JobState, TaskName]] = {
    SUBMISSIONS: {JobState.VALIDATING: TaskName.SUBMIT, JobState.SUBMITTING: TaskName.SUBMIT},
    POLLS: {
        JobState.CANCELLING: TaskName.CANCEL,
        JobState.PAUSING: TaskName.PAUSE,
        JobState.FINALIZING: TaskName.INGEST,
    },
}
