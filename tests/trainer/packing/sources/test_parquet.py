"""Read Parquet files: rows, bad rows, unreadable files."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.source_files import read, values
from trainer.packing.bad_records import BadReason
from trainer.packing.sources import BadSource
from trainer.packing.sources.source import MAX_RECORD


def test_rows_are_records_without_their_null_fields(tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": "a", "tool_calls": None}], "tools": "[]", "n": 1.5},
        {"messages": [{"role": "tool", "content": None, "tool_calls": [{"id": "x"}]}], "tools": None},
        {"messages": None},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet", row_group_size=1)
    assert read(tmp_path / "x.parquet") == [
        (1, {"messages": [{"role": "user", "content": "a"}], "tools": "[]", "n": 1.5}),
        (2, {"messages": [{"role": "tool", "tool_calls": [{"id": "x"}]}]}),
        (3, {}),
    ]


@pytest.mark.parametrize(
    "how", [{}, {"compression": "zstd", "row_group_size": 700}, {"data_page_version": "2.0"}]
)
def test_a_table_of_many_batches_and_pages_is_read_in_order(tmp_path: Path, how: dict[str, Any]) -> None:
    texts = [f"{n} " * 50 for n in range(5000)]
    pq.write_table(pa.table({"prompt": texts}), tmp_path / "x.parquet", data_page_size=4096, **how)
    assert values(tmp_path / "x.parquet") == [{"prompt": text} for text in texts]


def test_a_bad_row_is_a_bad_record_and_later_rows_are_read(tmp_path: Path) -> None:
    broken = pa.array([b"a", b"\xff", b"c", b"d"]).cast(pa.string(), safe=False)
    dates = pa.array([0, 0, 10**15, 0]).cast(pa.timestamp("s"), safe=False)
    pq.write_table(pa.table({"a": broken, "date": dates}), tmp_path / "x.parquet", store_schema=False)
    found = read(tmp_path / "x.parquet")
    assert [number for number, _value in found] == [1, 2, 3, 4]
    assert [value for _number, value in found[1:3]] == [BadReason.NOT_UTF8, BadReason.BAD_CONTENT]
    assert found[3][1]["a"] == "d"


def test_a_long_row_is_a_bad_record_and_later_rows_are_read(tmp_path: Path) -> None:
    table = pa.table({"a": ["x", "y" * (MAX_RECORD + 1), "z"]})
    pq.write_table(table, tmp_path / "x.parquet")
    assert values(tmp_path / "x.parquet") == [{"a": "x"}, BadReason.TOO_LONG, {"a": "z"}]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            {"a": ["x" * (65 << 20)]},
            r"page of 681574.. bytes, and the limit is 67108864\. .*write_batch_size",
        ),
        ({"a": [[True] * (2 << 20)]}, "a row group has 2097152 values in one column, in 1 rows"),
        ({"a": ["x" * 2000] * 1100 + ["x" * (65 << 20)]}, "it has a page of 68"),
        ({}, "has no columns"),
    ],
)
def test_what_would_not_fit_into_memory_is_an_error(
    tmp_path: Path, table: dict[str, Any], message: str
) -> None:
    pq.write_table(pa.table(table), tmp_path / "x.parquet", compression="zstd", use_dictionary=False)
    assert (tmp_path / "x.parquet").stat().st_size < 20_000
    with pytest.raises(BadSource, match=message):
        read(tmp_path / "x.parquet")


def test_a_broken_table_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"a": [f"{n}" * 40 for n in range(3000)]}), path)
    whole = path.read_bytes()
    footer = int.from_bytes(whole[-8:-4], "little")
    broken = {
        "truncated": whole[:-5],
        "footer would be longer": whole[:-8] + b"\xff\xff\xff\x7fPAR1",
        "cannot be read": whole[: -footer - 8] + b"\x19" * footer + whole[-8:],
        "no valid header": b"PAR1" + b"\xff" * 2000 + whole[2004:],
        "cannot be read: ": whole[:100] + b"\xff" * 2000 + whole[2100:],
    }
    for message, content in broken.items():
        path.write_bytes(content)
        with pytest.raises(BadSource, match=message):
            read(path)
