"""Assign records to train, valid and test. Pure."""

import random
from array import array
from collections.abc import Iterable, Iterator

from trainer.packing.options import PackOptions, SplitCounts

TRAIN, VALID, TEST = "train", "valid", "test"
SPLITS = (TRAIN, VALID, TEST)


class TooFewRecords(ValueError):
    """There are not as many records as valid and test are to get."""


def holdout_sizes(options: PackOptions, records: int) -> tuple[int, int]:
    """Return the numbers of records for valid and test. Raises TooFewRecords.

    A split without a count gets its share: at least one record if above 0, where one is left for training.
    """
    counts, shares = options.split_counts or SplitCounts(), options.split
    asked = {VALID: counts.valid, TEST: counts.test}
    left = records - 1 - sum(count or 0 for count in asked.values())
    if left < 0 and any(asked.values()):
        texts = (f"{count:,} records for {name}" for name, count in asked.items() if count)
        raise TooFewRecords(
            f"split_counts asks for {' and '.join(texts)}, and {records:,} records can be packed. "
            "Lower the counts: at least one record is for training."
        )
    valid = min(_part(shares.valid, records), left) if counts.valid is None else counts.valid
    left -= valid if counts.valid is None else 0
    return valid, min(_part(shares.test, records), left) if counts.test is None else counts.test


def _part(share: float, records: int) -> int:
    return max(1, round(share * records)) if share else 0


def assign(records: int, valid: int, test: int, seed: int) -> Iterator[str]:
    """Yield the split of each record: random ones, exactly as many as asked for.

    This is selection sampling (Knuth, The Art of Computer Programming, 3.4.2, algorithm S).
    """
    chance = random.Random(f"splits {seed}")  # noqa: S311
    for left in range(records, 0, -1):
        drawn = chance.randrange(left)
        if drawn < valid:
            valid -= 1
            yield VALID
        elif drawn < valid + test:
            test -= 1
            yield TEST
        else:
            yield TRAIN


def sequences_of_splits(records: Iterable[int], splits: Iterator[str]) -> "dict[str, array[int]]":
    """Return the numbers of each split's sequences. All sequences of a record are in one split.

    records: the number of each sequence's record, ascending.
    """
    found = {name: array("i") for name in SPLITS}
    last, split = -1, TRAIN
    for number, record in enumerate(records):
        if record != last:
            last, split = record, next(splits)
        found[split].append(number)
    return found
