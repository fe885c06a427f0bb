"""Tasks that a real broker gets, and tasks that do nothing while a cluster does not answer."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from kombu.transport.redis import Channel

from tests.support.process import Redis
from tests.support.run_files import step, steps, write
from worker import tasks
from worker.broker import messages
from worker.broker.task_names import NEXT, POLLS, SUBMISSIONS, TaskName
from worker.clock import utcnow
from worker.clusters.registry import cluster
from worker.db.models import Job
from worker.errors import BackendUnavailable
from worker.jobs import queries
from worker.lifecycle import poll_schedule
from worker.lifecycle.reconcile import PollResult
from worker.states import JobState

JobIn = Callable[..., Job]

pytestmark = pytest.mark.usefixtures("redis")


def bury(task: TaskName, number: int = tasks.MAX_BACKLOG) -> None:
    """Let so many messages wait."""
    for _ in range(number):
        messages.enqueue(task, "job-0")


def waiting(redis: Redis, queue: str) -> tuple[int, int]:
    """How many messages come first, and how many after them."""
    return redis.llen(queue), redis.llen(f"{queue}{Channel.sep}{NEXT}")


def test_polls_come_before_all_waiting_tasks(redis: Redis, job_in: JobIn) -> None:
    job_in(JobState.RUNNING)
    bury(TaskName.INGEST)
    tasks.tick()
    assert waiting(redis, POLLS) == (1, tasks.MAX_BACKLOG)


def test_polls_do_not_pile_up(redis: Redis, job_in: JobIn) -> None:
    job_in(JobState.RUNNING)
    for _ in range(tasks.MAX_BACKLOG + 5):
        tasks.tick()
    assert waiting(redis, POLLS) == (tasks.MAX_BACKLOG, 0)


@pytest.mark.parametrize(
    ("state", "queue", "other"),
    [
        (JobState.CANCELLING, POLLS, TaskName.SUBMIT),
        (JobState.FINALIZING, POLLS, TaskName.SUBMIT),
        (JobState.SUBMITTING, SUBMISSIONS, TaskName.INGEST),
    ],
)
def test_a_sweep_fills_each_queue_as_far_as_it_has_room(
    redis: Redis, job_in: JobIn, state: JobState, queue: str, other: TaskName
) -> None:
    long_ago = utcnow() - timedelta(hours=1)
    for _ in range(3):
        job_in(state, updated_at=long_ago)
    redis.flushdb()  # what their creation has enqueued
    bury(other)
    bury(TaskName.SUBMIT if queue == SUBMISSIONS else TaskName.INGEST, tasks.MAX_BACKLOG - 2)
    tasks.sweep()
    tasks.sweep()
    assert waiting(redis, queue) == (0, tasks.MAX_BACKLOG)


def fail(cluster_name: str) -> None:
    """Poll a cluster that does not answer."""

    def poll(_is_steady: bool) -> PollResult:
        raise BackendUnavailable("It hangs.")

    poll_schedule.poll_if_due(cluster(cluster_name), poll)


def test_what_a_run_wrote_is_left_alone_while_its_cluster_hangs(redis: Redis, job_in: JobIn) -> None:
    job = job_in(JobState.RUNNING)
    write(job, step(1))
    fail("local")
    tasks.ingest_events(job.id)
    assert steps(job) == []
    redis.flushdb()
    tasks.ingest_events(job.id)
    assert steps(job) == [(1, 8.0)]


def test_a_pause_request_waits_for_a_cluster_that_hangs(redis: Redis, job_in: JobIn) -> None:
    job = job_in(JobState.PAUSING)
    stop = Path(queries.attempt_of(job).directory or "") / "stop"
    fail("local")
    tasks.pause(job.id)
    assert not stop.exists()
    redis.flushdb()
    tasks.pause(job.id)
    assert stop.exists()
