"""Assign records to train, valid and test. Pure."""

import random
from array import array
from collections.abc import Iterable, Iterator

from trainer.packing.options import PackOptions

TRAIN, VALID, TEST = "train", "valid", "test"
SPLITS = (TRAIN, VALID, TEST)


class TooFewRecords(ValueError):
    """There are not as many records as valid and test are to get."""


def holdout_sizes(options: PackOptions, records: int) -> tuple[int, int]:
    """Return the numbers of records for valid and test. Raises TooFewRecords.

    A share above 0 gets at least one record, where one is left for training.
    """
    if (counts := options.split_counts) is not None:
        if counts.valid + counts.test >= records:
            raise TooFewRecords(
                f"split_counts asks for {counts.valid:,} records for valid and {counts.test:,} for test, and "
                f"{records:,} records can be packed. Lower the counts: at least one record is for training."
            )
        return counts.valid, counts.test
    valid = min(_part(options.split.valid, records), records - 1)
    return valid, min(_part(options.split.test, records), records - 1 - valid)


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
