"""How far a packing is: at most every few seconds an event."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

EVERY_SECONDS = 5.0


class PackingPhase(StrEnum):
    """What a packing does."""

    TOKENIZE = "tokenize"
    WRITE = "write"


@dataclass(frozen=True)
class PackingProgress:
    """How far a phase is."""

    phase: PackingPhase
    records: int
    """Records that were read; those of an interrupted packing count."""
    tokens: int
    share: float | None
    """Done share of the phase, from 0 to 1; None if the end is not known."""
    records_per_second: float
    tokens_per_second: float
    eta_seconds: float | None
    """Time until the phase ends, at its rate so far."""


Report = Callable[[PackingProgress], None]


def ignore(_progress: PackingProgress) -> None:
    """Report nothing."""


class Reporter:
    """Reports a phase, its end included, and at most every `every_seconds` in between."""

    def __init__(
        self,
        phase: PackingPhase,
        report: Report,
        every_seconds: float,
        records: int,
        tokens: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """records, tokens: those done before, which do not count for the rate. clock: returns seconds."""
        self._phase, self._report, self._every = phase, report, every_seconds
        self._before = records, tokens
        self._clock = clock
        self._begun = self._last = clock()
        self._share_before: float | None = None

    def update(self, records: int, tokens: int, share: float | None, *, last: bool = False) -> None:
        if self._share_before is None:
            self._share_before = share
        now = self._clock()
        if last or now - self._last >= self._every:
            self._last = now
            self._report(self._progress(records, tokens, share, max(now - self._begun, 1e-6)))

    def _progress(self, records: int, tokens: int, share: float | None, seconds: float) -> PackingProgress:
        done = None if share is None or self._share_before is None else share - self._share_before
        return PackingProgress(
            self._phase, records, tokens, share,
            (records - self._before[0]) / seconds, (tokens - self._before[1]) / seconds,
            seconds * (1 - share) / done if done and share is not None else None,
        )  # fmt: skip
