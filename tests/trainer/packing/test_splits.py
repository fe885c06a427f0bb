"""Which records are for training, validation and tests."""

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from trainer.packing.options import PackOptions, SplitCounts, SplitShares
from trainer.packing.splits import TooFewRecords, assign, holdout_sizes, sequences_of_splits


def shares(valid: float, test: float) -> PackOptions:
    return PackOptions(split=SplitShares(train=1 - valid - test, valid=valid, test=test))


@given(st.integers(0, 300), st.integers(0, 100), st.integers(0, 100), st.integers(0, 3))
def test_as_many_records_are_held_back_as_asked_for(train: int, valid: int, test: int, seed: int) -> None:
    splits = list(assign(train + valid + test, valid, test, seed))
    assert Counter(splits) == Counter({"train": train, "valid": valid, "test": test})
    assert splits == list(assign(train + valid + test, valid, test, seed))


def test_the_seed_chooses_records_from_all_of_the_input() -> None:
    one, two = (
        [n for n, name in enumerate(assign(10_000, 100, 0, seed)) if name == "valid"] for seed in (0, 1)
    )
    assert one != two
    assert max(after - before for before, after in pairwise([0, *one, 10_000])) < 1000


@pytest.mark.parametrize(
    ("valid", "test", "records", "expected"),
    [
        (0.01, 0.01, 1000, (10, 10)), (0.1, 0, 200, (20, 0)), (0.01, 0.01, 3, (1, 1)),
        (0.01, 0.01, 2, (1, 0)), (0.01, 0.01, 1, (0, 0)), (0, 0, 1000, (0, 0)), (0.9, 0.05, 4, (3, 0)),
    ],
)  # fmt: skip
def test_a_share_gets_a_record_where_one_is_left_for_training(
    valid: float, test: float, records: int, expected: tuple[int, int]
) -> None:
    assert holdout_sizes(shares(valid, test), records) == expected


def test_counts_are_exact_or_an_error() -> None:
    options = PackOptions(split_counts=SplitCounts(valid=3, test=2))
    assert holdout_sizes(options, 6) == (3, 2)
    with pytest.raises(TooFewRecords, match=r"3 records for valid and 2 records for test, and 5 records"):
        holdout_sizes(options, 5)


@pytest.mark.parametrize(
    ("counts", "records", "expected"),
    [
        ({"valid": 0}, 1000, (0, 10)), ({"test": 5}, 1000, (10, 5)), ({"valid": 0, "test": 0}, 1000, (0, 0)),
        ({"test": 5}, 6, (0, 5)), ({"valid": 4}, 6, (4, 1)), ({}, 1000, (10, 10)), ({"valid": 0}, 1, (0, 0)),
    ],
)  # fmt: skip
def test_a_split_without_a_count_keeps_its_share(
    counts: dict[str, int], records: int, expected: tuple[int, int]
) -> None:
    assert holdout_sizes(PackOptions(split_counts=SplitCounts(**counts)), records) == expected


def test_all_sequences_of_a_record_are_in_one_split() -> None:
    found = sequences_of_splits([0, 0, 2, 5, 5, 5], iter(["valid", "train", "test"]))
    assert {name: list(numbers) for name, numbers in found.items()} == {
        "valid": [0, 1], "train": [2], "test": [3, 4, 5],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": {"train": 0.9, "valid": 0.2, "test": 0}}, "must sum to 1, and sum to 1.1"),
        ({"split": {"valid": float("nan")}}, "finite number"),
        (
            {"pack_size": 8, "context_parallel_size": 4},
            "has no room for a sequence padded to a multiple of 8",
        ),
        ({"pack_size": 0}, "greater than or equal to 2"),
        ({"packsize": 4096}, "Extra inputs are not permitted"),
    ],
)
def test_options_that_make_no_sense_are_rejected(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PackOptions.model_validate(options)


def test_the_multiple_satisfies_the_option_and_the_parallel_sizes() -> None:
    options = PackOptions(
        pad_to_multiple=3, context_parallel_size=2, tensor_parallel_size=4, sequence_parallel=True
    )
    assert options.multiple == 24
