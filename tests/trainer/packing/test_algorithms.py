"""The algorithms: nothing is lost, nothing overflows, and first fit is first fit."""

from array import array
from itertools import chain, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.packing.algorithms import Algorithm, Fit, Pack, TokenSequence, packs_of, parallel_multiple

PACK_SIZE = 50
LENGTHS = st.lists(st.integers(1, PACK_SIZE), max_size=120)


def packed(lengths: list[int], algorithm: Algorithm, seed: int = 0, window: int = 1000) -> list[Pack]:
    numbers = array("i", range(len(lengths)))
    return list(packs_of(numbers, lengths.__getitem__, PACK_SIZE, algorithm, seed, window))


def first_fit(numbers: list[int], lengths: list[int]) -> list[Pack]:
    """The definition: look at each pack in turn."""
    packs: list[Pack] = []
    for number in numbers:
        fitting = (p for p in packs if sum(lengths[n] for n in p) + lengths[number] <= PACK_SIZE)
        target = next(fitting, None)
        if target is None:
            packs.append([number])
        else:
            target.append(number)
    return packs


@given(LENGTHS, st.sampled_from(Algorithm), st.integers(0, 3), st.integers(1, 200))
def test_each_sequence_is_in_one_pack_and_no_pack_overflows(
    lengths: list[int], algorithm: Algorithm, seed: int, window: int
) -> None:
    packs = packed(lengths, algorithm, seed, window)
    assert sorted(chain.from_iterable(packs)) == list(range(len(lengths)))
    assert all(0 < sum(lengths[number] for number in pack) <= PACK_SIZE for pack in packs)
    assert packs == packed(lengths, algorithm, seed, window)


@given(LENGTHS)
def test_first_fit_decreasing_equals_its_definition(lengths: list[int]) -> None:
    falling = sorted(range(len(lengths)), key=lambda number: (-lengths[number], number))
    assert packed(lengths, Algorithm.FIRST_FIT_DECREASING) == first_fit(falling, lengths)


@given(LENGTHS, st.integers(0, 5), st.integers(1, 200))
def test_first_fit_shuffle_equals_its_definition_on_the_shuffled_windows(
    lengths: list[int], seed: int, window: int
) -> None:
    shuffled = array("i", range(len(lengths)))
    list(packs_of(shuffled, lengths.__getitem__, PACK_SIZE, Algorithm.FIRST_FIT_SHUFFLE, seed, window))
    windows = [shuffled[begin : begin + window].tolist() for begin in range(0, len(shuffled), window)]
    expected = [pack for part in windows for pack in first_fit(part, lengths)]
    assert packed(lengths, Algorithm.FIRST_FIT_SHUFFLE, seed, window) == expected


def test_seeds_shuffle_differently() -> None:
    orders = {str(packed([30] * 40, Algorithm.FIRST_FIT_SHUFFLE, seed)) for seed in range(3)}
    assert len(orders) == 3


@given(LENGTHS)
def test_concatenative_keeps_the_order_and_closes_a_pack_for_the_first_that_does_not_fit(
    lengths: list[int],
) -> None:
    packs = packed(lengths, Algorithm.CONCATENATIVE)
    assert list(chain.from_iterable(packs)) == list(range(len(lengths)))
    for pack, following in pairwise(packs):
        assert sum(lengths[number] for number in [*pack, following[0]]) > PACK_SIZE


@pytest.mark.parametrize(
    ("context", "tensor", "sequence_parallel", "multiple"),
    [
        (1, 1, False, 1), (1, 8, False, 1), (2, 1, False, 4), (3, 8, False, 6),
        (1, 8, True, 8), (2, 1, True, 4), (2, 4, True, 8), (3, 1, True, 6),
        (3, 4, True, 12), (4, 3, True, 24),
    ],
)  # fmt: skip
def test_sequences_are_padded_for_the_parallel_sizes(
    context: int, tensor: int, sequence_parallel: bool, multiple: int
) -> None:
    assert parallel_multiple(context, tensor, sequence_parallel=sequence_parallel) == multiple


@given(st.integers(1, 80), st.integers(1, 20), st.integers(21, 60))
def test_a_fitted_sequence_is_a_multiple_without_its_last_token(
    tokens: int, multiple: int, pack_size: int
) -> None:
    fitted = Fit(pack_size, multiple, pad_id=0)(TokenSequence([7] * tokens, [1] * tokens))
    assert len(fitted.ids) == len(fitted.mask) <= pack_size
    assert (len(fitted.ids) - 1) % multiple == 0
    kept = fitted.ids.count(7)
    assert kept == min(tokens, (pack_size - 1) // multiple * multiple + 1)
    assert fitted.mask == [1] * (kept - 1) + [0] * (len(fitted.ids) - kept + 1)
