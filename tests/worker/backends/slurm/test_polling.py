"""One poll of a cluster, with fake commands: duplicate submissions, unreadable rows."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.support.slurm_commands import FakeSlurm, handle, history_line, queue_line
from worker.backends.slurm.backend import SlurmBackend
from worker.clusters.profiles import SlurmCluster
from worker.runs.observation import Phase

NAME = "job-1.1"


@pytest.fixture
def slurm() -> FakeSlurm:
    return FakeSlurm()


@pytest.fixture
def backend(slurm: FakeSlurm, tmp_path: Path) -> SlurmBackend:
    return SlurmBackend(SlurmCluster(name="s", executor="slurm", remote_job_dir=tmp_path), slurm)


def rows(*states: str) -> list[str]:
    """Return queue lines of a duplicate submission, with ids from 5 on."""
    return [queue_line(JobID=str(5 + at), State=state, Name=NAME) for at, state in enumerate(states)]


def test_one_job_of_a_pending_duplicate_submission_stays(slurm: FakeSlurm, backend: SlurmBackend) -> None:
    slurm.queue = rows("PENDING", "PENDING")
    assert backend.poll([handle("5", NAME)])[NAME].external_id == "5"
    assert slurm.cancelled == [[f"--name={NAME}", "6"]]
    slurm.queue = rows("PENDING", "CANCELLED")
    seen = backend.poll([handle("5", NAME)])[NAME]
    assert (seen.phase, seen.external_id) == (Phase.QUEUED, "5")
    assert len(slurm.cancelled) == 1


@pytest.mark.parametrize(
    ("states", "counts"),
    [
        (("CANCELLED", "RUNNING"), "6"),
        (("CANCELLED", "PENDING"), "6"),
        (("RUNNING", "CANCELLED"), "5"),
        (("COMPLETED", "CANCELLED"), "5"),
        (("CANCELLED", "CANCELLED"), "5"),
    ],
)
def test_a_cancelled_duplicate_does_not_count(
    slurm: FakeSlurm, backend: SlurmBackend, states: tuple[str, ...], counts: str
) -> None:
    slurm.queue = rows(*states)
    assert backend.poll([handle("6", NAME)])[NAME].external_id == counts
    assert slurm.cancelled == []


def test_a_requeued_job_is_not_taken_for_a_duplicate(slurm: FakeSlurm, backend: SlurmBackend) -> None:
    duplicate = queue_line(JobID="5", State="COMPLETING", exit_code=str(75 << 8), Name=NAME)
    requeued = queue_line(JobID="7", RestartCnt="1", Name=NAME)
    slurm.queue = [duplicate, queue_line(JobID="6", Name=NAME), requeued]
    assert backend.poll([handle("5", NAME)])[NAME].restarts == 1
    assert slurm.cancelled == [[f"--name={NAME}", "6"]]


def test_a_cancel_reaches_both_duplicates(slurm: FakeSlurm, backend: SlurmBackend) -> None:
    backend.cancel(handle("6", NAME))
    assert slurm.cancelled == [[f"--name={NAME}"]]


def test_hanging_accounting_does_not_hide_the_queue(slurm: FakeSlurm, backend: SlurmBackend) -> None:
    slurm.queue = rows("RUNNING")
    slurm.hung = {"sacct"}
    seen = backend.poll([handle("5", NAME), handle("4", "job-2.1")])
    assert (seen[NAME].phase, seen["job-2.1"].code) == (Phase.RUNNING, "accounting_unavailable")
    assert backend.find(handle("", "job-2.1")) is None


@pytest.mark.parametrize("column", ["exit_code", "RestartCnt", "StartTime"])
def test_an_unreadable_row_is_no_change(slurm: FakeSlurm, backend: SlurmBackend, column: str) -> None:
    strange = {"exit_code": "0:15", "RestartCnt": "many", "StartTime": "9" * 20}[column]
    slurm.queue = [queue_line(Name=NAME, **{column: strange}), *rows("PENDING"), *rows("RUNNING")]
    slurm.queue.append(queue_line(JobID="9", State="RUNNING", Name="job-2.1"))
    with capture_logs() as logged:
        assert [*backend.poll([handle("7", NAME), handle("9", "job-2.1")])] == ["job-2.1"]
    assert slurm.cancelled == []
    assert slurm.asked == ["squeue"]
    assert [line["event"] for line in logged] == ["slurm.unreadable_row"]


def test_an_unreadable_record_is_no_change(slurm: FakeSlurm, backend: SlurmBackend) -> None:
    strange = history_line("7", NAME, "COMPLETED", exit_code="fine")
    slurm.history = [strange, history_line("9", "job-2.1", "FAILED")]
    seen = backend.poll([handle("7", NAME), handle("9", "job-2.1"), handle("8", "job-3.1")])
    assert {name: one.phase for name, one in seen.items()} == {
        "job-2.1": Phase.ENDED,
        "job-3.1": Phase.UNKNOWN,
    }


def test_the_last_record_of_a_requeued_run_counts(slurm: FakeSlurm, backend: SlurmBackend) -> None:
    slurm.history = [history_line("7", NAME, "NODE_FAIL"), history_line("7", NAME, "COMPLETED")]
    seen = backend.poll([handle("7", NAME)])[NAME]
    assert (seen.phase, seen.restarts) == (Phase.ENDED, 1)
    slurm.history.append(history_line("7", NAME, "PENDING"))
    assert backend.poll([handle("7", NAME)])[NAME].phase is Phase.UNKNOWN


def test_the_queue_overrides_accounting(slurm: FakeSlurm, backend: SlurmBackend) -> None:
    slurm.history = [history_line("5", NAME, "PREEMPTED")]
    slurm.queue = rows("PENDING")
    assert backend.poll([handle("5", NAME)])[NAME].phase is Phase.QUEUED
    assert slurm.asked == ["squeue"]
