"""Every kind of bad packed data is reported before GPUs are requested: file, row, fault and hint."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support import packed_data
from tests.support.preflight_data import SHARD, VOCABULARY, errors, findings, make_model
from tests.support.trainer_runs import PROJECT
from trainer.config.training_config import TrainingConfig
from trainer.preflight.data import DataNeeds, check, examine


def test_good_data_have_no_findings(data: Path) -> None:
    assert findings(data) == []


def test_context_parallelism_needs_padded_sequences(data: Path) -> None:
    def messages() -> list[str]:
        found = check(config, context_parallel_size=2).findings
        assert {(one.code, one.severity) for one in found} <= {("seq_length_mismatch", "error")}
        return [one.message for one in found]

    values = {"seq_length": 512, "dataset": {"nano3_packed_sft_dir": str(data)}}
    config = TrainingConfig.model_validate(values)
    [unpadded] = messages()
    assert "row 0: the sequence at 0 is not padded to a multiple of 4 plus one" in unpadded
    assert "15 more" in unpadded  # rows of both splits
    columns = packed_data.packs(tokens=2 * 257)
    for name in ("train", "valid"):
        packed_data.write_shard(data / "splits" / name / "part-00000.parquet", columns)
    assert messages() == []
    columns["seq_start_id"][3] = [0, 100]
    packed_data.write_shard(data / SHARD, columns)
    assert ["row 3: the sequence at 0" in message for message in messages()] == [True]


# -- bad data --------------------------------------------------------------------------------------


def without(column: str) -> Callable[[Path], None]:
    def spoil(data: Path) -> None:
        columns = {name: values for name, values in packed_data.packs().items() if name != column}
        packed_data.write_shard(data / SHARD, columns)

    return spoil


def with_row(row: int, **values: Any) -> Callable[[Path], None]:
    """Replace values of one row of the shard."""

    def spoil(data: Path) -> None:
        columns = packed_data.packs()
        for name, value in values.items():
            columns[name][row] = value
        packed_data.write_shard(data / SHARD, columns)

    return spoil


def with_bytes(content: bytes) -> Callable[[Path], None]:
    return lambda data: (data / SHARD).write_bytes(content) and None


def with_types(**types: Any) -> Callable[[Path], None]:
    def spoil(data: Path) -> None:
        columns = packed_data.packs()
        arrays = {
            name: pa.array(values, pa.list_(packed_data.TYPES[name])) for name, values in columns.items()
        }
        arrays |= {name: pa.nulls(packed_data.ROWS, kind) for name, kind in types.items()}
        pq.write_table(pa.table(arrays), data / SHARD)

    return spoil


def truncated(data: Path) -> None:
    os.truncate(data / SHARD, 500)


def scrambled(data: Path) -> None:
    """The footer is intact, the rows are not."""
    with (data / SHARD).open("r+b") as file:
        file.seek(8)
        file.write(b"\xff" * 200)


LONG = {"input_ids": [5] * 600, "loss_mask": [1] * 600, "seq_start_id": [0, 300]}
BAD: list[tuple[str, Callable[[Path], Any], str, str]] = [
    ("no directory", shutil.rmtree, "missing_packed_data", "no packed Parquet shards at"),
    ("no file", lambda data: (data / SHARD).unlink(), "missing_packed_data", "no packed Parquet shards at"),
    ("no input_ids", without("input_ids"), "bad_packed_data", "the column input_ids is missing"),
    ("no loss_mask", without("loss_mask"), "bad_packed_data", "the column loss_mask is missing"),
    ("no seq_start_id", without("seq_start_id"), "bad_packed_data", "the column seq_start_id is missing"),
    ("no rows", lambda data: packed_data.write_shard(data / SHARD, packed_data.packs(0)), "bad_packed_data",
     "train has no rows"),
    ("few rows", lambda data: packed_data.write_shard(data / SHARD, packed_data.packs(7)), "too_few_rows",
     "train has 7 rows, fewer than one global batch of 8"),
    ("few rows to validate", lambda data: packed_data.write_shard(
        data / "splits/valid/part-00000.parquet", packed_data.packs(7)), "too_few_rows", "valid has 7 rows"),
    ("long rows", with_row(2, **LONG), "seq_length_mismatch", "row 2: the pack has 600 tokens"),
    ("starts late", with_row(1, seq_start_id=[1, 9]), "bad_packed_data", "row 1: seq_start_id begins with 1"),
    ("descends", with_row(1, seq_start_id=[0, 9, 5]), "bad_packed_data",
     "row 1: seq_start_id does not ascend: 5"),
    ("stands still", with_row(1, seq_start_id=[0, 9, 9]), "bad_packed_data", "does not ascend: 9"),
    ("begins at the end", with_row(1, seq_start_id=[0, 512]), "bad_packed_data",
     "row 1: seq_start_id 512 does not lie inside the pack"),
    ("negative start", with_row(1, seq_start_id=[0, -1]), "bad_packed_data", "does not ascend: -1"),
    ("no sequence", with_row(1, seq_start_id=[]), "bad_packed_data", "row 1: seq_start_id is empty"),
    ("foreign token", with_row(3, input_ids=[100] * 512), "tokenizer_mismatch",
     "row 3: token id 100 is not in the vocabulary, which has 100 entries"),
    ("negative token", with_row(3, input_ids=[-1] * 512), "tokenizer_mismatch", "token id -1 is negative"),
    ("garbage", with_bytes(b"not parquet at all"), "bad_packed_data", "it is not a Parquet file"),
    ("garbage within", with_bytes(b"PAR1" + b"\x15\x00" * 40 + b"\x50\0\0\0PAR1"), "bad_packed_data",
     "cannot be read as packed data"),
    ("empty file", with_bytes(b""), "bad_packed_data", "truncated"),
    ("truncated", truncated, "bad_packed_data", "truncated"),
    ("scrambled", scrambled, "bad_packed_data", "cannot be read as packed data"),
    ("short mask", with_row(5, loss_mask=[1] * 511), "bad_packed_data",
     "row 5: loss_mask has 511 entries for 512 input_ids"),
    ("long mask", with_row(5, loss_mask=[1] * 513), "bad_packed_data", "loss_mask has 513 entries"),
    ("mask of other values", with_row(5, loss_mask=[-100] * 512), "bad_packed_data", "loss_mask holds -100"),
    ("NULL row", with_row(5, loss_mask=None), "bad_packed_data", "row 5: loss_mask is NULL"),
    ("NULL entry", with_row(5, input_ids=[None] * 512), "bad_packed_data", "row 5: input_ids holds a NULL"),
    ("empty pack", with_row(5, input_ids=[], loss_mask=[], seq_start_id=[0]), "bad_packed_data",
     "row 5: input_ids is empty"),
    ("texts", with_types(input_ids=pa.list_(pa.string())), "bad_packed_data",
     "input_ids has the type list<element: string>"),
    ("no lists", with_types(loss_mask=pa.int8()), "bad_packed_data", "loss_mask has the type int8"),
    ("lists of lists", with_types(seq_start_id=pa.list_(pa.list_(pa.int32()))), "bad_packed_data",
     "seq_start_id has the type list<"),
    ("structs", with_types(input_ids=pa.struct([("a", pa.int32())])), "bad_packed_data", "the type struct"),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "code", "message"), [bad[1:] for bad in BAD], ids=[bad[0] for bad in BAD])
def test_bad_data_are_reported(data: Path, spoil: Callable[[Path], Any], code: str, message: str) -> None:
    spoil(data)
    found = [finding for finding in errors(data) if finding.code == code]
    assert len(found) == 1, errors(data)
    assert message in found[0].message
    assert found[0].hint
    pointer = "/train/global_batch_size" if code == "too_few_rows" else "/dataset/nano3_packed_sft_dir"
    assert found[0].pointer == pointer
    if "row " in message:
        assert str(data / SHARD) in found[0].message


def test_hints_are_those_of_the_seed(data: Path) -> None:
    with_row(3, input_ids=[100] * 512)(data)
    assert "regenerate the packed Parquet shards" in (errors(data)[0].hint or "")
    shutil.rmtree(data)
    assert "data_prep/sft_packing" in (errors(data)[0].hint or "")


def test_many_rows_with_the_same_fault_are_one_finding(data: Path) -> None:
    columns = packed_data.packs()
    columns["loss_mask"] = [[1]] * packed_data.ROWS
    packed_data.write_shard(data / SHARD, columns)
    [finding] = errors(data)
    assert "row 0: " in finding.message
    assert finding.message.endswith("There are 7 more like it.")


def test_packs_written_by_bridge_are_good(data: Path) -> None:
    """Bridge writes one more token for each sequence, and drops it again for the labels."""
    columns = packed_data.packs(tokens=514)
    for path in (data / "splits").rglob("*.parquet"):
        packed_data.write_shard(path, columns, {**packed_data.TYPES, "input_ids": pa.int64()})
    assert findings(data) == []
    with_row(2, input_ids=[5] * 515, loss_mask=[1] * 515)(data)
    assert errors(data)[0].code == "seq_length_mismatch"


# -- data that do not fit the config ---------------------------------------------------------------


def test_seq_length_must_equal_the_pack_size(data: Path) -> None:
    [finding] = errors(data, seq_length=1024)
    assert (finding.code, finding.pointer) == ("seq_length_mismatch", "/seq_length")
    assert "pack_size 512" in finding.message
    assert finding.suggestion is not None
    assert (finding.suggestion.field, finding.suggestion.current, finding.suggestion.to) == (
        "seq_length", 1024, 512,
    )  # fmt: skip


def test_a_pack_size_recorded_by_bridge_is_checked(data: Path) -> None:
    (data / "metadata.json").unlink()
    recorded = [{"dataset_max_seqlen": 9, "pack_size": 512}, {"dataset_max_seqlen": 8, "pack_size": 512}]
    (data / "splits/train/512_metadata.jsonl").write_text(json.dumps(recorded))
    assert errors(data) == []
    assert "pack_size 512" in errors(data, seq_length=1024)[0].message


def test_without_a_batch_size_it_is_not_checked(data: Path) -> None:
    packed_data.write_shard(data / SHARD, packed_data.packs(1))
    assert errors(data, train={}) == []
    config = TrainingConfig(dataset={"nano3_packed_sft_dir": str(data)}, seq_length=512)
    assert "too_few_rows" in [finding.code for finding in check(config, global_batch_size=4).findings]


def test_fewer_rows_suggest_a_smaller_batch(data: Path) -> None:
    packed_data.write_shard(data / SHARD, packed_data.packs(7))
    [finding] = errors(data)
    assert finding.suggestion is not None
    assert (finding.suggestion.field, finding.suggestion.to) == ("train.global_batch_size", 4)


def test_few_rows_are_enough_if_an_incomplete_batch_is_filled(data: Path) -> None:
    packed_data.write_shard(data / SHARD, packed_data.packs(7))
    assert errors(data, dataset={"nano3_packed_sft_dir": str(data), "drop_last": False}) == []
    assert errors(data, train={"global_batch_size": 8, "num_epochs": 2}) == []


def test_validation_rows_are_not_checked_without_validation(data: Path) -> None:
    packed_data.write_shard(data / "splits/valid/part-00000.parquet", packed_data.packs(1))
    assert errors(data, validation={"eval_iters": 0}) == []


@pytest.mark.parametrize(
    ("vocabulary", "codes"), [(VOCABULARY, []), ({**VOCABULARY, "b": 2}, ["tokenizer_mismatch"])]
)
def test_tokenizers_are_compared_by_their_vocabulary(
    data: Path, vocabulary: dict[str, int], codes: list[str]
) -> None:
    from trainer.dataset.vocabulary import digest

    recorded = {"pack_size": 512, "tokenizer": "/elsewhere", "tokenizer_sha256": digest(vocabulary)}
    (data / "metadata.json").write_text(json.dumps(recorded))
    found = errors(data)
    assert [finding.code for finding in found] == codes
    for finding in found:
        assert finding.pointer == "/hf_model_path"
        assert "/elsewhere" in finding.message


def test_a_replaced_tokenizer_is_read_again(data: Path) -> None:
    from trainer.dataset.vocabulary import digest

    recorded = {"pack_size": 512, "tokenizer_sha256": digest(VOCABULARY)}
    (data / "metadata.json").write_text(json.dumps(recorded))
    assert errors(data) == []
    shutil.rmtree(data.parent / "model")
    make_model(data.parent / "model", {"a": 0, "b": 1, "other": 2})
    assert [finding.code for finding in errors(data)] == ["tokenizer_mismatch"]


def test_a_tokenizer_larger_than_the_model_is_rejected(data: Path) -> None:
    (data.parent / "model/config.json").write_text('{"text_config": {"vocab_size": 60}}')
    assert "100 entries" in errors(data)[0].message


def test_an_unknown_tokenizer_is_unverified(data: Path) -> None:
    [finding] = findings(data, hf_model_path="nvidia/other")
    assert (finding.severity, finding.code) == ("unverified", "tokenizer_mismatch")
    (data / "metadata.json").unlink()
    [finding] = findings(data)
    assert (finding.severity, finding.code) == ("unverified", "unseen_packing")
    for text in ("{", '{"pack_size": "512"}', '{"pack_size": 1e400}', "[" * 100_000, "[]", "\xff"):
        (data / "metadata.json").write_text(text, encoding="latin-1")
        [finding] = findings(data)
        assert (finding.severity, finding.code) == ("unverified", "unseen_packing"), text[:20]
        assert "metadata.json" in finding.message


def test_a_recorded_name_that_is_not_utf_8_is_printable(data: Path) -> None:
    (data / "metadata.json").write_text('{"pack_size": 512, "tokenizer": "\\ud800"}')
    assert all(finding.model_dump_json() for finding in findings(data))


# -- unreadable data -------------------------------------------------------------------------------


def test_an_unreadable_directory_is_unverified(data: Path) -> None:
    """Runs as another user, because root may read everything."""
    for directory in (data.parent, *data.parent.parents):
        if not directory.stat().st_mode & 0o005:
            directory.chmod(0o755)
    script = (
        "import os, sys, pyarrow.parquet, pyarrow.compute\n"
        "from pathlib import Path\n"
        "from trainer.preflight.data import DataNeeds, examine\n"
        "os.geteuid() or os.setuid(65534)\n"
        "for path in sys.argv[1:]:\n"
        "    print(*[(f.severity, f.code) for f in examine(Path(path), DataNeeds()).findings])\n"
    )
    (data / SHARD).chmod(0)
    (data / "splits/valid").chmod(0)
    shutil.copytree(data / "splits/train", data.parent / "closed/splits/train", copy_function=os.link)
    (data.parent / "closed/splits").chmod(0)
    try:
        done = subprocess.run(
            [sys.executable, "-c", script, data / "splits/train", data, data.parent / "closed"],
            env={**os.environ, "PYTHONPATH": str(PROJECT)}, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
    finally:
        for path in (data / "splits/valid", data.parent / "closed/splits"):
            path.chmod(0o755)
    assert done.stdout.splitlines() == ["('unverified', 'unseen_data')"] * 3, done.stderr


def test_broken_links_and_irregular_files_are_faults(data: Path) -> None:
    train = data / "splits/train"
    (train / "loop.parquet").symlink_to("loop.parquet")
    (train / "gone.parquet").symlink_to("nowhere")
    (train / "directory.parquet").mkdir()
    os.mkfifo(train / "pipe.parquet")
    directory, link = (finding.message for finding in errors(data))
    assert "directory.parquet cannot be read as packed data: it is not a regular file" in directory
    assert "gone.parquet cannot be read: No such file" in link
    assert all(message.endswith("There is 1 more like it.") for message in (directory, link))


def test_a_symlink_loop_is_missing_data(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    assert examine(tmp_path / "loop", DataNeeds()).findings[0].code == "missing_packed_data"
    assert examine(Path("/" + "x" * 5000), DataNeeds()).findings[0].code == "missing_packed_data"


def test_names_that_are_not_utf_8_are_printable(data: Path) -> None:
    shutil.move(data / SHARD, os.fsencode(data / "splits/train") + b"/\xff.parquet")
    columns: dict[str, list[int]] = {"a\ud800".encode("utf-8", "replace").decode(): []}
    packed_data.write_shard(data / "splits/train/bad.parquet", columns, {"a?": pa.int8()})
    assert all(finding.model_dump_json() for finding in findings(data))
    assert len(errors(data)) == 1
