"""Find files, directories and patterns."""

import json
import os
from pathlib import Path

import pytest

from tests.support.source_files import values, write
from trainer.packing.sources import BadSource, find, records
from trainer.path_roots import limited_to


def names(directory: Path, *texts: Path | str) -> list[str]:
    return [str(source.path.relative_to(directory)) for source in find(map(str, texts))]


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
