"""Find and read the records of files: what is read, what is a bad record, what is an unreadable source."""

import gzip
import json
import os
import random
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trainer.packing.bad_records import BadReason
from trainer.packing.sources import BadSource, RawRecord, arrays, find, records
from trainer.packing.sources.source import MAX_RECORD
from trainer.path_roots import limited_to

BOM = b"\xef\xbb\xbf"
TOO_LONG = b'{"text": "' + b"x" * MAX_RECORD + b'"}'


def read(*texts: Path | str) -> list[Any]:
    """Return (number, JSON value or reason) of each record."""
    return [
        (item.place.number, json.loads(item.data) if isinstance(item.data, bytes) else item.data)
        if isinstance(item, RawRecord)
        else (item[0].number, item[1].reason)
        for item in records(find(map(str, texts)))
    ]


def values(*texts: Path | str) -> list[Any]:
    return [value for _number, value in read(*texts)]


def zstd(content: bytes) -> bytes:
    compressed: bytes = pa.compress(content, codec="zstd", asbytes=True)
    return compressed


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    compress = {".gz": gzip.compress, ".zst": zstd}.get(path.suffix)
    path.write_bytes(compress(content) if compress else content)
    return path


def names(directory: Path, *texts: Path | str) -> list[str]:
    return [str(source.path.relative_to(directory)) for source in find(map(str, texts))]


# -- files, directories, patterns ------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b.jsonl", "a.json", "sub/c.JSONL.gz", "sub/deep/d.jsonl.zst", "e.json.zst"):
        write(tmp_path / "tree" / name, b"[1]\n" if "json." in name else b"1\n")
    for name in ("README.md", ".hidden.jsonl", ".cache/x.jsonl", "f.jsonl.tmp", "g.parquet.gz"):
        write(tmp_path / "tree" / name, b"no records")
    return tmp_path / "tree"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["a.json", "b.jsonl", "e.json.zst", "sub/c.JSONL.gz", "sub/deep/d.jsonl.zst"]),
        ("sub", ["sub/c.JSONL.gz", "sub/deep/d.jsonl.zst"]),
        ("b.jsonl", ["b.jsonl"]),
        (".hidden.jsonl", [".hidden.jsonl"]),
        ("*", ["a.json", "b.jsonl", "e.json.zst"]),
        ("[ab].json*", ["a.json", "b.jsonl"]),
        ("**/*.zst", ["e.json.zst", "sub/deep/d.jsonl.zst"]),
        ("sub/**", ["sub/c.JSONL.gz", "sub/deep/d.jsonl.zst"]),
    ],
)
def test_files_are_found_in_the_order_of_their_names(tree: Path, text: str, expected: list[str]) -> None:
    assert names(tree, tree / text) == expected


def test_sources_are_read_in_the_order_in_which_they_are_named(tmp_path: Path) -> None:
    for name in ("a", "b", "[c]"):
        write(tmp_path / f"{name}.jsonl", json.dumps(name).encode())
    assert values(tmp_path / "b.jsonl", tmp_path / "a.jsonl", tmp_path / "[c].jsonl") == ["b", "a", "[c]"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nowhere.jsonl", "No such file or directory"),
        ("nowhere/*.jsonl", "No such file or directory"),
        ("*.parquet", "no files to read"),
        (".cache/deep", "No such file"),
        ("README.md", "unknown ending. Use one of .jsonl, .jsonl.gz"),
        ("g.parquet.gz", "unknown ending"),
        ("s*b/c.jsonl", "Name several sources"),
        ("**/sub/*.jsonl", "Name several sources"),
        ("a\0b", "null byte"),
        ("x" * 300, "File name too long"),
        ("x/" * 2100, "1 to 4096 characters"),
        ("pipe.jsonl", "not a regular file"),
        ("broken.jsonl", "No such file"),
        ("loop", "is a link to a directory above it"),
        ("b.jsonl/c.jsonl", "Not a directory"),
        ("steps", "is over 32 levels deep"),
    ],
)
def test_a_source_that_is_not_there_is_an_error(tree: Path, text: str, message: str) -> None:
    os.mkfifo(tree / "pipe.jsonl")
    (tree / "broken.jsonl").symlink_to(tree / "gone")
    (tree / "loop").mkdir()
    (tree / "steps" / "/".join("x" * 40)).mkdir(parents=True)
    (tree / "loop/up").symlink_to(tree / "loop")
    with pytest.raises(BadSource, match=message) as caught:
        find([f"{tree}/{text}"])
    assert str(tree)[:20] in str(caught.value) or "4096" in message


@pytest.mark.parametrize(
    "text", ["", "s3://bucket/a.jsonl", "gs://bucket", "http://host/a.json", "hf://owner"]
)
def test_a_location_that_is_not_read_is_an_error(text: str) -> None:
    with pytest.raises(BadSource, match=r"1 to 4096|is not read. Copy|is not hf://owner/name"):
        find([text])


