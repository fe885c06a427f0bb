"""Polls of a Slurm: its commands' answers, and what happens to the jobs."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.inputs import make_inputs
from tests.support.process import forget_settings
from tests.support.run_files import save, step, steps, write
from tests.support.slurm_commands import FakeSlurm, history_line, queue_line
from worker.backends import connect
from worker.clock import utcnow
from worker.db.models import Attempt, Job, Origin
from worker.db.session import writing
from worker.jobs import queries
from worker.lifecycle import ingest, reconcile
from worker.planning.spec import JobSpec
from worker.states import JobState

# What a test of this module gets: a job in a state, whose submission has the id 7.
JobIn = Callable[..., Job]


@pytest.fixture
def spec(database: str, data_dir: Path) -> JobSpec:
    profile = f'executor = "slurm"\nremote_job_dir = "{data_dir}/cluster"\nroots = ["{data_dir}/inputs"]\n'
    (data_dir / "clusters.toml").write_text(f"[near]\n{profile}max_recoveries = 2\nsettle_seconds = 0\n")
    forget_settings()
    return JobSpec(**make_inputs(data_dir), cluster="near")


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    fake = FakeSlurm()
    monkeypatch.setattr(connect, "_transport", lambda _: fake)
    return fake


@pytest.fixture
def job_of(job_in: JobIn) -> JobIn:
    def make(state: JobState, **columns: Any) -> Job:
        job = job_in(state, **columns)
        with writing() as session:
            attempt = session.get_one(Attempt, (job.id, 1))
            attempt.external_id, attempt.submitted_at = "7", utcnow() - timedelta(hours=1)
        return job

    return make


def show(slurm: FakeSlurm, job: Job, state: str, **more: str) -> None:
    """Let squeue have this row of the job, and no other."""
    slurm.queue = [queue_line(Name=f"{job.id}.1", State=state, **more)]


def test_the_id_of_the_submission_that_goes_on_is_noted(job_of: JobIn, slurm: FakeSlurm) -> None:
    job = job_of(JobState.QUEUED)
    show(slurm, job, "PENDING", JobID="8")
    reconcile.poll_cluster("near")
    assert queries.attempt_of(job).external_id == "8"


# -- restarted by the scheduler --------------------------------------------------------------------


def test_lines_written_before_a_restart_are_ingested_first(job_of: JobIn, slurm: FakeSlurm) -> None:
    job = job_of(JobState.RUNNING)
    write(job, step(1))
    show(slurm, job, "PENDING", RestartCnt="1")
    slurm.hung = {"files"}
    reconcile.poll_cluster("near")
    assert queries.get(job.id).attempt == 1
    slurm.hung = set()
    reconcile.poll_cluster("near")
    assert (queries.get(job.id).attempt, steps(job)) == (2, [(1, 8.0)])


@pytest.fixture
def exhausted(job_of: JobIn) -> Job:
    """A job that has reached its recovery limit of two and has saved nothing."""
    job = job_of(JobState.RUNNING, attempt=3)
    with writing() as session:
        first = session.get_one(Attempt, (job.id, 1))
        for number in (2, 3):
            directory = Path(first.directory or "").with_name(str(number))
            directory.mkdir()
            columns = {"external_id": "7", "directory": str(directory), "submission": 1}
            columns["submitted_at"] = first.submitted_at
            session.add(Attempt(job_id=job.id, number=number, origin=Origin.REQUEUED.value, **columns))
    return queries.get(job.id)


@pytest.mark.parametrize("seen", ["preempted", "node_fail"])
def test_a_run_that_slurm_restarts_too_often_is_over(exhausted: Job, slurm: FakeSlurm, seen: str) -> None:
    if seen == "node_fail":
        show(slurm, exhausted, "NODE_FAIL", RestartCnt="2")
        reconcile.poll_cluster("near")
        assert queries.get(exhausted.id).state is JobState.RECOVERING
    show(slurm, exhausted, "PENDING", RestartCnt="3")
    reconcile.poll_cluster("near")
    assert slurm.cancelled == [[f"--name={exhausted.id}.1"]]
    ingest.ingest(exhausted.id)
    now = queries.get(exhausted.id)
    assert now.failure is not None
    assert (now.state, now.attempt, now.failure["class"]) == (JobState.FAILED, 4, seen)
    assert "The recovery limit without a new checkpoint was reached" in now.failure["cause"]


def test_what_cannot_be_ended_on_the_cluster_is_not_over(exhausted: Job, slurm: FakeSlurm) -> None:
    show(slurm, exhausted, "PENDING", RestartCnt="3")
    slurm.hung = {"scancel"}
    reconcile.poll_cluster("near")
    assert (queries.get(exhausted.id).state, queries.get(exhausted.id).attempt) == (JobState.RUNNING, 3)


def test_a_checkpoint_lets_slurm_restart_a_run(exhausted: Job, slurm: FakeSlurm) -> None:
    write(exhausted, save(exhausted, 4))
    show(slurm, exhausted, "PENDING", RestartCnt="3")
    reconcile.poll_cluster("near")
    assert (queries.get(exhausted.id).state, slurm.cancelled) == (JobState.QUEUED, [])


def test_a_run_that_saved_before_its_end_is_recovered_by_the_service(
    exhausted: Job, slurm: FakeSlurm
) -> None:
    show(slurm, exhausted, "RUNNING", RestartCnt="3")
    reconcile.poll_cluster("near")
    now = queries.get(exhausted.id)
    Path(queries.attempt_of(now).directory or "").mkdir()
    write(now, save(now, 4))
    ingest.ingest(now.id)
    assert (queries.get(now.id).state, queries.get(now.id).attempt) == (JobState.SUBMITTING, 5)


def test_an_end_record_while_a_run_is_requeued_is_none(job_of: JobIn, slurm: FakeSlurm) -> None:
    job = job_of(JobState.RUNNING)
    slurm.history = [history_line("7", f"{job.id}.1", "PREEMPTED")]
    reconcile.poll_cluster("near")
    ingest.ingest(job.id)
    assert queries.get(job.id).state is JobState.RECOVERING
    show(slurm, job, "PENDING", RestartCnt="1")
    reconcile.poll_cluster("near")
    first, second = queries.attempts(job.id)
    assert first.failure is not None
    assert (queries.get(job.id).state, first.failure["class"], second.origin) == (
        JobState.QUEUED,
        "preempted",
        Origin.REQUEUED,
    )


# -- not known any more ----------------------------------------------------------------------------


def test_a_run_is_lost_where_the_cluster_has_answered_for_a_while(job_of: JobIn, slurm: FakeSlurm) -> None:
    job = job_of(JobState.QUEUED, observed_at=utcnow() - timedelta(hours=1))
    reconcile.poll_cluster("near", may_be_lost=False)
    assert queries.get(job.id).state is JobState.QUEUED
    reconcile.poll_cluster("near")
    assert (queries.get(job.id).state, queries.get(job.id).attempt) == (JobState.SUBMITTING, 2)


def test_a_job_that_the_cluster_loses_repeatedly_is_lost(exhausted: Job, slurm: FakeSlurm) -> None:
    reconcile.poll_cluster("near")
    ingest.ingest(exhausted.id)
    assert (queries.get(exhausted.id).state, queries.get(exhausted.id).attempt) == (JobState.LOST, 3)


def test_a_poll_without_accounting_is_incomplete(job_of: JobIn, slurm: FakeSlurm) -> None:
    job_of(JobState.RUNNING)
    for hung, is_complete in (({"sacct"}, False), (set[str](), True)):
        slurm.hung = hung
        assert reconcile.poll_cluster("near").is_complete is is_complete
