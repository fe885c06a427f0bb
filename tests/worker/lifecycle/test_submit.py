"""Submissions: rejected, unreachable, cancelled in the middle, requested twice."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.callers import ANNA
from tests.support.concurrency import at_once
from tests.support.process import forget_settings
from tests.support.service import is_supervisor, kill_runs, processes_of_runs
from tests.support.stand_in.control import override
from tests.support.waiting import wait_until
from worker.backends.connect import connect
from worker.backends.interface import Handle, Submission
from worker.backends.local.backend import LocalBackend
from worker.clusters.registry import cluster
from worker.db.models import Job
from worker.db.session import writing
from worker.errors import BackendUnavailable
from worker.jobs import actions, create, queries, transitions
from worker.jobs.retry import RetryRequest
from worker.lifecycle import stop_requests
from worker.lifecycle import submit as submission
from worker.planning.spec import JobSpec
from worker.states import JobState


@pytest.fixture
def job(spec: JobSpec, data_dir: Path) -> Iterator[Job]:
    """A job that was just created."""
    held = spec.model_copy(update={"overrides": [*spec.overrides, override("hold")]})
    yield queries.get(create.create(held, ANNA).job_id)
    kill_runs(data_dir)


def states(job: Job) -> list[str]:
    return [event.data["to"] for event in queries.events(job.id, 0, 100) if event.type == "state"]


def test_of_many_messages_one_submits(job: Job, data_dir: Path) -> None:
    at_once(6, lambda: submission.submit(job.id))
    assert states(job) == ["SUBMITTING", "QUEUED"]
    submitted = [event for event in queries.events(job.id, 0, 100) if event.type == "submitted"]
    assert [event.data["external_id"] for event in submitted] == [f"{job.id}.1"]
    submission.submit(job.id)
    assert states(job) == ["SUBMITTING", "QUEUED"]


def test_what_a_check_suggests_a_retry_can_apply(job: Job) -> None:
    with writing() as session:
        stored = queries.find(session, job.id)
        stored.config = {**job.config, "train": {**job.config["train"], "micro_batch_size": 2}}
    submission.submit(job.id)
    failure = queries.get(job.id).failure
    assert failure is not None
    assert (failure["class"], failure["retryable"]) == ("bad_parallel_batch_shape", False)
    assert failure["suggestion"] == {"field": "train.micro_batch_size", "from": 2, "to": 1}
    assert (
        actions.retry(job.id, ANNA, RetryRequest(apply_suggestion=True)).config["train"]["micro_batch_size"]
        == 1
    )


def test_what_has_vanished_since_the_request_is_a_failure_with_its_recovery(job: Job, data_dir: Path) -> None:
    for shard in (data_dir / "inputs").rglob("*.parquet"):
        shard.unlink()
    submission.submit(job.id)
    now = queries.get(job.id)
    assert (now.state, now.reason_code) == (JobState.FAILED, "missing_packed_data")
    assert now.failure is not None
    assert "data_prep/sft_packing" in now.failure["recovery"]
    assert queries.attempts(job.id)[0].outcome == "FAILED"


def test_a_missing_trainer_is_a_rejection(job: Job, environment: pytest.MonkeyPatch) -> None:
    environment.setenv("SFT_TRAINER_PYTHON", "/nowhere/python")
    forget_settings()
    submission.submit(job.id)
    now = queries.get(job.id)
    assert now.failure is not None
    assert (now.state, now.failure["class"]) == (JobState.FAILED, "scheduler_rejected")
    assert "make setup-trainer" in now.failure["recovery"]


def test_a_cluster_that_cannot_be_reached_is_tried_again(job: Job, data_dir: Path) -> None:
    (data_dir / "jobs").write_text("in the way")
    submission.submit(job.id)
    now = queries.get(job.id)
    assert (now.state, now.reason_code) == (JobState.SUBMITTING, "backend_unavailable")
    (data_dir / "jobs").unlink()
    submission.submit(job.id)
    assert queries.get(job.id).state is JobState.QUEUED


def test_a_job_that_waits_for_its_cluster_says_what_to_do(job: Job, environment: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object) -> str:
        raise BackendUnavailable("its host key is not known", hint="Compare its fingerprint.")

    environment.setattr(LocalBackend, "submit", unreachable)
    submission.submit(job.id)
    assert queries.get(job.id).reason_message == "its host key is not known. Compare its fingerprint."


def test_a_worker_killed_after_the_submission_submits_nothing_twice(
    job: Job, environment: pytest.MonkeyPatch, data_dir: Path
) -> None:
    lose_the_answer(job, environment)
    assert queries.get(job.id).state is JobState.SUBMITTING
    running = {process.pid for process in processes_of_runs(data_dir) if is_supervisor(process)}
    submission.submit(job.id)
    assert queries.get(job.id).state is JobState.QUEUED
    assert {process.pid for process in processes_of_runs(data_dir) if is_supervisor(process)} == running


def lose_the_answer(job: Job, environment: pytest.MonkeyPatch) -> None:
    """The job is submitted, and the worker dies before it can record that."""

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with environment.context() as patch:
        patch.setattr(submission, "_accepted", killed)
        with pytest.raises(KeyboardInterrupt):
            submission.submit(job.id)


def test_a_job_that_was_never_submitted_is_cancelled_at_once(job: Job, data_dir: Path) -> None:
    actions.cancel(job.id, ANNA)
    stop_requests.cancel(job.id)
    assert queries.get(job.id).state is JobState.CANCELLED
    submission.submit(job.id)  # a late message
    assert not (data_dir / "jobs").exists()


def test_no_cancellation_overtakes_a_submission(
    job: Job, data_dir: Path, environment: pytest.MonkeyPatch
) -> None:
    original = LocalBackend.submit

    def submit(self: LocalBackend, submission: Submission) -> str:
        actions.cancel(job.id, ANNA)
        stop_requests.cancel(job.id)  # the scheduler does not know it yet
        assert queries.get(job.id).state is JobState.CANCELLING
        return original(self, submission)

    def unreachable(*_: object) -> None:
        raise BackendUnavailable("It does not answer.")

    environment.setattr(LocalBackend, "find", lambda *_: None)
    environment.setattr(LocalBackend, "submit", submit)
    with environment.context() as patch:
        patch.setattr(LocalBackend, "cancel", unreachable)
        with suppress(BackendUnavailable):
            submission.submit(job.id)
    assert queries.get(job.id).state is JobState.CANCELLING
    assert [job_id for job_id, _ in queries.awaiting_task(100)] == [job.id]
    stop_requests.cancel(job.id)
    wait_until(lambda: processes_of_runs(data_dir) == [])


def test_a_submission_that_never_came_through_is_given_up(job: Job, environment: pytest.MonkeyPatch) -> None:
    def died(*_: object) -> str:
        raise KeyboardInterrupt

    environment.setattr(LocalBackend, "find", lambda *_: None)
    environment.setattr(LocalBackend, "submit", died)
    with pytest.raises(KeyboardInterrupt):
        submission.submit(job.id)
    actions.cancel(job.id, ANNA)
    stop_requests.cancel(job.id)
    assert queries.get(job.id).state is JobState.CANCELLING
    with writing() as session:
        queries.find(session, job.id).updated_at -= stop_requests.SUBMISSION_GRACE
    stop_requests.cancel(job.id)
    assert queries.get(job.id).state is JobState.CANCELLED


@pytest.mark.parametrize("after", ["submission", "lost answer"])
def test_a_cancellation_reaches_the_run_wherever_it_is(
    job: Job, data_dir: Path, after: str, environment: pytest.MonkeyPatch
) -> None:
    if after == "submission":
        submission.submit(job.id)
    else:
        lose_the_answer(job, environment)
    actions.cancel(job.id, ANNA)
    submission.submit(job.id)  # a late message
    stop_requests.cancel(job.id)
    stop_requests.cancel(job.id)
    name = f"{job.id}.1"
    wait_until(lambda: _backend(job).poll([Handle(name, name, data_dir)])[name].phase.value == "ended")
    assert processes_of_runs(data_dir) == []
    assert queries.get(job.id).state is JobState.CANCELLING  # the next poll observes the end


def _backend(job: Job) -> LocalBackend:
    backend = connect(cluster(job.cluster))
    assert isinstance(backend, LocalBackend)
    return backend


@pytest.mark.parametrize("retried", [False, True])
def test_a_cancellation_during_the_submission_ends_the_run(
    job: Job, data_dir: Path, environment: pytest.MonkeyPatch, retried: bool
) -> None:
    original = LocalBackend.submit

    def submit(self: LocalBackend, submission: object) -> str:
        external_id = original(self, submission)  # type: ignore[arg-type]
        actions.cancel(job.id, ANNA)
        if retried:
            with writing() as session:
                transitions.move(session, queries.find(session, job.id), JobState.CANCELLED)
            actions.retry(job.id, ANNA)
        return external_id

    environment.setattr(LocalBackend, "submit", submit)
    submission.submit(job.id)
    assert queries.get(job.id).state is (JobState.VALIDATING if retried else JobState.CANCELLING)
    wait_until(lambda: processes_of_runs(data_dir) == [])
