"""The packer, in the trainer's environment: its output, and the records that it rejects."""

import json
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.support.trainer_runs import trainer_python
from trainer.dataset.chat_templates import templates_digest, templates_of

pytestmark = pytest.mark.training

ALL_FOR_TRAINING = ("--valid-share", "0", "--test-share", "0")
# Decodes packed data as Megatron-Bridge reads them: mask[i] is for token i + 1.
READ = """
import json, sys
from pathlib import Path
import pyarrow.parquet as pq
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[2])
packs = []
for file in sorted(Path(sys.argv[1]).glob("splits/*/*.parquet")):
    for row in pq.read_table(file).to_pylist():
        ids, mask, starts = row["input_ids"], row["loss_mask"], row["seq_start_id"]
        ends = [*starts[1:], len(ids)]
        packs.append({
            "split": file.parent.name, "tokens": len(ids), "starts": starts, "aligned": len(ids) == len(mask),
            "texts": [tokenizer.decode(ids[a:b]) for a, b in zip(starts, ends)],
            "trained": [tokenizer.decode([ids[i + 1] for i in range(a, b - 1) if mask[i]])
                       for a, b in zip(starts, ends)],
            "last": [mask[b - 1] for b in ends],
        })
print(json.dumps(packs))
"""


def chat(*turns: str) -> dict[str, Any]:
    """A conversation whose turns alternate between user and assistant."""
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)]}


def pack(records: list[Any], tokenizer: Path, output: Path, *more: str) -> subprocess.CompletedProcess[str]:
    source = output.parent / "records.jsonl"
    source.write_text("".join(json.dumps(record) + "\n" for record in records))
    where = ("--input", str(source), "--tokenizer", str(tokenizer), "--output", str(output))
    return trainer_python("-m", "trainer.pack", *where, *more)


def packs_in(output: Path, tokenizer: Path) -> list[dict[str, Any]]:
    done = trainer_python("-c", READ, str(output), str(tokenizer), check=True)
    packs: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return packs


def test_only_messages_of_the_assistant_are_trained(inputs: Path, tmp_path: Path) -> None:
    records = [chat("What is a list?", "A sequence."), chat("Hello.", "Hi!", "And a set?", "No order.")]
    done = pack(records, inputs / "model", tmp_path / "out", "--pack-size", "256", *ALL_FOR_TRAINING)
    assert done.returncode == 0, done.stderr
    [only] = packs_in(tmp_path / "out", inputs / "model")
    assert only["aligned"]
    assert len(only["starts"]) == 2
    assert only["starts"][0] == 0
    first, second = only["trained"]
    assert first.startswith("A sequence.")
    assert "Hi!" in second
    assert "No order." in second
    assert not any("What is" in text or "Hello" in text or "set?" in text for text in only["trained"])
    assert only["last"] == [0, 0]  # the first token of the next conversation is not trained
    assert "What is a list?" in only["texts"][0]


def test_no_pack_is_too_long_and_no_record_is_lost(inputs: Path, tmp_path: Path) -> None:
    records = [chat(f"Question {n}?", "word " * (n % 40)) for n in range(200)]
    done = pack(records, inputs / "model", tmp_path / "out", "--pack-size", "128")
    assert done.returncode == 0, done.stderr
    packs = packs_in(tmp_path / "out", inputs / "model")
    assert max(one["tokens"] for one in packs) <= 128
    text = " ".join(text for one in packs for text in one["texts"])
    assert all(f"Question {n}?" in text for n in range(200))
    sizes = Counter(one["split"] for one in packs for _ in one["starts"])
    assert sizes == {"train": 196, "valid": 2, "test": 2}
    metadata = json.loads((tmp_path / "out/metadata.json").read_text())
    templates = templates_of(inputs / "model")
    assert templates
    assert metadata["chat_template_sha256"] == templates_digest(templates)
    assert (metadata["pack_size"], metadata["records"], metadata["truncated"]) == (128, 200, 0)


def test_the_same_records_produce_the_same_bytes(inputs: Path, tmp_path: Path) -> None:
    records = [chat(f"Question {n}?", "word " * (n % 7)) for n in range(30)]
    for name in ("one", "two"):
        assert pack(records, inputs / "model", tmp_path / name).returncode == 0
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.parquet"))
    assert len(files) == 3
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_sequences_are_padded_for_context_parallelism(inputs: Path, tmp_path: Path) -> None:
    records = [chat(f"Question {n}?", "word " * (5 * n)) for n in range(40)]
    more = ("--pack-size", "129", "--pad-to-multiple", "4")
    assert pack(records, inputs / "model", tmp_path / "out", *more).returncode == 0
    packs = packs_in(tmp_path / "out", inputs / "model")
    ends = [(one["starts"], [*one["starts"][1:], one["tokens"]]) for one in packs]
    lengths = [end - begin for starts, stops in ends for begin, end in zip(starts, stops, strict=True)]
    assert len(lengths) == 40
    assert {(length - 1) % 4 for length in lengths} == {0}
    assert max(one["tokens"] for one in packs) <= 129
    trained = [text for one in packs for text in one["trained"]]
    assert sum(text.startswith("word") for text in trained) == 39  # the padding is not trained
    assert not any("<|pad|>" in text or text.endswith("<|end|><|end|>") for text in trained)


@pytest.mark.parametrize(
    "record",
    [{"text": "no messages"}, chat("no answer"), {"messages": [{"role": "assistant", "content": 7}]}, 7],
)
def test_a_bad_record_is_reported_with_its_line_and_no_output_is_left(
    inputs: Path, tmp_path: Path, record: Any
) -> None:
    done = pack([chat("a", "b"), record], inputs / "model", tmp_path / "out")
    assert done.returncode != 0
    assert "record 2" in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"records.jsonl"}


def test_a_preview_shows_what_is_trained(inputs: Path, tmp_path: Path) -> None:
    records = [chat("What is a \x1b[2Jlist?", "A sequence."), {"messages": []}, chat("not", "shown")]
    source = tmp_path / "records.jsonl"
    source.write_text("".join(json.dumps(record) + "\n" for record in records))
    where = ("--input", str(source), "--tokenizer", str(inputs / "model"), "--preview", "2")
    done = trainer_python("-m", "trainer.pack", *where, check=True)
    assert "[[A sequence.<|end|>]]" in done.stdout
    assert "no_messages" in done.stdout
    assert "shown" not in done.stdout
    assert "\x1b" not in done.stdout
