"""Tasks that a real broker gets, and tasks that do nothing while a cluster does not answer."""

import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from kombu.transport.redis import Channel

from tests.support.process import Redis
from tests.support.run_files import step, steps, write
from worker import tasks
from worker.broker import messages
from worker.broker.app import app
from worker.broker.beat import BoundedScheduler
from worker.broker.leases import lease_of
from worker.broker.task_names import FIRST, NEXT, POLLS, SUBMISSIONS, TaskName
from worker.clock import utcnow
from worker.clusters.registry import cluster
from worker.db.models import Job
from worker.errors import BackendUnavailable
from worker.jobs import queries
from worker.lifecycle import ingest, poll_schedule
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
    assert waiting(redis, POLLS) == (1, 0)


def test_nothing_is_polled_that_is_polled_now(redis: Redis, job_in: JobIn) -> None:
    job_in(JobState.RUNNING)
    with lease_of("local") as lease:
        assert lease.acquire(60)
        tasks.tick()
    assert waiting(redis, POLLS) == (0, 0)


def test_one_message_ingests_a_run_however_often_it_was_polled(redis: Redis, job_in: JobIn) -> None:
    job = job_in(JobState.RUNNING)
    shutil.rmtree(queries.attempt_of(job).directory or "")  # the run is over
    for _ in range(5):
        redis.delete("sft.poll.local")  # another poll is due
        tasks.poll("local")
    assert messages.waiting(POLLS, NEXT) == {(TaskName.INGEST, job.id)}
    assert waiting(redis, POLLS) == (0, 1)


def test_a_run_that_writes_more_than_a_task_ingests_waits_once(
    redis: Redis, job_in: JobIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "TASK_BYTES", 1)
    job = job_in(JobState.RUNNING)
    write(job, b"".join(step(number) for number in range(1, 1000)))
    redis.flushdb()
    for _ in range(2):
        tasks.ingest_events(job.id)
        assert messages.waiting(POLLS, NEXT) <= {(TaskName.INGEST, job.id)}
    assert waiting(redis, POLLS) == (0, 1)


def test_messages_of_the_beat_do_not_pile_up_without_a_worker(redis: Redis) -> None:
    scheduler = BoundedScheduler(app=app)
    for entry in [*scheduler.schedule.values()] * 10:
        scheduler.apply_entry(entry)
    assert messages.waiting(POLLS, FIRST) == {(TaskName.TICK,), (TaskName.SWEEP,)}
    assert (redis.llen(POLLS), redis.llen(SUBMISSIONS)) == (2, 1)
    redis.flushdb()
    for entry in scheduler.schedule.values():
        scheduler.apply_entry(entry)
    assert redis.llen(POLLS) == 2


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
