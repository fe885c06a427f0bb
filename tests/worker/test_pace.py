"""When clusters are looked at, by a real broker."""

import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.conftest import forget_settings
from tests.waiting import wait_until
from tests.worker.conftest import Redis
from tests.worker.test_jobs import at_once
from worker import pace
from worker.clusters.profiles import SlurmCluster
from worker.errors import BackendUnavailable, CredentialsRefused


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


def look(cluster: SlurmCluster, error: BackendUnavailable | None = None) -> bool:
    """Take a turn that ends like this; whether it was due."""
    with pace.turn(cluster) as turn:
        if turn.is_due and error:
            raise error  # which the turn keeps to itself
    return turn.is_due


def pause(redis: Redis) -> float:
    """Seconds until the next look; it is let to be due."""
    left = redis.pttl("sft.look.near")
    redis.delete("sft.look.near")
    return float(left) / 1000


def test_of_many_workers_one_looks_at_a_time(redis: Redis, cluster: SlurmCluster) -> None:
    assert sorted(at_once(8, lambda: look(cluster))) == [False] * 7 + [True]
    pause(redis)
    with pace.turn(cluster) as turn:
        assert turn.is_due
        assert not look(cluster)
    assert not look(cluster)


def test_a_worker_that_dies_while_it_looks_keeps_nobody_for_ever(redis: Redis, cluster: SlurmCluster) -> None:
    with pace.turn(cluster):
        assert 0 < redis.pttl("sft.look.near") <= 1000 * cluster.look_limit_seconds


def test_failures_make_looks_rarer_and_an_answer_ends_that(
    redis: Redis, cluster: SlurmCluster, settings: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings(stale_after_seconds=3 * 1000)
    monkeypatch.setattr(random, "uniform", lambda _, most: most)
    pauses = []
    for _ in range(5):
        assert look(cluster, BackendUnavailable("It does not answer."))
        pauses.append(round(pause(redis) / pace.SLACK, -1))
    assert pauses == [200, 400, 800, 1000, 1000]
    assert pace.trouble("near") is not None
    assert look(cluster)
    assert round(pause(redis) / pace.SLACK, -1) == 100
    assert pace.trouble("near") is None


def test_no_two_workers_come_back_at_the_same_time(redis: Redis, cluster: SlurmCluster) -> None:
    pauses = set()
    for _ in range(8):
        look(cluster, BackendUnavailable("It does not answer."))
        pauses.add(pause(redis))
        redis.delete("sft.look.near.trouble")
    assert len(pauses) > 1
    assert all(100 * pace.SLACK * 0.5 <= one <= 200 * pace.SLACK for one in pauses)


def test_a_cluster_that_says_when_it_is_asked_then(redis: Redis, cluster: SlurmCluster) -> None:
    look(cluster, CredentialsRefused("No.", retry_after=500))
    assert 490 < pause(redis) <= 500
    assert isinstance(pace.trouble("near"), CredentialsRefused)


def test_a_slow_look_takes_a_tenth_of_the_time(
    redis: Redis, cluster: SlurmCluster, settings: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings(stale_after_seconds=3 * 400)
    for seconds, expected in ((1, 100), (20, 200), (90, 400)):
        clock = iter((0.0, float(seconds)))
        monkeypatch.setattr(pace, "time", SimpleNamespace(monotonic=clock.__next__))
        assert look(cluster)
        assert round(pause(redis) / pace.SLACK, -1) == expected


def steady(cluster: SlurmCluster, redis: Redis) -> bool:
    pause(redis)
    with pace.turn(cluster) as turn:
        return turn.is_steady


def test_a_cluster_is_steady_when_it_has_answered_for_a_while(
    redis: Redis, cluster: SlurmCluster, settings: Callable[..., None]
) -> None:
    settings(lost_after_seconds=0.2)
    assert not steady(cluster, redis)
    wait_until(lambda: steady(cluster, redis), what="trust")
    pause(redis)
    look(cluster, BackendUnavailable("It does not answer."))
    assert not steady(cluster, redis)
    wait_until(lambda: steady(cluster, redis), what="trust")
    settings(lost_after_seconds=100)
    assert steady(cluster, redis)
    pause(redis)
    with pace.turn(cluster) as turn:
        turn.is_whole = False
    assert not steady(cluster, redis)


def test_a_cluster_that_nobody_has_looked_at_for_long_is_not_steady(
    redis: Redis, cluster: SlurmCluster, settings: Callable[..., None]
) -> None:
    settings(lost_after_seconds=0.2)
    wait_until(lambda: steady(cluster, redis), what="trust")
    assert 0 < redis.pttl("sft.look.near.answered") <= 1000 * (2 * 100 + cluster.look_limit_seconds)
    redis.delete("sft.look.near.answered")  # as it goes by itself
    assert not steady(cluster, redis)
