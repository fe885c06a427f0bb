"""Packing by real processes, with a stand-in for the tokenizer: output, bad records, interruptions."""

import json
import re
import tracemalloc
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

from tests.support.packing import Packing
from tests.support.waiting import wait_until
from trainer.packing.algorithms import packs_of
from trainer.packing.batches import Tokenized
from trainer.packing.output import write_split
from trainer.packing.spill import Spill, Spilled
from trainer.packing.splits import assign, sequences_of_splits
from trainer.preflight.data import DataNeeds, examine

SPLITS = ("train", "valid", "test")
READERS_BYTES = 64_000_000


def texts(number: int) -> list[str]:
    return [f"record {n} " + "word " * (n % 20) for n in range(number)]


def rows_of(output: Path, split: str) -> list[dict[str, Any]]:
    shards = sorted((output / "splits" / split).glob("*.parquet"))
    return [row for shard in shards for row in pq.read_table(shard).to_pylist()]


def sequences_in(output: Path, split: str) -> list[tuple[str, list[int]]]:
    """Text and mask of each sequence."""
    found = []
    for row in rows_of(output, split):
        ends = [*row["seq_start_id"][1:], len(row["input_ids"])]
        for begin, end in zip(row["seq_start_id"], ends, strict=True):
            found.append((bytes(row["input_ids"][begin:end]).decode(), row["loss_mask"][begin:end]))
    return found


def files_in(output: Path) -> dict[str, bytes]:
    return {str(path.relative_to(output)): path.read_bytes() for path in output.rglob("*") if path.is_file()}


def test_the_output_has_each_record_once_with_its_mask(tmp_path: Path) -> None:
    done = Packing(
        texts(300), str(tmp_path / "out"), {"pack_size": 256, "mask": "all"}, batch=7, shard=50
    ).run()
    made = done["manifest"]
    found = {split: sequences_in(tmp_path / "out", split) for split in SPLITS}
    everything = [text for split in SPLITS for text, _mask in found[split]]
    assert sorted(everything) == sorted(texts(300))
    assert {split: len(found[split]) for split in SPLITS} == {"train": 294, "valid": 3, "test": 3}
    assert all(mask == [1] * (len(text) - 1) + [0] for split in SPLITS for text, mask in found[split])
    rows = {split: rows_of(tmp_path / "out", split) for split in SPLITS}
    assert all(len(row["input_ids"]) <= 256 for split in SPLITS for row in rows[split])
    assert json.loads((tmp_path / "out/metadata.json").read_text()) == made
    tokens = sum(map(len, texts(300)))
    packs = sum(map(len, rows.values()))
    expected = {
        "records": 300, "sequences": 300, "tokens": tokens, "trained_tokens": tokens - 300, "truncated": 0,
        "padding": 0, "bad_records": 0, "packs": packs, "efficiency": round(tokens / packs / 256, 6),
        "train_packs": len(rows["train"]), "pack_size": 256, "tokenizer": "bytes", "vocab_size": 256,
    }  # fmt: skip
    assert {name: made[name] for name in expected} == expected
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]  # nothing is left beside it
    phases = [(one["phase"], one["share"]) for one in done["progress"]]
    assert [phases[-1], ("tokenize", 1.0) in phases] == [("write", 1.0), True]
    report = examine(tmp_path / "out", DataNeeds(seq_length=256), full=True, seconds=60)
    assert [found for found in report.findings if found.severity == "error"] == []


def test_the_output_depends_neither_on_workers_nor_on_batches(tmp_path: Path) -> None:
    for name, batch, workers in (("one", 7, 3), ("two", 256, 1)):
        Packing(texts(200), str(tmp_path / name), {"pack_size": 256}, batch=batch, workers=workers).run()
    assert files_in(tmp_path / "one") == files_in(tmp_path / "two")
    assert len(files_in(tmp_path / "one")) == 4


def test_long_sequences_are_cut_and_all_are_padded(tmp_path: Path) -> None:
    options = {"pack_size": 64, "context_parallel_size": 2, "split": {"train": 1, "valid": 0, "test": 0}}
    made = Packing(texts(40), str(tmp_path / "out"), options).run()["manifest"]
    assert made["pad_to_multiple"] == 4
    found = sequences_in(tmp_path / "out", "train")
    assert {(len(mask) - 1) % 4 for _text, mask in found} == {0}
    assert made["truncated"] == sum(len(text) > 61 for text in texts(40))
    assert made["padding"] == sum(text.count("\0") for text, _mask in found) > 0
    assert made["tokens"] + made["padding"] == sum(len(mask) for _text, mask in found)


