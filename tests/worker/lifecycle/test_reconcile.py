"""Polls of live jobs: a change is written once, and no answer changes nothing."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from tests.support.callers import ANNA
from worker.clock import utcnow
from worker.db.models import Attempt, Job
from worker.db.session import writing
from worker.errors import BackendUnavailable
from worker.jobs import actions, queries, transitions
from worker.jobs.queries import is_stale
from worker.jobs.views import etag
from worker.lifecycle import ingest, reconcile
from worker.lifecycle.changes import Change, KnownRun
from worker.runs.observation import ExitRecord, Observation, ObservationCode
from worker.states import JobState

JobIn = Callable[..., Job]


def leave(job: Job, name: str, text: str) -> None:
    (Path(queries.attempt_of(job).directory or "") / name).write_text(text)


def end(job: Job) -> None:
    """What a run leaves that has ended."""
    leave(job, "pid.json", '{"pid": 1, "start_ticks": 1}')
    leave(job, "exit.json", '{"reason": "exited", "message": "It exited.", "exit_code": 0}')


@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.STARTING, JobState.RUNNING])
def test_an_end_is_seen_once_and_finalized(job_in: JobIn, state: JobState) -> None:
    job = job_in(state)
    end(job)
    assert reconcile.poll_cluster("local").to_ingest == [job.id]
    now = queries.get(job.id)
    assert (now.state, now.reason_code) == (JobState.FINALIZING, "exited")
    version = now.version
    reconcile.poll_cluster("local")
    assert queries.get(job.id).version == version
    ingest.ingest(job.id)
    assert queries.get(job.id).state is JobState.FAILED


def test_an_end_that_is_seen_while_the_job_moves_is_not_lost(
    job_in: JobIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_in(JobState.STARTING)
    end(job)
    original = reconcile.change_of

    def decide_and_move(known: KnownRun, seen: Observation) -> Change | None:
        with writing() as session:  # ingest reads the first step at this moment
            transitions.move(session, queries.find(session, job.id), JobState.RUNNING)
        return original(known, seen)

    monkeypatch.setattr(reconcile, "change_of", decide_and_move)
    reconcile.poll_cluster("local")
    assert queries.get(job.id).state is JobState.FINALIZING


def test_a_cancellation_requested_meanwhile_stays(job_in: JobIn) -> None:
    job = job_in(JobState.RUNNING)
    end(job)
    actions.cancel(job.id, ANNA)
    reconcile.poll_cluster("local")
    assert queries.get(job.id).state is JobState.CANCELLING
    ingest.ingest(job.id)
    assert queries.get(job.id).state is JobState.CANCELLED


def test_a_cluster_that_does_not_answer_leaves_the_state_and_makes_it_stale(
    job_in: JobIn, data_dir: Path, environment: pytest.MonkeyPatch
) -> None:
    long_ago = utcnow() - timedelta(minutes=5)
    job = job_in(JobState.RUNNING, observed_at=long_ago)
    assert is_stale(job)
    end(job)
    (data_dir / "local").write_text("where the spool should be")
    with pytest.raises(BackendUnavailable):
        reconcile.poll_cluster("local")
    now = queries.get(job.id)
    assert (now.state, now.observed_at) == (JobState.RUNNING, long_ago)
    (data_dir / "local").unlink()
    assert reconcile.poll_cluster("local").to_ingest == [job.id]


def test_observing_again_is_no_change_for_clients(job_in: JobIn) -> None:
    job = job_in(JobState.CANCELLING)
    with writing() as session:
        session.get_one(Attempt, (job.id, 1)).exit = ExitRecord(code=ObservationCode.EXITED)
    end(job)
    reconcile.poll_cluster("local")
    now = queries.get(job.id)
    assert now.observed_at is not None
    assert etag(now) == etag(job)


def test_jobs_whose_message_was_lost_await_a_task(job_in: JobIn, environment: pytest.MonkeyPatch) -> None:
    old = utcnow() - timedelta(hours=1)
    waiting = job_in(JobState.VALIDATING, updated_at=old)
    finalizing = job_in(JobState.FINALIZING, updated_at=old)
    cancelling = job_in(JobState.CANCELLING)
    ahead = job_in(JobState.VALIDATING, updated_at=utcnow() + timedelta(hours=1))  # the clock was set back
    job_in(JobState.VALIDATING)  # its message is on its way
    job_in(JobState.RUNNING, updated_at=old)
    job_in(JobState.FAILED, updated_at=old)
    assert sorted(queries.awaiting_task(100)) == sorted(
        (job.id, job.state) for job in (waiting, finalizing, cancelling, ahead)
    )
    assert len(queries.awaiting_task(2)) == 2
