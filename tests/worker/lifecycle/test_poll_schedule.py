"""When clusters are polled, with a real broker."""

import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.support.concurrency import at_once
from tests.support.process import Redis, forget_settings
from tests.support.waiting import wait_until
from worker.broker import leases
from worker.clusters.profiles import SlurmCluster
from worker.errors import BackendUnavailable, CredentialsRefused
from worker.lifecycle import poll_schedule
from worker.lifecycle.reconcile import PollResult


@pytest.fixture
def settings(environment: pytest.MonkeyPatch) -> Callable[..., None]:
    def set_them(**values: float) -> None:
        for name, value in values.items():
            environment.setenv(f"SFT_{name.upper()}", str(value))
        forget_settings()

    return set_them


@pytest.fixture
def cluster(tmp_path: Path) -> SlurmCluster:
    return SlurmCluster(name="near", executor="slurm", remote_job_dir=tmp_path, poll_seconds=100)


ANSWER = PollResult([], is_complete=True)


def poll(cluster: SlurmCluster, error: BackendUnavailable | None = None, answer: PollResult = ANSWER) -> bool:
    """Poll, with this end, if it is due; whether it was."""
    polled = []

    def once(is_steady: bool) -> PollResult:
        polled.append(is_steady)
        if error:
            raise error
        return answer

    assert poll_schedule.poll_if_due(cluster, once) == (answer if polled and not error else None)
    return bool(polled)


def pause(redis: Redis) -> float:
    """Seconds until the next poll, which is made due."""
    left = redis.pttl("sft.poll.near")
    redis.delete("sft.poll.near")
    return float(left) / 1000


def test_of_many_workers_one_polls_at_a_time(redis: Redis, cluster: SlurmCluster) -> None:
    assert sorted(at_once(8, lambda: poll(cluster))) == [False] * 7 + [True]
    pause(redis)

    def once(_is_steady: bool) -> PollResult:
        assert not poll(cluster)
        return ANSWER

    assert poll_schedule.poll_if_due(cluster, once) == ANSWER
    assert not poll(cluster)


def test_a_worker_that_dies_in_a_poll_blocks_nobody_indefinitely(redis: Redis, cluster: SlurmCluster) -> None:
    def once(_is_steady: bool) -> PollResult:
        assert 0 < redis.pttl("sft.poll.near") <= 1000 * cluster.poll_limit_seconds
        return ANSWER

    assert poll_schedule.poll_if_due(cluster, once)


def test_failures_make_polls_rarer_and_an_answer_ends_that(
    redis: Redis, cluster: SlurmCluster, settings: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings(stale_after_seconds=3 * 1000)
    monkeypatch.setattr(random, "uniform", lambda _, most: most)
    pauses = []
    for _ in range(5):
        assert poll(cluster, BackendUnavailable("It does not answer."))
        pauses.append(round(pause(redis) / poll_schedule.SLACK, -1))
    assert pauses == [200, 400, 800, 1000, 1000]
    assert leases.last_poll_error("near") is not None
    assert poll(cluster)
    assert round(pause(redis) / poll_schedule.SLACK, -1) == 100
    assert leases.last_poll_error("near") is None


def test_no_two_workers_retry_at_the_same_time(redis: Redis, cluster: SlurmCluster) -> None:
    pauses = set()
    for _ in range(8):
        poll(cluster, BackendUnavailable("It does not answer."))
        pauses.add(pause(redis))
        redis.delete("sft.poll.near.error")
    assert len(pauses) > 1
    assert all(100 * poll_schedule.SLACK * 0.5 <= one <= 200 * poll_schedule.SLACK for one in pauses)


def test_a_cluster_that_names_a_time_is_polled_then(redis: Redis, cluster: SlurmCluster) -> None:
    poll(cluster, CredentialsRefused("No.", retry_after=500))
    assert 490 < pause(redis) <= 500
    assert isinstance(leases.last_poll_error("near"), CredentialsRefused)


def test_slow_polls_take_a_tenth_of_the_time(
    redis: Redis, cluster: SlurmCluster, settings: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings(stale_after_seconds=3 * 400)
    for seconds, expected in ((1, 100), (20, 200), (90, 400)):
        clock = iter((0.0, float(seconds)))
        monkeypatch.setattr(poll_schedule, "time", SimpleNamespace(monotonic=clock.__next__))
        assert poll(cluster)
        assert round(pause(redis) / poll_schedule.SLACK, -1) == expected


def steady(cluster: SlurmCluster, redis: Redis) -> bool:
    pause(redis)
    polled = []

    def once(is_steady: bool) -> PollResult:
        polled.append(is_steady)
        return ANSWER

    poll_schedule.poll_if_due(cluster, once)
    return polled == [True]


def test_a_cluster_is_steady_when_it_has_answered_for_a_while(
    redis: Redis, cluster: SlurmCluster, settings: Callable[..., None]
) -> None:
    settings(lost_after_seconds=0.2)
    assert not steady(cluster, redis)
    wait_until(lambda: steady(cluster, redis), what="trust")
    pause(redis)
    poll(cluster, BackendUnavailable("It does not answer."))
    assert not steady(cluster, redis)
    wait_until(lambda: steady(cluster, redis), what="trust")
    settings(lost_after_seconds=100)
    assert steady(cluster, redis)
    pause(redis)
    poll(cluster, answer=PollResult([], is_complete=False))
    assert not steady(cluster, redis)


def test_a_cluster_that_was_not_polled_for_long_is_not_steady(
    redis: Redis, cluster: SlurmCluster, settings: Callable[..., None]
) -> None:
    settings(lost_after_seconds=0.2)
    wait_until(lambda: steady(cluster, redis), what="trust")
    assert 0 < redis.pttl("sft.poll.near.answered") <= 1000 * (2 * 100 + cluster.poll_limit_seconds)
    redis.delete("sft.poll.near.answered")  # as it goes by itself
    assert not steady(cluster, redis)