def test_few_bad_records_are_counted_with_their_first_places(tmp_path: Path) -> None:
    records = texts(93) + ["bad not_json"] * 6 + ["unreadable"]
    made = Packing(records, str(tmp_path / "out"), {"max_bad_share": 0.07}, batch=10).run()["manifest"]
    assert (made["records"], made["bad_records"], made["sequences"]) == (100, 7, 93)
    reasons = made["bad_records_by_reason"]
    assert {reason: entry["records"] for reason, entry in reasons.items()} == {"not_json": 6, "not_utf8": 1}
    assert [place["number"] for place in reasons["not_json"]["first"]] == [94, 95, 96, 97, 98]
    assert [place["number"] for place in reasons["not_utf8"]["first"]] == [100]


@pytest.mark.parametrize(
    ("records", "options", "error", "message"),
    [
        (
            [*texts(8), "bad not_json", "unreadable"], {},
            "TooManyBadRecords",
            r"2 of 10 records are bad \(20.0%\).*1  not_json\n +chats.jsonl, record 9: It is bad",
        ),
        (
            [*texts(8), *["skip it"] * 1000, "bad not_json", "unreadable"], {},
            "TooManyBadRecords",
            r"2 of 10 records are bad \(20.0%\).* 1,000 others were left out by used_in\.",
        ),
        (["skip it"] * 3, {}, "TooManyBadRecords", r"None of 0 records .* 3 others were left out by used_in"),
        (["bad not_json"], {"max_bad_share": 1}, "TooManyBadRecords", "None of 1 records can be trained on"),
        ([], {}, "TooManyBadRecords", "None of 0 records can be trained on"),
        (["x"], {"max_bad_share": 1}, "TooManyBadRecords", "1  cut_before_answer"),
        (texts(3), {"split_counts": {"valid": 3}}, "TooFewRecords", "3 records for valid"),
    ],
)  # fmt: skip
def test_what_cannot_be_packed_leaves_nothing_behind(
    tmp_path: Path, records: list[str], options: dict[str, Any], error: str, message: str
) -> None:
    done = Packing(records, str(tmp_path / "out"), options, shard=1).run()
    assert done["error"] == error
    assert re.search(message, done["message"], re.DOTALL), done["message"]
    assert list(tmp_path.iterdir()) == []


def test_an_existing_output_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    done = Packing(texts(3), str(tmp_path / "out")).run()
    assert (done["error"], list((tmp_path / "out").iterdir())) == ("FileExistsError", [])


# -- interruptions ---------------------------------------------------------------------------------

SOME = [f"done {n} " + "word " * (n % 20) for n in range(37)]
# At the interruption one reason is more frequent; in the end both are equally frequent.
BAD = ["unreadable", "bad not_json", "bad not_json"]
MIXED = [*BAD, *SOME, "stop here", *texts(60), "unreadable"]


def interrupted(output: Path, **more: Any) -> Packing:
    return Packing(MIXED, str(output), {"pack_size": 128, "max_bad_share": 0.1}, batch=4, shard=8, **more)


def saved_records(directory: Path) -> int:
    return max(
        (json.loads(path.read_text())["records"] for path in directory.glob(".*/progress.json")), default=0
    )


@pytest.fixture
def stopped(tmp_path: Path) -> Iterator[Callable[[], None]]:
    """A packing that has saved 40 records, and waits for record 41. Call it to kill it."""
    process = interrupted(tmp_path / "out", stops=True).start()
    children: list[psutil.Process] = []

    def kill() -> None:
        children.extend(psutil.Process(process.pid).children())
        assert len(children) == 2
        process.kill()
        process.communicate()
        wait_until(lambda: not any(child.is_running() and child.status() != "zombie" for child in children))

    wait_until(lambda: saved_records(tmp_path) == 40)
    yield kill
    if process.poll() is None:
        kill()


