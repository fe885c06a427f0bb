"""Sliding windows: in memory with a clock of the test, and in a real Redis."""

import time

import pytest

from tests.support.concurrency import at_once
from tests.support.process import Redis
from worker.limits.rates import Rate
from worker.limits.windows import MemoryWindows, RedisWindows, SharedWindows, Windows
from worker.settings import get_settings


class Clock:
    """The monotonic clock, which stands still."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


def rate(windows: Windows, setting: str = "10/minute") -> Rate:
    made = Rate.of("writes", setting, windows)
    assert made
    return made


def accepted(rate: Rate, number: int, identity: str = "anna") -> int:
    return sum(not rate.hit(identity).is_exceeded for _ in range(number))


@pytest.mark.parametrize("begin", [0.0, 1.0, 29.9, 59.9])
@pytest.mark.parametrize("step", [0.0, 0.7, 5.0, 7.0, 13.0])
def test_no_window_has_much_more_than_the_rate_and_who_waits_is_served(
    clock: Clock, begin: float, step: float
) -> None:
    clock.now += begin
    limited, times = rate(MemoryWindows()), []
    for _ in range(100):
        quota = limited.hit("anna")
        if quota.is_exceeded:
            assert 0 < quota.reset_seconds <= 60
            clock.now += quota.reset_seconds
            assert not limited.hit("anna").is_exceeded
        times.append(clock.now)
        clock.now += step
    # The window before is weighed, not counted one by one: the error is less than one rate.
    for first in times:
        assert sum(first <= one < first + 60 for one in times) < 20


def test_what_is_left_counts_down(clock: Clock) -> None:
    limited = rate(MemoryWindows(), "3/minute")
    assert [limited.hit("anna").remaining for _ in range(4)] == [2, 1, 0, 0]
    assert limited.hit("bert").remaining == 2
    clock.now += 120
    assert limited.hit("anna").remaining == 2


def test_the_number_of_identities_in_memory_is_bounded() -> None:
    windows = MemoryWindows(most_identities=50)
    limited = rate(windows)
    for number in range(500):
        limited.hit(f"192.0.2.{number}")
    assert len(windows) == 50


def test_threads_do_not_exceed_a_rate(clock: Clock, redis: Redis) -> None:
    limited = rate(MemoryWindows())
    assert sum(at_once(8, lambda: accepted(limited, 5))) == 10


def test_redis_counts_as_memory_does(redis: Redis) -> None:
    windows = RedisWindows(get_settings().broker_url)
    limited = rate(windows)
    quotas = [limited.hit("anna") for _ in range(12)]
    assert [one.remaining for one in quotas] == [*range(9, -1, -1), 0, 0]
    assert [one.is_exceeded for one in quotas] == [False] * 10 + [True] * 2
    assert all(0 < one.reset_seconds <= 60 for one in quotas)
    assert sum(at_once(6, lambda: accepted(limited, 5, "bert"))) == 10
    assert all(redis.pttl(key) > 0 for key in redis.keys("sft.rate*"))  # nothing is kept


def test_what_redis_has_counted_is_seen_again_after_its_silence(redis: Redis, clock: Clock) -> None:
    windows = SharedWindows(get_settings().broker_url)
    limited = rate(windows, "3/minute")
    assert accepted(limited, 2) == 2
    redis.config_set("maxmemory", 1)
    try:
        assert accepted(limited, 4) == 3  # in memory, by a count of its own
    finally:
        redis.config_set("maxmemory", 0)
    clock.now += 6
    assert accepted(limited, 3) == 1
