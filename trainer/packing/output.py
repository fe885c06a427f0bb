"""Write packed data in the layout of data_prep/sft_packing, with Megatron-Bridge 0.6.2's columns:

DIR/splits/train/part-00000.parquet, and the same for valid and test
DIR/metadata.json      the manifest: trainer/packing/manifest.py

input_ids     list<int32>   tokens of a pack's sequences, concatenated, at most pack_size
loss_mask     list<int8>    1 where the *next* token is trained: Bridge's packed mask is already
                            shifted (megatron/bridge/data/packing/algorithms.py, fill_packing_strategy)
seq_start_id  list<int32>   start of each sequence; the first is 0
"""

import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import batched, chain, islice
from pathlib import Path
from typing import Any

from trainer.packing.algorithms import Pack
from trainer.packing.spill import Spilled

ROWS_PER_SHARD = 10_000
TOKENS_PER_SHARD = 1 << 28
ROWS_PER_GROUP = 1000
BYTES_PER_GROUP = 32 << 20
"""Values of a row group. A reader may hold its compressed pages beside them, all of it below 64 MB."""
BYTES_PER_TOKEN = 9
"""At most: a token has four bytes, its mask one, and the start of a sequence of one token four."""


Group = Sequence[Pack]
"""Packs of a row group."""


def write_split(packs: Iterable[Pack], spilled: Spilled, directory: Path, pack_size: int) -> Iterator[Group]:
    """Write the packs of a split as shards. Yield each row group when it is written."""
    rows = min(ROWS_PER_GROUP, max(1, BYTES_PER_GROUP // (BYTES_PER_TOKEN * pack_size)))
    groups_per_shard = max(1, min(ROWS_PER_SHARD, TOKENS_PER_SHARD // pack_size) // rows)
    for number, groups in enumerate(_runs(batched(packs, rows), groups_per_shard)):
        directory.mkdir(parents=True, exist_ok=True)
        yield from _write_shard(groups, spilled, directory / f"part-{number:05d}.parquet")


def _runs[T](items: Iterable[T], size: int) -> Iterator[Iterator[T]]:
    """Yield iterators over `size` items each, which must be used up one after the other."""
    remaining = iter(items)
    for first in remaining:
        yield chain([first], islice(remaining, size - 1))


def _write_shard(groups: Iterable[Group], spilled: Spilled, path: Path) -> Iterator[Group]:
    import pyarrow.parquet as pq

    with path.open("wb") as file:
        with pq.ParquetWriter(file, _schema(), compression="zstd") as writer:
            for packs in groups:
                writer.write_table(_table(packs, spilled), row_group_size=len(packs))
                yield packs
        file.flush()
        os.fsync(file.fileno())


def _schema() -> Any:
    import pyarrow as pa

    numbers = pa.list_(pa.int32())
    return pa.schema([("input_ids", numbers), ("loss_mask", pa.list_(pa.int8())), ("seq_start_id", numbers)])


def _table(packs: Iterable[Pack], spilled: Spilled) -> Any:
    """Return packs as a table, made of their bytes: as Python's numbers they would take ten times as much."""
    import pyarrow as pa

    ids, mask, starts = bytearray(), bytearray(), array("i")
    pack_ends, start_ends = array("i", [0]), array("i", [0])
    for pack in packs:
        begin = len(mask)
        for number in pack:
            starts.append(len(mask) - begin)
            tokens, trained = spilled.read(number)
            ids += tokens
            mask += trained
        pack_ends.append(len(mask))
        start_ends.append(len(starts))
    columns = [
        _lists(pa.int32(), ids, pack_ends),
        _lists(pa.int8(), mask, pack_ends),
        _lists(pa.int32(), starts, start_ends),
    ]
    return pa.table(columns, schema=_schema())


def _lists(kind: Any, values: Any, ends: "array[int]") -> Any:
    import pyarrow as pa

    flat = pa.Array.from_buffers(kind, ends[-1], [None, pa.py_buffer(values)])
    offsets = pa.Array.from_buffers(pa.int32(), len(ends), [None, pa.py_buffer(ends)])
    return pa.ListArray.from_arrays(offsets, flat)