def test_a_killed_packing_resumes_and_gives_the_same_bytes(
    tmp_path: Path, stopped: Callable[[], None]
) -> None:
    stopped()  # its workers end too
    assert not (tmp_path / "out").exists()
    resumed = interrupted(tmp_path / "out", forbids_done=True).run()
    assert "manifest" in resumed, resumed
    interrupted(tmp_path / "again").run()
    assert files_in(tmp_path / "out") == files_in(tmp_path / "again")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["again", "out"]


def test_a_packing_that_resumes_keeps_the_date_of_its_start(
    tmp_path: Path, stopped: Callable[[], None]
) -> None:
    stopped()
    [progress] = tmp_path.glob(".*/progress.json")
    begun = json.loads(progress.read_text())
    assert begun["day"]
    progress.write_text(json.dumps(begun | {"day": "2020-01-02"}))  # as if it were yesterday
    packing = interrupted(tmp_path / "out", forbids_done=True)
    packing.texts = [*MIXED[:-1], "today"]
    assert packing.run()["manifest"]["date"] == "2020-01-02"
    texts_in = [text for split in SPLITS for text, _mask in sequences_in(tmp_path / "out", split)]
    assert "2020-01-02" in texts_in


def test_a_date_may_be_named(tmp_path: Path) -> None:
    options = {"date": "2020-01-02", "split": {"train": 1, "valid": 0, "test": 0}}
    made = Packing(["today"], str(tmp_path / "out"), options).run()["manifest"]
    assert (made["date"], made["options"]["date"]) == ("2020-01-02", "2020-01-02")
    assert [text for text, _mask in sequences_in(tmp_path / "out", "train")] == ["2020-01-02"]


def test_other_options_do_not_resume_and_remove_what_was_left(
    tmp_path: Path, stopped: Callable[[], None]
) -> None:
    stopped()
    other = interrupted(tmp_path / "out", forbids_done=False)
    other.options["pack_size"] = 256
    assert other.run()["manifest"]["sequences"] == 98
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_two_processes_cannot_pack_into_one_output(tmp_path: Path, stopped: Callable[[], None]) -> None:
    second = interrupted(tmp_path / "out").run()
    assert second["error"] == "OutputInUse"
    assert str(tmp_path / "out") in second["message"]
    assert saved_records(tmp_path) == 40


def test_a_killed_worker_is_named_and_the_work_is_kept(tmp_path: Path) -> None:
    output = tmp_path / "out"
    records = [*SOME, "die now"]
    died = Packing(records, str(output), batch=4, shard=8).run()
    assert died["error"] == "WorkerDied"
    assert "ended by SIGKILL" in died["message"]
    assert not output.exists()
    assert [entry.name.startswith(".out.packing-") for entry in tmp_path.iterdir()] == [True]


# -- bounds ----------------------------------------------------------------------------------------


def spilled(directory: Path, lengths: list[int]) -> Path:
    with Spill(directory) as spill:
        index = array("i", (number for pair in enumerate(lengths) for number in pair))
        spill.add(
            Tokenized(len(lengths), bytearray(5 * sum(lengths)), index, Counter(sequences=len(lengths)))
        )
        spill.finish()
    return directory


def test_a_reader_of_a_row_group_holds_at_most_64_mb(tmp_path: Path) -> None:
    size = 1 << 20
    with Spilled(spilled(tmp_path / "scratch", [size] * 14)) as spill:
        groups = list(write_split(([n] for n in range(14)), spill, tmp_path / "train", size))
    assert sum(map(len, groups)) == 14
    for shard in (tmp_path / "train").iterdir():
        file = pq.ParquetFile(shard)
        sizes = [file.read_row_group(number).nbytes for number in range(file.num_row_groups)]
        assert max(sizes) <= READERS_BYTES
        assert file.metadata.row_group(0).column(0).compression == "ZSTD"


def test_memory_per_sequence_is_at_most_16_bytes(tmp_path: Path) -> None:
    def peak(sequences: int) -> int:
        directory = spilled(tmp_path / str(sequences), [3] * sequences)
        tracemalloc.start()
        with Spilled(directory) as spill:
            splits = assign(sequences, sequences // 100, 0, 0)
            order = sequences_of_splits((record for record, _ in spill.entries()), splits)
            for numbers in order.values():
                for _ in packs_of(numbers, spill.length, 30, window=256):
                    pass
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert (peak(8000) - peak(4000)) / 4000 <= 16
