"""Find packed data, and count and check their content."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support import packed_data
from tests.support.trainer_runs import PROJECT
from trainer.dataset import Inspection, Limits, MissingPackedData, find_shards, inspect
from trainer.dataset.sample import SAMPLE_GROUPS


def inspected(path: Path, *, full: bool = False, seconds: float = 60, **limits: Any) -> Inspection:
    shards = find_shards(path)
    found = Inspection.of(shards)
    inspect(shards, Limits(**limits), found, full=full, seconds=seconds)
    return found


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return packed_data.make_dataset(tmp_path / "packed")


@pytest.mark.parametrize(
    ("where", "source", "splits"),
    [
        ("", "splits/train", ["train", "valid"]),
        ("splits", "splits/train", ["train", "valid"]),
        ("splits/train", "splits/train", ["train"]),
        ("splits/train/part-00000.parquet", "splits/train/part-00000.parquet", ["train"]),
        ("splits/train/part-*.parquet", "splits/train/part-*.parquet", ["train"]),
        ("splits/train/part-0000?.p*", "splits/train/part-0000?.p*", ["train"]),
    ],
)
def test_packed_data_are_found_as_bridge_finds_them(
    data: Path, where: str, source: str, splits: list[str]
) -> None:
    shards = find_shards(data / where)
    assert shards.train == [data / "splits/train/part-00000.parquet"]
    assert shards.source == data / source
    assert list(shards.splits) == splits
    assert shards.directories[-1] == data


@pytest.mark.parametrize(
    ("where", "named", "source"),
    [
        ("", None, "splits/valid"),
        ("splits/train", None, None),
        ("splits/train", "splits/valid", "splits/valid"),
        ("", "splits/train/part-*.parquet", "splits/train/part-*.parquet"),
        ("splits/train/*.parquet", "splits/valid/part-00000.parquet", "splits/valid/part-00000.parquet"),
    ],
)
def test_data_for_validation_may_be_named(
    data: Path, where: str, named: str | None, source: str | None
) -> None:
    shards = find_shards(data / where, data / named if named else None)
    assert shards.valid_source == (data / source if source else None)
    assert len(shards.valid) == (1 if source else 0)
    assert shards.train == [data / "splits/train/part-00000.parquet"]


def test_hidden_and_other_files_are_not_shards(data: Path) -> None:
    train = data / "splits/train"
    for name in (".part-1.parquet", "part-2.parquet.tmp", "part-3.json"):
        (train / name).touch()
    (train / "part-4.pq").touch()
    assert [path.name for path in find_shards(data).train] == ["part-00000.parquet", "part-4.pq"]
    assert [path.name for path in find_shards(train / "*").train] == ["part-00000.parquet", "part-4.pq"]


@pytest.mark.parametrize(
    "where", ["nowhere", "splits/train/*.pq", "splits/*/x.parquet", "metadata.json", "a\0b"]
)
def test_a_path_without_shards_is_missing_data(data: Path, where: str) -> None:
    with pytest.raises(MissingPackedData):
        find_shards(data / where)


def test_a_pattern_in_a_directory_name_is_rejected(data: Path, tmp_path: Path) -> None:
    (tmp_path / "allowed").mkdir()
    (tmp_path / "allowed/link").symlink_to(data / "splits/train")
    for pattern in ("*/part-*.parquet", "[l]ink/part-*.parquet"):
        with pytest.raises(MissingPackedData, match="name of the files"):
            find_shards(tmp_path / "allowed" / pattern)


def test_rows_and_tokens_are_counted(data: Path) -> None:
    found = inspected(data)
    assert vars(found.splits["train"]) == {"shards": 1, "rows": 8, "tokens": 4096}
    assert found.tokens_exact
    assert (found.rows_read, found.longest_pack, found.trained_token_share) == (16, 512, 0.5)
    sizes = [path.stat().st_size for path in (data / "splits").rglob("*.parquet")]
    assert sum(sizes) <= found.meter.bytes_read < 4 * sum(sizes)


def test_without_statistics_tokens_are_estimated(tmp_path: Path) -> None:
    packed_data.write_shard(tmp_path / "a.parquet", packed_data.packs(3), write_statistics=False)
    found = inspected(tmp_path)
    assert (found.splits["train"].tokens, found.tokens_exact) == (3 * 512, False)


def test_other_columns_are_not_read(tmp_path: Path) -> None:
    columns = {
        name: pa.array(rows, pa.list_(packed_data.TYPES[name])) for name, rows in packed_data.packs(2).items()
    }
    columns |= {f"other_{number}": pa.array(["x", "y"]) for number in range(3000)}
    columns["input_ids.more"] = pa.array([1, 2])
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    found = inspected(tmp_path)
    assert (found.rows_read, found.splits["train"].tokens, list(found.faults)) == (2, 1024, [])


# -- samples ---------------------------------------------------------------------------------------


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """More row groups than a sample reads, of two packs each."""
    for number in range(4):
        groups = SAMPLE_GROUPS // 2
        path = tmp_path / f"part-{number}.parquet"
        packed_data.write_shard(path, packed_data.packs(groups * 2, tokens=8), row_group_size=2)
    return tmp_path


def spoil(many: Path, **values: Any) -> None:
    """Replace values of one row in the middle of a shard."""
    columns = packed_data.packs(SAMPLE_GROUPS, tokens=8)
    for name, value in values.items():
        columns[name][103] = value
    packed_data.write_shard(many / "part-2.parquet", columns, row_group_size=2)


def test_a_sample_reads_from_all_shards_and_a_full_pass_reads_all_rows(many: Path) -> None:
    sampled, full = inspected(many), inspected(many, full=True)
    assert sampled.rows == full.rows == full.rows_read == 4 * SAMPLE_GROUPS
    assert sampled.rows_read == 2 * SAMPLE_GROUPS
    assert sampled.meter.bytes_read < full.meter.bytes_read
    for shard in many.iterdir():
        packed_data.write_shard(shard, {**packed_data.packs(1, tokens=8), "loss_mask": [[7] * 8]})
        assert list(inspected(many).faults), shard
        packed_data.write_shard(shard, packed_data.packs(SAMPLE_GROUPS, tokens=8), row_group_size=2)


@pytest.mark.parametrize(
    "values",
    [
        {"loss_mask": [1] * 7}, {"loss_mask": None}, {"input_ids": [100] * 8}, {"input_ids": [-1] * 8},
        {"seq_start_id": []}, {"input_ids": [5] * 900, "loss_mask": [1] * 900},
    ],
)  # fmt: skip
def test_a_sample_includes_row_groups_with_faulty_footers(many: Path, values: dict[str, Any]) -> None:
    spoil(many, **values)
    [fault] = inspected(many, vocab_size=100, seq_length=8).faults
    assert "part-2.parquet, row 103: " in str(fault)


def test_a_row_is_counted_once(many: Path) -> None:
    columns = packed_data.packs(2, tokens=8)
    columns["loss_mask"][0] = [1]
    packed_data.write_shard(many / "part-0.parquet", columns)
    found = inspected(many)
    assert [fault.count for fault in found.faults] == [1]
    assert found.rows_read == 2 * SAMPLE_GROUPS


def test_a_fault_that_footers_do_not_show_needs_a_full_pass(many: Path) -> None:
    spoil(many, seq_start_id=[0, 20])
    assert list(inspected(many).faults) == []
    [fault] = inspected(many, full=True).faults
    assert "row 103: seq_start_id 20" in str(fault)


def test_an_inspection_stops_at_its_time_limit_and_says_how_much_it_read(many: Path) -> None:
    found = inspected(many, full=True, seconds=0)
    [fault] = found.faults
    assert (found.rows_read, found.unread_shards, fault.kind) == (0, 4, "not_inspected")
    assert "Only the footers of 0 shards could be inspected" in str(fault)


def test_a_shard_that_disappears_meanwhile_is_a_fault(many: Path) -> None:
    shards = find_shards(many)
    found = Inspection.of(shards)
    (many / "part-1.parquet").unlink()
    inspect(shards, Limits(), found, full=True, seconds=60)
    [fault] = found.faults
    assert "part-1.parquet cannot be read: No such file" in str(fault)
    assert found.unread_shards == 1


def test_a_row_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    ids = pa.array([0] * (3 << 20), pa.int32())
    one = {"input_ids": ids, "loss_mask": ids.cast(pa.int8()), "seq_start_id": ids[:1]}
    lists = {
        name: pa.ListArray.from_arrays(pa.array([0, len(values)], pa.int32()), values)
        for name, values in one.items()
    }
    pq.write_table(pa.table(lists), tmp_path / "a.parquet")
    found = inspected(tmp_path, seq_length=512)
    assert found.rows_read == 0
    assert [fault.kind for fault in found.faults] == ["too_long", "not_inspected"]


def test_a_process_that_inspects_no_data_does_not_load_pyarrow() -> None:
    script = "import sys, api.app, worker.tasks; sys.exit('pyarrow' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "SFT_REDIS_URL": "redis://127.0.0.1:1/0"}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True, timeout=60)


def test_corrupt_bytes_raise_no_exception(tmp_path: Path) -> None:
    """Whichever byte is corrupt, the inspection returns a result."""
    path = packed_data.write_shard(tmp_path / "a.parquet", packed_data.packs(3, tokens=8))
    good = path.read_bytes()
    for place in range(0, len(good), 7):
        path.write_bytes(good[:place] + bytes([good[place] ^ 0xFF]) + good[place + 1 :])
        inspected(tmp_path, full=True, vocab_size=100, seq_length=8)
    for length in range(0, len(good), 97):
        os.truncate(path, length)
        assert list(inspected(tmp_path, full=True).faults)
        path.write_bytes(good)
