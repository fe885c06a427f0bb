"""How far a packing is: how often it is reported, with which rate and remaining time."""

import pytest

from trainer.packing.progress import PackingPhase, PackingProgress, Reporter


def reports(updates: list[tuple[float, int, float | None]]) -> list[PackingProgress]:
    """The reports of updates (time, records, share) of a packing that resumed at record 100."""
    now = 0.0
    seen: list[PackingProgress] = []
    reporter = Reporter(
        PackingPhase.TOKENIZE, seen.append, every_seconds=5, records=100, tokens=1000, clock=lambda: now
    )
    for number, (now, records, share) in enumerate(updates, start=1):  # noqa: B007
        reporter.update(records, 10 * records, share, last=number == len(updates))
    return seen


def test_a_report_comes_every_few_seconds_and_at_the_end() -> None:
    seen = reports([(second, 100 + second, None) for second in range(1, 13)])
    assert [one.records for one in seen] == [105, 110, 112]


def test_rates_and_remaining_time_are_those_of_this_run() -> None:
    _first, second = reports([(0, 100, 0.5), (10, 120, 0.6), (20, 140, 0.7)])
    assert (second.records_per_second, second.tokens_per_second) == (2, 20)
    assert second.eta_seconds == pytest.approx(30)  # a tenth took ten seconds, three tenths are left


def test_without_a_known_end_there_is_no_remaining_time() -> None:
    [only] = reports([(1, 101, None)])
    assert (only.share, only.eta_seconds) == (None, None)
