"""Batches of raw records, and the sequences that are made of them."""

import pickle
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from trainer.packing.algorithms import Fit, TokenSequence
from trainer.packing.bad_records import BadReason, BadRecord, Tally
from trainer.packing.sources.source import RawRecord, RecordData, SourceItem, UnreadableRecord

BATCH_RECORDS = 256
BATCH_BYTES = 1 << 20


class RecordTokenizer(Protocol):
    """Makes the sequences of a record. Raises BadRecord."""

    cut: int
    special_in_content: int

    def __call__(self, data: RecordData, /) -> list[TokenSequence]: ...


@dataclass
class Batch:
    """Some records with their places, and approximately their bytes."""

    records: list[SourceItem] = field(default_factory=list)
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


def batches_of(records: Iterable[SourceItem]) -> Iterator[Batch]:
    batch = Batch()
    for record in records:
        batch.records.append(record)
        batch.size += _size(record)
        if batch.is_full:
            yield batch
            batch = Batch()
    if batch.records:
        yield batch


def _size(record: SourceItem) -> int:
    if isinstance(record, RawRecord) and isinstance(record.data, bytes):
        return len(record.data)
    return len(pickle.dumps(record))


def tokenize(batch: Batch, tokenizer: RecordTokenizer, fit: Fit) -> Tokenized:
    """Make the sequences of a batch that fit into a pack."""
    result = Tokenized(records=len(batch.records))
    before = tokenizer.cut, tokenizer.special_in_content
    for number, record in enumerate(batch.records):
        try:
            sequences = _sequences(record, tokenizer, fit, result.counts)
        except BadRecord as error:
            result.bad.add(record.place, error)
            continue
        result.counts["packed_records" if sequences else "filtered"] += 1
        for sequence in sequences:
            _add(result, number, sequence)
    result.counts["truncated"] += tokenizer.cut - before[0]
    result.counts["special_in_content"] += tokenizer.special_in_content - before[1]
    return result


def _sequences(
    record: SourceItem, tokenizer: RecordTokenizer, fit: Fit, counts: Counter[str]
) -> list[TokenSequence]:
    """Make the sequences of a record which have a trained token in a pack. Raises BadRecord."""
    if isinstance(record, UnreadableRecord):
        raise record.error
    made, kept = tokenizer(record.data), []
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


def _add(result: Tokenized, number: int, sequence: TokenSequence) -> None:
    result.data += array("i", sequence.ids).tobytes()
    result.data += bytes(sequence.mask)
    result.index.extend((number, len(sequence.ids)))
    result.counts["sequences"] += 1
    result.counts["trained_tokens"] += sum(sequence.mask)
