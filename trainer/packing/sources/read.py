"""Read the records of sources, one at a time."""

from collections.abc import Iterator, Sequence
from hashlib import blake2b

from trainer.dataset.files import Meter
from trainer.packing.sources.arrays import elements, is_array
from trainer.packing.sources.files import CODECS, PARQUET
from trainer.packing.sources.hub import hub_rows
from trainer.packing.sources.lines import json_lines, opened
from trainer.packing.sources.parquet import parquet_rows
from trainer.packing.sources.source import RawRecord, Source, SourceItem, as_bad_source


def records(sources: Sequence[Source], seed: int = 0, meter: Meter | None = None) -> Iterator[SourceItem]:
    """Yield the records of sources in order, as often as their weight says, and the records that are bad.

    seed: decides which records a fractional part of a weight selects.
    meter: counts the bytes of files that are read, compressed ones as they are.

    Raises BadSource where a source cannot be read further.
    """
    for source in sources:
        with as_bad_source(source.name):
            for item in _items(source, meter or Meter()):
                times = _times(source, item.place.number, seed) if isinstance(item, RawRecord) else 1
                for _ in range(times):
                    yield item


def _items(source: Source, meter: Meter) -> Iterator[SourceItem]:
    if source.is_hub:
        return hub_rows(source)
    endings = [ending.lower() for ending in source.path.suffixes]
    if endings[-1:] == [PARQUET]:
        return parquet_rows(source.path, source.name, meter)
    if endings and endings[-1] in CODECS:
        endings.pop()
    return _texts(source, meter, may_be_array=endings[-1:] == [".json"])


def _texts(source: Source, meter: Meter, *, may_be_array: bool) -> Iterator[SourceItem]:
    with opened(source.path, source.name, meter) as text:
        read = elements if may_be_array and is_array(text) else json_lines
        yield from read(text, source.name)


def _times(source: Source, number: int, seed: int) -> int:
    """Return how often to read a record: equal for equal seeds, wherever the file lies."""
    times = int(source.weight)
    if source.weight == times:
        return times
    key = f"{seed}\0{source.path.name}\0{number}".encode(errors="surrogateescape")
    drawn = int.from_bytes(blake2b(key, digest_size=8).digest()) / 2**64
    return times + (drawn < source.weight - times)
