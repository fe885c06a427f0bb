"""What the database says of the jobs: by cluster and state, and how old."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from worker.clock import utcnow
from worker.db.models import Attempt, Job
from worker.db.session import writing
from worker.jobs.prometheus import JobCollector
from worker.states import JobState

JobIn = Callable[..., Job]


def collected(name: str) -> dict[tuple[str, ...], float]:
    """Values of a metric by its labels."""
    return {
        tuple(sample.labels.values()): sample.value
        for family in JobCollector().collect()
        for sample in family.samples
        if sample.name == name
    }


def ago(seconds: float) -> datetime:
    return utcnow() - timedelta(seconds=seconds)


@pytest.fixture
def attempt_in(job_in: JobIn) -> Callable[..., None]:
    """Makes a job in a state, whose attempt has these columns."""

    def make(state: JobState, observed_at: datetime | None = None, **columns: Any) -> None:
        job = job_in(state, observed_at=observed_at, created_at=ago(10**6))
        with writing() as session:
            session.get_one(Attempt, (job.id, 1)).sqlmodel_update(columns)

    return make


def test_jobs_are_counted_by_cluster_and_state(job_in: JobIn) -> None:
    for state in (JobState.RUNNING, JobState.RUNNING, JobState.FAILED):
        job_in(state)
    job_in(JobState.QUEUED, cluster="gone")  # its profile was removed
    counts = collected("sft_jobs")
    assert {labels: number for labels, number in counts.items() if number} == {
        ("local", "RUNNING"): 2,
        ("local", "FAILED"): 1,
        ("gone", "QUEUED"): 1,
    }
    assert counts["local", "SUCCEEDED"] == 0
    assert collected("sft_database_up") == {(): 1}


def test_a_cluster_without_jobs_has_zeros(database: str) -> None:
    assert collected("sft_jobs") == {("local", state.value): 0 for state in JobState}
    assert collected("sft_oldest_waiting_job_seconds") == {}


def test_the_job_that_has_waited_longest(attempt_in: Callable[..., None]) -> None:
    attempt_in(JobState.VALIDATING, created_at=ago(1000))
    attempt_in(JobState.VALIDATING, created_at=ago(2000))
    # For the cluster it waits since it was submitted, whatever was before.
    attempt_in(JobState.QUEUED, created_at=ago(9000), submitted_at=ago(3000))
    attempt_in(JobState.RUNNING, created_at=ago(9000))
    expected = {("local", "VALIDATING"): 2000, ("local", "QUEUED"): 3000}
    assert collected("sft_oldest_waiting_job_seconds") == pytest.approx(expected, abs=300)


def test_the_oldest_observation_of_a_running_job(attempt_in: Callable[..., None]) -> None:
    attempt_in(JobState.RUNNING, observed_at=ago(10), submitted_at=ago(9000))
    attempt_in(JobState.RUNNING, observed_at=ago(1000), submitted_at=ago(9000))
    attempt_in(JobState.STARTING, submitted_at=ago(2000))  # never observed
    attempt_in(JobState.SUCCEEDED, observed_at=ago(9000))
    expected = {("local", "RUNNING"): 1000, ("local", "STARTING"): 2000}
    assert collected("sft_observation_age_seconds") == pytest.approx(expected, abs=300)
