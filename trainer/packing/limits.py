"""Limits of time and memory for code of somebody else that runs in this process: chat templates."""

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

MEMORY = Path("/proc/self/statm")


class TimeLimitExceeded(Exception):
    """The code took too much time."""


@contextmanager
def limited(seconds: float, memory_bytes: int) -> Iterator[None]:
    """Raise TimeLimitExceeded after so many seconds of this process's CPU time, or MemoryError.

    CPU time, because a busy machine must not change the output. memory_bytes: address space beyond what the
    process has. Works in the main thread of a process only.
    """
    handler = signal.signal(signal.SIGVTALRM, _expire)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = _address_space() + memory_bytes
    bounds = [most, *(one for one in (soft, hard) if one != resource.RLIM_INFINITY)]
    resource.setrlimit(resource.RLIMIT_AS, (min(bounds), hard))
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGVTALRM, handler)


def _address_space() -> int:
    """Return the bytes of address space that this process has."""
    return int(MEMORY.read_bytes().split()[0]) * resource.getpagesize()


def _expire(*_: object) -> NoReturn:
    raise TimeLimitExceeded
