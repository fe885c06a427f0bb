"""A cancellation request in every phase of a job: the job ends, and no run is left."""

import pytest

from tests.support.chaos.parts import Parts
from tests.support.chaos.tally import Tally
from tests.support.service import processes_of_runs
from tests.support.waiting import wait_until

pytestmark = pytest.mark.chaos


def cancel(parts: Parts, job_id: str) -> None:
    answer = parts.client.post(f"/v1/jobs/{job_id}/cancel")
    assert (answer.status_code, answer.json()["desired_state"]) == (202, "cancel")


def ends_cancelled(parts: Parts, tally: Tally, job_id: str) -> None:
    tally.judge(parts, [job_id], "CANCELLED")
    wait_until(lambda: not processes_of_runs(parts.data_dir / "jobs" / job_id), what="the run's end")
    answer = parts.client.post(f"/v1/jobs/{job_id}/cancel")
    assert (answer.status_code, answer.json()["allowed_actions"]) == (409, ["retry"])


@pytest.mark.parametrize(
    ("point", "when"),
    [
        ("worker.lifecycle.submit:_validate", "before"),
        ("worker.lifecycle.submit:_validate", "after"),
        ("worker.backends.local.backend:LocalBackend._place", "after"),
        ("worker.backends.local.backend:LocalBackend.submit", "after"),
    ],
)
def test_cancel_while_the_submitting_worker_is_dead(
    parts: Parts, tally: Tally, point: str, when: str
) -> None:
    parts.doom("worker", point, when)
    job_id = parts.submit("hold")
    parts.wait_for_death("worker")
    tally.kills += 1
    cancel(parts, job_id)
    parts.start("worker")
    ends_cancelled(parts, tally, job_id)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_worker_killed_while_it_delivers_the_request(parts: Parts, tally: Tally, when: str) -> None:
    job_id = parts.submit("hold")
    parts.wait_for(job_id, "RUNNING")
    parts.doom("worker", "worker.backends.local.backend:LocalBackend.cancel", when)
    cancel(parts, job_id)
    parts.wait_for_death("worker")
    tally.kills += 1
    parts.start("worker")
    ends_cancelled(parts, tally, job_id)


def test_cancel_while_the_run_waits_for_a_slot(parts: Parts, tally: Tally) -> None:
    ahead = [parts.submit("wait") for _ in range(4)]
    for job_id in ahead:
        parts.wait_for(job_id, "RUNNING")
    job_id = parts.submit("hold")
    parts.wait_for(job_id, "QUEUED")
    cancel(parts, job_id)
    ends_cancelled(parts, tally, job_id)
    assert parts.starts(job_id) == []
    for one in ahead:
        parts.let_go(one)
    tally.judge(parts, ahead)


def test_cancel_while_the_outcome_is_determined(parts: Parts, tally: Tally) -> None:
    parts.doom("worker", "worker.lifecycle.finalize:finalize", "before")
    job_id = parts.submit()
    parts.wait_for_death("worker")
    tally.kills += 1
    cancel(parts, job_id)
    parts.start("worker")
    tally.judge(parts, [job_id])  # it has ended before the request arrives
    answer = parts.client.post(f"/v1/jobs/{job_id}/cancel")
    assert (answer.status_code, answer.json()["allowed_actions"]) == (409, [])


def test_an_api_killed_during_the_request(parts: Parts, tally: Tally) -> None:
    job_id = parts.submit("hold")
    parts.wait_for(job_id, "RUNNING")
    parts.kill("worker")
    parts.doom("api", "worker.broker.messages:enqueue", "before")
    with pytest.raises(Exception, match=r"disconnected|reset|closed"):
        parts.client.post(f"/v1/jobs/{job_id}/cancel")
    parts.wait_for_death("api")
    tally.kills += 1
    parts.start("api", "worker")
    ends_cancelled(parts, tally, job_id)
