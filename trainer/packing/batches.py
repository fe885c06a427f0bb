"""Batches of raw records, and the sequences that are made of them."""

import pickle
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from trainer.packing.bad_records import BadReason, BadRecord, RecordPlace, Tally
from trainer.packing.packs import Fit, Sequence
from trainer.packing.sources.source import Item

BATCH_RECORDS = 256
BATCH_BYTES = 1 << 20

Data = bytes | dict[str, Any]
RawRecords = Iterable[Item]


class Maker(Protocol):
    """Makes the sequences of a record. Raises BadRecord."""

    cut: int
    special_in_content: int

    def __call__(self, data: Data, /) -> list[Sequence]: ...


@dataclass
class Batch:
    """Some records with their places, and approximately their bytes."""

    records: list[tuple[RecordPlace, Data | BadRecord]] = field(default_factory=list)
    size: int = 0

    @property
    def is_full(self) -> bool:
        return len(self.records) >= BATCH_RECORDS or self.size >= BATCH_BYTES


@dataclass
class Tokenized:
    """The sequences of a batch."""

    records: int = 0
    data: bytearray = field(default_factory=bytearray)
    """For each sequence its tokens as int32, then its mask as bytes."""
    index: "array[int]" = field(default_factory=lambda: array("i"))
    """For each sequence two numbers: of its record, in the batch, and of its tokens."""
    counts: Counter[str] = field(default_factory=Counter)
    bad: Tally = field(default_factory=Tally)


def batches_of(records: RawRecords) -> Iterator[Batch]:
    batch = Batch()
    for record in records:
        place, data = record if isinstance(record, tuple) else (record.place, record.data)
        batch.records.append((place, data))
        batch.size += _size(data)
        if batch.is_full:
            yield batch
            batch = Batch()
    if batch.records:
        yield batch


def _size(data: Data | BadRecord) -> int:
    return len(data) if isinstance(data, bytes) else len(pickle.dumps(data))


def tokenize(batch: Batch, maker: Maker, fit: Fit) -> Tokenized:
    """Make the sequences of a batch that fit into a pack."""
    result = Tokenized(records=len(batch.records))
    before = maker.cut, maker.special_in_content
    for number, (place, data) in enumerate(batch.records):
        try:
            sequences = _sequences(data, maker, fit, result.counts)
        except BadRecord as error:
            result.bad.add(place, error)
            continue
        result.counts["packed_records" if sequences else "filtered"] += 1
        for sequence in sequences:
            _add(result, number, sequence)
    result.counts["truncated"] += maker.cut - before[0]
    result.counts["special_in_content"] += maker.special_in_content - before[1]
    return result


def _sequences(data: Data | BadRecord, maker: Maker, fit: Fit, counts: Counter[str]) -> list[Sequence]:
    """Make the sequences of a record which have a trained token in a pack. Raises BadRecord."""
    if isinstance(data, BadRecord):
        raise data
    made, kept = maker(data), []
    for sequence in made:
        fitted = fit(sequence)
        if any(fitted.mask):
            kept.append(fitted)
            longest = min(len(sequence.ids), len(fitted.ids))
            counts["truncated"] += len(sequence.ids) > longest
            counts["padding"] += len(fitted.ids) - longest
            counts["tokens"] += longest
    if made and not kept:
        raise BadRecord(
            BadReason.CUT_BEFORE_ANSWER, f"No answer begins within a pack of {fit.pack_size} tokens."
        )
    return kept


def _add(result: Tokenized, number: int, sequence: Sequence) -> None:
    result.data += array("i", sequence.ids).tobytes()
    result.data += bytes(sequence.mask)
    result.index.extend((number, len(sequence.ids)))
    result.counts["sequences"] += 1
    result.counts["trained_tokens"] += sum(sequence.mask)