def test_no_source_at_all_is_an_error() -> None:
    with pytest.raises(BadSource, match="Name at least one"):
        find([])


def test_linked_files_and_directories_are_read_inside_of_the_roots_only(tree: Path, tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", write(tmp_path / "outside/x.jsonl", b"1\n")
    write(inside / "a.jsonl", b"1\n")
    (inside / "b").symlink_to(tree / "sub")
    assert len(values(inside)) == 3
    with limited_to([inside, tree]):
        assert len(values(inside)) == 3
        (inside / "z.jsonl").symlink_to(outside)
        for text in (inside, inside / "z.jsonl", inside / "*.jsonl", inside / "../outside", outside):
            with pytest.raises(
                BadSource, match=r"leads out of the paths that the cluster allows\. Put the file"
            ):
                find([str(text)])
    with limited_to([inside]), pytest.raises(BadSource, match="leads out"):
        find([str(inside / "b")])


def test_a_link_that_is_swapped_before_reading_leads_nowhere(tmp_path: Path) -> None:
    for name, target in (("a.jsonl", "inside/1.jsonl"), ("b.parquet", "inside/2.parquet")):
        write(tmp_path / target, b"1\n")
        (tmp_path / "inside" / name).symlink_to(tmp_path / target)
        with limited_to([tmp_path / "inside"]):
            found = find([str(tmp_path / "inside" / name)])
            (tmp_path / "inside" / name).unlink()
            (tmp_path / "inside" / name).symlink_to("/etc/hostname")
            with pytest.raises(BadSource, match="leads out"):
                list(records(found))


# -- lines -----------------------------------------------------------------------------------------


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
def test_a_long_line_is_a_bad_record_and_reading_goes_on(tmp_path: Path, ending: str) -> None:
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


# -- arrays ----------------------------------------------------------------------------------------

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


def test_a_bad_element_is_a_bad_record_and_reading_goes_on(tmp_path: Path) -> None:
    path = write(tmp_path / "x.json", b'[{"a": nope}, ' + TOO_LONG * 2 + b',\n{"b": 2}, ' + TOO_LONG + b"]")
    first, second, third, fourth = records(find([str(path)]))
    assert isinstance(first, RawRecord)
    assert first.data == b'{"a": nope}'
    assert isinstance(third, RawRecord)
    assert (third.place.number, third.data) == (3, b'{"b": 2}')
    for item, number in ((second, 2), (fourth, 4)):
        assert isinstance(item, tuple)
        assert (item[0].number, item[1].reason) == (number, BadReason.TOO_LONG)


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


# -- tables ----------------------------------------------------------------------------------------


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


def test_a_bad_row_is_a_bad_record_and_reading_goes_on(tmp_path: Path) -> None:
    broken = pa.array([b"a", b"\xff", b"c", b"d"]).cast(pa.string(), safe=False)
    dates = pa.array([0, 0, 10**15, 0]).cast(pa.timestamp("s"), safe=False)
    pq.write_table(pa.table({"a": broken, "date": dates}), tmp_path / "x.parquet", store_schema=False)
    found = read(tmp_path / "x.parquet")
    assert [number for number, _value in found] == [1, 2, 3, 4]
    assert [value for _number, value in found[1:3]] == [BadReason.NOT_UTF8, BadReason.BAD_CONTENT]
    assert found[3][1]["a"] == "d"


def test_a_long_row_is_a_bad_record_and_reading_goes_on(tmp_path: Path) -> None:
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


@pytest.mark.parametrize(("ending", "start"), [(".jsonl.zst", b""), (".json.zst", b"["), (".json.gz", b'["')])
def test_a_record_without_end_is_not_held_in_memory(tmp_path: Path, ending: str, start: bytes) -> None:
    path = write(tmp_path / f"x{ending}", start + b"x" * (128 << 20))
    found = records(find([str(path)]))
    tracemalloc.start()
    try:
        with suppress(BadSource):  # the array's end is missing
            assert [item[1].reason for item in found if isinstance(item, tuple)] == [BadReason.TOO_LONG]
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


# -- blends ----------------------------------------------------------------------------------------


def blend(path: Path, *datasets: dict[str, Any], **more: Any) -> Path:
    return write(path, json.dumps({"datasets": datasets, **more}).encode())


def test_a_blend_names_files_beside_it_by_weight(tmp_path: Path) -> None:
    for name in ("a/1.jsonl", "a/2.jsonl", "b.jsonl", "c.jsonl"):
        write(tmp_path / "data" / name, f'"{name}"\n'.encode())
    path = blend(
        tmp_path / "data/blend.json",
        {"name": "two files", "path": "a", "weight": 2},
        {"path": str(tmp_path / "data/b.jsonl"), "subset": None, "split": "train"},
        {"name": "left out", "path": "c.jsonl", "weight": 0.0},
        {"path": "../data/*.jsonl"},
    )
    expected = ["a/1.jsonl"] * 2 + ["a/2.jsonl"] * 2 + ["b.jsonl"] * 2 + ["c.jsonl"]
    assert values(path) == expected
    assert values(path, tmp_path / "data/c.jsonl") == [*expected, "c.jsonl"]


def test_a_fraction_of_a_weight_selects_the_same_records_everywhere(tmp_path: Path) -> None:
    chosen = []
    for place in ("one", "two"):
        write(tmp_path / place / "x.jsonl", "\n".join(map(str, range(4000))).encode())
        found = find([str(blend(tmp_path / place / "b.json", {"path": "x.jsonl", "weight": 1.25}))])
        chosen += [
            [item.data for item in records(found, seed) if isinstance(item, RawRecord)] for seed in (1, 2)
        ]
    one, other_seed, two, _ = chosen
    assert one == two
    assert one != other_seed
    assert set(one) == {b"%d" % n for n in range(4000)}
    assert 4900 < len(one) < 5100
    assert one == sorted(one, key=int)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ({"path": "x.jsonl", "wieght": 2}, "unknown key datasets.0.wieght. Known are path, name"),
        ({"name": "x"}, "datasets.0.path: Field required"),
        ({"path": ""}, "datasets.0.path"),
        ({"path": "x.jsonl", "weight": -1}, "datasets.0.weight: Input should be greater"),
        ({"path": "x.jsonl", "weight": 1e9}, "datasets.0.weight: Input should be less"),
        ({"path": "x.jsonl", "weight": float("nan")}, "datasets.0.weight"),
        ({"path": "x.jsonl", "weight": "2"}, "datasets.0.weight"),
        ({"path": "x.jsonl", "weight": 0}, "Name at least one with a weight over 0"),
        ({"path": "x.jsonl", "subset": "main"}, "subset and split are for hf:// only"),
        ({"path": "x.jsonl", "split": "test"}, "subset and split are for hf:// only"),
        ({"path": "missing.jsonl"}, "missing.jsonl cannot be read: No such file"),
        ({"path": "s3://bucket/x.jsonl"}, "s3:// is not read"),
        ({"path": "inner.json"}, "inner.json is a blend, too. Name its datasets here"),
    ],
)
def test_a_faulty_blend_is_an_error_that_names_the_key(
    tmp_path: Path, dataset: dict[str, Any], message: str
) -> None:
    write(tmp_path / "x.jsonl", b"1\n")
    blend(tmp_path / "inner.json", {"path": "x.jsonl"})
    with pytest.raises(BadSource, match=message):
        find([str(blend(tmp_path / "blend.json", dataset))])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"datasets": [{"path": "x.jsonl"},]}', "is a blend, but not JSON: .*line 1 column"),
        (BOM + b'{\n "datasets": [' + b"[" * 100_000, "is a blend, but not JSON: it is nested too deeply"),
        (b'{"datasets": [' + b" " * (1 << 20) + b"]}", "is a blend of over 1 MiB"),
        (b'{"datasets": []}', "datasets: List should have at least 1 item"),
        (b'{"datasets": {}}', "datasets: Input should be a valid list"),
        (b'{"sets": 1, "datasets": [{"path": "x.jsonl"}]}', "unknown key sets. Known are datasets"),
    ],
)
def test_a_blend_that_is_none_is_an_error(tmp_path: Path, text: bytes, message: str) -> None:
    write(tmp_path / "x.jsonl", b"1\n")
    with pytest.raises(BadSource, match=message):
        find([str(write(tmp_path / "blend.json", text))])


def test_a_blend_does_not_lead_out_of_the_roots(tmp_path: Path) -> None:
    write(tmp_path / "outside/x.jsonl", b"1\n")
    path = blend(tmp_path / "inside/blend.json", {"path": "../outside"})
    with limited_to([tmp_path / "inside"]), pytest.raises(BadSource, match="leads out of the paths"):
        find([str(path)])


# -- the hub ---------------------------------------------------------------------------------------


def test_a_dataset_of_the_hub_has_a_subset_and_a_split(tmp_path: Path) -> None:
    dataset = {"path": "hf://owner/name", "subset": "main", "split": "test", "weight": 0.5}
    [source] = find([str(blend(tmp_path / "blend.json", dataset))])
    assert (source.location, source.subset, source.split, source.weight) == (
        "hf://owner/name",
        "main",
        "test",
        0.5,
    )


def test_the_hub_needs_the_package_of_the_trainers_environment() -> None:
    with pytest.raises(BadSource, match="hf://owner/name: the package datasets is not installed here"):
        read("hf://owner/name")
