"""How long to go on trying a service that is away, for what takes as long as a job."""

import math
import time
from collections.abc import Callable

from cli.client.errors import ClientError, ExitCode, TimedOut

FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 5.0


class Patience:
    """Bears a service that is away for `away_seconds`, and once it has answered, if `endless`, for ever.

    With a timeout it lasts until `timeout` seconds from now instead.
    """

    def __init__(
        self,
        say: Callable[[ClientError], None],
        *,
        timeout: float | None = None,
        away_seconds: float = 5.0,
        endless: bool = True,
    ) -> None:
        now = time.monotonic()
        self._timeout = timeout
        self._deadline = math.inf if timeout is None else now + timeout
        self._away_seconds = away_seconds if timeout is None else math.inf
        self._give_up = now + self._away_seconds
        self._endless = endless
        self._say = say
        self._failures = 0

    def left(self) -> float:
        """Seconds, perhaps infinite. Raises TimedOut."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimedOut(f"{self._timeout:g} s have passed.")
        return left

    def answered(self) -> None:
        self._give_up = math.inf if self._endless else time.monotonic() + self._away_seconds
        self._failures = 0

    def bear(self, error: ClientError) -> None:
        """Wait before the next try, longer each time. Raises an error that will not pass, and TimedOut."""
        if error.exit_code is not ExitCode.UNAVAILABLE or time.monotonic() >= self._give_up:
            raise error
        if self._failures == 1:  # a single one is soon over, and nothing to talk about
            self._say(error)
        longest = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(self._failures, 10))
        self._failures += 1
        time.sleep(min(longest, self.left()))
        self.left()
