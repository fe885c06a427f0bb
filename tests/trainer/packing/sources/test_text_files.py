"""Read JSON lines and arrays, compressed or not: records, bad records, unreadable files."""

import gzip
import json
import random
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.source_files import BOM, TOO_LONG, read, values, write, zstd
from trainer.packing.bad_records import BadReason
from trainer.packing.sources import BadSource, RawRecord, UnreadableRecord, arrays, find, lines, records
from trainer.packing.sources.source import MAX_RECORD


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".jsonl.zst", ".json", ".json.gz", ".json.zst"])
def test_lines_are_records_and_empty_lines_are_none(tmp_path: Path, ending: str) -> None:
    text = BOM + '{"a": "1\u2028\u0085"}\r\n\r\n \t\n{"b":2}\f\r\n7'.encode()
    found = list(records(find([str(write(tmp_path / f"x{ending}", text))])))
    assert [(item.place.number, item.data) for item in found if isinstance(item, RawRecord)] == [
        (1, '{"a": "1\u2028\u0085"}'.encode()),
        (4, b'{"b":2}\f'),
        (5, b"7"),
    ]


def test_all_members_of_a_compressed_file_are_read(tmp_path: Path) -> None:
    for ending, compress in ((".gz", gzip.compress), (".zst", zstd)):
        many = compress(b"3".rjust(299) + b"\n" * 2) * 3000
        path = tmp_path / f"x.jsonl{ending}"
        path.write_bytes(compress(b'1\n{"a"') + compress(b"") + compress(b":2}\n") + many)
        assert values(path) == [1, {"a": 2}, *[3] * 3000]


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.zst", ".json"])
def test_a_long_line_is_a_bad_record_and_later_lines_are_read(tmp_path: Path, ending: str) -> None:
    longest = TOO_LONG[:10] + b"x" * (MAX_RECORD - 12) + b'"}'
    path = write(tmp_path / f"x{ending}", b"1\n" + TOO_LONG * 3 + b"\n" + longest + b"\n4\n" + TOO_LONG)
    found = read(path)
    assert [number for number, _value in found] == [1, 2, 3, 4, 5]
    assert [found[place][1] for place in (0, 1, 3, 4)] == [1, BadReason.TOO_LONG, 4, BadReason.TOO_LONG]
    assert len(found[2][1]["text"]) == MAX_RECORD - 12


@pytest.mark.parametrize("codec", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("ending", [".jsonl", ".json.gz"])
def test_utf_16_is_an_error_that_says_what_to_do(tmp_path: Path, codec: str, ending: str) -> None:
    path = write(tmp_path / f"x{ending}", '{"messages": []}\n'.encode(codec))
    with pytest.raises(BadSource, match="Convert it: iconv -f UTF-16"):
        read(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.jsonl", gzip.compress(b"1", mtime=0), "is a .gz file"),
        ("x.json", zstd(b"1"), "is a .zst file"),
        ("x.jsonl", b"PAR1....PAR1", "is a .parquet file"),
        ("x.jsonl.gz", b'{"messages": []}', "incorrect header check. Check that it is complete"),
        ("x.jsonl.zst", b'{"messages": []}', "ZSTD decompress failed"),
        ("x.jsonl.gz", zstd(b"1"), "incorrect header check"),
        ("x.jsonl.gz", b"", "empty"),
        ("x.json.zst", b"", "empty"),
        ("x.parquet", b"", "not a Parquet file, or it is truncated"),
        ("x.parquet", b'{"messages": []}', "not a Parquet file, or it is truncated"),
    ],
)
def test_a_file_that_is_not_what_its_ending_says_is_an_error(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadSource, match=message):
        read(tmp_path / name)


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_a_compressed_file_that_breaks_gives_its_records_and_then_an_error(
    tmp_path: Path, ending: str
) -> None:
    noise = random.Random(1)
    text = b"".join(b'"%d"\n' % noise.getrandbits(200) for _ in range(30_000))
    path = write(tmp_path / f"x.jsonl{ending}", text)
    whole, middle = path.read_bytes(), path.stat().st_size // 2
    for broken in (whole[:middle], whole[:-2], whole + b"x", *damaged(whole, ending)):
        path.write_bytes(broken)
        found: list[Any] = []
        with pytest.raises(BadSource, match=r"x.jsonl.* cannot be read: .*Check that it is complete"):
            found.extend(records(find([str(tmp_path)])))
        assert len(found) > 1000


