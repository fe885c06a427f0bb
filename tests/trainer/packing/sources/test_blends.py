"""Read blends, and the datasets of the hub that they name."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.source_files import BOM, read, values, write
from trainer.packing.sources import BadSource, RawRecord, find, records
from trainer.path_roots import limited_to


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
