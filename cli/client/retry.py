"""How long to retry a service that is unavailable, and how long to wait in between."""

import math
import random
import time
from collections.abc import Callable

from cli.client.errors import ClientError, ExitCode, TimedOut

FIRST_PAUSE_SECONDS = 0.2
MAX_PAUSE_SECONDS = 5.0


class RetryPolicy:
    """Retries an unavailable service for `outage_seconds`, and without limit after a response if `endless`.

    With a timeout it retries until `timeout` seconds from now instead.
    """

    def __init__(
        self,
        report: Callable[[ClientError], None] | None = None,
        *,
        timeout: float | None = None,
        outage_seconds: float = 5.0,
        endless: bool = True,
    ) -> None:
        now = time.monotonic()
        self._timeout = timeout
        self._deadline = math.inf if timeout is None else now + timeout
        self._outage_seconds = outage_seconds if timeout is None else math.inf
        self._give_up = now + self._outage_seconds
        self._endless = endless
        self._report = report
        self._failures = 0

    def seconds_left(self) -> float:
        """Return the seconds until the timeout, possibly infinite. Raises TimedOut."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimedOut(f"{self._timeout:g} s have passed.")
        return left

    def reset(self) -> None:
        """Record that the service has responded: the next failure starts another outage."""
        self._give_up = math.inf if self._endless else time.monotonic() + self._outage_seconds
        self._failures = 0

    def wait(self, error: ClientError, at_least: float = 0.0) -> None:
        """Wait before the next attempt, longer each time. Raises TimedOut, and an error not to be retried."""
        if error.exit_code is not ExitCode.UNAVAILABLE or time.monotonic() >= self._give_up:
            raise error
        if self._report and self._failures == 1:  # a single failure is usually short
            self._report(error)
        longest = min(MAX_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(self._failures, 10))
        self._failures += 1
        pause = max(at_least, random.uniform(0, longest))  # noqa: S311 (clients do not retry in step)
        time.sleep(min(pause, self.seconds_left()))
        self.seconds_left()
