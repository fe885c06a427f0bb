"""Loss masks and chat templates of packed data: a wrong one trains nothing, or the prompts."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.support import packed_data
from tests.support.preflight_data import SHARD, findings
from trainer.dataset.chat_templates import templates_digest
from trainer.preflight import Finding


def test_a_mask_may_have_floats_and_booleans(data: Path) -> None:
    for kind in (pa.bool_(), pa.float32(), pa.uint8()):
        columns = packed_data.packs()
        columns["loss_mask"] = [[kind == pa.bool_() or 1] * 512 for _ in range(packed_data.ROWS)]
        packed_data.write_shard(data / SHARD, columns, {**packed_data.TYPES, "loss_mask": kind})
        assert findings(data) == []


def test_data_without_trained_tokens_are_rejected(data: Path) -> None:
    columns = packed_data.packs()
    columns["loss_mask"] = [[0] * 512] * packed_data.ROWS
    for path in (data / "splits").rglob("*.parquet"):
        packed_data.write_shard(path, columns)
    [finding] = findings(data)
    assert (finding.code, finding.severity) == ("bad_loss_masks_or_template", "error")
    assert "nothing would be trained, none of 8192 tokens" in finding.message
    assert f"First: {data / SHARD}, row 0." in finding.message


def masked(data: Path, mask: list[int], **rows: list[int]) -> list[Finding]:
    """Findings if all rows have a mask, but these of the first shard (`row_3=`)."""
    columns = packed_data.packs()
    columns["loss_mask"] = [mask] * packed_data.ROWS
    packed_data.write_shard(data / "splits/valid/part-00000.parquet", columns)
    for name, other in rows.items():
        columns["loss_mask"][int(name.removeprefix("row_"))] = other
    packed_data.write_shard(data / SHARD, columns)
    return findings(data)


def test_data_that_train_everything_are_rejected(data: Path) -> None:
    [finding] = masked(data, [1] * 512)
    assert (finding.code, finding.severity) == ("bad_loss_masks_or_template", "error")
    assert "all 8192 tokens would be trained" in finding.message
    assert f"First: {data / SHARD}, row 0." in finding.message
    assert "template" in (finding.hint or "")


# As trainer.pack writes them: the last entry of each of the two sequences is 0.
SHIFTED = ([1] * 255 + [0]) * 2


def test_shifted_masks_that_train_everything_are_rejected(data: Path) -> None:
    [finding] = masked(data, SHIFTED)
    assert (finding.code, finding.severity) == ("bad_loss_masks_or_template", "error")
    assert "all 8160 tokens would be trained" in finding.message
    assert f"First: {data / SHARD}, row 0." in finding.message


def test_everything_may_be_trained_where_the_packing_says_so(data: Path) -> None:
    note(data, mask="all")
    for mask in (SHIFTED, [1] * 512):
        [finding] = masked(data, mask)
        assert (finding.code, finding.severity) == ("other_mask_rule", "advice")
    assert "bad_loss_masks_or_template" in {finding.code for finding in masked(data, [0] * 512)}


def test_short_sequences_that_are_trained_completely_are_rejected(data: Path) -> None:
    columns = packed_data.packs()
    columns["seq_start_id"] = [list(range(0, 512, 4))] * packed_data.ROWS
    columns["loss_mask"] = [[1, 1, 1, 0] * 128] * packed_data.ROWS
    for path in (data / "splits").rglob("*.parquet"):
        packed_data.write_shard(path, columns)
    [finding] = findings(data)
    assert "all 6144 tokens would be trained" in finding.message


@pytest.mark.parametrize(
    ("mask", "rows", "figures", "first"),
    [
        ([0] * 256 + [1] * 256, {}, None, 0),
        ([0] * 511 + [1], {}, "16 of 8192 tokens read are trained (0.195%); 1% to 95%", 0),
        ([0] * 507 + [1] * 5, {"row_2": [0] * 512}, "75 of 8192 tokens read are trained (0.916%)", 0),
        (([0] + [1] * 255) * 2, {"row_0": [0, 1] * 256}, "7906 of 8192 tokens read are trained (96.509%)", 1),
        (([1] + [0, 1] * 127 + [0]) * 2, {"row_0": [0, 1] * 256, "row_1": [0, 1] * 256},
         "28 of 32 sequences read are trained from their first token", 2),
    ],
)  # fmt: skip
def test_unusual_masks_are_a_warning(
    data: Path, mask: list[int], rows: dict[str, list[int]], figures: str | None, first: int
) -> None:
    found = masked(data, mask, **rows)
    if figures is None:
        assert found == []
        return
    [finding] = found
    assert (finding.code, finding.severity) == ("bad_loss_masks_or_template", "warning")
    assert figures in finding.message
    assert finding.message.endswith(f"First: {data / SHARD}, row {first}.")


def test_masks_are_counted_over_several_files(data: Path) -> None:
    """The first place is in the second file, whose row groups have rows of different lengths."""
    columns = packed_data.packs()
    columns["input_ids"][0], columns["loss_mask"][0] = [5] * 400, [0, 1] * 200
    for row in range(2, 8):
        columns["loss_mask"][row] = [1] * 512
    packed_data.write_shard(data / "splits/train/part-00001.parquet", columns, row_group_size=3)
    packed_data.write_shard(data / "splits/valid/part-00000.parquet", columns)
    packed_data.write_shard(data / SHARD, packed_data.packs(1))
    [finding] = findings(data)
    assert "24 of 34 sequences" in finding.message
    assert finding.message.endswith("part-00001.parquet, row 2.")


def test_masks_of_damaged_rows_are_not_judged(data: Path) -> None:
    for path in (data / "splits").rglob("*.parquet"):
        packed_data.write_shard(path, {**packed_data.packs(), "loss_mask": [[1] * 511] * packed_data.ROWS})
    assert {finding.code for finding in findings(data)} == {"bad_packed_data"}


# -- templates and rules ---------------------------------------------------------------------------


def note(data: Path, **more: Any) -> None:
    path = data / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | more))


# As transformers 5 reads them.
TEMPLATES: dict[str, Callable[[Path], Any]] = {
    "file": lambda model: (model / "chat_template.jinja").write_text("own"),
    "config": lambda model: (model / "tokenizer_config.json").write_text('{"chat_template": "own"}'),
    "list": lambda model: (model / "tokenizer_config.json").write_text(
        '{"chat_template": [{"name": "default", "template": "own"}]}'
    ),
    "file beside a config": lambda model: (
        (model / "tokenizer_config.json").write_text('{"chat_template": "older"}'),
        (model / "chat_template.jinja").write_text("own"),
    ),
}


@pytest.mark.parametrize("write", TEMPLATES.values(), ids=TEMPLATES)
def test_chat_templates_are_compared(data: Path, write: Callable[[Path], Any]) -> None:
    write(data.parent / "model")
    note(data, chat_template_sha256=templates_digest({"default": "own"}))
    assert findings(data) == []
    note(data, chat_template_sha256=templates_digest({"default": "another"}))
    [found] = findings(data)
    assert (found.severity, found.code, found.pointer) == ("warning", "template_mismatch", "/hf_model_path")


def test_templates_with_names_count_too(data: Path) -> None:
    model = data.parent / "model"
    (model / "chat_template.jinja").write_text("own")
    (model / "additional_chat_templates").mkdir()
    (model / "additional_chat_templates" / "tool_use.jinja").write_text("tools")
    note(data, chat_template_sha256=templates_digest({"default": "own", "tool_use": "tools"}))
    assert findings(data) == []


@pytest.mark.parametrize(
    "content", ["{", '{"chat_template": 5}', '{"chat_template": [{"name": []}]}', "[]", "{}"]
)
def test_templates_that_cannot_be_read_are_not_compared(data: Path, content: str) -> None:
    (data.parent / "model" / "tokenizer_config.json").write_text(content)
    note(data, chat_template_sha256="0" * 64)
    assert findings(data) == []


def test_another_rule_of_what_is_trained_is_named(data: Path) -> None:
    note(data, mask="assistant")
    assert findings(data) == []
    note(data, mask="last_turn")
    [found] = findings(data)
    assert (found.severity, found.code) == ("advice", "other_mask_rule")
    assert "mask=last_turn" in found.message
