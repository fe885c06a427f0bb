"""kill -9 at every point of a job's lifecycle where a step is incomplete."""

from contextlib import suppress

import httpx2
import pytest

from tests.support.chaos.parts import Parts
from tests.support.chaos.tally import Tally

API = (
    ("worker.jobs.idempotency:RequestKey.store", "after"),  # the row is written, not committed
    ("worker.broker.messages:enqueue", "before"),  # committed, the message not sent
    ("worker.broker.messages:enqueue", "after"),  # sent, the response to the client is open
)
WORKER = (
    ("worker.lifecycle.submit:_validate", "before", 1),
    ("worker.jobs.transitions:move", "after", 1),  # VALIDATING -> SUBMITTING is not committed
    ("worker.lifecycle.submit:_validate", "after", 1),
    ("worker.backends.local.backend:_rename", "before", 1),  # the attempt's directory is incomplete
    ("worker.backends.local.backend:LocalBackend._place", "after", 1),  # it is in the spool, not started
    ("worker.backends.local.backend:_start", "before", 1),  # the slots' lock is held
    ("worker.backends.local.backend:_start", "after", 1),
    ("worker.backends.local.backend:LocalBackend.submit", "after", 1),  # the id is not known to the database
    ("worker.jobs.transitions:record_submission", "after", 1),  # ... it is, in an open transaction
    ("worker.lifecycle.submit:_accepted", "after", 1),
    ("worker.lifecycle.reconcile:_apply", "before", 1),
    ("worker.lifecycle.apply_changes:end", "after", 1),
    ("worker.jobs.transitions:advance_events", "after", 1),  # the offset is advanced, not committed
    ("worker.lifecycle.stored_events:_metric", "after", 3),  # some of the lines are stored
    ("worker.lifecycle.ingest:_ingest_lines", "after", 1),
    ("worker.lifecycle.finalize:finalize", "before", 1),
    ("worker.jobs.transitions:_close_attempt", "after", 1),  # the end is written, not committed
)
BEAT = (("celery.beat:Scheduler.apply_async", "before"), ("celery.beat:Scheduler.apply_async", "after"))
SHORT = (
    ("worker.jobs.transitions:move", "after", 1),
    ("worker.backends.local.backend:LocalBackend.submit", "after", 1),
    ("worker.lifecycle.stored_events:_metric", "after", 3),
)


def kill_worker_at(parts: Parts, tally: Tally, point: str, when: str, call: int) -> None:
    parts.doom("worker", point, when, call)
    job_id = parts.submit()
    parts.wait_for_death("worker")
    tally.kills += 1
    parts.start("worker")
    tally.judge(parts, [job_id])


@pytest.mark.slow
@pytest.mark.parametrize(("point", "when", "call"), SHORT)
@pytest.mark.parametrize("kind", ["sqlite"], indirect=True, scope="module")
def test_a_killed_worker_in_short(parts: Parts, tally: Tally, point: str, when: str, call: int) -> None:
    kill_worker_at(parts, tally, point, when, call)


@pytest.mark.chaos
@pytest.mark.parametrize(("point", "when", "call"), WORKER)
def test_a_killed_worker(parts: Parts, tally: Tally, point: str, when: str, call: int) -> None:
    kill_worker_at(parts, tally, point, when, call)


@pytest.mark.chaos
@pytest.mark.parametrize(("point", "when"), API)
def test_a_killed_api(parts: Parts, tally: Tally, point: str, when: str) -> None:
    before = number_of_jobs(parts)
    key = f"{point}-{when}"
    parts.doom("api", point, when)
    with suppress(httpx2.HTTPError):  # whether it has answered or not: there is one job
        parts.client.post("/v1/jobs", json=parts.body(), headers={"Idempotency-Key": key})
    parts.wait_for_death("api")
    tally.kills += 1
    parts.start("api")
    tally.judge(parts, [parts.submit(key=key)])
    assert number_of_jobs(parts) == before + 1


def number_of_jobs(parts: Parts) -> int:
    return len(parts.client.get("/v1/jobs?limit=200").json()["items"])


@pytest.mark.chaos
@pytest.mark.parametrize(("point", "when"), BEAT)
def test_a_killed_beat(parts: Parts, tally: Tally, point: str, when: str) -> None:
    job_id = parts.submit("wait")
    parts.wait_for(job_id, "RUNNING")
    parts.doom("beat", point, when)
    parts.wait_for_death("beat")
    tally.kills += 1
    parts.let_go(job_id)
    parts.start("beat")
    tally.judge(parts, [job_id])


@pytest.mark.chaos
def test_all_parts_killed_during_the_run(parts: Parts, tally: Tally) -> None:
    job_ids = [parts.submit("wait") for _ in range(3)]
    for job_id in job_ids:
        parts.wait_for(job_id, "RUNNING")
    for name in ("api", "worker", "beat"):
        parts.kill(name)
        tally.kills += 1
    for job_id in job_ids[:2]:
        parts.let_go(job_id)  # the run ends while no process of the service runs
    parts.start("api", "worker", "beat")
    assert parts.job(job_ids[2])["state"] == "RUNNING"
    parts.let_go(job_ids[2])
    tally.judge(parts, job_ids)
