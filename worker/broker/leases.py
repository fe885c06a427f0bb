"""Leases: keys in the broker by which one worker at a time polls a cluster, or submits a job.

All keys expire. A broker that forgets them costs one poll too many.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from worker.broker.app import app
from worker.errors import BackendUnavailable, CredentialsRefused

# Failures are forgotten when a cluster was not polled for so long.
MEMORY_SECONDS = 3600


@dataclass(frozen=True)
class PollLease:
    """The keys of one cluster."""

    cluster: str
    redis: Any

    @property
    def key(self) -> str:
        """While it is there nobody else polls: for the time of a poll, then until the next one is due."""
        return f"sft.poll.{self.cluster}"

    def acquire(self, seconds: float) -> bool:
        """Take the lease; False where another worker has it, or the next poll is not due."""
        return bool(self.redis.set(self.key, "polling", nx=True, px=_milliseconds(seconds)))

    def is_free(self) -> bool:
        return not self.redis.exists(self.key)

    def defer(self, seconds: float) -> None:
        """Let nobody poll for so long."""
        self.redis.set(self.key, "waiting", px=_milliseconds(seconds))

    # -- how polls went -------------------------------------------------------------------------

    def record_answer(self, *, is_complete: bool, valid_seconds: float) -> None:
        """Forget failures. A complete answer counts for so long: by then there is another poll."""
        self.redis.delete(self._error)
        if is_complete:
            self.redis.set(self._answered, "", px=_milliseconds(valid_seconds))
        else:
            self.redis.delete(self._answered)

    def record_failure(self, code: str) -> int:
        """Return the number of failures in a row."""
        self.redis.delete(self._answered)
        self.redis.hset(self._error, "code", code)
        failures = int(self.redis.hincrby(self._error, "count", 1))
        self.redis.expire(self._error, MEMORY_SECONDS)
        return failures

    def has_answered_for(self, seconds: float) -> bool:
        """Whether each poll of so long was answered completely. A failure, or no poll, restarts the time."""
        unsteady = f"{self.key}.unsteady"
        if not self.redis.exists(self._answered):
            self.redis.set(unsteady, "", px=_milliseconds(seconds))
        return not self.redis.exists(unsteady)

    def error_code(self) -> str | None:
        """Return the code of the last poll's error; None where the cluster answered."""
        code = self.redis.hget(self._error, "code")
        return code.decode() if code else None

    @property
    def _error(self) -> str:
        return f"{self.key}.error"

    @property
    def _answered(self) -> str:
        return f"{self.key}.answered"


@dataclass(frozen=True)
class SubmissionLeases:
    """A key for each job that is being submitted: one worker at a time does it."""

    redis: Any

    def acquire(self, job_id: str, seconds: float) -> bool:
        """Take the lease of a job; False where another worker has it."""
        return bool(self.redis.set(self._key(job_id), "", nx=True, px=_milliseconds(seconds)))

    def release(self, job_id: str) -> None:
        self.redis.delete(self._key(job_id))

    def _key(self, job_id: str) -> str:
        return f"sft.submission.{job_id}"


@contextmanager
def lease_of(cluster: str) -> Iterator[PollLease]:
    """The lease of a cluster, with a connection to the broker."""
    with app.connection_for_write() as connection:
        yield PollLease(cluster, connection.default_channel.client)


@contextmanager
def submission_leases() -> Iterator[SubmissionLeases]:
    """The leases of submissions, with a connection to the broker."""
    with app.connection_for_write() as connection:
        yield SubmissionLeases(connection.default_channel.client)


def is_poll_due(cluster: str) -> bool:
    """Whether no worker polls the cluster now, nor did just now."""
    with lease_of(cluster) as lease:
        return lease.is_free()


def last_poll_error(cluster: str) -> BackendUnavailable | None:
    """Return why the cluster did not answer the last poll; None where it did."""
    with lease_of(cluster) as lease:
        code = lease.error_code()
    if code is None:
        return None
    if code == CredentialsRefused.code:
        return CredentialsRefused(f"Cluster {cluster!r} does not accept the service's credentials now.")
    return BackendUnavailable(f"Cluster {cluster!r} does not answer now.")


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
