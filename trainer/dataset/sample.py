"""Select the rows of a sample: the first rows of row groups that are spread evenly over all shards.

Row groups whose footer shows a fault come first, so that the fault can name its row.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

from trainer.dataset.footers import Footer

SAMPLE_TOKENS = 8_000_000
SAMPLE_GROUPS = 256
SUSPECT_GROUPS = 4


@dataclass(frozen=True)
class Choice:
    """The part of a shard to read."""

    footer: Footer
    groups: set[int] | None = None
    """Numbers of row groups; None for all."""
    tokens: int | None = None
    """Approximate tokens to read of each row group; None for all."""


def choose(footers: Sequence[Footer], *, full: bool) -> Iterator[Choice]:
    """Choose all data if `full` is set or the data is small, else a sample."""
    groups = sum(footer.groups for footer in footers)
    tokens = sum(footer.tokens for footer in footers)
    if full or (groups <= SAMPLE_GROUPS and tokens <= SAMPLE_TOKENS):
        yield from (Choice(footer) for footer in footers)
        return
    suspects = [(index, one.group.number) for index, footer in enumerate(footers) for one in footer.suspects]
    first = suspects[:SUSPECT_GROUPS]
    for index, number in first:
        yield Choice(footers[index], {number}, SAMPLE_TOKENS)
    yield from _spread(footers, groups, set(first))


def _spread(footers: Sequence[Footer], groups: int, done: set[tuple[int, int]]) -> Iterator[Choice]:
    """Choose the first and the last row group, and others at equal distances between them."""
    number = min(groups, SAMPLE_GROUPS)
    chosen = [place * (groups - 1) // max(1, number - 1) for place in range(number)]
    ends = list(accumulate(footer.groups for footer in footers))
    for index, places in groupby(chosen, lambda place: bisect_right(ends, place)):
        begin = ends[index] - footers[index].groups
        wanted = {place - begin for place in places if (index, place - begin) not in done}
        yield Choice(footers[index], wanted, SAMPLE_TOKENS // number)
