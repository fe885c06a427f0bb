"""When a cluster is looked at: one look at a time, however many workers, and no more often than it bears.

The broker holds one key a cluster: while it is there, nobody looks. It is there for the time of a look,
and then for the time until the next one. A broker that forgets it costs one look too many.
"""

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from worker.broker.app import app
from worker.clusters.registry import Cluster
from worker.errors import BackendUnavailable, CredentialsRefused
from worker.settings import get_settings
from worker.telemetry.logging import logger

log = logger(__name__)

# A look takes at most this part of a worker's time, and of what the scheduler is asked.
LARGEST_SHARE = 0.1
# The beat asks at intervals of its own: what is due just before its next turn is due at this one.
SLACK = 0.8
MAX_DOUBLINGS = 10
# Failures are forgotten when a cluster was not looked at for so long.
MEMORY_SECONDS = 3600


@dataclass
class Turn:
    """What a look may do, and, told by whoever looks, how it went."""

    is_due: bool
    is_steady: bool = False
    """The cluster has answered every look for SFT_LOST_AFTER_SECONDS: a run that it does not know is lost."""
    is_whole: bool = True
    """All of it has answered now: its accounting may be down alone."""


@contextmanager
def turn(cluster: Cluster) -> Iterator[Turn]:
    """Whether it is time to look; if so nobody else looks before this ends, and some time after.

    A BackendUnavailable raised inside ends here: the next look then comes later each time, up to what
    keeps the cluster from being stale for want of looks.
    """
    key = f"sft.look.{cluster.name}"
    with app.connection_for_write() as connection:
        redis = connection.default_channel.client
        if not redis.set(key, "looking", nx=True, px=_milliseconds(cluster.look_limit_seconds)):
            yield Turn(is_due=False)
            return
        began = time.monotonic()
        turn = Turn(is_due=True, is_steady=_is_steady(redis, cluster))
        try:
            yield turn
        except BackendUnavailable as error:
            pause = _after_failure(redis, cluster, error)
            log.warning(
                "poll.unavailable", cluster=cluster.name, error=error.message, next_look_in=round(pause, 1)
            )
        else:
            redis.delete(_trouble(cluster.name))
            _note_answer(redis, cluster, turn)
            pause = max(_least(cluster), min((time.monotonic() - began) / LARGEST_SHARE, _most()))
        redis.set(key, "waiting", px=_milliseconds(pause * SLACK))


def trouble(cluster_name: str) -> BackendUnavailable | None:
    """Why the cluster did not answer the last look at it; None where it did."""
    with app.connection_for_write() as connection:
        code = connection.default_channel.client.hget(_trouble(cluster_name), "code")
    if code is None:
        return None
    if code.decode() == CredentialsRefused.code:
        return CredentialsRefused(f"Cluster {cluster_name!r} does not take the service's credentials now.")
    return BackendUnavailable(f"Cluster {cluster_name!r} does not answer now.")


def _trouble(cluster_name: str) -> str:
    return f"sft.look.{cluster_name}.trouble"


def _answered(cluster_name: str) -> str:
    return f"sft.look.{cluster_name}.answered"


def _is_steady(redis: Any, cluster: Cluster) -> bool:
    """After a look that failed, or a time in which nobody looked, this is begun anew."""
    key = f"sft.look.{cluster.name}.unsteady"
    if not redis.exists(_answered(cluster.name)):
        redis.set(key, "", px=_milliseconds(get_settings().lost_after_seconds))
    return not redis.exists(key)


def _note_answer(redis: Any, cluster: Cluster, turn: Turn) -> None:
    if turn.is_whole:
        redis.set(_answered(cluster.name), "", px=_milliseconds(_longest_gap(cluster)))
    else:
        redis.delete(_answered(cluster.name))


def _longest_gap(cluster: Cluster) -> float:
    """Seconds in which there is another look, unless something is wrong."""
    return 2 * max(_least(cluster), _most()) + cluster.look_limit_seconds


def _after_failure(redis: Any, cluster: Cluster, error: BackendUnavailable) -> float:
    """Seconds until the next look: doubled by each failure in a row, and never the same for two workers."""
    key = _trouble(cluster.name)
    redis.delete(_answered(cluster.name))
    redis.hset(key, "code", error.code)
    failures = int(redis.hincrby(key, "count", 1))
    redis.expire(key, MEMORY_SECONDS)
    longest = min(_least(cluster) * 2 ** min(failures, MAX_DOUBLINGS), max(_most(), _least(cluster)))
    pause = float(longest) * random.uniform(0.5, 1.0)  # noqa: S311
    return max(pause, min(error.retry_after or 0.0, MEMORY_SECONDS) / SLACK)


def _least(cluster: Cluster) -> float:
    return cluster.poll_seconds or get_settings().poll_interval_seconds


def _most() -> float:
    return get_settings().stale_after_seconds / 3


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
