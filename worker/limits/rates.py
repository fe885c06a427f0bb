"""Rates: how many requests a key, or an address without a valid key, may send in a time."""

from dataclasses import dataclass

from limits import parse

from worker.limits.windows import Counted, Windows, weighted


@dataclass(frozen=True)
class Quota:
    """What is left of a rate after a request."""

    policy: str
    most: int
    seconds: int
    remaining: int
    reset_seconds: int
    """Until there is more left; where nothing is left, until a request may succeed."""
    is_exceeded: bool


@dataclass(frozen=True)
class Rate:
    """A rate by its name, such as 120 requests in 60 seconds, counted for each identity."""

    policy: str
    most: int
    seconds: int
    windows: Windows

    @classmethod
    def of(cls, policy: str, setting: str, windows: Windows) -> "Rate | None":
        """Return the rate of a setting such as `120/minute`; None for `off`."""
        if setting == "off":
            return None
        item = parse(setting)
        return cls(policy, item.amount, item.get_expiry(), windows)

    def hit(self, identity: str) -> Quota:
        """Count a request of an identity, unless the rate is exceeded."""
        name = f"{self.policy}.{identity}"
        is_allowed = self.windows.hit(name, self.most, self.seconds)
        counts = self.windows.counts(name, self.seconds)
        left = self.most - weighted(counts, self.seconds) if is_allowed else 0
        reset = self._until_free(counts) if left <= 0 else counts.current_left - self.seconds
        whole = min(int(reset) + 1, self.seconds)  # never too early
        return Quota(self.policy, self.most, self.seconds, max(left, 0), whole, not is_allowed)

    def _until_free(self, counts: Counted) -> float:
        """Return the seconds until the window before weighs less, or the current one has ended."""
        if counts.current >= self.most or not counts.previous:
            return counts.current_left - self.seconds
        return counts.previous_left - self.seconds * (self.most - counts.current) / counts.previous
