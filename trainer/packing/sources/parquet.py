"""Read the rows of Parquet files in small batches, with bounded memory for any size of row groups."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.dataset.files import MAX_READ, Meter, MeteredFile, NotInspected
from trainer.dataset.footers import open_shard
from trainer.packing.bad_records import BadReason, BadRecord, RecordPlace
from trainer.packing.sources.pages import largest_page
from trainer.packing.sources.rows import without_nulls
from trainer.packing.sources.source import (
    MAX_RECORD,
    BadSource,
    RawRecord,
    SourceItem,
    UnreadableRecord,
    too_long,
)

if TYPE_CHECKING:
    import pyarrow.parquet as pq

MAX_BATCH_ROWS = 256
# Entries of lists, of one column. Compressed, millions of equal ones are a few bytes.
MAX_BATCH_VALUES = 1 << 20
MAX_GROUP_VALUES = 64 << 20


def parquet_rows(path: Path, name: str, meter: Meter) -> Iterator[SourceItem]:
    """Yield the rows of a file. Raises BadSource, and what open_shard raises."""
    with open_shard(path, meter) as shard:
        if not shard.schema_arrow.names:
            raise BadSource(f"{name} has no columns. Write it again.")
        number = 1
        for batch in shard.iter_batches(_batch_rows(path, shard), use_threads=False):
            for row in range(batch.num_rows):
                yield _record(batch.slice(row, 1), RecordPlace(name, number))
                number += 1


def _batch_rows(path: Path, shard: "pq.ParquetFile") -> int:
    """Return how many rows fit into memory. Raises NotInspected if one may not."""
    with MeteredFile(path, Meter()) as file:
        by_pages = MAX_READ // max(1, largest_page(file, shard.metadata))
    return min(MAX_BATCH_ROWS, by_pages, MAX_BATCH_VALUES // max(1, _values_of_a_row(shard.metadata)))


def _values_of_a_row(metadata: Any) -> int:
    """Return the entries of the longest list of a row, on average in a row group."""
    most = 0
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        values = max(group.column(column).num_values for column in range(metadata.num_columns))
        mean = -(-values // max(1, group.num_rows))
        if values > MAX_GROUP_VALUES or mean > MAX_BATCH_VALUES:
            raise NotInspected(f"a row group has {values} values in one column, in {group.num_rows} rows")
        most = max(most, mean)
    return most


def _record(row: Any, place: RecordPlace) -> SourceItem:
    """Convert a batch of one row."""
    if row.nbytes > MAX_RECORD:
        return too_long(place)
    try:
        [record] = row.to_pylist()
    except UnicodeDecodeError:
        error = BadRecord(BadReason.NOT_UTF8, "A text of the row is not UTF-8.")
    except (ValueError, OverflowError) as cause:  # such as dates after the year 9999
        error = BadRecord(BadReason.BAD_CONTENT, f"A field of the row cannot be read: {cause}."[:300])
    else:
        return RawRecord(place, without_nulls(record))
    return UnreadableRecord(place, error)
