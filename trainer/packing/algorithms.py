"""Put sequences of tokens into packs. Pure.

First fit puts each sequence into the first pack with room for it. It works in windows of WINDOW sequences, so
that its memory does not grow with the data: when a window ends, its packs are closed.
"""

import random
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from math import lcm

WINDOW = 131_072

Pack = list[int]
"""Numbers of the sequences of a pack, in order."""


class Algorithm(StrEnum):
    """How sequences are put into packs."""

    FIRST_FIT_SHUFFLE = "first_fit_shuffle"
    FIRST_FIT_DECREASING = "first_fit_decreasing"
    CONCATENATIVE = "concatenative"


@dataclass
class TokenSequence:
    """One conversation as tokens. mask[i] is 1 where token i + 1 is trained."""

    ids: list[int]
    mask: list[int]


@dataclass(frozen=True)
class Fit:
    """Fits sequences to a pack: truncates and pads them.

    Bridge shifts the labels inside each sequence and so drops its last token. Therefore the length without
    the last token is padded to a multiple.
    """

    pack_size: int
    multiple: int
    pad_id: int

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return (self.pack_size - 1) // self.multiple * self.multiple + 1

    def __call__(self, sequence: TokenSequence) -> TokenSequence:
        """Truncate a sequence to the pack size, then pad it with tokens that are not trained."""
        longest = self.longest
        ids, mask = sequence.ids[:longest], sequence.mask[:longest]
        mask[-1] = 0  # no token follows the last one
        missing = (1 - len(ids)) % self.multiple
        return TokenSequence(ids + [self.pad_id] * missing, mask + [0] * missing)


def parallel_multiple(context: int, tensor: int, *, sequence_parallel: bool) -> int:
    """Return the multiple that sequences are padded to for these parallel sizes.

    Context parallelism cuts each sequence into 2 pieces a rank. Sequence parallelism cuts what a rank has of
    it over the tensor-parallel ranks (Megatron-Bridge#5080).
    """
    return lcm(2 * context if context > 1 else 1, tensor * context if sequence_parallel else 1)


def packs_of(
    sequences: "array[int]",
    length: Callable[[int], int],
    pack_size: int,
    algorithm: Algorithm = Algorithm.FIRST_FIT_SHUFFLE,
    seed: int = 0,
    window: int = WINDOW,
) -> Iterator[Pack]:
    """Put sequences into packs of at most `pack_size` tokens. Equal arguments give equal packs.

    sequences: their numbers. First fit shuffles them in place.
    length: the tokens of the sequence with a number, at most `pack_size`.
    """
    if algorithm == Algorithm.CONCATENATIVE:
        yield from _concatenated(sequences, length, pack_size)
        return
    # A window that is sorted needs short and long sequences too.
    random.Random(seed).shuffle(sequences)  # noqa: S311
    for begin in range(0, len(sequences), window):
        part = sequences[begin : begin + window].tolist()
        if algorithm == Algorithm.FIRST_FIT_DECREASING:
            part.sort(key=lambda number: (-length(number), number))
        yield from _first_fit(part, length, pack_size)


def _concatenated(sequences: Iterable[int], length: Callable[[int], int], pack_size: int) -> Iterator[Pack]:
    """Fill a pack with sequences in their order, until the next one has no room in it."""
    pack: Pack = []
    room = pack_size
    for number in sequences:
        if length(number) > room:
            yield pack
            pack, room = [], pack_size
        pack.append(number)
        room -= length(number)
    if pack:
        yield pack


def _first_fit(sequences: Pack, length: Callable[[int], int], pack_size: int) -> Iterator[Pack]:
    rooms = _Rooms(len(sequences), pack_size)
    packs: list[Pack] = []
    for number in sequences:
        place = rooms.take(length(number))
        if place == len(packs):
            packs.append([])
        packs[place].append(number)
    yield from packs


class _Rooms:
    """The room in each pack, as a tree in which each node has the maximum of those below it.

    Packs that nothing was put into yet have all their room, so that the first fit may be a new one.
    """

    def __init__(self, packs: int, pack_size: int) -> None:
        self._width = 1 << (packs - 1).bit_length()
        self._most = array("i", [pack_size]) * (2 * self._width)

    def take(self, tokens: int) -> int:
        """Take room in the first pack that has it, and return the number of the pack."""
        most, width = self._most, self._width
        node = 1
        while node < width:
            node *= 2
            node += most[node] < tokens
        place = node - width
        most[node] -= tokens
        while node > 1:
            most[node // 2] = max(most[node], most[node ^ 1])
            node //= 2
        return place
