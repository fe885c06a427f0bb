"""When a cluster is polled: one poll at a time, however many workers, and no more often than it bears."""

import random
import time
from collections.abc import Callable

from worker.broker.leases import MEMORY_SECONDS, PollLease, lease_of
from worker.clusters.profiles import Cluster
from worker.errors import BackendUnavailable
from worker.lifecycle.reconcile import PollResult
from worker.settings import get_settings
from worker.telemetry.logging import logger

log = logger(__name__)

# A poll takes at most this part of a worker's time, and of the scheduler's.
MAX_SHARE = 0.1
# The beat ticks at intervals of its own: a poll that is due just before the next tick is due at this one.
SLACK = 0.8
MAX_DOUBLINGS = 10


def poll_if_due(cluster: Cluster, poll: Callable[[bool], PollResult]) -> PollResult | None:
    """Poll a cluster unless another worker does, or did just now; None where it was not, or did not answer.

    poll: takes whether the cluster is steady: it has answered every poll for SFT_LOST_AFTER_SECONDS, so
        that a run that it does not know may be declared lost. Where it raises BackendUnavailable the
        next poll is delayed, longer each time, but never until the cluster's jobs are stale for that.
    """
    with lease_of(cluster.name) as lease:
        if not lease.acquire(cluster.poll_limit_seconds):
            return None
        began = time.monotonic()
        is_steady = lease.has_answered_for(get_settings().lost_after_seconds)
        try:
            result = poll(is_steady)
        except BackendUnavailable as error:
            lease.defer(_delay_after_failure(lease, cluster, error) * SLACK)
            return None
        lease.record_answer(is_complete=result.is_complete, valid_seconds=_longest_gap(cluster))
        duration = time.monotonic() - began
        lease.defer(max(_least(cluster), min(duration / MAX_SHARE, _most())) * SLACK)
        return result


def _delay_after_failure(lease: PollLease, cluster: Cluster, error: BackendUnavailable) -> float:
    """Seconds until the next poll: doubled by each failure in a row, and never the same for two workers."""
    failures = lease.record_failure(error.code)
    longest = min(_least(cluster) * 2 ** min(failures, MAX_DOUBLINGS), max(_most(), _least(cluster)))
    delay = float(longest) * random.uniform(0.5, 1.0)  # noqa: S311
    delay = max(delay, min(error.retry_after or 0.0, MEMORY_SECONDS) / SLACK)
    log.warning("poll.unavailable", cluster=cluster.name, error=error.message, next_poll_in=round(delay, 1))
    return delay


def _longest_gap(cluster: Cluster) -> float:
    """Seconds within which there is another poll, unless something is wrong."""
    return 2 * max(_least(cluster), _most()) + cluster.poll_limit_seconds


def _least(cluster: Cluster) -> float:
    return cluster.poll_seconds or get_settings().poll_interval_seconds


def _most() -> float:
    return get_settings().stale_after_seconds / 3
