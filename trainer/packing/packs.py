"""Put sequences of tokens into packs. Pure."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

# Maximum number of open packs, which still have room. If there are more, the oldest is closed.
OPEN_PACKS = 64


@dataclass
class Sequence:
    """One conversation as tokens. mask[i] is 1 where token i + 1 is an assistant's."""

    ids: list[int]
    mask: list[int]


@dataclass
class Pack:
    """Sequences of one row, concatenated."""

    ids: list[int] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)

    def add(self, sequence: Sequence) -> None:
        self.starts.append(len(self.ids))
        self.ids += sequence.ids
        self.mask += sequence.mask


@dataclass(frozen=True)
class Fit:
    """Fits sequences to a pack: truncates and pads them."""

    pack_size: int
    multiple: int
    pad_id: int

    def __call__(self, sequence: Sequence) -> Sequence:
        """Truncate a sequence to the pack size, then pad it with tokens that are not trained."""
        longest = (self.pack_size - 1) // self.multiple * self.multiple + 1
        ids, mask = sequence.ids[:longest], sequence.mask[:longest]
        mask[-1] = 0  # no token follows the last one
        missing = (1 - len(ids)) % self.multiple
        return Sequence(ids + [self.pad_id] * missing, mask + [0] * missing)


def first_fit(sequences: Iterable[Sequence], pack_size: int) -> Iterator[Pack]:
    """Put each sequence into the first open pack that has room for it."""
    open_packs: list[Pack] = []
    for sequence in sequences:
        room = (pack for pack in open_packs if len(pack.ids) + len(sequence.ids) <= pack_size)
        target = next(room, None)
        if target is None:
            target = Pack()
            open_packs.append(target)
        target.add(sequence)
        if len(open_packs) > OPEN_PACKS:
            yield open_packs.pop(0)
    yield from open_packs