def damaged(content: bytes, ending: str) -> list[bytes]:
    """Return a content that its own checksum finds damaged. Frames of zstd have one only on request."""
    middle = len(content) // 2
    return [content[:middle] + b"damaged" + content[middle + 7 :]] if ending == ".gz" else []


def test_an_unreadable_file_is_an_error(tmp_path: Path) -> None:
    found = find([str(write(tmp_path / "x.jsonl", b"1\n"))])
    (tmp_path / "x.jsonl").unlink()
    with pytest.raises(BadSource, match=r"No such file or directory\. Check the path and its permissions"):
        list(records(found))


def test_a_list_is_one_record_of_json_lines(tmp_path: Path) -> None:
    assert read(write(tmp_path / "x.jsonl", b"[1, 2]\n3\n")) == [(1, [1, 2]), (2, 3)]


ARRAY = [{"a": '],}"\\'}, [[], {}, "x,"], "\\", '\\\\"', {"deep": [[[{"b": "\u2028"}]]]}, 7, None, [], ""]


@pytest.mark.parametrize("ending", [".json", ".json.gz", ".json.zst"])
@pytest.mark.parametrize("indent", [None, 2])
def test_an_array_has_its_elements_as_records(tmp_path: Path, ending: str, indent: int | None) -> None:
    text = BOM + b"\r\n " + json.dumps(ARRAY, indent=indent).encode() + b" \n"
    assert read(write(tmp_path / f"x{ending}", text)) == list(enumerate(ARRAY, start=1))


@pytest.mark.parametrize("chunk", [1, 2, 3, 7])
def test_an_array_may_be_cut_anywhere_between_two_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(arrays, "CHUNK", chunk)
    assert values(write(tmp_path / "x.json", json.dumps(ARRAY).encode())) == ARRAY


def test_a_bad_element_is_a_bad_record_and_later_elements_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "x.json", b'[{"a": nope}, ' + TOO_LONG * 2 + b',\n{"b": 2}, ' + TOO_LONG + b"]")
    first, second, third, fourth = records(find([str(path)]))
    assert isinstance(first, RawRecord)
    assert first.data == b'{"a": nope}'
    assert isinstance(third, RawRecord)
    assert (third.place.number, third.data) == (3, b'{"b": 2}')
    for item, number in ((second, 2), (fourth, 4)):
        assert isinstance(item, UnreadableRecord)
        assert (item.place.number, item.error.reason) == (number, BadReason.TOO_LONG)


@pytest.mark.parametrize("text", ["[", '[1, {"a": [}', '["a, 2]', "[1, 2", '["\\'])
def test_an_array_that_ends_too_early_is_an_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadSource, match=r"ends inside its JSON array\. Check that the file is complete"):
        read(write(tmp_path / "x.json", text.encode()))


@pytest.mark.parametrize("text", ["[1] 2", "[1]\n[2]", "[1}", "[1],"])
def test_something_behind_an_array_is_an_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadSource, match="not one JSON array: something follows its end"):
        read(write(tmp_path / "x.json", text.encode()))


@pytest.mark.parametrize("text", ["[]", " [ ]\n", ""])
def test_an_empty_array_has_no_records(tmp_path: Path, text: str) -> None:
    assert read(write(tmp_path / "x.json", text.encode())) == []


@pytest.mark.parametrize(("ending", "start"), [(".jsonl.zst", b""), (".json.zst", b"["), (".json.gz", b'["')])
def test_a_record_without_end_is_not_held_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, start: bytes
) -> None:
    for module in (arrays, lines):
        monkeypatch.setattr(module, "MAX_RECORD", 1 << 20)
    path = write(tmp_path / f"x{ending}", start + b"x" * (16 << 20))
    found = records(find([str(path)]))
    tracemalloc.start()
    try:
        with suppress(BadSource):  # the array's end is missing
            assert [item.error.reason for item in found if isinstance(item, UnreadableRecord)] == [
                BadReason.TOO_LONG
            ]
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
