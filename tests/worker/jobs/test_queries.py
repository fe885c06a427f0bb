"""Reading: filters and pages mean the same on both databases."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from worker.db.models import Checkpoint, Job, Metric
from worker.db.session import writing
from worker.jobs import queries, statistics
from worker.jobs.queries import JobFilter
from worker.states import JobState

JobIn = Callable[..., Job]


def found(wanted: JobFilter) -> list[str]:
    return [job.id for job in queries.page_of_jobs(wanted, None, 200)[0]]


@pytest.mark.parametrize("key", ["team", "x/y.z", "a-b", "a.b"])
def test_a_label_is_found_whatever_its_key(job_in: JobIn, key: str) -> None:
    job = job_in(JobState.RUNNING, labels={key: "1"})
    job_in(JobState.RUNNING, labels={key: "2"})
    job_in(JobState.RUNNING)
    assert found(JobFilter(labels={key: "1"})) == [job.id]


@pytest.mark.parametrize("key", ['a"b', "a'b", "$", "[0]", "", "*", "%", "a\\b", "ö"])
def test_a_strange_key_finds_nothing_and_breaks_nothing(job_in: JobIn, key: str) -> None:
    job_in(JobState.RUNNING, labels={"team": "1"})
    assert found(JobFilter(labels={key: "1"})) == []


def test_conditions_are_joined(job_in: JobIn) -> None:
    job = job_in(JobState.RUNNING, labels={"a": "1", "b": "2"})
    both = JobFilter(states=[JobState.RUNNING, JobState.QUEUED], owner="anna", labels={"a": "1", "b": "2"})
    assert found(both) == [job.id]
    assert found(JobFilter(labels={"a": "1", "b": "1"})) == []
    assert found(JobFilter(states=[JobState.QUEUED])) == []
    assert found(JobFilter(owner="bert")) == []
    assert found(JobFilter(cluster="other")) == []


def test_times_are_utc_whatever_their_zone(job_in: JobIn) -> None:
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    job = job_in(JobState.RUNNING, created_at=noon)
    east = timezone(timedelta(hours=5))
    for same in (noon, noon.replace(tzinfo=None), noon.astimezone(east)):
        assert found(JobFilter(created_after=same)) == [job.id]
        assert found(JobFilter(created_before=same)) == []


def test_pages_hold_every_job_once(job_in: JobIn) -> None:
    made = [job_in(JobState.RUNNING).id for _ in range(5)]
    seen: list[str] = []
    cursor = None
    while True:
        page, cursor = queries.page_of_jobs(JobFilter(), cursor, 2)
        seen += [job.id for job in page]
        if cursor is None:
            break
    assert seen == sorted(made, reverse=True)


def test_metrics_are_thinned_evenly_and_keep_the_last(job_in: JobIn) -> None:
    job = job_in(JobState.RUNNING)
    at = datetime(2026, 1, 1, tzinfo=UTC)
    with writing() as session:
        for step in range(1, 101):
            session.add(Metric(job_id=job.id, kind="step", step=step, attempt=1, at=at, data={"loss": step}))

    def steps(*arguments: Any) -> list[int]:
        return [row.step for row in queries.metrics(job.id, "step", *arguments)]

    assert steps(0, None, 10) == list(range(10, 101, 10))
    assert steps(0, None, 1) == [100]
    assert steps(10, 12, 1000) == [10, 11, 12]
    assert steps(200, None, 10) == []


def test_the_latest_checkpoint_and_the_best(job_in: JobIn) -> None:
    job, other = job_in(JobState.RUNNING), job_in(JobState.RUNNING)
    at = datetime(2026, 1, 1, tzinfo=UTC)
    with writing() as session:
        for iteration, loss in ((9, 3.0), (10, 2.0), (8, 2.5), (11, None)):
            row: dict[str, Any] = {"attempt": 1, "path": "/x", "bytes": 1, "files": [], "saved_at": at}
            session.add(Checkpoint(job_id=job.id, iteration=iteration, **row))
            metric: dict[str, Any] = {"step": iteration, "attempt": 1, "at": at, "data": {"loss": loss}}
            session.add(Metric(job_id=job.id, kind="validation" if loss else "step", **metric))
    details = queries.details([job, other])
    assert [(one.iteration, one.validation_loss) for one in details[job.id].checkpoints] == [
        (8, 2.5), (9, 3.0), (10, 2.0), (11, None),
    ]  # fmt: skip
    assert [one and one.iteration for one in (details[job.id].latest, details[job.id].best)] == [11, 10]
    assert (details[other.id].latest, details[other.id].best) == (None, None)


def test_live_jobs_are_counted(job_in: JobIn) -> None:
    for state in (JobState.RUNNING, JobState.RUNNING, JobState.QUEUED, JobState.FAILED):
        job_in(state)
    assert statistics.live_jobs_by_cluster() == {"local": {"RUNNING": 2, "QUEUED": 1}}
