"""Wait for a condition, with a timeout that only a broken test reaches."""

import time
from collections.abc import Callable


def wait_until[T](condition: Callable[[], T], timeout: float = 30.0, what: str = "") -> T:
    """Return the condition's first true value. Raises AssertionError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {timeout} s without success for {what or condition}"
        time.sleep(0.02)
    return value
